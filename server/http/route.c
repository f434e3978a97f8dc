/* SPDX-License-Identifier: Apache-2.0 */
/* From a request's path to its route; see request.h. */
#include <stdio.h>
#include <string.h>

#include "server/http/request.h"

static bool pattern_matches(const char *pattern, const struct url *u,
			    const char *params[ROUTE_MAX_PARAMS])
{
	size_t segment = 0, n_params = 0;

	while (*pattern) {
		const char *name = pattern + 1; /* after the '/' */
		size_t len = strcspn(name, "/");

		if (segment == u->n_segments)
			return false;
		if (name[0] == ':') {
			if (n_params == ROUTE_MAX_PARAMS || !u->segments[segment][0])
				return false;
			params[n_params++] = u->segments[segment];
		} else if (strlen(u->segments[segment]) != len ||
			   memcmp(u->segments[segment], name, len)) {
			return false;
		}
		segment++;
		pattern = name + len;
	}
	return segment == u->n_segments;
}

const struct route *route_find(const struct route *routes, size_t n, const char *method,
			       const struct url *u, const char *params[ROUTE_MAX_PARAMS],
			       char allow[64])
{
	size_t used = 0;

	if (!strcmp(method, "HEAD"))
		method = "GET";
	allow[0] = '\0';
	for (size_t i = 0; i < n; i++) {
		const char *found[ROUTE_MAX_PARAMS] = {NULL};

		if (!pattern_matches(routes[i].pattern, u, found))
			continue;
		if (!strcmp(routes[i].method, method)) {
			memcpy(params, found, sizeof(found));
			return &routes[i];
		}
		if (!strstr(allow, routes[i].method) && used < 48)
			used += (size_t)snprintf(allow + used, 64 - used, "%s%s", used ? ", " : "",
						 routes[i].method);
	}
	return NULL;
}
