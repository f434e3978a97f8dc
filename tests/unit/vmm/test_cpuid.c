/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdint.h>

#include "vmm/cpuid.h"

/* Each test is a process of its own: nothing to release. */
static _Alignas(8) uint8_t memory[2][CPUID_BYTES];

static struct kvm_cpuid2 *supported(void)
{
	static const struct kvm_cpuid_entry2 leaves[] = {
	    {.function = 0, .eax = 0x20},
	    {.function = 1, .ebx = 0x07040800, .ecx = 1u << 13, .edx = 1u << 28 | 1},
	    {.function = 4, .index = 0, .flags = 1, .eax = 0xfc004121},
	    {.function = 4, .index = 3, .flags = 1, .eax = 0xfc1fc163},
	    {.function = 0xa, .eax = 0x07300404},
	    {.function = 0xb, .index = 0, .flags = 1, .eax = 1, .ebx = 2, .edx = 99},
	    {.function = 0xb, .index = 1, .flags = 1, .eax = 6, .ebx = 64, .edx = 99},
	    {.function = 0x1f, .index = 0, .flags = 1, .edx = 99},
	    {.function = 0x40000000, .eax = 0x40000001, .ebx = 0x4b4d564b},
	    {.function = 0x80000001, .ecx = 1u << 23 | 1},
	    {.function = 0x80000008, .eax = 0x3030, .ecx = 0x603f},
	    {.function = 0x8000001e, .eax = 99, .ebx = 0x0100 | 99, .ecx = 3},
	};
	struct kvm_cpuid2 *c = (struct kvm_cpuid2 *)memory[0];

	c->nent = sizeof(leaves) / sizeof(leaves[0]);
	for (unsigned int i = 0; i < c->nent; i++)
		c->entries[i] = leaves[i];
	return c;
}

static const struct kvm_cpuid_entry2 *leaf(const struct kvm_cpuid2 *c, uint32_t function,
					   uint32_t index)
{
	for (unsigned int i = 0; i < c->nent; i++)
		if (c->entries[i].function == function && c->entries[i].index == index)
			return &c->entries[i];
	return NULL;
}

static struct kvm_cpuid2 *make(unsigned int index, unsigned int cpus)
{
	struct kvm_cpuid2 *out = (struct kvm_cpuid2 *)memory[1];

	cr_assert_eq(cpuid_for_vcpu(supported(), index, cpus, true, out), 0);
	return out;
}

Test(cpuid, the_bits_that_kvm_leaves_to_us_are_set)
{
	const struct kvm_cpuid_entry2 *l = leaf(make(0, 1), 1, 0);

	cr_assert(l->ecx & 1u << 31, "hypervisor");
	cr_assert(l->ecx & 1u << 24, "TSC deadline timer");
	cr_assert(l->ecx & 1u << 21, "x2APIC");
	cr_assert(l->ecx & 1u << 13, "what KVM says stays");
}

Test(cpuid, each_vcpu_has_its_own_apic_id_everywhere)
{
	for (unsigned int i = 0; i < 4; i++) {
		struct kvm_cpuid2 *c = make(i, 4);

		cr_assert_eq(leaf(c, 1, 0)->ebx >> 24, i);
		cr_assert_eq(leaf(c, 0x8000001e, 0)->eax, i);
		cr_assert_eq(leaf(c, 0x8000001e, 0)->ebx & 0xff, i);
		for (uint32_t sub = 0; sub < 3; sub++)
			cr_assert_eq(leaf(c, 0xb, sub)->edx, i);
	}
}

Test(cpuid, topology_says_one_package_of_single_threaded_cores)
{
	struct kvm_cpuid2 *c = make(1, 3);

	cr_assert_eq(leaf(c, 1, 0)->ebx >> 16 & 0xff, 3);
	cr_assert_eq(leaf(c, 0xb, 0)->ebx, 1);
	cr_assert_eq(leaf(c, 0xb, 0)->ecx, 1u << 8);
	cr_assert_eq(leaf(c, 0xb, 1)->eax, 2, "3 cores need 2 bits");
	cr_assert_eq(leaf(c, 0xb, 1)->ebx, 3);
	cr_assert_eq(leaf(c, 0xb, 1)->ecx, 2u << 8 | 1);
	cr_assert_eq(leaf(c, 0xb, 2)->ecx, 2, "the end of the list");
	cr_assert_null(leaf(c, 0x1f, 0), "the host's own topology is gone");
	cr_assert_eq(leaf(c, 0x80000008, 0)->ecx, 2u << 12 | 2);
	cr_assert_eq(leaf(c, 4, 0)->eax, 3u << 26 | 0x121);
	cr_assert_eq(leaf(c, 4, 3)->eax, 3u << 26 | 2u << 14 | 0x163);
}

Test(cpuid, hyper_threading_is_only_said_of_several_cpus)
{
	cr_assert_not(leaf(make(0, 1), 1, 0)->edx & 1u << 28);
	cr_assert(leaf(make(0, 2), 1, 0)->edx & 1u << 28);
}

Test(cpuid, performance_counters_are_not_there)
{
	struct kvm_cpuid2 *c = make(0, 1);

	cr_assert_eq(leaf(c, 0xa, 0)->eax, 0);
	cr_assert_eq(leaf(c, 0x80000001, 0)->ecx, 1);
}

