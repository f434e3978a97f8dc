/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a machine is made of: shape, files, KVM objects; see vm.h. One way for all that need one:
 * a boot, a shell, a restore.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/fd.h"
#include "snapshot/disk_layers.h"
#include "vmm/boot.h"
#include "vmm/console.h"
#include "vmm/layout_x86.h"
#include "vmm/vm.h"

struct vm_shape vm_shape_of(const struct vm_config *c)
{
	return (struct vm_shape){
	    .cpus = c->cpus,
	    .disks = c->disks_n,
	    .memory_mib = c->memory_mib,
	    .vsock = c->vsock_path,
	    .net = c->net,
	};
}

/* --- shape --------------------------------------------------------------------------- */

static void on_knock(void *opaque)
{
	machine_ready(opaque);
}

static void on_plugged(void *opaque)
{
	size_changed(opaque);
}

static int create_devices(struct vm *vm, struct err *e)
{
	struct devices_env env = {.mem = &vm->mem, .loop = &vm->loop};
	struct device_config c[DEVICES_MAX] = {0};
	unsigned int n = 0;

	for (unsigned int i = 0; i < vm->shape.disks; i++)
		c[n++].kind = DEVICE_BLK;
	if (vm->shape.vsock) {
		c[n].kind = DEVICE_VSOCK;
		c[n].vsock.on_knock = on_knock;
		c[n].vsock.opaque = vm;
		c[n++].vsock.knock_port = VM_READY_PORT;
	}
	c[n++].kind = DEVICE_RNG;
	c[n++].kind = DEVICE_BALLOON;
	c[n].kind = DEVICE_MEM;
	c[n].mem.gpa = vm->more_gpa;
	c[n].mem.region_bytes = vm->more_region;
	c[n].mem.changed = on_plugged;
	c[n++].mem.opaque = vm;
	/* The last, so that the others are where they are without it. */
	if (vm->shape.net.present)
		net_device_config(vm, &c[n++]);
	return devices_create(&vm->devices, &env, c, n, e);
}

int make_shape(struct vm *vm, const struct vm_shape *shape, struct err *e)
{
	int rc = vm->kvm_fd < 0 ? kvm_open(vm, e) : 0;

	vm->shape = *shape;
	if (!rc)
		rc = memory_create(vm, e);
	if (!rc)
		rc = console_create(&vm->console, &vm->loop, e);
	if (!rc)
		rc = platform_create(vm, e);
	if (!rc)
		rc = create_devices(vm, e);
	return rc;
}

/* --- files --------------------------------------------------------------------------- */

int make_kernel(struct vm *vm, struct err *e)
{
	const char *path = vm->config.kernel;
	int rc;

	vm->kernel_fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (vm->kernel_fd < 0)
		return err_sys(e, -errno, "kernel %s", path);
	rc = elf_read(vm->kernel_fd, &vm->kernel, e);
	if (!rc)
		rc = elf_check_range(&vm->kernel, LAYOUT_HIGH_START, boot_low_bytes(vm->base_bytes),
				     e);
	if (!rc)
		return 0;
	fd_close(&vm->kernel_fd);
	return err_wrap(e, rc, "kernel %s", path);
}

static void close_disks(struct disk *disks[VM_MAX_DISKS])
{
	for (unsigned int i = 0; i < VM_MAX_DISKS; i++) {
		if (disks[i])
			disks[i]->ops->close(disks[i]);
		disks[i] = NULL;
	}
}

int make_disks(struct vm *vm, const struct vm_config *c, bool later,
	       struct disk *disks[VM_MAX_DISKS], struct err *e)
{
	for (unsigned int i = 0; i < c->disks_n; i++) {
		const struct vm_disk_config *d = &c->disks[i];
		struct disk_layers_config lc = {
		    .base_path = d->path,
		    .layers = (const char *const *)d->layers,
		    .layers_n = d->layers_n,
		    .overlay_path = d->read_only ? NULL : d->overlay,
		    .size_bytes = d->size_mib << 20,
		    .later = later,
		    .loop = &vm->loop,
		};
		/* Its messages name the file, which may be a layer's. */
		int rc = disk_layers_open(&disks[i], &lc, e);

		if (rc) {
			close_disks(disks);
			return rc;
		}
	}
	return 0;
}

