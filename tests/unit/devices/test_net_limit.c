/* SPDX-License-Identifier: Apache-2.0 */
/* The token buckets of virtio-net. */
#include <criterion/criterion.h>

#include "devices/net_int.h"

Test(net_limit, a_bucket_lets_a_burst_through_and_then_its_rate)
{
	const uint64_t ms = 1000000;
	struct net_direction d = {0};
	struct net_limit l = {.bytes_per_s = 1000000};

	cr_expect_eq(net_direction_wait(&d, 5), 0, "no limit");
	net_direction_limit(&d, &l, 1000);
	cr_expect_eq(net_direction_wait(&d, 1000), 0);
	net_direction_take(&d, 99999);
	cr_expect_eq(net_direction_wait(&d, 1000), 0, "a tenth of a second");
	net_direction_take(&d, 50001);
	/* 50000 below zero: 50 ms, and something must be in it. */
	cr_expect_geq(net_direction_wait(&d, 1000), 50 * ms);
	cr_expect_leq(net_direction_wait(&d, 1000), 51 * ms);
	cr_expect_gt(net_direction_wait(&d, 1000 + 49 * ms), 0);
	cr_expect_eq(net_direction_wait(&d, 1000 + 51 * ms), 0);
	/* Many small looks lose nothing of the time between them. */
	net_direction_take(&d, 100000);
	for (uint64_t t = 51 * ms; t < 151 * ms; t += 100)
		net_direction_wait(&d, 1000 + t);
	cr_expect_eq(net_direction_wait(&d, 1000 + 151 * ms), 0);
	/* And a long time gives no more than a burst. */
	net_direction_wait(&d, 1ull << 62);
	net_direction_take(&d, 100001);
	cr_expect_gt(net_direction_wait(&d, 1ull << 62), 0);
	l = (struct net_limit){.bytes_per_s = 1, .frames_per_s = 1000000000000};
	net_direction_limit(&d, &l, 0);
	net_direction_take(&d, 65536);
	cr_expect_geq(net_direction_wait(&d, 0), 65535 * 1000 * ms);
	net_direction_limit(&d, &(struct net_limit){0}, 0);
	cr_expect_eq(net_direction_wait(&d, 0), 0);
}
