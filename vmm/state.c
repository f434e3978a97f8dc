/* SPDX-License-Identifier: Apache-2.0 */
/* The state of a whole machine; see vm_state.h. */
#include <errno.h>
#include <string.h>

#include "vmm/vm_state.h"

#define TAG_MACHINE STATE_TAG('M', 'A', 'C', 'H')
#define TAG_RAM	    STATE_TAG('R', 'A', 'M', 'I')

static void machine_fields(struct vm *vm, struct state_io *io)
{
	uint64_t target = vm->target_mib;
	bool rest = vm->balloon_rest;

	if (!state_begin(io, TAG_MACHINE, 0, 2, STATE_MANDATORY))
		return;
	state_expect(io, vm->shape.cpus, "CPUs");
	state_expect(io, vm->shape.memory_mib, "MiB of memory");
	state_bool(io, &vm->ready);
	state_bool(io, &vm->panicked);
	if (state_version(io) >= 2) {
		state_u64(io, &target);
		state_bool(io, &rest);
	} else {
		target = 0;
		rest = false;
	}
	if (state_ok(io) && target > VM_MEMORY_MAX_MIB)
		state_fail(io, -EINVAL, "%llu MiB of memory", (unsigned long long)target);
	if (state_ok(io)) {
		vm->target_mib = target;
		vm->balloon_rest = rest;
	}
	state_end(io);
}

/* Which memory image belongs to it: that pages and registers are of one instant. */
static void ram_fields(struct vm *vm, struct state_io *io, const uint8_t *expected)
{
	uint8_t id[RAM_IMAGE_ID_BYTES];

	if (!state_begin(io, TAG_RAM, 0, 1, STATE_MANDATORY))
		return;
	memcpy(id, vm->ram_id, sizeof(id));
	state_bytes(io, id, sizeof(id));
	if (state_ok(io) && expected && memcmp(id, expected, sizeof(id)))
		state_fail(io, -EINVAL, "saved with another memory image than this one");
	if (state_ok(io))
		memcpy(vm->ram_id, id, sizeof(id));
	state_end(io);
}

static void all_fields(struct vm *vm, struct state_io *io, const uint8_t *ram_id)
{
	machine_fields(vm, io);
	ram_fields(vm, io, ram_id);
	/* Before the devices: their interrupts go over its routes. */
	platform_state(vm, io);
	if (state_ok(io))
		devices_state(vm->devices, io);
	vm_state_arch(vm, io);
	vm->time_held = state_ok(io);
}

int vm_state_save(struct vm *vm, struct state_io *io)
{
	/* Clients and old notifications may have set them to work since the pause. */
	devices_quiesce(vm->devices);
	all_fields(vm, io, NULL);
	return io->err.code;
}

int vm_state_load(struct vm *vm, struct state_io *io, const uint8_t *ram_id, struct err *e)
{
	int rc;

	vm->stale_cpuid = false;
	all_fields(vm, io, ram_id);
	rc = state_finish(io, e);
	if (rc)
		return rc;
	vm->unresumed = vm->restored = true;
	vm->request = VM_REQUEST_NONE;
	return 0;
}

int vm_state_post_restore(struct vm *vm, struct err *e)
{
	int rc = vm_state_arch_resume_time(vm, e);

	if (rc)
		return rc;
	platform_new_generation(vm);
	devices_post_restore(vm->devices);
	vm->unresumed = false;
	return 0;
}
