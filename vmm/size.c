/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much memory the guest has: more than it was booted with by virtio-mem, less by the balloon.
 *
 * Theory of operation
 *
 * The target is one number. What of it is above the size of the boot is asked of virtio-mem, what
 * is missing below it of the balloon; both drivers do it in the guest's time. Memory that is
 * plugged but in use by something that cannot be moved cannot be unplugged: for that the controller
 * may ask that the rest goes into the balloon, too, whose target then follows what is plugged.
 *
 * virtio-mem and not slots that appear by themselves: without ACPI nothing tells a kernel of those,
 * and only virtio-mem takes memory back in pieces. RAM of the region exists as far as the guest was
 * ever told to use it (memory_resize()), never less, as parts of it may still be plugged.
 */
#include <errno.h>

#include "vmm/vm.h"

#define MIB(n) ((uint64_t)(n) << 20)
/* Linux adds memory in blocks of this size, and needs whole ones to be usable. */
#define USABLE_STEP MIB(128)

static uint64_t balloon_pages(const struct vm *vm)
{
	struct device_mem_info m;
	uint64_t have, target = MIB(vm->target_mib);

	if (!target)
		return 0;
	device_mem_get(devices_find(vm->devices, DEVICE_MEM), &m);
	/* What is to be unplugged is not the balloon's, at first. */
	have = vm->balloon_rest || m.plugged_bytes < m.requested_bytes ? m.plugged_bytes
								       : m.requested_bytes;
	have += vm->base_bytes;
	return have > target ? (have - target) >> 12 : 0;
}

void size_changed(struct vm *vm)
{
	device_balloon_set_target(devices_find(vm->devices, DEVICE_BALLOON),
				  (uint32_t)balloon_pages(vm));
}

static int check(const struct vm *vm, uint64_t target_mib, struct err *e)
{
	const struct device *balloon;
	struct vm_size s;

	if (vm->state != VM_RUNNING && vm->state != VM_PAUSED)
		return err_set(e, -EINVAL, "the memory of a machine that is %s cannot be changed",
			       vm_state_name(vm->state));
	balloon = devices_find(vm->devices, DEVICE_BALLOON);
	size_get(vm, &s);
	if (target_mib > s.max_mib)
		return err_set(e, -EINVAL, "target_mib: the machine can have %llu at most",
			       (unsigned long long)s.max_mib);
	/* A kernel that is just starting will find the device. */
	if (target_mib > s.base_mib && vm->ready && !s.can_grow)
		return err_set(e, -ENOTSUP,
			       "the guest has no driver for more memory than the "
			       "%llu MiB it was booted with",
			       (unsigned long long)s.base_mib);
	if (target_mib < s.base_mib && vm->ready && !device_active(balloon))
		return err_set(e, -ENOTSUP, "the guest has no driver that gives memory back");
	return 0;
}

int machine_resize(struct vm *vm, uint64_t target_mib, bool rest, struct err *e)
{
	uint64_t more, usable;
	int rc = check(vm, target_mib, e);

	if (rc)
		return rc;
	more = MIB(target_mib) > vm->base_bytes ? MIB(target_mib) - vm->base_bytes : 0;
	usable = (more + USABLE_STEP - 1) / USABLE_STEP * USABLE_STEP;
	if (vm->base_bytes + usable > vm->ram_bytes)
		rc = memory_resize(vm, usable, e);
	if (rc)
		return rc;
	vm->target_mib = target_mib;
	vm->balloon_rest = rest;
	device_mem_request(devices_find(vm->devices, DEVICE_MEM), more);
	size_changed(vm);
	return 0;
}

void size_get(const struct vm *vm, struct vm_size *out)
{
	struct device_mem_info m;
	uint64_t ballooned;

	*out = (struct vm_size){0};
	if (!vm->devices)
		return;
	device_mem_get(devices_find(vm->devices, DEVICE_MEM), &m);
	ballooned = (uint64_t)device_balloon_actual(devices_find(vm->devices, DEVICE_BALLOON))
		    << 12;
	out->base_mib = vm->base_bytes >> 20;
	out->target_mib = vm->target_mib ? vm->target_mib : out->base_mib;
	out->max_mib = (vm->base_bytes + vm->more_region) >> 20;
	out->plugged_mib = m.plugged_bytes >> 20;
	out->ballooned_kib = ballooned >> 10;
	/* The guest says how much is in the balloon: it may say anything. */
	if (ballooned < vm->base_bytes + m.plugged_bytes)
		out->now_mib = (vm->base_bytes + m.plugged_bytes - ballooned) >> 20;
	out->can_grow = m.has_driver;
}
