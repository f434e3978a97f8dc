/* SPDX-License-Identifier: Apache-2.0 */
/* Request targets: cutting, decoding, routes. */
#include <stdlib.h>
#include <string.h>

#include "server/api/api.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *target = malloc(size + 1), allow[64];
	const char *params[ROUTE_MAX_PARAMS] = {NULL};
	struct url u;

	memcpy(target, data, size);
	target[size] = '\0';
	if (!url_parse(&u, target, NULL)) {
		size_t total = 0;

		for (size_t i = 0; i < u.n_segments; i++)
			total += strlen(u.segments[i]);
		for (size_t i = 0; i < u.n_query; i++)
			total += strlen(u.query[i].name) + strlen(u.query[i].value);
		/* Decoding never makes anything longer. */
		if (total > size)
			abort();
		url_query(&u, "path");
		route_find(api_routes, api_routes_count, "GET", &u, params, allow);
		route_find(api_routes, api_routes_count, "POST", &u, params, allow);
	}
	url_fini(&u);
	free(target);
	return 0;
}
