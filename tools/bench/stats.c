/* SPDX-License-Identifier: Apache-2.0 */
/* Series of measurements; see stats.h. */
#include "tools/bench/stats.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fd.h"

int series_add(struct series *s, double value)
{
	double *grown = realloc(s->samples, (s->n + 1) * sizeof(*grown));

	if (!grown)
		return -ENOMEM;
	s->samples = grown;
	s->samples[s->n++] = value;
	return 0;
}

void series_fini(struct series *s)
{
	free(s->samples);
	s->samples = NULL;
	s->n = 0;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double series_percentile(const struct series *s, double percent)
{
	cleanup_free double *sorted = NULL;
	double at, below;
	size_t i;

	if (s->n == 0)
		return 0;
	sorted = malloc(s->n * sizeof(*sorted));
	if (!sorted)
		return 0;
	memcpy(sorted, s->samples, s->n * sizeof(*sorted));
	qsort(sorted, s->n, sizeof(*sorted), compare);
	at = percent / 100 * (double)(s->n - 1);
	below = floor(at);
	i = (size_t)below;
	if (i + 1 >= s->n)
		return sorted[s->n - 1];
	return sorted[i] + (at - below) * (sorted[i + 1] - sorted[i]);
}

json_t *series_json(const struct series *s)
{
	json_t *samples = json_array();

	for (size_t i = 0; i < s->n; i++)
		json_array_append_new(samples, json_real(s->samples[i]));
	return json_pack("{s:s, s:s, s:s, s:I, s:f, s:f, s:f, s:f, s:f, s:o}", "name", s->name,
			 "unit", s->unit, "what", s->what, "n", (json_int_t)s->n, "min",
			 series_percentile(s, 0), "p50", series_percentile(s, 50), "p90",
			 series_percentile(s, 90), "p99", series_percentile(s, 99), "max",
			 series_percentile(s, 100), "samples", samples);
}
