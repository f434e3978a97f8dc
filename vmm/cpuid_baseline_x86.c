/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CPU that guests are shown by default: what all server CPUs of a vendor have since AMD Zen
 * and Intel Skylake. A guest uses what it sees at boot for as long as it lives, so a saved one can
 * only go on where all of it is. Bits that say how the CPU is to be protected from speculation stay
 * as the host has them: a guest that does not see them is slower or less safe.
 */
#include <stdbool.h>
#include <stdint.h>

#include "vmm/cpuid.h"

#define BIT(n) (1u << (n))

enum { EAX, EBX, ECX, EDX };

struct allowed {
	uint32_t function, index;
	unsigned int reg;
	uint32_t amd, intel;
};

/* SSE3 PCLMUL SSSE3 FMA CX16 SSE4.1 SSE4.2 x2APIC MOVBE POPCNT deadline AES XSAVE OSXSAVE AVX F16C
 * RDRAND hypervisor */
#define ECX1                                                                                       \
	(BIT(0) | BIT(1) | BIT(9) | BIT(12) | BIT(13) | BIT(19) | BIT(20) | BIT(21) | BIT(22) |    \
	 BIT(23) | BIT(24) | BIT(25) | BIT(26) | BIT(27) | BIT(28) | BIT(29) | BIT(30) | BIT(31))
#define PCID BIT(17)
/* FSGSBASE TSC_ADJUST BMI1 AVX2 SMEP BMI2 RDSEED ADX SMAP CLFLUSHOPT */
#define EBX7                                                                                       \
	(BIT(0) | BIT(1) | BIT(3) | BIT(5) | BIT(7) | BIT(8) | BIT(18) | BIT(19) | BIT(20) |       \
	 BIT(23))
#define SHA	BIT(29)
#define ERMS	BIT(9)
#define INVPCID BIT(10)
/* MD_CLEAR IBRS STIBP FLUSH_L1D ARCH_CAPABILITIES SSBD */
#define EDX7 (BIT(10) | BIT(26) | BIT(27) | BIT(28) | BIT(29) | BIT(31))
/* XSAVEERPTR IBPB IBRS STIBP, always on, preferred; SSBD, VIRT_SSBD, SSB_NO; CLZERO */
#define EBX80000008                                                                                \
	(BIT(0) | BIT(2) | BIT(12) | BIT(14) | BIT(15) | BIT(17) | BIT(18) | BIT(24) | BIT(25) |   \
	 BIT(26))
/* Clock, I/O delay, async page faults, steal time, EOI, unhalt, TLB flush, IPIs, poll control,
 * yield, MSI ids, stable clock */
#define KVM_FEATURES                                                                               \
	(BIT(0) | BIT(1) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(9) | BIT(11) |         \
	 BIT(12) | BIT(13) | BIT(14) | BIT(15) | BIT(24))

static const struct allowed baseline[] = {
    {0x1, 0, ECX, ECX1, ECX1 | PCID},
    {0x1, 0, EDX, 0x1f8bfbff, 0x1f8bfbff},
    {0x6, 0, EAX, BIT(2), BIT(2)}, /* the APIC's timer never stops */
    {0x6, 0, ECX, 0, 0},
    {0x7, 0, EBX, EBX7 | SHA, EBX7 | ERMS | INVPCID},
    {0x7, 0, ECX, 0, 0},
    {0x7, 0, EDX, EDX7, EDX7},
    {0x7, 1, EAX, 0, 0},
    {0x7, 1, EBX, 0, 0},
    {0x7, 1, ECX, 0, 0},
    {0x7, 1, EDX, 0, 0},
    {0x7, 2, EDX, 0, 0},
    {0xd, 0, EAX, 7, 7}, /* x87, SSE, AVX */
    {0xd, 0, EDX, 0, 0},
    {0xd, 1, EAX, 7, 7}, /* XSAVEOPT, XSAVEC, XGETBV with ECX 1 */
    {0xd, 1, ECX, 0, 0},
    {0xd, 1, EDX, 0, 0},
    {0x40000001, 0, EAX, KVM_FEATURES, KVM_FEATURES},
    /* LAHF CmpLegacy CR8 ABM SSE4A misaligned SSE, prefetch, topology */
    {0x80000001, 0, ECX, 0x1f3 | BIT(22), BIT(0) | BIT(5) | BIT(8)},
    {0x80000001, 0, EDX, 0x2fd3fbff, 0x2c100800},
    {0x80000007, 0, EDX, BIT(8), BIT(8)}, /* the TSC never stops */
    {0x80000008, 0, EBX, EBX80000008, EBX80000008},
    {0x80000021, 0, EAX, BIT(2), 0}, /* LFENCE waits */
    {0x80000021, 0, ECX, 0, 0},
};

/* SGX, processor trace, last branch records, AMX, AVX10, SVM and what belongs to them. */
static const uint32_t hidden[] = {0x12, 0x14, 0x1c, 0x1d, 0x1e, 0x24, 0x8000000a, 0x8000001f};

static bool is_hidden(const struct kvm_cpuid_entry2 *l)
{
	for (size_t i = 0; i < sizeof(hidden) / sizeof(hidden[0]); i++)
		if (l->function == hidden[i])
			return true;
	/* Parts of the vector state that are not in 0xd.0. */
	return l->function == 0xd && l->index > 2;
}

enum cpuid_vendor cpuid_vendor_of(const struct kvm_cpuid2 *c)
{
	for (uint32_t i = 0; i < c->nent; i++) {
		const struct kvm_cpuid_entry2 *l = &c->entries[i];

		if (l->function == 0 && l->ebx == 0x68747541 && l->ecx == 0x444d4163)
			return CPUID_AMD; /* AuthenticAMD */
		if (l->function == 0 && l->ebx == 0x756e6547 && l->ecx == 0x6c65746e)
			return CPUID_INTEL; /* GenuineIntel */
	}
	return CPUID_OTHER;
}

/* Of x87 and SSE with the header, and of AVX if there is any: 0xd.0 ECX. */
static void shrink_state(struct kvm_cpuid_entry2 *l)
{
	l->ecx = l->eax & 4 ? 832 : 576;
	if (l->ebx > l->ecx)
		l->ebx = l->ecx;
}

void cpuid_baseline(struct kvm_cpuid_entry2 *l, enum cpuid_vendor vendor)
{
	uint32_t *const regs[] = {&l->eax, &l->ebx, &l->ecx, &l->edx};

	if (vendor == CPUID_OTHER)
		return;
	if (is_hidden(l))
		l->eax = l->ebx = l->ecx = l->edx = 0;
	for (size_t i = 0; i < sizeof(baseline) / sizeof(baseline[0]); i++) {
		const struct allowed *a = &baseline[i];

		if (l->function == a->function && l->index == a->index)
			*regs[a->reg] &= vendor == CPUID_AMD ? a->amd : a->intel;
	}
	if (l->function == 0xd && l->index == 0)
		shrink_state(l);
}
