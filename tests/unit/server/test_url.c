/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "server/http/url.h"

struct target_case {
	char target[64], segments[64]; /* joined with '|' */
	int rc;
};

ParameterizedTestParameters(url, targets)
{
	static struct target_case cases[] = {
	    {"/", "", 0},
	    {"/a/b", "a|b", 0},
	    {"/api/a", "a", 0},
	    {"/api", "", 0},
	    {"/api/", "", 0},
	    {"/api/api/a", "api|a", 0},
	    {"/apix/a", "apix|a", 0},
	    {"/%61pi/a", "a", 0},
	    {"/a/", "a", 0},
	    {"//a", "|a", 0},
	    {"/a//", "a|", 0},
	    {"/a%2Fb/c", "a/b|c", 0},
	    {"/a%252Fb", "a%2Fb", 0},
	    {"/a+b", "a+b", 0},
	    {"/a?b/c", "a", 0},
	    {"/a#b?c", "a", 0},
	    {"/%", "", -EINVAL},
	    {"/%4", "", -EINVAL},
	    {"/%4g", "", -EINVAL},
	    {"/%00", "", -EINVAL},
	    {"/a?x=%f", "", -EINVAL},
	    {"a", "", -EINVAL},
	    {"*", "", -EINVAL},
	    {"/1/2/3/4/5/6/7/8/9/10/11/12", "1|2|3|4|5|6|7|8|9|10|11|12", 0},
	    {"/1/2/3/4/5/6/7/8/9/10/11/12/13", "", -ENAMETOOLONG},
	};
	return cr_make_param_array(struct target_case, cases, sizeof(cases) / sizeof(cases[0]));
}

ParameterizedTest(struct target_case *c, url, targets)
{
	char joined[64] = "";
	struct url u;

	cr_assert_eq(url_parse(&u, c->target, NULL), c->rc, "%s", c->target);
	for (size_t i = 0; !c->rc && i < u.n_segments; i++) {
		strcat(joined, i ? "|" : "");
		strcat(joined, u.segments[i]);
	}
	cr_assert_str_eq(joined, c->segments);
	url_fini(&u);
}

Test(url, the_first_of_equal_parameters_counts)
{
	struct url u;

	cr_assert_eq(url_parse(&u, "/a?p=1&p=2&q&r=&=x&s=a%26b%3D+c%2B", NULL), 0);
	cr_assert_str_eq(url_query(&u, "p"), "1");
	cr_assert_str_eq(url_query(&u, "q"), "");
	cr_assert_str_eq(url_query(&u, "r"), "");
	cr_assert_str_eq(url_query(&u, "s"), "a&b= c+");
	cr_assert_null(url_query(&u, "t"));
	url_fini(&u);
}

Test(url, more_parameters_than_fit_are_ignored)
{
	char target[512] = "/a?";
	struct url u;

	for (int i = 0; i < 60; i++)
		sprintf(target + strlen(target), "p%d=%d&", i, i);
	cr_assert_eq(url_parse(&u, target, NULL), 0);
	cr_assert_eq(u.n_query, URL_MAX_QUERY);
	cr_assert_str_eq(url_query(&u, "p0"), "0");
	url_fini(&u);
}
