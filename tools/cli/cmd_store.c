/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse store: what the images and layers of the server take, and their upkeep. */
#include <string.h>
#include <unistd.h>

#include "tools/cli/cli.h"
#include "tools/cli/output.h"

int cmd_store(struct cli *c, int argc, char **argv)
{
	struct http_request r = {.method = "GET", .path = "/store"};
	const char *verb;
	int code;

	if (!cli_no_options(c, argc, argv, 0, 1, &code))
		return code;
	verb = optind < argc ? argv[optind] : "";
	if (!strcmp(verb, "gc"))
		r = (struct http_request){.method = "POST", .path = "/store/gc"};
	else if (!strcmp(verb, "verify"))
		r = (struct http_request){.method = "POST", .path = "/store/verify"};
	else if (*verb)
		return cli_usage_error(c, "\"%s\" is none of gc, verify", verb);
	return output_call(c, &r, JSON_OBJECT, output_fields);
}
