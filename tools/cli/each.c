/* SPDX-License-Identifier: Apache-2.0 */
/* One thing to each of some sandboxes; see each.h. */
#include "tools/cli/each.h"

#include <stdlib.h>
#include <unistd.h>

static void print_id(const struct cli *c, const char *id)
{
	if (c->json)
		return;
	puts(id);
	/* Whoever reads on may act on this one while the next is under way. */
	fflush(stdout);
}

/* Return: what --json prints for this sandbox; *code becomes EXIT_FAILED on failure. */
static json_t *do_one(struct cli *c, struct http *h, const struct each *x, const char *id,
		      int *code)
{
	char path[300];
	struct http_request r = {.method = x->method, .path = path, .json = x->body};
	struct http_answer a;
	struct err e = {0}, named = {0};
	json_t *result = json_pack("{s:s}", "sandboxID", id);
	bool failed;

	snprintf(path, sizeof(path), "/sandboxes/%.200s%.50s", id, x->suffix);
	failed = http_call(h, &r, &a, &e) < 0;
	json_object_set_new(result, x->done, json_boolean(!failed));
	if (failed) {
		err_set(&named, e.code, "%.40s: %.200s", id, e.msg);
		*code = cli_fail(c, &named);
		json_object_set_new(result, "error", json_string(e.msg));
	} else {
		if (json_is_object(a.json))
			json_object_update_missing(result, a.json);
		if (x->remark)
			x->remark(c, id, a.json);
		print_id(c, id);
	}
	http_answer_fini(&a);
	return result;
}

int each_sandbox(struct cli *c, const struct each *x, int n, char **ids)
{
	json_t *results;
	struct http h;
	int code;

	for (int i = 0; i < n; i++) {
		if (cli_check_id(c, ids[i]))
			return EXIT_USAGE;
	}
	code = cli_connect(c, &h);
	if (code)
		return code;
	results = json_array();
	for (int i = 0; i < n; i++)
		json_array_append_new(results, do_one(c, &h, x, ids[i], &code));
	http_fini(&h);
	if (c->json && cli_print_json(json_incref(results)))
		code = EXIT_FAILED;
	json_decref(results);
	return code;
}
