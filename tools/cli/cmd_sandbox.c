/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse create, ls, info, kill: the life of sandboxes. */
#include <stdlib.h>
#include <string.h>

#include "lib/fd.h"
#include "tools/cli/cli.h"
#include "tools/cli/table.h"

/* One option of create that is a number: its name, its field in the request, its range. */
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

static int set_number(struct cli *c, json_t *body, int letter, const char *text)
{
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
						{0}};
	json_t *envs = json_object(), *metadata = json_object();
	int opt;

	json_object_set_new(body, "envs", envs);
	json_object_set_new(body, "metadata", metadata);
	for (;;) {
		enum cli_opt what = cli_getopt(c, argc, argv, "he:", options, &opt);
		int bad;

		if (what == CLI_OPT_DONE && cli_check_count(c, argc - optind, 0, 0))
			return CLI_OPT_BAD;
		if (what != CLI_OPT_OTHER)
			return what;
		if (opt == 'e')
			bad = cli_add_pair(c, envs, optarg, true);
		else if (opt == 'M')
			bad = cli_add_pair(c, metadata, optarg, false);
		else if (opt == 'T')
			bad = json_object_set_new(body, "templateID", json_string(optarg));
		else
			bad = set_number(c, body, opt, optarg);
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

/* A field as text: strings as they are, others as JSON, absent ones NULL. Caller frees. */
static char *field_text(const json_t *object, const char *name)
{
	const json_t *v = json_object_get(object, name);

	if (!v || json_is_null(v))
		return NULL;
	if (json_is_string(v))
		return *json_string_value(v) ? strdup(json_string_value(v)) : NULL;
	if (json_is_object(v) && !json_object_size(v))
		return NULL;
	return json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
}

static const struct {
	const char *title, *field;
} ls_columns[] = {
    {"ID", "sandboxID"},      {"STATUS", "status"},	 {"TEMPLATE", "template"},
    {"CPUS", "cpuCount"},     {"MEMORY MB", "memoryMB"}, {"STARTED", "startedAt"},
    {"METADATA", "metadata"},
};
#define LS_COLUMNS (sizeof(ls_columns) / sizeof(ls_columns[0]))

static void print_list(const json_t *list)
{
	const char *titles[LS_COLUMNS];
	struct table t;
	json_t *item;
	size_t i;

	table_init(&t, LS_COLUMNS);
	for (i = 0; i < LS_COLUMNS; i++)
		titles[i] = ls_columns[i].title;
	table_add_row(&t, titles);
	json_array_foreach(list, i, item)
	{
		char *cells[LS_COLUMNS];

		for (size_t n = 0; n < LS_COLUMNS; n++)
			cells[n] = field_text(item, ls_columns[n].field);
		table_add_row(&t, (const char *const *)cells);
		for (size_t n = 0; n < LS_COLUMNS; n++)
			free(cells[n]);
	}
	table_print(&t, stdout);
	table_fini(&t);
}

/* GET @path and print the answer: as JSON, or by @print if it is of the right type. */
static int get_and_print(struct cli *c, const char *path, json_type type,
			 void (*print)(const json_t *v))
{
	struct http_request r = {.method = "GET", .path = path};
	struct http_answer a = {0};
	struct err e = {0};
	struct http h;
	int code = cli_connect(c, &h);

	if (!code && http_call(&h, &r, &a, &e) < 0)
		code = cli_fail(c, &e);
	else if (!code && (!a.json || json_typeof(a.json) != type))
		code = cli_fail(c, &(struct err){.msg = "the answer is not of a Dormouse server"});
	else if (!code && c->json)
		code = cli_print_json(json_incref(a.json));
	else if (!code)
		print(a.json);
	http_answer_fini(&a);
	http_fini(&h);
	return code;
}

int cmd_ls(struct cli *c, int argc, char **argv)
{
	static const struct option options[] = {
	    CLI_COMMON_OPTIONS, {"status", required_argument, NULL, 's'}, {0}};
	cleanup_free char *status = NULL;
	char path[200] = "/sandboxes";
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
	return get_and_print(c, path, JSON_ARRAY, print_list);
}

static void print_fields(const json_t *object)
{
	struct table t;
	const char *key;
	json_t *v;

	table_init(&t, 2);
	json_object_foreach((json_t *)object, key, v)
	{
		cleanup_free char *text = field_text(object, key);

		if (text)
			table_add_row(&t, (const char *[]){key, text});
	}
	table_print(&t, stdout);
	table_fini(&t);
}

int cmd_info(struct cli *c, int argc, char **argv)
{
	char path[300];
	int code;

	if (!cli_no_options(c, argc, argv, 1, 1, &code))
		return code;
	if (cli_check_id(c, argv[optind]))
		return EXIT_USAGE;
	snprintf(path, sizeof(path), "/sandboxes/%.200s", argv[optind]);
	return get_and_print(c, path, JSON_OBJECT, print_fields);
}

/* Return: what --json prints for this sandbox; *code becomes EXIT_FAILED on failure. */
static json_t *kill_one(struct cli *c, struct http *h, const char *id, int *code)
{
	char path[300];
	struct http_request r = {.method = "DELETE", .path = path};
	struct http_answer a;
	struct err e = {0}, named = {0};
	bool failed;

	snprintf(path, sizeof(path), "/sandboxes/%.200s", id);
	failed = http_call(h, &r, &a, &e) < 0;
	http_answer_fini(&a);
	if (failed) {
		err_set(&named, e.code, "%.40s: %.200s", id, e.msg);
		*code = cli_fail(c, &named);
		return json_pack("{s:s, s:b, s:s}", "sandboxID", id, "killed", 0, "error", e.msg);
	}
	if (!c->json)
		puts(id);
	return json_pack("{s:s, s:b}", "sandboxID", id, "killed", 1);
}

int cmd_kill(struct cli *c, int argc, char **argv)
{
	json_t *results;
	struct http h;
	int code;

	if (!cli_no_options(c, argc, argv, 1, -1, &code))
		return code;
	for (int i = optind; i < argc; i++) {
		if (cli_check_id(c, argv[i]))
			return EXIT_USAGE;
	}
	code = cli_connect(c, &h);
	if (code)
		return code;
	results = json_array();
	for (int i = optind; i < argc; i++)
		json_array_append_new(results, kill_one(c, &h, argv[i], &code));
	http_fini(&h);
	if (c->json && cli_print_json(json_incref(results)))
		code = EXIT_FAILED;
	json_decref(results);
	return code;
}
