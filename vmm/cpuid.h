/* SPDX-License-Identifier: Apache-2.0 */
/* What the guest's CPUs say about themselves. */
#ifndef VMM_CPUID_H
#define VMM_CPUID_H

#include <linux/kvm.h>
#include <stddef.h>

#define CPUID_MAX_ENTRIES 192

/* Bytes of a struct kvm_cpuid2 with room for CPUID_MAX_ENTRIES. */
#define CPUID_BYTES                                                                                \
	(sizeof(struct kvm_cpuid2) + CPUID_MAX_ENTRIES * sizeof(struct kvm_cpuid_entry2))

/**
 * cpuid_for_vcpu() - Make the CPUID of one vCPU from what KVM supports
 * @supported:	From KVM_GET_SUPPORTED_CPUID; not changed
 * @index:	Of the vCPU, which is the id of its local APIC too
 * @cpus:	How many there are: cores of one package, one thread each
 * @out:	CPUID_BYTES large
 *
 * Return: 0, or -E2BIG if the table has no room for the topology
 */
int cpuid_for_vcpu(const struct kvm_cpuid2 *supported, unsigned int index, unsigned int cpus,
		   struct kvm_cpuid2 *out);

#endif
