/* SPDX-License-Identifier: Apache-2.0 */
/* What the guest's CPUs say about themselves. */
#ifndef VMM_CPUID_H
#define VMM_CPUID_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>

#define CPUID_MAX_ENTRIES 192

/* What a guest sees whatever KVM says: x2APIC, TSC deadline timer, hypervisor; HTT. */
#define CPUID_OURS_1_ECX (1u << 21 | 1u << 24 | 1u << 31)
#define CPUID_OURS_1_EDX (1u << 28)

/* Bytes of a struct kvm_cpuid2 with room for CPUID_MAX_ENTRIES. */
#define CPUID_BYTES                                                                                \
	(sizeof(struct kvm_cpuid2) + CPUID_MAX_ENTRIES * sizeof(struct kvm_cpuid_entry2))

enum cpuid_vendor { CPUID_OTHER, CPUID_AMD, CPUID_INTEL };
enum cpuid_vendor cpuid_vendor_of(const struct kvm_cpuid2 *c);

/* Take from a leaf what is not in the baseline of the vendor; of others nothing is known. */
void cpuid_baseline(struct kvm_cpuid_entry2 *leaf, enum cpuid_vendor vendor);

/**
 * cpuid_for_vcpu() - Make the CPUID of one vCPU from what KVM supports
 * @supported:	From KVM_GET_SUPPORTED_CPUID; not changed
 * @index:	Of the vCPU, which is the id of its local APIC too
 * @cpus:	How many there are: cores of one package, one thread each
 * @all:	All features; else those of the baseline
 * @out:	CPUID_BYTES large
 *
 * Return: 0, or -E2BIG if the table has no room for the topology
 */
int cpuid_for_vcpu(const struct kvm_cpuid2 *supported, unsigned int index, unsigned int cpus,
		   bool all, struct kvm_cpuid2 *out);

#endif
