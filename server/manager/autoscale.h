/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When a sandbox gets more memory by itself, and when less (api.md 12).
 *
 * Up one step when it has used more than 75 % of what it has in the mean of the last minute, and
 * nothing has changed for a minute; down one step when it has used less than 25 % in the mean of
 * the last 1, 5 and 15 minutes, and nothing has changed for 5. A mean needs samples of all its
 * time. Steps are powers of two, from 512 MiB on, cut off at the bounds.
 *
 * Times are of the monotonic clock, in milliseconds, and given by the caller.
 */
#ifndef SERVER_MANAGER_AUTOSCALE_H
#define SERVER_MANAGER_AUTOSCALE_H

#include <stdint.h>

#define AUTOSCALE_SAMPLE_S 5
#define AUTOSCALE_SAMPLES  (15 * 60 / AUTOSCALE_SAMPLE_S + 2)

/* Zero-initialise it. Not safe for several threads. */
struct autoscale {
	struct {
		uint64_t at_ms;
		int64_t used_mib;
	} samples[AUTOSCALE_SAMPLES]; /* a ring */
	unsigned int n, next;
	uint64_t changed_ms; /* when the size changed last; 0: not known */
};

void autoscale_sample(struct autoscale *a, uint64_t now_ms, int64_t used_mib);
void autoscale_changed(struct autoscale *a, uint64_t now_ms);

/* How much it should have: @size_mib for no change. */
int64_t autoscale_decide(const struct autoscale *a, uint64_t now_ms, int64_t size_mib,
			 int64_t min_mib, int64_t max_mib);

#endif
