/* SPDX-License-Identifier: Apache-2.0 */
/* Series of measurements: all samples are kept, in the order they were taken. */
#ifndef TOOLS_BENCH_STATS_H
#define TOOLS_BENCH_STATS_H

#include <jansson.h>
#include <stddef.h>

struct series {
	const char *name; /* as in promises.json */
	const char *unit; /* "us", "ms", "KiB", "ratio" */
	const char *what; /* from which moment to which, by whose clock */
	double *samples;  /* owned */
	size_t n;
};

/* Return: 0 or -ENOMEM. */
int series_add(struct series *s, double value);
void series_fini(struct series *s);

/**
 * series_percentile() - The value that @percent of the samples do not exceed
 * @percent:	0 to 100. Between two samples it is interpolated linearly, as in numpy
 *
 * Return: the value; 0 without samples
 */
double series_percentile(const struct series *s, double percent);

/* All of it as an object, with n, min, p50, p90, p99 and max; NULL without memory. */
json_t *series_json(const struct series *s);

#endif
