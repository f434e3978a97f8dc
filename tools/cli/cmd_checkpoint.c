/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse checkpoint, checkpoints, restore, rm-checkpoint. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/cli/checkpoint.h"
#include "tools/cli/cli.h"
#include "tools/cli/output.h"
#include "tools/cli/table.h"

#define POLL_FIRST_MS 20
#define POLL_MAX_MS   500

static const char *field(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text ? text : "";
}

/* Return: a new reference to the checkpoint @id of the list, or NULL with *code set. */
static json_t *get_one(struct cli *c, struct http *h, const char *sandbox, const char *id,
		       int *code)
{
	json_t *list = checkpoint_list(c, h, sandbox, code), *item, *found = NULL;
	size_t i;

	json_array_foreach(list, i, item)
	{
		if (!strcmp(field(item, "id"), id))
			found = json_incref(item);
	}
	if (list && !found)
		*code = cli_fail(c, &(struct err){.msg = "it was deleted while it was written"});
	json_decref(list);
	return found;
}

/* Until it is written out. Takes *@checkpoint and replaces it by what it has become. */
static int wait_written(struct cli *c, struct http *h, const char *sandbox, json_t **checkpoint)
{
	char id[CHECKPOINT_ID_MAX];
	int ms = POLL_FIRST_MS, code = 0;

	snprintf(id, sizeof(id), "%s", field(*checkpoint, "id"));
	while (*checkpoint && !strcmp(field(*checkpoint, "status"), "processing")) {
		struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};

		nanosleep(&t, NULL);
		ms = ms * 2 < POLL_MAX_MS ? ms * 2 : POLL_MAX_MS;
		json_decref(*checkpoint);
		*checkpoint = get_one(c, h, sandbox, id, &code);
	}
	if (!code && strcmp(field(*checkpoint, "status"), "ready") != 0) {
		struct err e;

		err_set(&e, 0, "%s was not written: %.150s", id, field(*checkpoint, "errorMsg"));
		code = cli_fail(c, &e);
	}
	return code;
}

struct checkpoint_options {
	json_t *body; /* owned */
	bool wait;
};

static enum cli_opt parse_checkpoint(struct cli *c, int argc, char **argv,
				     struct checkpoint_options *o)
{
	static const struct option options[] = {CLI_COMMON_OPTIONS,
						{"disk-only", no_argument, NULL, 'D'},
						{"wait", no_argument, NULL, 'w'},
						{"keep", required_argument, NULL, 'k'},
						{0}};
	long long keep;
	int opt;

	for (;;) {
		enum cli_opt what = cli_getopt(c, argc, argv, "hw", options, &opt);

		if (what == CLI_OPT_DONE && cli_check_count(c, argc - optind, 2, 2))
			return CLI_OPT_BAD;
		if (what != CLI_OPT_OTHER)
			return what;
		if (opt == 'w') {
			o->wait = true;
		} else if (opt == 'D') {
			json_object_set_new(o->body, "kind", json_string("disk_only"));
		} else {
			if (cli_parse_number(c, "--keep", optarg, 1, 100, &keep))
				return CLI_OPT_BAD;
			json_object_set_new(o->body, "retentionPolicy",
					    json_pack("{s:s, s:I}", "mode", "delete_oldest",
						      "maxCount", (json_int_t)keep));
		}
	}
}

static int create_checkpoint(struct cli *c, const char *sandbox, const struct checkpoint_options *o)
{
	char path[300], clean[64];
	struct http_request r = {.method = "POST", .path = path, .json = o->body};
	json_t *checkpoint = NULL;
	struct http_answer a = {0};
	struct err e = {0};
	struct http h;
	int code = cli_connect(c, &h);

	snprintf(path, sizeof(path), "/sandboxes/%.200s/checkpoints", sandbox);
	if (!code && http_call(&h, &r, &a, &e) < 0)
		code = cli_fail(c, &e);
	if (!code)
		code = output_check_type(c, a.json, JSON_OBJECT);
	if (!code)
		checkpoint = json_incref(a.json);
	if (!code && o->wait)
		code = wait_written(c, &h, sandbox, &checkpoint);
	if (checkpoint && c->json)
		code |= cli_print_json(json_incref(checkpoint));
	else if (!code)
		puts(table_clean(field(checkpoint, "id"), clean, sizeof(clean)));
	json_decref(checkpoint);
	http_answer_fini(&a);
	http_fini(&h);
	return code;
}

int cmd_checkpoint(struct cli *c, int argc, char **argv)
{
	struct checkpoint_options o = {.body = json_object()};
	enum cli_opt what = parse_checkpoint(c, argc, argv, &o);
	int code = what == CLI_OPT_HELP ? EXIT_OK : EXIT_USAGE;

	if (what == CLI_OPT_DONE && !cli_check_id(c, argv[optind])) {
		json_object_set_new(o.body, "name", json_string(argv[optind + 1]));
		code = create_checkpoint(c, argv[optind], &o);
	}
	json_decref(o.body);
	return code;
}

