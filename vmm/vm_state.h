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
 * vm_state() - Save or restore a machine
 *
 * To save: it is paused. Waits for disk I/O in flight. RAM and disks belong to this state
 * until the lock is released: then clients of vsock may set devices to work.
 * Time stands still for it: a second save before it goes on is the same.
 * To restore: machine_restore() calls it.
 *
 * Return: 0, or the failure of @io
 */
int vm_state(struct vm *vm, struct state_io *io);

/**
 * machine_restore() - Make the configured machine one that was saved
 * @data:	The whole stream, borrowed
 *
 * Guest memory must have the content that belongs to the state. Afterwards the machine is paused;
 * machine_resume() lets it go on with a new generation id, its clients of vsock gone.
 *
 * Return: 0; or -errno, then the machine is VM_CONFIGURED as before, with its RAM cleared
 */
int machine_restore(struct vm *vm, const void *data, size_t len_bytes, struct err *e);

/* Called by machine_resume() for a machine that was restored. */
int vm_state_post_restore(struct vm *vm, struct err *e);

/* state_x86.c */
void vm_state_arch(struct vm *vm, struct state_io *io);
int vm_state_arch_resume_time(struct vm *vm, struct err *e);

/* Does the CPU that is @here have what a guest has seen? Return: 0, or the failure of @io */
int vm_state_check_cpuid(const struct kvm_cpuid2 *saved, const struct kvm_cpuid2 *here,
			 struct state_io *io);

#endif
