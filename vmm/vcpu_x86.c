/* SPDX-License-Identifier: Apache-2.0 */
/* What a vCPU's exits to user space mean on x86-64. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "lib/log.h"
#include "vmm/vm.h"

static void post(struct vcpu *v, enum vm_request_kind kind, const char *message)
{
	pthread_mutex_lock(&v->vm->lock);
	vm_post_request(v->vm, kind, "vCPU %u: %s", v->index, message);
	pthread_mutex_unlock(&v->vm->lock);
}

static void handle_io(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	bool write = run->io.direction == KVM_EXIT_IO_OUT;
	uint64_t len = (uint64_t)run->io.size * run->io.count;

	exit_count(&v->exits, EXIT_IO);
	/* KVM keeps this promise; the mapping is the limit all the same. */
	if (run->io.data_offset > v->run_bytes || len > v->run_bytes - run->io.data_offset)
		return;
	pthread_mutex_lock(&v->vm->lock);
	exit_trace_note(&v->vm->trace, EXIT_IO, run->io.port, write);
	for (uint32_t i = 0; i < run->io.count; i++)
		platform_io(v->vm, run->io.port, write,
			    (uint8_t *)run + run->io.data_offset + (size_t)i * run->io.size,
			    run->io.size);
	pthread_mutex_unlock(&v->vm->lock);
}

static void handle_mmio(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	unsigned int len = run->mmio.len;
	struct iovec iov[2];

	exit_count(&v->exits, EXIT_MMIO);
	if (len > sizeof(run->mmio.data))
		return;
	/*
	 * What KVM emulates and cannot reach looks like a device. The access must not be completed
	 * with anything: KVM_RUN, which would do that, is not called again.
	 */
	if (len && guest_mem_iov(&v->vm->mem, run->mmio.phys_addr, len, iov, 2) > 0) {
		v->lost = true;
		return post(v, VM_REQUEST_FATAL, "KVM cannot reach the guest's memory");
	}
	pthread_mutex_lock(&v->vm->lock);
	exit_trace_note(&v->vm->trace, EXIT_MMIO, run->mmio.phys_addr, run->mmio.is_write);
	platform_mmio(v->vm, run->mmio.phys_addr, run->mmio.is_write, run->mmio.data, len);
	pthread_mutex_unlock(&v->vm->lock);
}

static void handle_system_event(struct vcpu *v)
{
	switch (v->run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		return post(v, VM_REQUEST_POWEROFF, "shutdown");
	case KVM_SYSTEM_EVENT_RESET:
		return post(v, VM_REQUEST_RESET, "reset");
	default:
		return post(v, VM_REQUEST_FATAL, "the guest has crashed");
	}
}

static void handle_unexpected(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	char message[128];

	switch (run->exit_reason) {
	case KVM_EXIT_FAIL_ENTRY:
		snprintf(message, sizeof(message), "the CPU cannot enter the guest (reason %#llx)",
			 (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		snprintf(message, sizeof(message), "KVM cannot run the guest (suberror %u)",
			 run->internal.suberror);
		break;
	default:
		snprintf(message, sizeof(message), "unexpected exit %u", run->exit_reason);
	}
	post(v, VM_REQUEST_FATAL, message);
}

void vcpu_handle_exit(struct vcpu *v)
{
	switch (v->run->exit_reason) {
	case KVM_EXIT_IO:
		return handle_io(v);
	case KVM_EXIT_MMIO:
		return handle_mmio(v);
	}
	exit_count(&v->exits, EXIT_OTHER);
	switch (v->run->exit_reason) {
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_IOAPIC_EOI: /* of a level-triggered entry, which works as an edge */
		return;
	case KVM_EXIT_SHUTDOWN:
		return post(v, VM_REQUEST_TRIPLE_FAULT, "triple fault");
	case KVM_EXIT_SYSTEM_EVENT:
		return handle_system_event(v);
	case KVM_EXIT_HLT: /* the local APIC is KVM's: nothing could ever wake it here */
		return post(v, VM_REQUEST_FATAL, "halted outside KVM");
	default:
		return handle_unexpected(v);
	}
}
