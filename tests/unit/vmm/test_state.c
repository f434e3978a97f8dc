/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>

#include "vmm/cpuid.h"
#include "vmm/vm_state.h"

static struct kvm_cpuid2 *cpu(uint32_t vendor, uint32_t leaf1_ecx, uint32_t leaf7_ebx)
{
	struct kvm_cpuid2 *c = calloc(1, CPUID_BYTES);

	c->nent = 3;
	c->entries[0] = (struct kvm_cpuid_entry2){.function = 0, .ebx = vendor};
	c->entries[1] = (struct kvm_cpuid_entry2){.function = 1, .ecx = leaf1_ecx};
	c->entries[2] = (struct kvm_cpuid_entry2){.function = 7, .ebx = leaf7_ebx};
	return c;
}

static int compare(struct kvm_cpuid2 *saved, struct kvm_cpuid2 *here, struct err *e)
{
	struct state_io io = {0};
	int rc = vm_state_check_cpuid(saved, here, here, &io);

	*e = io.err;
	free(saved);
	free(here);
	return rc;
}

Test(vm_state, a_cpu_that_has_all_that_the_guest_has_seen_is_good_enough)
{
	struct err e;

	cr_expect_eq(compare(cpu(1, 0x5, 0x30), cpu(1, 0x5, 0x30), &e), 0);
	cr_expect_eq(compare(cpu(1, 0x5, 0x30), cpu(1, 0xff, 0xf0), &e), 0, "and more");
	cr_expect_eq(compare(cpu(1, 1u << 27, 0), cpu(1, 0, 0), &e), 0,
		     "OSXSAVE is the guest's to set");
}

Test(vm_state, a_cpu_that_lacks_some_of_it_is_refused_and_the_bits_are_named)
{
	struct err e;

	cr_expect_eq(compare(cpu(1, 0x5, 0x30), cpu(1, 0x5, 0x10), &e), -ENOTSUP);
	cr_expect_str_eq(e.msg, "this CPU lacks features: CPUID 0x7.0 EBX bits 0x20");
	cr_expect_eq(compare(cpu(1, 0x5, 0), cpu(1, 0x4, 0), &e), -ENOTSUP);
	cr_expect_str_eq(e.msg, "this CPU lacks features: CPUID 0x1.0 ECX bits 0x1");
	cr_expect_eq(compare(cpu(1, 0, 0), cpu(2, 0, 0), &e), -ENOTSUP);
	cr_expect_str_eq(e.msg, "saved on a CPU of another vendor");
}

Test(vm_state, what_kvm_derives_makes_no_other_cpuid)
{
	struct kvm_cpuid2 *a = cpu(1, 0x5, 0x30), *b = cpu(1, 0x5 | 1u << 27 | 1u << 3, 0x30);

	cr_expect(vm_state_same_cpuid(a, b), "OSXSAVE and MONITOR");
	b->entries[1].ecx ^= 1;
	cr_expect_not(vm_state_same_cpuid(a, b));
	b->entries[1].ecx ^= 1;
	b->entries[2].index = 1;
	cr_expect_not(vm_state_same_cpuid(a, b));
	b->entries[2].index = 0;
	b->nent = 2;
	cr_expect_not(vm_state_same_cpuid(a, b));
	free(a);
	free(b);
}
