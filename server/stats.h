/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counts and durations of what the server does, for GET /metrics.
 *
 * Everything is counted with relaxed atomics, by any thread: a reader may see a sum that is a
 * sample ahead of its count, which the next look makes good.
 */
#ifndef SERVER_STATS_H
#define SERVER_STATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HISTOGRAM_BUCKETS 16

struct histogram {
	uint64_t buckets[HISTOGRAM_BUCKETS]; /* not cumulative; the last one has no bound */
	uint64_t sum_us;
};

void histogram_add(struct histogram *h, uint64_t us);
/* The upper bound of a bucket in microseconds, UINT64_MAX for the last one. */
uint64_t histogram_bound_us(size_t bucket);

/* What is done to sandboxes as a whole. */
enum operation { OP_CREATE, OP_FORK, OP_HIBERNATE, OP_WAKE, OP_CHECKPOINT, OP_RESTORE, OP_COUNT };

/* The word for it in metrics. Static. */
const char *operation_name(enum operation op);

struct operation_stats {
	struct histogram succeeded;
	uint64_t failures;
};

void operation_done(struct operation_stats *s, uint64_t begun_ns, bool failed);

/* Statuses that are counted one by one; all others together. */
#define STATS_STATUSES 20

struct route_stats {
	uint64_t statuses[STATS_STATUSES];
	struct histogram duration; /* of all but WebSockets */
};

size_t stats_status_index(unsigned int status);
/* 0: all others. */
unsigned int stats_status(size_t index);

void route_count(struct route_stats *s, unsigned int status, uint64_t begun_ns);

#endif
