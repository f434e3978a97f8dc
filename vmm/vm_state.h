/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state of a whole stopped machine but for the content of RAM and disks
 * (docs/snapshot-format.md): state.c, state_x86.c. With vm->lock held.
 */
#ifndef VMM_VM_STATE_H
#define VMM_VM_STATE_H

#include "lib/state.h"
#include "vmm/vm.h"

struct kvm_cpuid2;

/**
 * vm_state_save() - Save a paused machine
 *
 * Waits for disk I/O in flight. RAM and disks belong to this state
 * until the lock is released: then clients of vsock may set devices to work.
 * Time stands still for it: a second save before it goes on is the same.
 *
 * Return: 0, or the failure of @io
 */
int vm_state_save(struct vm *vm, struct state_io *io);

/**
 * vm_state_load() - Give a saved state to the machine whose vCPUs and devices are there
 * @io:		From state_restore_init()
 * @ram_id:	Of the memory image that RAM has the content of; NULL: not known
 *
 * No vCPU runs and nothing is in flight. Whatever they were before is gone, also after a failure.
 * Afterwards machine_resume() lets it go on with a new generation id, its clients of vsock gone.
 *
 * Return: 0 or -errno. With vm->stale_cpuid set, another attempt with new KVM objects may succeed
 */
int vm_state_load(struct vm *vm, struct state_io *io, const uint8_t *ram_id, struct err *e);

/* Called by machine_resume() for a machine that was restored. */
int vm_state_post_restore(struct vm *vm, struct err *e);

/* state_x86.c */
void vm_state_arch(struct vm *vm, struct state_io *io);
int vm_state_arch_resume_time(struct vm *vm, struct err *e);

/**
 * vm_state_check_cpuid() - Is what a guest has seen here, too?
 * @here:	What there is
 * @also:	More features that there are
 *
 * Return: 0, or the failure of @io
 */
int vm_state_check_cpuid(const struct kvm_cpuid2 *saved, const struct kvm_cpuid2 *here,
			 const struct kvm_cpuid2 *also, struct state_io *io);

/* But for what KVM derives from the guest's registers. */
bool vm_state_same_cpuid(const struct kvm_cpuid2 *a, const struct kvm_cpuid2 *b);

#endif
