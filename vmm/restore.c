/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Becoming a saved machine: in a shell, from nothing, or in place. See vm.h.
 *
 * One path for all three. What can fail for reasons of the files is done first; then RAM is
 * mapped, the disks are put in, and the state is loaded into the vCPUs and devices that are there.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "vmm/console.h"
#include "vmm/control.h"
#include "vmm/vm.h"
#include "vmm/vm_state.h"

/* The files of a saved machine, opened and checked as far as can be without reading all RAM. */
struct opened {
	bool is_cold;
	struct ram_image ram;
	struct cold_image cold;
	char *state; /* owned */
	struct state_io io;
};

static uint64_t opened_ram(const struct opened *o)
{
	return o->is_cold ? o->cold.ram_bytes : o->ram.ram_bytes;
}

static void opened_close(struct opened *o)
{
	ram_image_close(&o->ram);
	cold_close(&o->cold);
	state_fini(&o->io);
	free(o->state);
	o->state = NULL;
}

/* It may have more than the machine boots with, which it was given later. */
static int check_ram(const struct opened *o, const struct vm_saved *saved, uint64_t base_mib,
		     struct err *e)
{
	uint64_t mib = opened_ram(o) >> 20;

	if (mib >= base_mib && mib <= VM_MEMORY_MAX_MIB)
		return 0;
	return err_set(e, -EINVAL, "memory image %s: of %llu MiB of RAM; here are %llu", saved->ram,
		       (unsigned long long)mib, (unsigned long long)base_mib);
}

static int open_files(struct opened *o, const struct vm_saved *saved, uint64_t base_mib,
		      struct err *e)
{
	size_t len;
	int rc = fd_read_file(AT_FDCWD, saved->state, STATE_MAX_BYTES, &o->state, &len);

	if (rc)
		return err_sys(e, rc, "state %s", saved->state);
	rc = state_restore_init(&o->io, o->state, len, e);
	if (rc)
		return err_wrap(e, rc, "state %s", saved->state);
	o->is_cold = saved->cold;
	rc = saved->cold ? cold_open(&o->cold, saved->ram, e)
			 : ram_image_open(&o->ram, saved->ram, 0, e);
	return rc ? rc : check_ram(o, saved, base_mib, e);
}

static int open_saved(struct opened *o, const struct vm_saved *saved, uint64_t base_mib,
		      struct err *e)
{
	int rc;

	*o = (struct opened){.ram = RAM_IMAGE_CLOSED, .cold.fd = -1, .io.restoring = true};
	rc = open_files(o, saved, base_mib, e);
	if (rc)
		opened_close(o);
	return rc;
}

/* What is asked of the device is the saved machine's to say, if it has one. */
static int fit_memory(struct vm *vm, const struct opened *o, struct err *e)
{
	uint64_t ram_bytes = opened_ram(o);

	if (memory_fit(vm, ram_bytes))
		return err_set(e, -EINVAL, "memory image: of %llu MiB of RAM; at most %llu fit",
			       (unsigned long long)ram_bytes >> 20,
			       (unsigned long long)(vm->base_bytes + vm->more_region) >> 20);
	device_mem_request(devices_find(vm->devices, DEVICE_MEM), 0);
	return memory_resize(vm, ram_bytes - vm->base_bytes, e);
}

/* Vcpus that have run take no other CPUID: then they are made anew. */
static int load(struct vm *vm, struct opened *o, struct err *e)
{
	uint8_t id[RAM_IMAGE_ID_BYTES];
	struct state_io again = o->io;
	int rc;

	memcpy(id, o->is_cold ? o->cold.image_id : o->ram.id, sizeof(id));
	rc = fit_memory(vm, o, e);
	if (rc)
		return rc;
	rc = o->is_cold ? loading_start(vm, &o->cold, e) : memory_map_image(vm, &o->ram, e);
	if (rc)
		return rc;
	rc = vm_state_load(vm, &o->io, id, e);
	/* Devices whose rings cannot be loaded know only that they cannot be read. */
	if (rc && loading_failed(vm, e))
		return -EIO;
	if (!rc || !vm->stale_cpuid)
		return rc;
	unmake_kvm(vm);
	rc = make_kvm(vm, e);
	o->io = again;
	return rc ? rc : vm_state_load(vm, &o->io, id, e);
}

/* The machine is loaded. */
static void begin_life(struct vm *vm)
{
	vm->failed_boots = 0;
	vm->boot_ns = clock_mono_ns(); /* what the metrics count from */
	vm->restore_ns = vm->request_ns;
	vm->state = VM_PAUSED;
}

static int go_on(struct vm *vm, struct err *e)
{
	__atomic_store_n(&vm->first_exit_ns, 0, __ATOMIC_RELAXED);
	return machine_resume(vm, e);
}

/* --- restore -------------------------------------------------------------------------- */

static const char *net_name(const struct vm_net_config *c)
{
	return !c->present ? "none" : c->backend == NET_TAP ? "\"tap\"" : "\"user\"";
}

static int check_net(const struct vm_net_config *have, const struct vm_net_config *want,
		     struct err *e)
{
	if (have->present != want->present || (have->present && have->backend != want->backend))
		return err_set(e, -EINVAL, "net: that of the shell is %s; the machine's is %s",
			       net_name(have), net_name(want));
	if (have->present && memcmp(have->mac, want->mac, sizeof(have->mac)))
		return err_set(e, -EINVAL, "net: that of the shell has another MAC address");
	return 0;
}

