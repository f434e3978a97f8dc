/* SPDX-License-Identifier: Apache-2.0 */
/* The machine's life: configured, booted, paused, reset, ended. See vm.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "snapshot/disk_layers.h"
#include "vmm/boot.h"
#include "vmm/console.h"
#include "vmm/control.h"
#include "vmm/layout_x86.h"
#include "vmm/vm.h"
#include "vmm/vm_state.h"

/* Boots in a row that may end by panic or triple fault before the machine gives up. */
#define MAX_FAILED_BOOTS 3
#define DTB_BYTES	 8192

/* --- configure --------------------------------------------------------------------- */

/* Everything of the machine goes, whatever of it there is. */
static void release(struct vm *vm)
{
	if (vm->vcpus_n) {
		vcpus_stop(vm);
		kvm_destroy(vm);
	}
	devices_destroy(vm->devices);
	vm->devices = NULL;
	for (unsigned int i = 0; i < VM_MAX_DISKS; i++) {
		if (vm->disks[i])
			vm->disks[i]->ops->close(vm->disks[i]);
		vm->disks[i] = NULL;
	}
	platform_destroy(vm);
	console_destroy(vm->console);
	vm->console = NULL;
	memory_destroy(vm);
	fd_close(&vm->kernel_fd);
	vm_config_fini(&vm->config);
	vm->request = VM_REQUEST_NONE;
}

static int open_kernel(struct vm *vm, struct err *e)
{
	const char *path = vm->config.kernel;
	int rc;

	vm->kernel_fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (vm->kernel_fd < 0)
		return err_sys(e, -errno, "kernel %s", path);
	rc = elf_read(vm->kernel_fd, &vm->image, e);
	if (!rc)
		rc = elf_check_range(&vm->image, LAYOUT_HIGH_START,
				     boot_low_bytes(vm->config.memory_mib << 20), e);
	return rc ? err_wrap(e, rc, "kernel %s", path) : 0;
}

static int open_disks(struct vm *vm, struct err *e)
{
	for (unsigned int i = 0; i < vm->config.disks_n; i++) {
		const struct vm_disk_config *d = &vm->config.disks[i];
		struct disk_layers_config c = {
		    .base_path = d->path,
		    .layers = (const char *const *)d->layers,
		    .layers_n = d->layers_n,
		    .overlay_path = d->read_only ? NULL : d->overlay,
		    .size_bytes = d->size_mib << 20,
		    .loop = &vm->loop,
		};
		/* Its messages name the file, which may be a layer's. */
		int rc = disk_layers_open(&vm->disks[i], &c, e);

		if (rc)
			return rc;
	}
	return 0;
}

static void on_knock(void *opaque)
{
	machine_ready(opaque);
}

static int create_devices(struct vm *vm, struct err *e)
{
	struct devices_env env = {.mem = &vm->mem, .loop = &vm->loop};
	struct device_config c[DEVICES_MAX] = {0};
	unsigned int n = 0;

	for (unsigned int i = 0; i < vm->config.disks_n; i++) {
		c[n].kind = DEVICE_BLK;
		c[n].blk.disk = vm->disks[i];
		c[n++].blk.read_only = vm->disks[i]->read_only;
	}
	if (vm->config.vsock_path) {
		c[n].kind = DEVICE_VSOCK;
		c[n].vsock.guest_cid = vm->config.vsock_cid;
		c[n].vsock.uds_path = vm->config.vsock_path;
		c[n].vsock.on_knock = on_knock;
		c[n].vsock.opaque = vm;
		c[n++].vsock.knock_port = VM_READY_PORT;
	}
	c[n++].kind = DEVICE_RNG;
	c[n++].kind = DEVICE_BALLOON;
	return devices_create(&vm->devices, &env, c, n, e);
}

