/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse fork: sandboxes that go on from where another one is, or was. */
#include <stdlib.h>
#include <string.h>

#include "tools/cli/checkpoint.h"
#include "tools/cli/cli.h"
#include "tools/cli/output.h"
#include "tools/cli/table.h"

#define MAX_FORKS 1000

struct fork_options {
	json_t *body; /* owned */
	long long count;
};

static enum cli_opt parse_fork(struct cli *c, int argc, char **argv, struct fork_options *o)
{
	static const struct option options[] = {CLI_COMMON_OPTIONS,
						{"memory", required_argument, NULL, 'm'},
						{"cpus", required_argument, NULL, 'c'},
						{"timeout", required_argument, NULL, 't'},
						{"env", required_argument, NULL, 'e'},
						{"metadata", required_argument, NULL, 'M'},
						{0}};
	int opt;

	for (;;) {
		enum cli_opt what = cli_getopt(c, argc, argv, "hn:e:", options, &opt);
		int bad;

		if (what == CLI_OPT_DONE && cli_check_count(c, argc - optind, 1, 1))
			return CLI_OPT_BAD;
		if (what != CLI_OPT_OTHER)
			return what;
		if (opt == 'n')
			bad = cli_parse_number(c, "-n", optarg, 1, MAX_FORKS, &o->count);
		else
			bad = cli_set_option(c, o->body, opt, optarg);
		if (bad)
			return CLI_OPT_BAD;
	}
}

/* The path of the request that forks @source, which is a sandbox or a checkpoint. */
static int fork_path(struct cli *c, struct http *h, const char *source, char *path, size_t len)
{
	char id[CHECKPOINT_ID_MAX];
	int code;

	if (!checkpoint_is_id(source) && !strchr(source, ':')) {
		if (cli_check_id(c, source))
			return EXIT_USAGE;
		snprintf(path, len, "/sandboxes/%.200s/fork", source);
		return 0;
	}
	code = checkpoint_find_global(c, h, source, id);
	if (!code)
		snprintf(path, len, "/sandboxes/from-checkpoint/%s", id);
	return code;
}

/* One fork. What it was forked from goes to @path: the others come of the same instant. */
static int fork_one(struct cli *c, struct http *h, const json_t *body, char *path, size_t len,
		    json_t *results)
{
	struct http_request r = {.method = "POST", .path = path, .json = body};
	const char *id, *from, *patch_error;
	struct http_answer a;
	struct err e = {0};
	char clean[64];
	int code;

	code = http_call(h, &r, &a, &e) < 0 ? cli_fail(c, &e)
					    : output_check_type(c, a.json, JSON_OBJECT);
	if (code)
		goto out;
	id = json_string_value(json_object_get(a.json, "sandboxID"));
	from = json_string_value(json_object_get(a.json, "fromCheckpointId"));
	patch_error = json_string_value(json_object_get(a.json, "patchError"));
	if (!id) {
		code = cli_fail(c, &(struct err){.msg = "the answer has no sandboxID"});
		goto out;
	}
	table_clean(id, clean, sizeof(clean));
	if (patch_error && *patch_error)
		fprintf(stderr,
			"dormouse fork: %s: a patch failed; `dormouse info %s` tells more\n", clean,
			clean);
	if (from && checkpoint_is_id(from))
		snprintf(path, len, "/sandboxes/from-checkpoint/%s", from);
	json_array_append(results, a.json);
	if (!c->json) {
		puts(clean);
		fflush(stdout);
	}
out:
	http_answer_fini(&a);
	return code;
}

static int fork_all(struct cli *c, const char *source, const struct fork_options *o)
{
	json_t *results = json_array();
	char path[300];
	struct http h;
	int code = cli_connect(c, &h);

	if (!code)
		code = fork_path(c, &h, source, path, sizeof(path));
	for (long long i = 0; i < o->count && !code; i++)
		code = fork_one(c, &h, o->body, path, sizeof(path), results);
	http_fini(&h);
	if (c->json && (!code || json_array_size(results)) && cli_print_json(json_incref(results)))
		code = EXIT_FAILED;
	json_decref(results);
	return code;
}

int cmd_fork(struct cli *c, int argc, char **argv)
{
	struct fork_options o = {.body = json_object(), .count = 1};
	enum cli_opt what = parse_fork(c, argc, argv, &o);
	int code = what == CLI_OPT_HELP ? EXIT_OK : EXIT_USAGE;

	if (what == CLI_OPT_DONE)
		code = fork_all(c, argv[optind], &o);
	json_decref(o.body);
	return code;
}
