/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <string.h>

#include "server/api/api.h"

static const struct route *find(const char *method, const char *target, const char **params,
				char allow[64])
{
	static struct url u; /* the parameters point into it */

	url_fini(&u);
	cr_assert_eq(url_parse(&u, target, NULL), 0);
	return route_find(api_routes, api_routes_count, method, &u, params, allow);
}

Test(route, parameters_are_the_segments_that_stand_for_them)
{
	const char *params[ROUTE_MAX_PARAMS] = {NULL};
	char allow[64];
	const struct route *r =
	    find("POST", "/api/sandboxes/sb-1/exec/ab%2Fcd/kill", params, allow);

	cr_assert_not_null(r);
	cr_assert_eq(r->handler, api_exec_kill);
	cr_assert_str_eq(params[0], "sb-1");
	cr_assert_str_eq(params[1], "ab/cd");
	cr_assert_null(params[2]);
}

Test(route, literal_segments_come_before_parameters)
{
	const char *params[ROUTE_MAX_PARAMS];
	char allow[64];

	cr_assert_eq(find("POST", "/sandboxes/x/exec/run", params, allow)->handler, api_exec_run);
	cr_assert_eq(find("GET", "/sandboxes/x/files/list", params, allow)->handler, api_file_list);
}

Test(route, other_methods_of_a_path_are_named)
{
	const char *params[ROUTE_MAX_PARAMS];
	char allow[64];

	cr_assert_null(find("PATCH", "/sandboxes/x/files", params, allow));
	cr_assert_str_eq(allow, "GET, PUT, DELETE");
	cr_assert_null(find("GET", "/sandboxes/x/nothing/else/at/all", params, allow));
	cr_assert_str_eq(allow, "");
}

Test(route, empty_segments_are_no_parameters)
{
	const char *params[ROUTE_MAX_PARAMS];
	char allow[64];

	cr_assert_null(find("GET", "/sandboxes//exec", params, allow));
}

Test(route, every_route_of_the_table_is_complete_and_unique)
{
	for (size_t i = 0; i < api_routes_count; i++) {
		const struct route *r = &api_routes[i];

		cr_assert(r->pattern[0] == '/' && r->method[0], "%s", r->pattern);
		/* An upload ends in one of both. */
		cr_assert((r->handler != NULL) != (r->upload && r->upload->end), "%s", r->pattern);
		cr_assert((r->handler == api_not_implemented) == (r->feature != NULL), "%s",
			  r->pattern);
		for (size_t j = 0; j < i; j++)
			cr_assert(strcmp(r->method, api_routes[j].method) ||
				      strcmp(r->pattern, api_routes[j].pattern),
				  "%s %s twice", r->method, r->pattern);
	}
}
