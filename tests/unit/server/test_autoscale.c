/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>

#include "server/manager/autoscale.h"

#define S	1000ull
#define MINUTE	(60 * S)
#define START	(1000 * S)
#define MIN_MIB 512
#define MAX_MIB 8192

static struct autoscale a;
static uint64_t now;

static void setup(void)
{
	a = (struct autoscale){0};
	now = START;
}

TestSuite(autoscale, .init = setup);

/* A sample every 5 s, for as long. */
static void use(int64_t mib, uint64_t ms)
{
	for (uint64_t end = now + ms; now < end;) {
		now += AUTOSCALE_SAMPLE_S * S;
		autoscale_sample(&a, now, mib);
	}
}

static int64_t decide(int64_t size)
{
	return autoscale_decide(&a, now, size, MIN_MIB, MAX_MIB);
}

Test(autoscale, up_one_step_after_a_minute_above_75_percent)
{
	cr_expect_eq(decide(1024), 1024, "nothing is known");
	use(800, 45 * S);
	cr_expect_eq(decide(1024), 1024, "not of a minute");
	use(800, 20 * S);
	cr_expect_eq(decide(1024), 2048);
	cr_expect_eq(decide(1040), 2048, "of a size that is no step");
	cr_expect_eq(decide(2048), 2048, "less than 75 % of that");
}

Test(autoscale, exactly_75_percent_is_not_above)
{
	use(768, 2 * MINUTE);
	cr_expect_eq(decide(1024), 1024);
	use(779, 2 * MINUTE);
	cr_expect_eq(decide(1024), 2048);
}

Test(autoscale, the_mean_counts_and_not_a_peak)
{
	use(300, 2 * MINUTE);
	use(1000, 20 * S);
	cr_expect_eq(decide(1024), 1024);
	use(1000, 40 * S);
	cr_expect_eq(decide(1024), 2048);
}

Test(autoscale, cools_down_for_a_minute_after_each_change)
{
	use(4000, 2 * MINUTE);
	cr_expect_eq(decide(1024), 2048);
	autoscale_changed(&a, now);
	cr_expect_eq(decide(2048), 2048);
	use(4000, 55 * S);
	cr_expect_eq(decide(2048), 2048);
	use(4000, 5 * S);
	cr_expect_eq(decide(2048), 4096);
}

Test(autoscale, down_one_step_when_15_minutes_were_idle)
{
	use(100, 14 * MINUTE);
	cr_expect_eq(decide(4096), 4096);
	use(100, MINUTE + 10 * S);
	cr_expect_eq(decide(4096), 2048);
	cr_expect_eq(decide(3000), 2048);
	cr_expect_eq(decide(512), 512, "the least");
	cr_expect_eq(decide(400), 512, "below the bounds");
	use(2000, MINUTE);
	cr_expect_eq(decide(4096), 4096, "the last minute was not");
}

Test(autoscale, down_only_5_minutes_after_a_change)
{
	use(100, 20 * MINUTE);
	cr_expect_eq(decide(4096), 2048);
	autoscale_changed(&a, now);
	use(100, 4 * MINUTE);
	cr_expect_eq(decide(2048), 2048);
	use(100, MINUTE);
	cr_expect_eq(decide(2048), 1024);
}

Test(autoscale, stays_within_its_bounds)
{
	use(8000, 2 * MINUTE);
	cr_expect_eq(autoscale_decide(&a, now, 1024, 1024, 1500), 1500);
	cr_expect_eq(autoscale_decide(&a, now, 1500, 1024, 1500), 1500);
	cr_expect_eq(autoscale_decide(&a, now, 4096, 1024, 1500), 1500, "from above at once");
	cr_expect_eq(autoscale_decide(&a, now, 512, 1024, 1500), 1024, "and from below");
	setup();
	use(1, 20 * MINUTE);
	cr_expect_eq(autoscale_decide(&a, now, 2048, 1500, 4096), 1500);
}

/* As after a hibernation. */
Test(autoscale, a_hole_in_the_samples_is_no_time)
{
	use(100, 14 * MINUTE);
	now += 5 * MINUTE;
	use(100, 2 * MINUTE);
	cr_expect_eq(decide(4096), 4096);
	use(100, 14 * MINUTE);
	cr_expect_eq(decide(4096), 2048);
}
