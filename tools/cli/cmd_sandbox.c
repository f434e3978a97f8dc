/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse create, ls, info, kill: the life of sandboxes. */
#include <stdlib.h>
#include <string.h>

#include "lib/fd.h"
#include "tools/cli/cli.h"
#include "tools/cli/each.h"
#include "tools/cli/output.h"
#include "tools/cli/table.h"

/* One option that is a number: its name, its field in the request, its range. */
struct number_option {
	int letter;
	const char *name, *field;
	long long min, max;
};

static const struct number_option numbers[] = {
    {'m', "--memory", "memoryMB", 1, 1 << 24},
    {'c', "--cpus", "cpuCount", 1, 1024},
    {'d', "--disk", "diskMB", 1, 1 << 30},
    {'t', "--timeout", "timeout", 0, 1LL << 31},
};

/* The object that is this member of @body, made if it is not there. */
static json_t *member(json_t *body, const char *name)
{
	json_t *object = json_object_get(body, name);

	if (!object)
		json_object_set_new(body, name, object = json_object());
	return object;
}

int cli_set_option(const struct cli *c, json_t *body, int letter, const char *text)
{
	if (letter == 'e')
		return cli_add_pair(c, member(body, "envs"), text, true);
	if (letter == 'M')
		return cli_add_pair(c, member(body, "metadata"), text, false);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		const struct number_option *n = &numbers[i];
		long long value;

		if (n->letter != letter)
			continue;
		if (cli_parse_number(c, n->name, text, n->min, n->max, &value))
			return EXIT_USAGE;
		json_object_set_new(body, n->field, json_integer(value));
	}
	return 0;
}

/* Return: CLI_OPT_DONE, HELP or BAD. */
static enum cli_opt parse_create(struct cli *c, int argc, char **argv, json_t *body)
{
	static const struct option options[] = {CLI_COMMON_OPTIONS,
						{"template", required_argument, NULL, 'T'},
						{"memory", required_argument, NULL, 'm'},
						{"cpus", required_argument, NULL, 'c'},
						{"disk", required_argument, NULL, 'd'},
						{"timeout", required_argument, NULL, 't'},
						{"env", required_argument, NULL, 'e'},
						{"metadata", required_argument, NULL, 'M'},
						{"no-network", no_argument, NULL, 'N'},
						{0}};
	int opt;

	for (;;) {
		enum cli_opt what = cli_getopt(c, argc, argv, "he:", options, &opt);
		int bad;

		if (what == CLI_OPT_DONE && cli_check_count(c, argc - optind, 0, 0))
			return CLI_OPT_BAD;
		if (what != CLI_OPT_OTHER)
			return what;
		if (opt == 'T')
			bad = json_object_set_new(body, "templateID", json_string(optarg));
		else if (opt == 'N')
			bad = json_object_set_new(body, "networkEnabled", json_false());
		else
			bad = cli_set_option(c, body, opt, optarg);
		if (bad)
			return CLI_OPT_BAD;
	}
}

static int send_create(struct cli *c, struct http *h, const json_t *body)
{
	struct http_request r = {.method = "POST", .path = "/sandboxes", .json = body};
	struct http_answer a;
	struct err e = {0};
	const char *id;
	char clean[64];
	int code = EXIT_OK;

	if (http_call(h, &r, &a, &e) < 0)
		code = cli_fail(c, &e);
	else if (c->json)
		code = cli_print_json(json_incref(a.json));
	else if ((id = json_string_value(json_object_get(a.json, "sandboxID"))))
		puts(table_clean(id, clean, sizeof(clean)));
	else
		code = cli_fail(c, &(struct err){.msg = "the answer has no sandboxID"});
	http_answer_fini(&a);
	return code;
}

int cmd_create(struct cli *c, int argc, char **argv)
{
	json_t *body = json_pack("{s:s}", "templateID", "base");
	enum cli_opt what = parse_create(c, argc, argv, body);
	struct http h;
	int code = what == CLI_OPT_HELP ? EXIT_OK : EXIT_USAGE;

	if (what == CLI_OPT_DONE) {
		code = cli_connect(c, &h);
		if (!code)
			code = send_create(c, &h, body);
		http_fini(&h);
	}
	json_decref(body);
	return code;
}

static const struct output_column ls_columns[] = {
    {"ID", "sandboxID", NULL},	     {"STATUS", "status", NULL},
    {"TEMPLATE", "template", NULL},  {"CPUS", "cpuCount", NULL},
    {"MEMORY MB", "memoryMB", NULL}, {"STARTED", "startedAt", NULL},
    {"METADATA", "metadata", NULL},  {0},
};

static void print_list(const json_t *list)
{
	output_list(list, ls_columns);
}

int cmd_ls(struct cli *c, int argc, char **argv)
{
	static const struct option options[] = {
	    CLI_COMMON_OPTIONS, {"status", required_argument, NULL, 's'}, {0}};
	cleanup_free char *status = NULL;
	char path[200] = "/sandboxes";
	struct http_request r = {.method = "GET", .path = path};
	int opt;

	for (;;) {
		enum cli_opt what = cli_getopt(c, argc, argv, "h", options, &opt);

		if (what == CLI_OPT_DONE)
			break;
		if (what != CLI_OPT_OTHER)
			return what == CLI_OPT_HELP ? EXIT_OK : EXIT_USAGE;
		free(status);
		status = http_escape(optarg);
		snprintf(path, sizeof(path), "/sandboxes?status=%.100s", status ? status : "");
	}
	if (cli_check_count(c, argc - optind, 0, 0))
		return EXIT_USAGE;
	return output_call(c, &r, JSON_ARRAY, print_list);
}

/* Of one that runs: its memory, inside and on the host. A server that does not tell is older. */
static void add_memory(struct http *h, const struct http_request *asked, json_t *sandbox)
{
	char limits[320];
	struct http_request r = {.method = "GET", .path = limits};
	const char *status = json_string_value(json_object_get(sandbox, "status"));
	struct http_answer a = {0};
	struct err e;
	json_t *memory;

	if (!status || strcmp(status, "running") != 0)
		return;
	snprintf(limits, sizeof(limits), "%s/limits", asked->path);
	if (http_call(h, &r, &a, &e) == 0 && (memory = json_object_get(a.json, "memory")))
		json_object_set(sandbox, "memory", memory);
	http_answer_fini(&a);
}

int cmd_info(struct cli *c, int argc, char **argv)
{
	char path[300];
	struct http_request r = {.method = "GET", .path = path};
	int code;

	if (!cli_no_options(c, argc, argv, 1, 1, &code))
		return code;
	if (cli_check_id(c, argv[optind]))
		return EXIT_USAGE;
	snprintf(path, sizeof(path), "/sandboxes/%.200s", argv[optind]);
	return output_call_more(c, &r, JSON_OBJECT, add_memory, output_fields);
}

int cmd_kill(struct cli *c, int argc, char **argv)
{
	static const struct each kill = {.method = "DELETE", .suffix = "", .done = "killed"};
	int code;

	if (!cli_no_options(c, argc, argv, 1, -1, &code))
		return code;
	return each_sandbox(c, &kill, argc - optind, argv + optind);
}