static int prepare(struct vm *vm, struct err *e)
{
	int rc = vm->kvm_fd < 0 ? kvm_open(vm, e) : 0;

	if (!rc)
		rc = open_kernel(vm, e);
	if (!rc)
		rc = memory_create(vm, e);
	if (!rc)
		rc = console_create(&vm->console, &vm->loop, vm->config.console, e);
	if (!rc)
		rc = platform_create(vm, e);
	if (!rc)
		rc = open_disks(vm, e);
	if (!rc)
		rc = create_devices(vm, e);
	if (!rc && vm->config.trace_exits && exit_trace_start(&vm->trace))
		rc = err_set(e, -ENOMEM, "out of memory");
	return rc;
}

int machine_configure(struct vm *vm, struct vm_config *c, struct err *e)
{
	int rc;

	if (vm->state == VM_RUNNING || vm->state == VM_PAUSED) {
		vm_config_fini(c);
		return err_set(e, -EBUSY, "a machine is running");
	}
	release(vm);
	vm->config = *c;
	*c = (struct vm_config){0};
	vm->boots = vm->failed_boots = 0;
	vm->ready = vm->panicked = false;
	vm->exits_before = vm->exits_last = (struct exit_counts){0};
	exit_trace_stop(&vm->trace);
	vm->exit_reason[0] = '\0';
	rc = prepare(vm, e);
	vm->state = rc ? VM_NEW : VM_CONFIGURED;
	if (rc)
		release(vm);
	return rc;
}

/* --- boot and reset ------------------------------------------------------------------ */

static int write_guest(struct vm *vm, struct err *e)
{
	struct dt_virtio virtio[DEVICES_MAX];
	struct dt_config dc = {
	    .cpus = vm->config.cpus,
	    .virtio = virtio,
	    .virtio_n = devices_count(vm->devices),
	};
	uint8_t dtb[DTB_BYTES];
	struct boot_setup s = {
	    .mem = &vm->mem,
	    .memory_bytes = vm->ram_bytes,
	    .cmdline = vm->config.cmdline,
	    .dtb = dtb,
	};
	int rc;

	for (unsigned int i = 0; i < dc.virtio_n; i++)
		virtio[i] = (struct dt_virtio){LAYOUT_VIRTIO + (uint64_t)i * DEVICE_MMIO_BYTES,
					       LAYOUT_IRQ_VIRTIO + i};
	rc = dt_build(&dc, dtb, sizeof(dtb));
	if (rc < 0)
		return err_sys(e, rc, "building the device tree");
	s.dtb_bytes = (size_t)rc;
	rc = boot_load_kernel(&vm->mem, vm->kernel_fd, &vm->image, e);
	return rc ? rc : boot_write(&s, e);
}

/* Devices are at power-on, memory is zero, no KVM objects exist. */
static int start(struct vm *vm, struct err *e)
{
	int rc;

	vm->ready = vm->panicked = false;
	vm->restored = vm->time_held = false;
	vm->request = VM_REQUEST_NONE;
	exit_trace_clear(&vm->trace);
	vm->boots++;
	platform_reset(vm);
	rc = write_guest(vm, e);
	if (!rc)
		rc = kvm_create(vm, e);
	if (rc)
		return rc;
	rc = vcpus_start(vm, e);
	if (rc) {
		kvm_destroy(vm);
		return rc;
	}
	vm->state = VM_RUNNING;
	return 0;
}

static void stop(struct vm *vm)
{
	vcpus_stop(vm);
	vm->exits_last = vcpus_exits(vm);
	exit_counts_add(&vm->exits_before, &vm->exits_last);
	kvm_destroy(vm);
	console_flush(vm->console);
}

int machine_boot(struct vm *vm, struct err *e)
{
	int rc;

	if (vm->state != VM_CONFIGURED)
		return err_set(e, -EINVAL, "a machine that is %s cannot be booted",
			       vm_state_name(vm->state));
	vm->boot_ns = clock_mono_ns();
	rc = start(vm, e);
	if (rc)
		memory_clear(vm, NULL);
	return rc;
}

