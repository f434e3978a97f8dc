/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>

#include "vmm/ioapic.h"

static int changes;

static void count(void *opaque)
{
	(void)opaque;
	changes++;
}

static struct ioapic make(unsigned int pins)
{
	struct ioapic a = {.pins = pins, .changed = count};

	ioapic_reset(&a);
	changes = 0;
	return a;
}

static void set(struct ioapic *a, uint32_t reg, uint32_t value)
{
	ioapic_write(a, IOAPIC_REGSEL, reg);
	ioapic_write(a, IOAPIC_WINDOW, value);
}

static uint32_t get(struct ioapic *a, uint32_t reg)
{
	ioapic_write(a, IOAPIC_REGSEL, reg);
	cr_assert_eq(ioapic_read(a, IOAPIC_REGSEL), reg);
	return ioapic_read(a, IOAPIC_WINDOW);
}

Test(ioapic, the_version_register_says_how_many_pins_there_are)
{
	struct ioapic a = make(7);

	cr_assert_eq(get(&a, 1), 0x11u | 6u << 16);
}

Test(ioapic, all_pins_are_masked_after_a_reset)
{
	struct ioapic a = make(7);
	struct ioapic_msi msi;

	for (unsigned int i = 0; i < 7; i++) {
		cr_assert(get(&a, 0x10 + 2 * i) & 1u << 16);
		cr_assert_not(ioapic_route(&a, i, &msi));
	}
}

Test(ioapic, an_unmasked_pin_has_the_message_of_its_entry)
{
	struct ioapic a = make(7);
	struct ioapic_msi msi;

	set(&a, 0x10 + 2 * 3 + 1, 2u << 24);
	set(&a, 0x10 + 2 * 3, 0x131); /* lowest priority, vector 0x31 */
	cr_assert(ioapic_route(&a, 3, &msi));
	cr_assert_eq(msi.address, 0xfee02000u);
	cr_assert_eq(msi.data, 0x131u);
	set(&a, 0x10 + 2 * 3, 0x831); /* logical destination */
	cr_assert(ioapic_route(&a, 3, &msi));
	cr_assert_eq(msi.address, 0xfee02004u);
	cr_assert_not(ioapic_route(&a, 2, &msi));
}

Test(ioapic, only_what_changes_a_route_is_told)
{
	struct ioapic a = make(7);

	set(&a, 0x11, 1u << 24); /* still masked */
	set(&a, 0x10, 1u << 16 | 0x31);
	cr_assert_eq(changes, 0);
	set(&a, 0x10, 0x31);
	cr_assert_eq(changes, 1);
	set(&a, 0x10, 0x31);
	cr_assert_eq(changes, 1, "the same again");
	set(&a, 0x11, 0);
	cr_assert_eq(changes, 2);
	set(&a, 0x10, 1u << 16 | 0x31);
	cr_assert_eq(changes, 3, "masked again");
}

Test(ioapic, read_only_bits_of_an_entry_stay_clear)
{
	struct ioapic a = make(7);

	set(&a, 0x10, 0xffffffff);
	cr_assert_eq(get(&a, 0x10) & (1u << 12 | 1u << 14), 0);
}

Test(ioapic, accesses_beyond_the_pins_are_harmless)
{
	struct ioapic a = make(7);
	struct ioapic_msi msi;

	for (uint32_t reg = 0; reg < 256; reg++) {
		set(&a, reg, 0x31);
		get(&a, reg);
	}
	cr_assert_eq(get(&a, 0x10 + 2 * 7), 0);
	cr_assert_eq(get(&a, 0xff), 0);
	cr_assert_not(ioapic_route(&a, 7, &msi));
	cr_assert_not(ioapic_route(&a, 1000, &msi));
	ioapic_write(&a, 0x44, 5);
	cr_assert_eq(ioapic_read(&a, 0x44), 0);
}

/* Save one, restore it into another. */
static int carry(struct ioapic *from, struct ioapic *to, struct err *e)
{
	struct state_io out, in;
	int rc;

	state_save_init(&out);
	ioapic_state(from, &out);
	cr_assert_eq(state_finish(&out, e), 0);
	cr_assert_eq(state_restore_init(&in, out.data, out.len, e), 0);
	ioapic_state(to, &in);
	rc = state_finish(&in, e);
	state_fini(&out);
	return rc;
}

Test(ioapic, its_state_is_carried_over_and_its_routes_with_it)
{
	struct ioapic a = make(7), b = make(7);
	struct ioapic_msi x, y;
	struct err e;

	set(&a, 0, 0x05000000);
	set(&a, 0x10 + 2 * 3 + 1, 0x01000000);
	set(&a, 0x10 + 2 * 3, 0x33);
	changes = 0;
	cr_assert_eq(carry(&a, &b, &e), 0, "%s", e.msg);
	cr_expect_eq(changes, 1);
	cr_expect_eq(b.select, a.select);
	cr_expect_eq(b.id, 0x05000000);
	cr_expect_arr_eq(b.entries, a.entries, sizeof(a.entries[0]) * 7);
	cr_expect(ioapic_route(&a, 3, &x) && ioapic_route(&b, 3, &y));
	cr_expect_eq(x.address, y.address);
	cr_expect_eq(x.data, y.data);
}

Test(ioapic, a_state_that_no_guest_could_make_is_refused)
{
	struct ioapic a = make(7), b = make(7), fewer = make(6);
	struct err e;

	cr_expect_eq(carry(&a, &fewer, &e), -EINVAL);
	cr_expect_str_eq(e.msg,
			 "section IOAP 0: devices with interrupts: 7 in the saved state, 6 here");
	a.entries[2] |= 1ull << 14;
	cr_expect_eq(carry(&a, &b, &e), -EINVAL);
	a.entries[2] = 1ull << 16;
	a.id = 1;
	cr_expect_eq(carry(&a, &b, &e), -EINVAL);
	a.id = 0;
	a.select = 0x100;
	cr_expect_eq(carry(&a, &b, &e), -EINVAL);
	cr_expect_eq(changes, 0, "no routes are made of it");
}