static void print_checkpoints(const json_t *list)
{
	static const struct output_column columns[] = {
	    {"ID", "id", NULL},
	    {"NAME", "name", NULL},
	    {"KIND", "kind", NULL},
	    {"STATUS", "status", NULL},
	    {"SIZE", "sizeBytes", output_size},
	    {"AGE", "createdAt", output_age},
	    {"ERROR", "errorMsg", NULL},
	    {0},
	};

	output_list(list, columns);
}

int cmd_checkpoints(struct cli *c, int argc, char **argv)
{
	char path[300];
	struct http_request r = {.method = "GET", .path = path};
	int code;

	if (!cli_no_options(c, argc, argv, 1, 1, &code))
		return code;
	if (cli_check_id(c, argv[optind]))
		return EXIT_USAGE;
	snprintf(path, sizeof(path), "/sandboxes/%.200s/checkpoints", argv[optind]);
	return output_call(c, &r, JSON_ARRAY, print_checkpoints);
}

/* The server answers when it has begun; the next call waits for the end. */
static int wait_restored(struct cli *c, struct http *h, const char *sandbox)
{
	char path[300];
	struct http_request r = {.method = "GET", .path = path};
	struct http_answer a;
	struct err e = {0};
	int code;

	snprintf(path, sizeof(path), "/sandboxes/%.200s", sandbox);
	code = http_call(h, &r, &a, &e) < 0 ? cli_fail(c, &e) : 0;
	if (!code && strcmp(field(a.json, "status"), "running") != 0) {
		err_set(&e, 0, "%.60s is now \"%.40s\"; `dormouse info %.60s` tells more", sandbox,
			field(a.json, "status"), sandbox);
		code = cli_fail(c, &e);
	}
	http_answer_fini(&a);
	return code;
}

static int restore(struct cli *c, struct http *h, const char *sandbox, const char *ref)
{
	char path[300], id[CHECKPOINT_ID_MAX];
	struct http_request r = {.method = "POST", .path = path};
	struct http_answer a;
	struct err e = {0};
	int code = checkpoint_find(c, h, sandbox, ref, id);

	if (code)
		return code;
	snprintf(path, sizeof(path), "/sandboxes/%.200s/checkpoints/%s/restore", sandbox, id);
	code = http_call(h, &r, &a, &e) < 0 ? cli_fail(c, &e) : 0;
	if (!code && json_is_true(json_object_get(a.json, "coldBoot")))
		fprintf(stderr, "dormouse restore: %s: booted from the disk of the checkpoint\n",
			sandbox);
	http_answer_fini(&a);
	if (!code)
		code = wait_restored(c, h, sandbox);
	if (code)
		return code;
	if (c->json)
		return cli_print_json(json_pack("{s:s, s:s, s:s}", "sandboxId", sandbox,
						"checkpointId", id, "status", "running"));
	puts(sandbox);
	return EXIT_OK;
}

int cmd_restore(struct cli *c, int argc, char **argv)
{
	struct http h;
	int code;

	if (!cli_no_options(c, argc, argv, 2, 2, &code))
		return code;
	if (cli_check_id(c, argv[optind]))
		return EXIT_USAGE;
	code = cli_connect(c, &h);
	if (!code)
		code = restore(c, &h, argv[optind], argv[optind + 1]);
	http_fini(&h);
	return code;
}

/* Return: what --json prints for this one; *code becomes EXIT_FAILED on failure. */
static json_t *remove_one(struct cli *c, struct http *h, const char *sandbox, const char *ref,
			  int *code)
{
	char path[300], id[CHECKPOINT_ID_MAX] = "";
	struct http_request r = {.method = "DELETE", .path = path};
	struct http_answer a = {0};
	struct err e = {0}, named;
	bool failed = checkpoint_find(c, h, sandbox, ref, id) != 0;

	if (!failed) {
		snprintf(path, sizeof(path), "/sandboxes/%.200s/checkpoints/%s", sandbox, id);
		failed = http_call(h, &r, &a, &e) < 0;
		http_answer_fini(&a);
		if (failed) {
			err_set(&named, e.code, "%.60s: %.180s", ref, e.msg);
			cli_fail(c, &named);
		}
	}
	if (failed)
		*code = EXIT_FAILED;
	else if (!c->json)
		puts(id);
	return json_pack("{s:s, s:b}", "checkpoint", *id ? id : ref, "removed", !failed);
}

int cmd_rm_checkpoint(struct cli *c, int argc, char **argv)
{
	json_t *results;
	struct http h;
	int code;

	if (!cli_no_options(c, argc, argv, 2, -1, &code))
		return code;
	if (cli_check_id(c, argv[optind]))
		return EXIT_USAGE;
	code = cli_connect(c, &h);
	if (code)
		return code;
	results = json_array();
	for (int i = optind + 1; i < argc; i++)
		json_array_append_new(results, remove_one(c, &h, argv[optind], argv[i], &code));
	http_fini(&h);
	if (c->json && cli_print_json(json_incref(results)))
		code = EXIT_FAILED;
	json_decref(results);
	return code;
}