int machine_reset(struct vm *vm, const char *reason, struct err *e)
{
	int rc;

	if (vm->state != VM_RUNNING && vm->state != VM_PAUSED)
		return err_set(e, -EINVAL, "a machine that is %s cannot be reset",
			       vm_state_name(vm->state));
	if (vm->request == VM_REQUEST_PLUG)
		return err_set(e, -ESHUTDOWN, "the machine is being shut down");
	vm->boot_ns = clock_mono_ns();
	stop(vm);
	devices_reset(vm->devices);
	rc = memory_clear(vm, e);
	if (!rc)
		rc = start(vm, e);
	if (rc)
		return rc;
	control_event(
	    vm, json_pack("{sssssi}", "event", "reset", "reason", reason, "boots", (int)vm->boots));
	return 0;
}

int machine_pause(struct vm *vm, struct err *e)
{
	if (vm->state == VM_PAUSED)
		return 0;
	if (vm->state != VM_RUNNING)
		return err_set(e, -EINVAL, "a machine that is %s cannot be paused",
			       vm_state_name(vm->state));
	vcpus_hold(vm);
	devices_quiesce(vm->devices);
	vm->state = VM_PAUSED;
	return 0;
}

int machine_resume(struct vm *vm, struct err *e)
{
	if (vm->state == VM_RUNNING)
		return 0;
	if (vm->state != VM_PAUSED)
		return err_set(e, -EINVAL, "a machine that is %s cannot be resumed",
			       vm_state_name(vm->state));
	if (vm->restored) {
		int rc = vm_state_post_restore(vm, e);

		if (rc)
			return rc;
	}
	vm->time_held = false;
	vm->state = VM_RUNNING;
	vcpus_release(vm);
	return 0;
}

void machine_end(struct vm *vm, const char *reason, int code, const char *message)
{
	bool ran = vm->state == VM_RUNNING || vm->state == VM_PAUSED;

	if (ran)
		stop(vm);
	release(vm);
	if (ran || vm->state == VM_CONFIGURED) {
		snprintf(vm->exit_reason, sizeof(vm->exit_reason), "%s", reason);
		snprintf(vm->exit_message, sizeof(vm->exit_message), "%s", message);
		vm->state = VM_EXITED;
	}
	vm->exit_code = code;
	if (ran)
		log_info("the machine has ended: %s (%s)", reason, message);
	control_event(vm, json_pack("{sssssiss}", "event", "exit", "reason", reason, "code", code,
				    "message", message));
	if (!vm->stay)
		loop_stop(&vm->loop);
}

/* --- what the guest does ---------------------------------------------------------------- */

void machine_ready(struct vm *vm)
{
	struct exit_counts now = vcpus_exits(vm);

	if (vm->ready)
		return; /* an agent that was started again */
	vm->ready = true;
	vm->failed_boots = 0;
	vm->boot_to_ready_us = (clock_mono_ns() - vm->boot_ns) / 1000;
	vm->exits_until_ready = exit_counts_total(&now);
	control_event(vm, json_pack("{sssIsIsi}", "event", "ready", "boot_to_ready_us",
				    (json_int_t)vm->boot_to_ready_us, "exits",
				    (json_int_t)vm->exits_until_ready, "boots", (int)vm->boots));
}

void machine_panicked(struct vm *vm)
{
	if (vm->panicked)
		return;
	vm->panicked = true;
	console_flush(vm->console);
	log_warn("the guest kernel has panicked");
	control_event(vm, json_pack("{sssi}", "event", "panic", "boots", (int)vm->boots));
}

