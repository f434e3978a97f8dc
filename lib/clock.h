/* SPDX-License-Identifier: Apache-2.0 */
/* Monotonic time in nanoseconds and milliseconds, and the time of day. */
#ifndef LIB_CLOCK_H
#define LIB_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t clock_mono_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

static inline uint64_t clock_mono_ms(void)
{
	return clock_mono_ns() / 1000000ULL;
}

/*
 * Milliseconds of the Unix epoch. Not time(), which is that of the last tick: it may still be in
 * the second that has ended.
 */
static inline int64_t clock_wall_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Lower the timeout of a poll() to @ms, if that is sooner. Of both, a negative one is never. */
static inline void clock_sooner(int *timeout_ms, int ms)
{
	if (ms >= 0 && (*timeout_ms < 0 || ms < *timeout_ms))
		*timeout_ms = ms;
}

#endif
