/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>

#include "server/manager/idle.h"

#define S 1000u

Test(idle, is_over_when_nothing_was_done_for_as_long)
{
	struct idle i = {0};
	uint64_t now = 5000000;

	idle_touch(&i, now);
	cr_assert_not(idle_look(&i, 10, false, now));
	cr_assert_not(idle_look(&i, 10, false, now + 10 * S - 1));
	cr_assert(idle_look(&i, 10, false, now + 10 * S));
	cr_assert(idle_look(&i, 10, false, now + 15 * S), "looking does not begin it anew");
	cr_assert_eq(idle_left_ms(&i, 10, now + 4 * S), 6 * S);
	cr_assert_eq(idle_left_ms(&i, 10, now + 40 * S), 0);
	cr_assert_not(idle_look(&i, 0, false, now + 1000000 * S), "0 is never");
}

Test(idle, rolls_with_every_touch)
{
	struct idle i = {0};
	uint64_t now = 1;

	for (int k = 0; k < 100; k++, now += 10 * S - 1) {
		cr_assert_not(idle_look(&i, 10, false, now));
		idle_touch(&i, now);
	}
	cr_assert(idle_look(&i, 10, false, now + 1));
	/* Somebody looked at the clock before another thread touched it. */
	idle_touch(&i, now + 500);
	cr_assert_not(idle_look(&i, 10, false, now));
	cr_assert_eq(idle_left_ms(&i, 10, now), 10 * S);
}

Test(idle, another_timeout_counts_from_the_same_work)
{
	struct idle i = {0};

	idle_touch(&i, 1000 * S);
	cr_assert(idle_look(&i, 5, false, 1007 * S));
	cr_assert_not(idle_look(&i, 8, false, 1007 * S));
	cr_assert(idle_look(&i, 8, false, 1008 * S));
}

Test(idle, work_that_goes_on_holds_it)
{
	struct idle i = {0};
	uint64_t now = 77 * S;

	idle_touch(&i, now);
	idle_hold(&i);
	idle_hold(&i);
	cr_assert_not(idle_look(&i, 10, false, now + 1000 * S));
	idle_release(&i, now + 2000 * S);
	cr_assert_not(idle_look(&i, 10, false, now + 3000 * S));
	idle_release(&i, now + 3500 * S);
	cr_assert_not(idle_look(&i, 10, false, now + 3509 * S), "the end counts as work");
	cr_assert(idle_look(&i, 10, false, now + 3510 * S));
	cr_assert_not(idle_look(&i, 10, true, now + 3510 * S), "a request is at work in it");
	cr_assert_not(idle_look(&i, 10, false, now + 3519 * S));
	cr_assert(idle_look(&i, 10, false, now + 3520 * S));
}

Test(idle, goes_on_in_another_daemon)
{
	struct idle i = {0};

	idle_resume(&i, 7 * S, 100 * S);
	cr_assert_eq(idle_left_ms(&i, 10, 100 * S), 3 * S);
	cr_assert(idle_look(&i, 7, false, 100 * S));
	/* The wall clock was set back, or the machine has not been up for so long. */
	idle_resume(&i, -1000000, 100 * S);
	cr_assert_eq(idle_left_ms(&i, 10, 100 * S), 10 * S);
	idle_resume(&i, 1000000 * (int64_t)S, 100 * S);
	cr_assert(idle_look(&i, 100, false, 100 * S));
	cr_assert_not(idle_look(&i, 101, false, 100 * S), "never before the machine's start");
}
