/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>

#include "lib/clock.h"
#include "server/stats.h"

Test(stats, every_duration_is_in_the_first_bucket_that_holds_it)
{
	struct histogram h = {0};

	for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++)
		cr_assert(!i || histogram_bound_us(i) > histogram_bound_us(i - 1));
	cr_assert_eq(histogram_bound_us(HISTOGRAM_BUCKETS - 1), UINT64_MAX);
	histogram_add(&h, 0);
	histogram_add(&h, 500);
	histogram_add(&h, 501);
	histogram_add(&h, 30000000);
	histogram_add(&h, 30000001);
	cr_assert(h.buckets[0] == 2 && h.buckets[1] == 1);
	cr_assert(h.buckets[HISTOGRAM_BUCKETS - 2] == 1 && h.buckets[HISTOGRAM_BUCKETS - 1] == 1);
	cr_assert_eq(h.sum_us, 60001002);
}

Test(stats, statuses_that_are_not_listed_count_together)
{
	struct route_stats s = {0};
	uint64_t n = 0;

	cr_assert_eq(stats_status(stats_status_index(200)), 200);
	cr_assert_eq(stats_status(stats_status_index(504)), 504);
	cr_assert_eq(stats_status_index(418), 0);
	route_count(&s, 418, clock_mono_ns());
	route_count(&s, 299, clock_mono_ns());
	route_count(&s, 101, clock_mono_ns());
	cr_assert_eq(s.statuses[0], 2);
	cr_assert_eq(s.statuses[stats_status_index(101)], 1);

	for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++)
		n += s.duration.buckets[i];
	cr_assert_eq(n, 2, "a WebSocket has no duration");
}

Test(stats, failures_have_no_duration)
{
	struct operation_stats s = {0};

	operation_done(&s, clock_mono_ns(), true);
	operation_done(&s, clock_mono_ns() - 2000000, false);
	cr_assert(s.failures == 1 && s.succeeded.sum_us >= 2000 && s.succeeded.buckets[0] == 0);
	for (int i = 0; i < OP_COUNT; i++)
		cr_assert_not_null(operation_name((enum operation)i));
}
