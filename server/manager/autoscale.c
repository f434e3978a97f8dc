/* SPDX-License-Identifier: Apache-2.0 */
/* The policy of autoscaling; see autoscale.h. */
#include "server/manager/autoscale.h"

#include <stdbool.h>

#define MINUTE_MS	 60000ull
#define UP_PERCENT	 75
#define DOWN_PERCENT	 25
#define UP_COOLDOWN_MS	 MINUTE_MS
#define DOWN_COOLDOWN_MS (5 * MINUTE_MS)
#define FIRST_STEP_MIB	 512
/* A sample may be late by as much before there is a hole. */
#define SLACK_MS (2ull * AUTOSCALE_SAMPLE_S * 1000)

void autoscale_sample(struct autoscale *a, uint64_t now_ms, int64_t used_mib)
{
	a->samples[a->next].at_ms = now_ms;
	a->samples[a->next].used_mib = used_mib;
	a->next = (a->next + 1) % AUTOSCALE_SAMPLES;
	if (a->n < AUTOSCALE_SAMPLES)
		a->n++;
}

void autoscale_changed(struct autoscale *a, uint64_t now_ms)
{
	a->changed_ms = now_ms;
}

/**
 * mean_percent() - Of @size_mib, over the last @window_ms
 *
 * Return: -1 without samples of all of this time
 */
static int64_t mean_percent(const struct autoscale *a, uint64_t now_ms, uint64_t window_ms,
			    int64_t size_mib)
{
	uint64_t from_ms = now_ms > window_ms ? now_ms - window_ms : 0, last_ms = now_ms;
	int64_t sum = 0, count = 0;

	/* From the newest on. */
	for (unsigned int i = 1; i <= a->n; i++) {
		unsigned int k = (a->next + AUTOSCALE_SAMPLES - i) % AUTOSCALE_SAMPLES;

		if (a->samples[k].at_ms + SLACK_MS < last_ms)
			return -1;
		last_ms = a->samples[k].at_ms;
		if (last_ms <= from_ms)
			break;
		sum += a->samples[k].used_mib;
		count++;
	}
	if (!count || last_ms > from_ms + SLACK_MS)
		return -1;
	return sum * 100 / count / size_mib;
}

static int64_t within(int64_t v, int64_t min, int64_t max)
{
	return v < min ? min : v > max ? max : v;
}

static int64_t step_up(int64_t size_mib)
{
	int64_t step = FIRST_STEP_MIB;

	while (step <= size_mib)
		step *= 2;
	return step;
}

static int64_t step_down(int64_t size_mib)
{
	int64_t step = FIRST_STEP_MIB;

	while (step * 2 < size_mib)
		step *= 2;
	return step < size_mib ? step : size_mib;
}

static bool is_idle(const struct autoscale *a, uint64_t now_ms, int64_t size_mib)
{
	static const uint64_t minutes[] = {1, 5, 15};

	for (int i = 0; i < 3; i++) {
		int64_t percent = mean_percent(a, now_ms, minutes[i] * MINUTE_MS, size_mib);

		if (percent < 0 || percent >= DOWN_PERCENT)
			return false;
	}
	return true;
}

int64_t autoscale_decide(const struct autoscale *a, uint64_t now_ms, int64_t size_mib,
			 int64_t min_mib, int64_t max_mib)
{
	uint64_t calm_ms = a->changed_ms ? now_ms - a->changed_ms : UINT64_MAX;
	int64_t bounded = within(size_mib, min_mib, max_mib);

	if (calm_ms < UP_COOLDOWN_MS)
		return size_mib;
	if (bounded != size_mib)
		return bounded;
	if (mean_percent(a, now_ms, MINUTE_MS, size_mib) > UP_PERCENT)
		return within(step_up(size_mib), min_mib, max_mib);
	if (calm_ms >= DOWN_COOLDOWN_MS && is_idle(a, now_ms, size_mib))
		return within(step_down(size_mib), min_mib, max_mib);
	return size_mib;
}
