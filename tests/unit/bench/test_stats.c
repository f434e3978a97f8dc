/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <math.h>

#include "tools/bench/stats.h"

static struct series filled(const double *values, size_t n)
{
	struct series s = {.name = "x", .unit = "us", .what = "y"};

	for (size_t i = 0; i < n; i++)
		cr_assert_eq(series_add(&s, values[i]), 0);
	return s;
}

static bool close_to(double a, double b)
{
	return fabs(a - b) < 1e-9;
}

Test(stats, percentiles_are_interpolated)
{
	/* What numpy.percentile() says of these. */
	static const double values[] = {50, 15, 40, 20, 35};
	static const struct {
		double percent, value;
	} cases[] = {{0, 15}, {5, 16}, {30, 23}, {40, 29}, {50, 35}, {99, 49.6}, {100, 50}};
	struct series s = filled(values, 5);

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		cr_expect(close_to(series_percentile(&s, cases[i].percent), cases[i].value),
			  "%f: %f", cases[i].percent, series_percentile(&s, cases[i].percent));
	/* The samples stay in their order. */
	cr_expect(close_to(s.samples[0], 50) && close_to(s.samples[4], 35));
	series_fini(&s);
}

Test(stats, one_sample_is_all_percentiles_and_none_is_0)
{
	static const double one[] = {7};
	struct series s = filled(one, 1);

	cr_expect(close_to(series_percentile(&s, 0), 7));
	cr_expect(close_to(series_percentile(&s, 99), 7));
	series_fini(&s);
	cr_expect(close_to(series_percentile(&s, 50), 0));
	cr_expect_eq(s.n, 0);
}

Test(stats, the_json_has_all_samples)
{
	static const double values[] = {3, 1, 2};
	struct series s = filled(values, 3);
	json_t *o = series_json(&s);

	cr_assert_not_null(o);
	cr_expect_eq(json_integer_value(json_object_get(o, "n")), 3);
	cr_expect(close_to(json_real_value(json_object_get(o, "p50")), 2));
	cr_expect(close_to(json_real_value(json_object_get(o, "max")), 3));
	cr_expect_eq(json_array_size(json_object_get(o, "samples")), 3);
	cr_expect(close_to(json_real_value(json_array_get(json_object_get(o, "samples"), 0)), 3));
	json_decref(o);
	series_fini(&s);
}