static int check_shape(const struct vm *vm, const struct vm_shape *want, struct err *e)
{
	const struct vm_shape *have = &vm->shape;

	if (have->cpus == want->cpus && have->memory_mib == want->memory_mib &&
	    have->disks == want->disks && have->vsock == want->vsock)
		return check_net(&have->net, &want->net, e);
	return err_set(
	    e, -EINVAL,
	    "the shell has %u CPUs, %llu MiB, %u disks and %s vsock; the machine has %u, "
	    "%llu, %u and %s",
	    have->cpus, (unsigned long long)have->memory_mib, have->disks, have->vsock ? "a" : "no",
	    want->cpus, (unsigned long long)want->memory_mib, want->disks,
	    want->vsock ? "one" : "none");
}

static int ensure_shell(struct vm *vm, const struct vm_shape *shape, struct err *e)
{
	if (vm->state == VM_SHELL)
		return check_shape(vm, shape, e);
	if (vm->state == VM_CONFIGURED)
		machine_forget(vm);
	return machine_prepare(vm, shape, &(struct vm_ends){0}, e);
}

static int restore(struct vm *vm, struct vm_config *c, const struct vm_saved *saved, bool resume,
		   struct err *e)
{
	struct vm_shape shape = vm_shape_of(c);
	struct opened o;
	int rc = open_saved(&o, saved, c->memory_mib, e);

	if (rc)
		return rc;
	rc = ensure_shell(vm, &shape, e);
	if (!rc) {
		vm->config = *c;
		*c = (struct vm_config){0};
		rc = make_files(vm, true, e);
	}
	if (!rc)
		rc = load(vm, &o, e);
	opened_close(&o);
	if (rc)
		return rc;
	begin_life(vm);
	vm->boots++;
	rc = resume ? go_on(vm, e) : 0;
	/*
	 * While the guest runs: nothing that it does gets out before we give up the device lock, so
	 * a failure ends a machine that nobody has met.
	 */
	return rc ? rc : make_disks_finish(vm, e);
}

int machine_restore(struct vm *vm, struct vm_config *c, const struct vm_saved *saved, bool resume,
		    struct err *e)
{
	int rc;

	if (vm->state == VM_RUNNING || vm->state == VM_PAUSED) {
		vm_config_fini(c);
		return err_set(e, -EBUSY, "a machine is running");
	}
	rc = restore(vm, c, saved, resume, e);
	vm_config_fini(c);
	if (rc)
		machine_forget(vm);
	return rc;
}

/* --- rollback ------------------------------------------------------------------------- */

static void swap_disk_configs(struct vm_config *a, struct vm_config *b)
{
	for (unsigned int i = 0; i < VM_MAX_DISKS; i++) {
		struct vm_disk_config t = a->disks[i];

		a->disks[i] = b->disks[i];
		b->disks[i] = t;
	}
}

static void drop_all(struct disk *disks[VM_MAX_DISKS])
{
	for (unsigned int i = 0; i < VM_MAX_DISKS; i++)
		if (disks[i])
			disks[i]->ops->drop(disks[i]);
}

/* From here on there is no way back: the machine goes on from the state, or ends. */
static int replace(struct vm *vm, struct opened *o, struct disk *disks[VM_MAX_DISKS], struct err *e)
{
	struct disk *old[VM_MAX_DISKS];
	int rc;

	memcpy(old, vm->disks, sizeof(old));
	memcpy(vm->disks, disks, sizeof(old));
	make_use_disks(vm);
	rc = load(vm, o, e);
	if (!rc) {
		begin_life(vm);
		rc = go_on(vm, e);
	}
	/* What was written to them since the last checkpoint is given up. */
	drop_all(old);
	memory_drop_aside(vm);
	return rc;
}

static int can_roll_back(struct vm *vm, const struct vm_config *c, struct err *e)
{
	if (vm->state != VM_RUNNING && vm->state != VM_PAUSED)
		return err_set(e, -EINVAL, "a machine that is %s cannot be rolled back",
			       vm_state_name(vm->state));
	if (vm->request == VM_REQUEST_PLUG)
		return err_set(e, -ESHUTDOWN, "the machine is being shut down");
	if (vm->checkpoint)
		return err_set(e, -EBUSY, "a checkpoint is being written");
	if (c->disks_n != vm->shape.disks)
		return err_set(e, -EINVAL, "disks: the machine has %u", vm->shape.disks);
	return 0;
}

static int rollback(struct vm *vm, struct vm_config *c, const struct vm_saved *saved, struct err *e)
{
	struct disk *disks[VM_MAX_DISKS] = {0};
	struct opened o;
	int rc = can_roll_back(vm, c, e);

	if (rc)
		return rc;
	rc = open_saved(&o, saved, vm->shape.memory_mib, e);
	if (rc)
		return rc;
	rc = make_disks(vm, c, false, disks, e);
	if (rc) {
		opened_close(&o);
		return rc;
	}
	vcpus_hold(vm);
	devices_quiesce(vm->devices);
	swap_disk_configs(&vm->config, c);
	rc = replace(vm, &o, disks, e);
	opened_close(&o);
	if (rc)
		machine_end(vm, "error", VM_EXIT_FATAL, e ? e->msg : "rollback failed");
	return rc;
}

int machine_rollback(struct vm *vm, struct vm_config *c, const struct vm_saved *saved,
		     struct err *e)
{
	int rc = rollback(vm, c, saved, e);

	vm_config_fini(c);
	return rc;
}