Test(cpuid, a_table_without_room_for_the_topology_is_an_error)
{
	struct kvm_cpuid2 *in = supported(), *out = (struct kvm_cpuid2 *)memory[1];

	while (in->nent < CPUID_MAX_ENTRIES) {
		in->entries[in->nent].function = 0x40000100 + in->nent;
		in->nent++;
	}
	/* Three of its own leaves are replaced by ours: that fits exactly. */
	cr_assert_eq(cpuid_for_vcpu(in, 0, 1, true, out), 0);
	in->entries[5].function = 0x50000000;
	cr_assert_eq(cpuid_for_vcpu(in, 0, 1, true, out), -E2BIG);
}

/* --- the baseline -------------------------------------------------------------------------- */

static struct kvm_cpuid2 *everything(uint32_t ebx, uint32_t ecx)
{
	static const struct kvm_cpuid_entry2 leaves[] = {
	    {.function = 0, .eax = 0x20},
	    {.function = 1, .ecx = ~0u, .edx = ~0u},
	    {.function = 7, .flags = 1, .eax = 2, .ebx = ~0u, .ecx = ~0u, .edx = ~0u},
	    {.function = 7, .index = 1, .flags = 1, .eax = ~0u},
	    {.function = 0xd, .flags = 1, .eax = 0x602e7, .ebx = 11008, .ecx = 11008},
	    {.function = 0xd, .index = 1, .flags = 1, .eax = 0x1f, .ecx = 0x1800},
	    {.function = 0xd, .index = 2, .flags = 1, .eax = 256, .ebx = 576},
	    {.function = 0xd, .index = 9, .flags = 1, .eax = 8, .ebx = 2688},
	    {.function = 0x1d, .flags = 1, .eax = 1},
	    {.function = 0x40000001, .eax = ~0u},
	    {.function = 0x80000001, .ecx = ~0u, .edx = ~0u},
	    {.function = 0x80000008, .ebx = ~0u},
	    {.function = 0x8000000a, .eax = 1},
	    {.function = 0x80000021, .eax = ~0u},
	};
	struct kvm_cpuid2 *c = (struct kvm_cpuid2 *)memory[0];

	c->nent = sizeof(leaves) / sizeof(leaves[0]);
	for (unsigned int i = 0; i < c->nent; i++)
		c->entries[i] = leaves[i];
	c->entries[0].ebx = ebx;
	c->entries[0].ecx = ecx;
	return c;
}

static struct kvm_cpuid2 *shown(uint32_t ebx, uint32_t ecx, bool all)
{
	struct kvm_cpuid2 *out = (struct kvm_cpuid2 *)memory[1];

	cr_assert_eq(cpuid_for_vcpu(everything(ebx, ecx), 0, 1, all, out), 0);
	return out;
}

static void expect_common(const struct kvm_cpuid2 *c)
{
	cr_expect(leaf(c, 1, 0)->ecx & 1u << 28, "AVX");
	cr_expect(leaf(c, 7, 0)->ebx & 1u << 5, "AVX2");
	cr_expect_not(leaf(c, 7, 0)->ebx & 1u << 16, "AVX-512");
	cr_expect_not(leaf(c, 7, 0)->ecx & 1u << 16, "five levels of page tables");
	cr_expect(leaf(c, 7, 0)->edx & 1u << 26, "what protects from speculation stays");
	cr_expect_eq(leaf(c, 7, 1)->eax, 0);
	cr_expect_eq(leaf(c, 0xd, 0)->eax, 7);
	cr_expect_eq(leaf(c, 0xd, 0)->ecx, 832, "bytes of x87, SSE and AVX");
	cr_expect_eq(leaf(c, 0xd, 2)->eax, 256);
	cr_expect_eq(leaf(c, 0xd, 9)->eax, 0, "protection keys");
	cr_expect_eq(leaf(c, 0x1d, 0)->eax, 0, "AMX");
	cr_expect_eq(leaf(c, 0x8000000a, 0)->eax, 0, "SVM");
	cr_expect_not(leaf(c, 0x80000001, 0)->ecx & 1u << 2, "SVM");
	cr_expect_not(leaf(c, 1, 0)->ecx & 1u << 5, "VMX");
	cr_expect(leaf(c, 0x80000001, 0)->edx & 1u << 29, "64 bits");
	cr_expect(leaf(c, 0x40000001, 0)->eax & 1u << 3, "KVM's clock");
	cr_expect_not(leaf(c, 0x40000001, 0)->eax & 1u << 17, "what nobody knows yet");
}

Test(cpuid, the_baseline_is_what_cpus_of_a_vendor_have_in_common)
{
	const struct kvm_cpuid2 *c = shown(0x68747541, 0x444d4163, false);

	expect_common(c);
	cr_expect_not(leaf(c, 1, 0)->ecx & 1u << 17, "PCID is newer than Zen");
	cr_expect(leaf(c, 7, 0)->ebx & 1u << 29, "SHA");
	c = shown(0x756e6547, 0x6c65746e, false);
	expect_common(c);
	cr_expect(leaf(c, 1, 0)->ecx & 1u << 17, "PCID");
	cr_expect_not(leaf(c, 7, 0)->ebx & 1u << 29, "SHA is newer than Skylake");
}

Test(cpuid, the_host_s_cpu_is_shown_whole_if_asked_for_and_if_it_is_unknown)
{
	const struct kvm_cpuid2 *c = shown(0x68747541, 0x444d4163, true);

	cr_expect(leaf(c, 7, 0)->ebx & 1u << 16);
	cr_expect_eq(leaf(c, 0xd, 0)->ecx, 11008);
	c = shown(1, 2, false);
	cr_expect(leaf(c, 7, 0)->ebx & 1u << 16);
}