void vm_post_request(struct vm *vm, enum vm_request_kind kind, const char *fmt, ...)
{
	uint64_t one = 1;
	va_list ap;

	/* Whoever pulls the plug must not lose against a guest that resets at the same moment. */
	if (vm->request != VM_REQUEST_NONE && kind != VM_REQUEST_PLUG)
		return;
	va_start(ap, fmt);
	vsnprintf(vm->request_message, sizeof(vm->request_message), fmt, ap);
	va_end(ap);
	vm->request = kind;
	/* The vCPU that asks must leave the guest too. */
	for (unsigned int i = 0; i < vm->vcpus_n; i++)
		__atomic_store_n(&vm->vcpus[i].run->immediate_exit, 1, __ATOMIC_RELEASE);
	if (write(vm->request_fd, &one, sizeof(one)) < 0)
		log_error("request of the guest: %s", strerror(errno));
}

static void reset_by_guest(struct vm *vm, bool accident)
{
	const char *reason = vm->request == VM_REQUEST_RESET ? "guest" : "triple-fault";
	struct err e;

	if (vm->run_mode && vm->panicked)
		return machine_end(vm, "error", VM_EXIT_PANIC, "the guest kernel has panicked");
	if (!accident || vm->ready)
		vm->failed_boots = 0;
	else if (++vm->failed_boots >= MAX_FAILED_BOOTS)
		return machine_end(vm, "error", vm->panicked ? VM_EXIT_PANIC : VM_EXIT_FATAL,
				   vm->panicked ? "the guest kernel panics at every boot"
						: "the guest triple-faults at every boot");
	if (machine_reset(vm, reason, &e))
		log_error("reset: %s", e.msg);
}

static void handle_request(struct loop_source *s, uint32_t events)
{
	struct vm *vm = container_of(s, struct vm, request_source);
	char message[sizeof(vm->request_message)];
	uint64_t times;

	(void)events;
	if (read(vm->request_fd, &times, sizeof(times)) < 0)
		return;
	memcpy(message, vm->request_message, sizeof(message));
	switch (vm->request) {
	case VM_REQUEST_NONE: /* a reset or an end has come before */
		return;
	case VM_REQUEST_RESET:
		return reset_by_guest(vm, vm->panicked);
	case VM_REQUEST_TRIPLE_FAULT:
		return reset_by_guest(vm, true);
	case VM_REQUEST_POWEROFF:
		return machine_end(vm, "shutdown", vm->panicked ? VM_EXIT_PANIC : VM_EXIT_OK,
				   message);
	case VM_REQUEST_PLUG:
		return machine_end(vm, "request", VM_EXIT_OK, message);
	case VM_REQUEST_FATAL:
		return machine_end(vm, "error", VM_EXIT_FATAL, message);
	}
}

/* --- the structure itself ------------------------------------------------------------------ */

int vm_init(struct vm *vm, struct err *e)
{
	int rc;

	*vm = (struct vm){
	    .kvm_fd = -1,
	    .vm_fd = -1,
	    .kernel_fd = -1,
	    .request_fd = -1,
	    .vmgenid_irq_fd = -1,
	};
	pthread_mutex_init(&vm->lock, NULL);
	pthread_cond_init(&vm->parked, NULL);
	rc = loop_init(&vm->loop, &vm->lock);
	if (rc)
		return err_sys(e, rc, "event loop");
	vm->request_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rc = vm->request_fd < 0 ? -errno
				: loop_add(&vm->loop, &vm->request_source, vm->request_fd, EPOLLIN,
					   handle_request);
	return rc ? err_sys(e, rc, "event loop") : 0;
}

void vm_fini(struct vm *vm)
{
	release(vm);
	exit_trace_stop(&vm->trace);
	free(vm->cpuid);
	fd_close(&vm->kvm_fd);
	loop_remove(&vm->loop, &vm->request_source);
	fd_close(&vm->request_fd);
	loop_fini(&vm->loop);
	pthread_cond_destroy(&vm->parked);
	pthread_mutex_destroy(&vm->lock);
}

const char *vm_state_name(enum vm_state s)
{
	static const char *const names[] = {"new", "configured", "running", "paused", "exited"};

	return names[s];
}
