/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse top: what the sandboxes that run take of the host, again and again. */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/clock.h"
#include "tools/cli/cli.h"
#include "tools/cli/output.h"
#include "tools/cli/table.h"

struct top {
	json_t *before;	    /* owned: the list of the last look, NULL at first */
	uint64_t before_ms; /* when that was; monotonic */
	bool clear;	    /* the screen, before each table */
};

static json_int_t number(const json_t *item, const char *name)
{
	return json_integer_value(json_object_get(item, name));
}

/* The same sandbox in the last look, or NULL. */
static const json_t *find_before(const struct top *t, const char *id)
{
	const json_t *item;
	size_t i;

	json_array_foreach(t->before, i, item)
	{
		const char *other = json_string_value(json_object_get(item, "sandboxID"));

		if (other && !strcmp(other, id))
			return item;
	}
	return NULL;
}

/* In per cent of one processor since the last look, or since the sandbox began. */
static void add_cpu(json_t *item, const struct top *t, uint64_t now_ms)
{
	const char *id = json_string_value(json_object_get(item, "sandboxID"));
	const char *started = json_string_value(json_object_get(item, "startedAt"));
	const json_t *before = id ? find_before(t, id) : NULL;
	double used = (double)number(item, "cpuMs"), over = 0;
	time_t begun;

	/* One that woke or rebooted has another process, whose time began anew. */
	if (before && number(before, "cpuMs") <= number(item, "cpuMs")) {
		used -= (double)number(before, "cpuMs");
		over = (double)(now_ms - t->before_ms);
	} else if (started && !output_parse_time(started, &begun)) {
		over = difftime(time(NULL), begun) * 1000;
	}
	json_object_set_new(item, "cpuPercent", json_real(over > 0 ? used * 100 / over : 0));
}

static int busiest_first(const void *a, const void *b)
{
	const json_t *const *x = a, *const *y = b;
	double p = json_real_value(json_object_get(*x, "cpuPercent"));
	double q = json_real_value(json_object_get(*y, "cpuPercent"));

	return p < q ? 1 : p > q ? -1 : 0;
}

/* Return: a new array, or NULL without memory. */
static json_t *sorted(const json_t *list)
{
	size_t n = json_array_size(list), i;
	json_t **items = calloc(n + 1, sizeof(json_t *));
	json_t *result = items ? json_array() : NULL, *item;

	if (result) {
		json_array_foreach(list, i, item) items[i] = item;
		qsort(items, n, sizeof(json_t *), busiest_first);
		for (i = 0; i < n; i++)
			json_array_append(result, items[i]);
	}
	free(items);
	return result;
}

static char *format_percent(const json_t *value)
{
	char text[32];

	snprintf(text, sizeof(text), "%.1f", json_real_value(value));
	return strdup(text);
}

static void print_table(const json_t *list)
{
	static const struct output_column columns[] = {
	    {"ID", "sandboxID", NULL},	  {"CPU%", "cpuPercent", format_percent},
	    {"CPUS", "cpuCount", NULL},	  {"MEMORY", "residentBytes", output_size},
	    {"OF MIB", "memoryMB", NULL}, {"LAST USED", "lastUsedAt", output_age},
	    {"TIMEOUT", "timeout", NULL}, {"ALIAS", "alias", NULL},
	    {NULL, NULL, NULL},
	};

	output_list(list, columns);
}

/* One look. Return: the exit code. */
static int look(struct cli *c, struct http *h, struct top *t)
{
	struct http_request r = {.method = "GET", .path = "/top"};
	struct http_answer a;
	struct err e = {0};
	json_t *item, *list = NULL;
	uint64_t now_ms;
	size_t i;
	int code = http_call(h, &r, &a, &e) < 0 ? cli_fail(c, &e)
						: output_check_type(c, a.json, JSON_ARRAY);

	if (!code) {
		now_ms = clock_mono_ms();
		json_array_foreach(a.json, i, item) add_cpu(item, t, now_ms);
		list = sorted(a.json);
		json_decref(t->before);
		t->before = json_incref(a.json);
		t->before_ms = now_ms;
	}
	http_answer_fini(&a);
	if (!code && c->json)
		return cli_print_json(list);
	if (!code && t->clear)
		fputs("\033[H\033[J", stdout);
	if (!code)
		print_table(list);
	fflush(stdout);
	json_decref(list);
	return code;
}

static int parse(struct cli *c, int argc, char **argv, long long *delay, long long *times)
{
	static const struct option options[] = {
	    CLI_COMMON_OPTIONS,
	    {"delay", required_argument, NULL, 'd'},
	    {NULL, 0, NULL, 0},
	};
	enum cli_opt o;
	int opt, code = 0;

	while (!code && (o = cli_getopt(c, argc, argv, "d:n:", options, &opt)) != CLI_OPT_DONE) {
		if (o != CLI_OPT_OTHER)
			return o == CLI_OPT_HELP ? -1 : EXIT_USAGE;
		code = opt == 'd' ? cli_parse_number(c, "--delay", optarg, 1, 3600, delay)
				  : cli_parse_number(c, "-n", optarg, 1, 1000000000, times);
	}
	return code ? code : cli_check_count(c, argc - optind, 0, 0);
}

int cmd_top(struct cli *c, int argc, char **argv)
{
	long long delay = 2, times = isatty(STDOUT_FILENO) ? 0 : 1;
	struct top t = {0};
	struct http h;
	int code = parse(c, argc, argv, &delay, &times);

	if (code)
		return code < 0 ? EXIT_OK : code;
	code = cli_connect(c, &h);
	if (code)
		return code;
	t.clear = isatty(STDOUT_FILENO) && times != 1 && !c->json;
	for (long long i = 0; !code && (!times || i < times); i++) {
		if (i)
			sleep((unsigned int)delay);
		code = look(c, &h, &t);
	}
	json_decref(t.before);
	http_fini(&h);
	return code;
}
