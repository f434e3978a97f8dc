/* SPDX-License-Identifier: Apache-2.0 */
/* Counts and durations; see stats.h. */
#include "server/stats.h"

#include "lib/clock.h"

static const uint64_t bounds_us[HISTOGRAM_BUCKETS] = {
    500,    1000,   2500,    5000,    10000,   25000,	 50000,	   100000,
    250000, 500000, 1000000, 2500000, 5000000, 10000000, 30000000, UINT64_MAX,
};

static void count(uint64_t *place, uint64_t n)
{
	__atomic_add_fetch(place, n, __ATOMIC_RELAXED);
}

uint64_t histogram_bound_us(size_t bucket)
{
	return bounds_us[bucket];
}

void histogram_add(struct histogram *h, uint64_t us)
{
	size_t i = 0;

	while (us > bounds_us[i])
		i++;
	count(&h->buckets[i], 1);
	count(&h->sum_us, us);
}

const char *operation_name(enum operation op)
{
	static const char *const names[OP_COUNT] = {
	    [OP_CREATE] = "create",	    [OP_FORK] = "fork",
	    [OP_HIBERNATE] = "hibernate",   [OP_WAKE] = "wake",
	    [OP_CHECKPOINT] = "checkpoint", [OP_RESTORE] = "restore",
	};

	return names[op];
}

void operation_done(struct operation_stats *s, uint64_t begun_ns, bool failed)
{
	if (failed)
		count(&s->failures, 1);
	else
		histogram_add(&s->succeeded, (clock_mono_ns() - begun_ns) / 1000);
}

/* The first one stands for all that are not in the list. */
static const unsigned int statuses[STATS_STATUSES] = {
    0,	 101, 200, 201, 202, 204, 400, 401, 403, 404,
    405, 409, 410, 413, 426, 500, 501, 502, 503, 504,
};

size_t stats_status_index(unsigned int status)
{
	for (size_t i = 1; i < STATS_STATUSES; i++)
		if (statuses[i] == status)
			return i;
	return 0;
}

unsigned int stats_status(size_t index)
{
	return statuses[index];
}

void route_count(struct route_stats *s, unsigned int status, uint64_t begun_ns)
{
	count(&s->statuses[stats_status_index(status)], 1);
	/* How long somebody sat at a terminal says nothing about the server. */
	if (status != 101)
		histogram_add(&s->duration, (clock_mono_ns() - begun_ns) / 1000);
}
