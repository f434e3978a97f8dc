/* SPDX-License-Identifier: Apache-2.0 */
/* The state of a whole machine; see vm_state.h. */
#include <errno.h>

#include "lib/clock.h"
#include "vmm/vm_state.h"

#define TAG_MACHINE STATE_TAG('M', 'A', 'C', 'H')

static void machine_fields(struct vm *vm, struct state_io *io)
{
	if (!state_begin(io, TAG_MACHINE, 0, 1, STATE_MANDATORY))
		return;
	state_expect(io, vm->config.cpus, "CPUs");
	state_expect(io, vm->config.memory_mib, "MiB of memory");
	state_bool(io, &vm->ready);
	state_bool(io, &vm->panicked);
	state_end(io);
}

int vm_state(struct vm *vm, struct state_io *io)
{
	/* Clients and old notifications may have set them to work since the pause. */
	if (!state_restoring(io))
		devices_quiesce(vm->devices);
	machine_fields(vm, io);
	/* Before the devices: their interrupts go over its routes. */
	platform_state(vm, io);
	if (state_ok(io))
		devices_state(vm->devices, io);
	vm_state_arch(vm, io);
	vm->time_held = state_ok(io);
	return io->err.code;
}

static int restore(struct vm *vm, struct state_io *io, struct err *e)
{
	int rc;

	platform_reset(vm);
	rc = kvm_create(vm, e);
	if (rc)
		return rc;
	vm_state(vm, io);
	rc = state_finish(io, e);
	if (!rc)
		rc = vcpus_start(vm, e);
	if (rc) {
		kvm_destroy(vm);
		devices_reset(vm->devices);
	}
	return rc;
}

int machine_restore(struct vm *vm, const void *data, size_t len_bytes, struct err *e)
{
	struct state_io io;
	int rc;

	if (vm->state != VM_CONFIGURED)
		return err_set(e, -EINVAL, "a machine that is %s cannot be restored",
			       vm_state_name(vm->state));
	rc = state_restore_init(&io, data, len_bytes, e);
	if (!rc)
		rc = restore(vm, &io, e);
	state_fini(&io);
	if (rc) {
		vm->ready = vm->panicked = vm->time_held = false;
		memory_clear(vm, NULL);
		return err_wrap(e, rc, "restoring the machine");
	}
	/* The threads wait for the lock, which we hold: they park before they enter the guest. */
	vm->hold = true;
	vm->restored = true;
	vm->request = VM_REQUEST_NONE;
	vm->boots++;
	vm->boot_ns = clock_mono_ns(); /* what the metrics count from */
	vm->state = VM_PAUSED;
	return 0;
}

int vm_state_post_restore(struct vm *vm, struct err *e)
{
	int rc = vm_state_arch_resume_time(vm, e);

	if (rc)
		return rc;
	platform_new_generation(vm);
	devices_post_restore(vm->devices);
	vm->restored = false;
	return 0;
}