int make_disks_finish(struct vm *vm, struct err *e)
{
	int rc = 0;

	for (unsigned int i = 0; i < vm->shape.disks && !rc; i++)
		rc = disk_layers_finish(vm->disks[i], e);
	return rc;
}

void make_use_disks(struct vm *vm)
{
	/* They are the first devices. */
	for (unsigned int i = 0; i < vm->shape.disks; i++)
		device_set_disk(devices_get(vm->devices, i), vm->disks[i],
				vm->disks[i] && vm->disks[i]->read_only);
}

void vm_ends_fini(struct vm_ends *ends)
{
	free(ends->console);
	free(ends->vsock_path);
	*ends = (struct vm_ends){0};
}

static int make_console(struct vm *vm, const char *path, struct err *e)
{
	int rc;

	if (vm->ends.console) {
		if (path && !strcmp(path, vm->ends.console))
			return 0;
		return err_set(e, -EINVAL, "console: that of the shell is %s", vm->ends.console);
	}
	rc = console_open(vm->console, path, e);
	if (rc || !path)
		return rc;
	vm->ends.console = strdup(path);
	return vm->ends.console ? 0 : err_set(e, -ENOMEM, "out of memory");
}

static int make_vsock(struct vm *vm, uint32_t cid, const char *path, struct err *e)
{
	struct device *vsock = devices_find(vm->devices, DEVICE_VSOCK);
	int rc;

	if (vm->ends.vsock_path) {
		if (path && !strcmp(path, vm->ends.vsock_path) && cid == vm->ends.vsock_cid)
			return 0;
		return err_set(e, -EINVAL, "vsock: that of the shell is %s, context id %u",
			       vm->ends.vsock_path, vm->ends.vsock_cid);
	}
	if (!path)
		return 0;
	if (!vsock)
		return err_set(e, -EINVAL, "vsock: there is no such device in the shell");
	rc = device_set_vsock(vsock, cid, path, e);
	if (rc)
		return err_wrap(e, rc, "vsock");
	vm->ends.vsock_cid = cid;
	vm->ends.vsock_path = strdup(path);
	return vm->ends.vsock_path ? 0 : err_set(e, -ENOMEM, "out of memory");
}

int make_ends(struct vm *vm, const struct vm_ends *want, struct err *e)
{
	int rc = make_console(vm, want->console, e);

	return rc ? rc : make_vsock(vm, want->vsock_cid, want->vsock_path, e);
}

int make_files(struct vm *vm, bool later, struct err *e)
{
	const struct vm_ends ends = {.console = vm->config.console,
				     .vsock_path = vm->config.vsock_path,
				     .vsock_cid = vm->config.vsock_cid};
	int rc = make_ends(vm, &ends, e);

	if (!rc)
		rc = make_disks(vm, &vm->config, later, vm->disks, e);
	if (rc)
		return rc;
	make_use_disks(vm);
	if (vm->config.trace_exits && exit_trace_start(&vm->trace))
		return err_set(e, -ENOMEM, "out of memory");
	return 0;
}

/* --- KVM --------------------------------------------------------------------------------- */

int make_kvm(struct vm *vm, struct err *e)
{
	int rc = kvm_create(vm, e);

	if (rc)
		return rc;
	rc = vcpus_start(vm, e);
	if (rc)
		kvm_destroy(vm);
	return rc;
}

void unmake_kvm(struct vm *vm)
{
	if (!vm->vcpus_n)
		return;
	vcpus_stop(vm);
	vm->exits_last = vcpus_exits(vm);
	exit_counts_add(&vm->exits_before, &vm->exits_last);
	kvm_destroy(vm);
	console_flush(vm->console);
}

void unmake(struct vm *vm)
{
	unmake_kvm(vm);
	checkpoint_abort(vm, "the machine has ended");
	devices_destroy(vm->devices);
	vm->devices = NULL;
	/* What they tell of layers that are not sealed yet ends a checkpoint. */
	close_disks(vm->disks);
	platform_destroy(vm);
	console_destroy(vm->console);
	vm->console = NULL;
	memory_destroy(vm);
	vm_ends_fini(&vm->ends);
	fd_close(&vm->kernel_fd);
	vm_config_fini(&vm->config);
	vm->shape = (struct vm_shape){0};
	vm->request = VM_REQUEST_NONE;
}
