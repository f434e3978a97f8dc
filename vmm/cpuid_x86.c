/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the guest's CPUs say about themselves; see cpuid.h.
 *
 * KVM's list is of the host: feature bits are right, topology is not. Three bits
 * of leaf 1 are ours to set: hypervisor (31), TSC deadline timer (24, which KVM leaves out
 * of its list; without it the guest calibrates a timer for ~0.7 s) and x2APIC (21).
 * The performance counters are taken out: guests would program and probe them.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "vmm/cpuid.h"

#define ECX_AMD_PERFCTR (1u << 23)
#define EXTFEAT_FIRST	0x80000000u

#define TOPO_THREAD 1u
#define TOPO_CORE   2u

static unsigned int core_bits(unsigned int cpus)
{
	unsigned int bits = 0;

	while (1u << bits < cpus)
		bits++;
	return bits;
}

static void patch_leaf1(struct kvm_cpuid_entry2 *l, unsigned int index, unsigned int cpus)
{
	l->ecx |= CPUID_OURS_1_ECX;
	l->ebx &= 0x0000ffffu;
	l->ebx |= index << 24 | cpus << 16;
	l->edx = cpus > 1 ? l->edx | CPUID_OURS_1_EDX : l->edx & ~CPUID_OURS_1_EDX;
}

/* Intel's caches: who shares them. The first two levels are of a core, the last of the package. */
static void patch_leaf4(struct kvm_cpuid_entry2 *l, unsigned int cpus)
{
	unsigned int level = l->eax >> 5 & 7, sharing = level >= 3 ? cpus : 1;

	if (!(l->eax & 0x1f))
		return;
	l->eax &= 0x3fffu;
	l->eax |= (sharing - 1) << 14 | ((1u << core_bits(cpus)) - 1) << 26;
}

/* AMD's caches; sharing as in leaf 4. */
static void patch_leaf_8000001d(struct kvm_cpuid_entry2 *l, unsigned int cpus)
{
	unsigned int level = l->eax >> 5 & 7;

	if (!(l->eax & 0x1f))
		return;
	l->eax &= ~(0xfffu << 14);
	l->eax |= (level >= 3 ? cpus - 1 : 0) << 14;
}

static void patch(struct kvm_cpuid_entry2 *l, unsigned int index, unsigned int cpus)
{
	switch (l->function) {
	case 1:
		patch_leaf1(l, index, cpus);
		break;
	case 4:
		patch_leaf4(l, cpus);
		break;
	case 0xa: /* Intel's performance counters: none */
		l->eax = l->ebx = l->ecx = l->edx = 0;
		break;
	case 0x80000001:
		l->ecx &= ~ECX_AMD_PERFCTR;
		break;
	case 0x80000008:
		l->ecx &= ~0xf0ffu;
		l->ecx |= core_bits(cpus) << 12 | (cpus - 1);
		break;
	case 0x8000001d:
		patch_leaf_8000001d(l, cpus);
		break;
	case 0x8000001e:
		l->eax = index; /* extended APIC id */
		l->ebx = index; /* core id, one thread per core */
		l->ecx = 0;	/* node 0 of one */
		break;
	case 0x80000022: /* AMD's performance counters, version 2 */
		l->eax = l->ebx = l->ecx = l->edx = 0;
		break;
	}
}

static bool is_topology(const struct kvm_cpuid_entry2 *l)
{
	return l->function == 0xb || l->function == 0x1f || l->function == 0x80000026;
}

static int add_topology(struct kvm_cpuid2 *out, unsigned int index, unsigned int cpus)
{
	if (out->nent + 3 > CPUID_MAX_ENTRIES)
		return -E2BIG;
	for (uint32_t sub = 0; sub < 3; sub++) {
		struct kvm_cpuid_entry2 *l = &out->entries[out->nent++];

		*l = (struct kvm_cpuid_entry2){
		    .function = 0xb,
		    .index = sub,
		    .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		    .ecx = sub,
		    .edx = index,
		};
		if (sub == 0) {
			l->ebx = 1;
			l->ecx |= TOPO_THREAD << 8;
		} else if (sub == 1) {
			l->eax = core_bits(cpus);
			l->ebx = cpus;
			l->ecx |= TOPO_CORE << 8;
		}
	}
	return 0;
}

int cpuid_for_vcpu(const struct kvm_cpuid2 *supported, unsigned int index, unsigned int cpus,
		   bool all, struct kvm_cpuid2 *out)
{
	enum cpuid_vendor vendor = cpuid_vendor_of(supported);
	uint32_t max_basic = 0;

	memset(out, 0, sizeof(*out));
	for (uint32_t i = 0; i < supported->nent; i++) {
		struct kvm_cpuid_entry2 l = supported->entries[i];

		if (is_topology(&l))
			continue;
		if (out->nent == CPUID_MAX_ENTRIES)
			return -E2BIG;
		if (l.function == 0)
			max_basic = l.eax;
		if (!all)
			cpuid_baseline(&l, vendor);
		patch(&l, index, cpus);
		out->entries[out->nent++] = l;
	}
	return max_basic >= 0xb ? add_topology(out, index, cpus) : 0;
}
