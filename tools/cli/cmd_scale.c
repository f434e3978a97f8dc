/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse scale: how much memory and processor time a sandbox has. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/cli/cli.h"
#include "tools/cli/output.h"

#define MAX_MB	    (1 << 24)
#define MAX_PERCENT 100000

struct scale_options {
	long long cpu;	    /* 0: not given */
	const char *bounds; /* of --auto, or NULL */
	bool lock, unlock;
};

/* "MIN:MAX" or "off". Return: the body, or NULL after printing. */
static json_t *autoscale_body(const struct cli *c, const char *bounds)
{
	const char *colon = strchr(bounds, ':');
	char min[32];
	long long from, to;

	if (!strcmp(bounds, "off"))
		return json_pack("{sb}", "enabled", 0);
	if (!colon || colon - bounds >= (ptrdiff_t)sizeof(min)) {
		cli_usage_error(c, "--auto: \"%s\" is neither MIN:MAX nor off", bounds);
		return NULL;
	}
	snprintf(min, sizeof(min), "%.*s", (int)(colon - bounds), bounds);
	if (cli_parse_number(c, "--auto", min, 1, MAX_MB, &from) ||
	    cli_parse_number(c, "--auto", colon + 1, 1, MAX_MB, &to))
		return NULL;
	return json_pack("{sbsIsI}", "enabled", 1, "minMemoryMB", (json_int_t)from, "maxMemoryMB",
			 (json_int_t)to);
}

static json_t *size_body(const struct cli *c, const struct scale_options *o, const char *size)
{
	long long mb;
	json_t *body;

	if (cli_parse_number(c, "MB", size, 1, MAX_MB, &mb))
		return NULL;
	body = json_pack("{sI}", "memoryMB", (json_int_t)mb);
	if (o->cpu)
		json_object_set_new(body, "cpuPercent", json_integer((json_int_t)o->cpu));
	return body;
}

static void print_scaled(const json_t *v)
{
	const char *degraded = json_string_value(json_object_get(v, "degraded"));

	output_fields(v);
	if (degraded)
		fprintf(stderr, "dormouse scale: %s\n", degraded);
}

/* Exactly one thing is asked of the server. */
static int run(struct cli *c, const struct scale_options *o, const char *id, const char *size)
{
	char path[300];
	json_t *body = NULL;
	struct http_request r = {.method = "PUT", .path = path};
	const char *what = "limits";
	int code;

	if (o->bounds) {
		what = "autoscale";
		body = autoscale_body(c, o->bounds);
	} else if (o->lock || o->unlock) {
		what = "scaling-lock";
		body = json_pack("{sb}", "locked", o->lock);
	} else if (size) {
		what = o->cpu ? "limits" : "scale";
		r.method = o->cpu ? "PUT" : "POST";
		body = size_body(c, o, size);
	} else {
		r.method = "GET";
	}
	if (!body && strcmp(r.method, "GET") != 0)
		return EXIT_USAGE;
	r.json = body;
	snprintf(path, sizeof(path), "/sandboxes/%.200s/%s", id, what);
	code = output_call(c, &r, JSON_OBJECT, print_scaled);
	json_decref(body);
	return code;
}

static int check(const struct cli *c, const struct scale_options *o, int n)
{
	if ((o->bounds != NULL) + o->lock + o->unlock + (o->cpu || n > 1) > 1)
		return cli_usage_error(c, "--auto, --lock, --unlock and a size: one at a time");
	if (o->cpu && n < 2)
		return cli_usage_error(c, "--cpu: needs MB, too");
	return cli_check_count(c, n, 1, 2);
}

int cmd_scale(struct cli *c, int argc, char **argv)
{
	static const struct option options[] = {CLI_COMMON_OPTIONS,
						{"cpu", required_argument, NULL, 'c'},
						{"auto", required_argument, NULL, 'a'},
						{"lock", no_argument, NULL, 'l'},
						{"unlock", no_argument, NULL, 'u'},
						{0}};
	struct scale_options o = {0};
	enum cli_opt what;
	int opt;

	while ((what = cli_getopt(c, argc, argv, "h", options, &opt)) == CLI_OPT_OTHER) {
		if (opt == 'c' && cli_parse_number(c, "--cpu", optarg, 1, MAX_PERCENT, &o.cpu))
			return EXIT_USAGE;
		if (opt == 'a')
			o.bounds = optarg;
		o.lock |= opt == 'l';
		o.unlock |= opt == 'u';
	}
	if (what != CLI_OPT_DONE)
		return what == CLI_OPT_HELP ? EXIT_OK : EXIT_USAGE;
	if (check(c, &o, argc - optind) || cli_check_id(c, argv[optind]))
		return EXIT_USAGE;
	return run(c, &o, argv[optind], argc - optind > 1 ? argv[optind + 1] : NULL);
}
