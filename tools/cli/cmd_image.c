/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse image build, import, ls, rm; dormouse snapshot create, ls, rm. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "tools/cli/cli.h"
#include "tools/cli/events.h"
#include "tools/cli/output.h"
#include "tools/cli/pack.h"
#include "tools/cli/table.h"

#define MAX_MANIFEST (80u << 20)
#define LINE_MAX_LEN 4096

/* --- the log of a build ------------------------------------------------------------------------
 */

struct build {
	struct events events;
	bool terminal; /* then the last line says how far it is */
	bool shown;    /* it is on the screen */
	char at[61];   /* "Step 2/5: ..." */
	uint64_t begun_ms, shown_ms;
	struct pack *pack; /* what is sent; NULL: a manifest */
	json_t *result;	   /* owned */
	char error[2048];
	bool failed;
};

static void hide_progress(struct build *b)
{
	if (b->shown)
		fputs("\r\x1b[K", stderr);
	b->shown = false;
}

static void show_progress(struct build *b)
{
	char took[32];

	if (!b->terminal || !b->at[0])
		return;
	output_duration((int64_t)((clock_mono_ms() - b->begun_ms) / 1000), took, sizeof(took));
	fprintf(stderr, "%s, %s", b->at, took);
	b->shown = true;
}

static void take_log(struct build *b, const json_t *data)
{
	const char *text = json_string_value(json_object_get(data, "message"));
	char clean[LINE_MAX_LEN];

	if (!text)
		return;
	table_clean(text, clean, sizeof(clean));
	if (!strncmp(clean, "Step ", 5))
		snprintf(b->at, sizeof(b->at), "%.60s", clean);
	hide_progress(b);
	fprintf(stderr, "%s\n", clean);
	show_progress(b);
}

static void on_event(void *ctx, const char *event, const json_t *data)
{
	struct build *b = ctx;
	const char *why;

	if (!strcmp(event, "build_log")) {
		take_log(b, data);
	} else if (!strcmp(event, "error")) {
		why = json_string_value(json_object_get(data, "error"));
		table_clean(why ? why : "no reason given", b->error, sizeof(b->error));
		b->failed = true;
	} else if (!strcmp(event, "result")) {
		json_decref(b->result);
		b->result = json_incref((json_t *)data);
	}
}

static int sink(void *ctx, const void *data, size_t len)
{
	struct build *b = ctx;
	int rc = events_feed(&b->events, data, len);

	/* Something comes every 15 s, if only a comment: the time goes on. */
	if (!rc && b->shown) {
		hide_progress(b);
		show_progress(b);
	}
	return rc;
}

static int judge(struct cli *c, struct build *b)
{
	if (b->failed) {
		fprintf(stderr, "dormouse %s: %s\n", c->command->name, b->error);
		return EXIT_FAILED;
	}
	if (!json_is_object(b->result))
		return cli_fail(c, &(struct err){.msg = "the server's answer has no result"});
	return EXIT_OK;
}

/* How much of an archive is sent, five times a second. */
static ssize_t source(void *ctx, void *buf, size_t len)
{
	struct build *b = ctx;
	uint64_t now = clock_mono_ms();

	if (now - b->shown_ms >= 200) {
		b->shown_ms = now;
		if (b->pack->total > 0)
			snprintf(b->at, sizeof(b->at), "Sending: %lld of %lld MB",
				 (long long)b->pack->sent / 1000000,
				 (long long)b->pack->total / 1000000);
		else
			snprintf(b->at, sizeof(b->at), "Sending: %lld MB",
				 (long long)b->pack->sent / 1000000);
		hide_progress(b);
		show_progress(b);
	}
	return pack_read(b->pack, buf, len);
}

/* Send a body to @path, JSON or an archive, and show the log. Return: an exit code; *@result is set
 * for EXIT_OK. */
static int build(struct cli *c, const char *path, json_t *body, struct pack *pack, json_t **result)
{
	struct build b = {
	    .terminal = isatty(STDERR_FILENO), .begun_ms = clock_mono_ms(), .pack = pack};
	struct http_request r = {.method = "POST",
				 .path = path,
				 .json = body,
				 .source = pack ? source : NULL,
				 .source_ctx = &b,
				 .source_len = pack ? pack->total : 0,
				 .accept = "text/event-stream",
				 .sink = sink,
				 .sink_ctx = &b};
	struct http_answer a = {0};
	struct err e = {0};
	struct http h;
	int code = cli_connect(c, &h);

	b.events.on_event = on_event;
	b.events.ctx = &b;
	if (!code) {
		h.stop = cli_catch_interrupt();
		if (http_call(&h, &r, &a, &e) < 0) {
			hide_progress(&b);
			code = h.stop && *h.stop
				   ? EXIT_INTERRUPTED
				   : cli_fail(c, pack && pack->err.code ? &pack->err : &e);
		}
	}
	http_answer_fini(&a);
	http_fini(&h);
	hide_progress(&b);
	events_fini(&b.events);
	if (!code)
		code = judge(c, &b);
	if (code)
		json_decref(b.result);
	else
		*result = b.result;
	return code;
}

/* A new reference, or NULL after printing. "-": standard input. */
static json_t *read_manifest(const struct cli *c, const char *path)
{
	cleanup_free char *text = NULL;
	json_error_t where;
	json_t *json;
	struct err e;
	size_t len;
	int rc = fd_read_file(AT_FDCWD, strcmp(path, "-") ? path : "/dev/stdin", MAX_MANIFEST,
			      &text, &len);

	if (rc < 0) {
		err_sys(&e, rc, "%.200s", path);
		cli_fail(c, &e);
		return NULL;
	}
	json = json_loadb(text, len, 0, &where);
	if (json_is_object(json))
		return json;
	if (json)
		err_set(&e, -EINVAL, "%.100s: a JSON object is expected", path);
	else
		err_set(&e, -EINVAL, "%.100s: line %d: %.100s", path, where.line, where.text);
	json_decref(json);
	cli_fail(c, &e);
	return NULL;
}

/* Takes @result over. */
static int print_result(struct cli *c, json_t *result, const char *field)
{
	char clean[256];

	if (c->json)
		return cli_print_json(result);
	puts(table_clean(json_string_value(json_object_get(result, field)) ?: "?", clean,
			 sizeof(clean)));
	json_decref(result);
	return EXIT_OK;
}

/* Build what @file says; @name: as a snapshot, or NULL. Print @field of the result. */
static int build_file(struct cli *c, const char *file, const char *name, const char *field)
{
	json_t *manifest = read_manifest(c, file), *body, *result = NULL;
	int code;

	if (!manifest)
		return EXIT_FAILED;
	body = json_pack("{s:o}", "image", manifest);
	if (name && json_object_set_new(body, "name", json_string(name))) {
		json_decref(body);
		return cli_usage_error(c, "the name is not valid UTF-8");
	}
	code = build(c, name ? "/snapshots" : "/images", body, NULL, &result);
	json_decref(body);
	return code ? code : print_result(c, result, field);
}

/* --- imports ---------------------------------------------------------------------------------- */

/* Of a file without its suffixes, or of a directory. The caller frees it. */
static char *name_of_file(const char *path)
{
	static const char *const suffixes[] = {".gz", ".tgz", ".zst", ".tar"};
	size_t end = strlen(path), begin;

	while (end && path[end - 1] == '/')
		end--;
	for (begin = end; begin && path[begin - 1] != '/'; begin--)
		;
	for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
		size_t len = strlen(suffixes[i]);

		if (end - begin > len && !strncmp(path + end - len, suffixes[i], len))
			end -= len;
	}
	return strndup(path + begin, end - begin);
}

static int send_archive(struct cli *c, const char *file, const char *name, const char *ref)
{
	cleanup_free char *found = name ? strdup(name) : name_of_file(file);
	cleanup_free char *escaped = found ? http_escape(found) : NULL;
	cleanup_free char *escaped_ref = http_escape(ref ? ref : "");
	cleanup_free char *path = NULL;
	json_t *result = NULL;
	struct pack p;
	struct err e;
	int code;

	if (!escaped || !escaped_ref ||
	    asprintf(&path, "/images/import?name=%s%s%s", escaped, ref ? "&ref=" : "",
		     escaped_ref) < 0) {
		path = NULL;
		return cli_fail(c, &(struct err){.msg = "out of memory"});
	}
	code = pack_open(&p, file, &e) ? cli_fail(c, &e) : build(c, path, NULL, &p, &result);
	pack_close(&p);
	return code ? code : print_result(c, result, "templateID");
}

static int import_image(struct cli *c, int argc, char **argv, const char *name, const char *ref)
{
	int code = cli_check_count(c, argc, 1, 1);

	if (code)
		return code;
	if (!name && !strcmp(argv[0], "-"))
		return cli_usage_error(c, "--name is needed with standard input");
	return send_archive(c, argv[0], name, ref);
}

/* --- lists ------------------------------------------------------------------------------------
 */

static char *short_hash(const json_t *value)
{
	const char *text = json_string_value(value);

	return text ? strndup(text, 12) : NULL;
}

static void print_images(const json_t *list)
{
	static const struct output_column columns[] = {
	    {"HASH", "contentHash", short_hash}, {"STEPS", "steps", NULL},
	    {"SIZE", "sizeBytes", output_size},	 {"AGE", "createdAt", output_age},
	    {"USED", "lastUsedAt", output_age},	 {0},
	};

	output_list(list, columns);
}

static void print_snapshots(const json_t *list)
{
	static const struct output_column columns[] = {
	    {"NAME", "name", NULL},
	    {"STATUS", "status", NULL},
	    {"HASH", "contentHash", short_hash},
	    {"AGE", "createdAt", output_age},
	    {"USED", "lastUsedAt", output_age},
	    {0},
	};

	output_list(list, columns);
}

static int list(struct cli *c, int argc, const char *path, void (*print)(const json_t *list))
{
	struct http_request r = {.method = "GET", .path = path};
	int code = cli_check_count(c, argc, 0, 0);

	return code ? code : output_call(c, &r, JSON_ARRAY, print);
}

/* --- removing --------------------------------------------------------------------------------- */

static int rm_one(struct http *h, const char *folder, const char *name, struct err *e)
{
	cleanup_free char *escaped = http_escape(name);
	cleanup_free char *path = NULL;
	struct http_request r = {.method = "DELETE"};
	struct http_answer a = {0};
	int rc;

	if (!escaped || asprintf(&path, "%s/%s", folder, escaped) < 0) {
		path = NULL;
		return err_set(e, -ENOMEM, "out of memory");
	}
	r.path = path;
	rc = http_call(h, &r, &a, e);
	http_answer_fini(&a);
	return rc;
}

static int rm(struct cli *c, int argc, char **argv, const char *folder, const char *what)
{
	json_t *done = json_array();
	struct http h;
	int code = cli_check_count(c, argc, 1, -1), any = EXIT_OK;

	if (!code)
		code = cli_connect(c, &h);
	for (int i = 0; !code && i < argc; i++) {
		struct err e = {0};
		bool gone = !rm_one(&h, folder, argv[i], &e);

		if (!gone)
			any = cli_fail(c, &e);
		else if (!c->json)
			puts(argv[i]);
		json_array_append_new(done,
				      json_pack("{s:s, s:b}", what, argv[i], "removed", gone));
	}
	if (!code)
		http_fini(&h);
	if (!code && c->json)
		code = cli_print_json(json_incref(done));
	json_decref(done);
	return code ? code : any;
}

/* --- the commands ------------------------------------------------------------------------------
 */

/* The word behind the command. NULL with *@code set if it is not to go on. */
static const char *read_verb(struct cli *c, int *argc, char ***argv, int *code)
{
	const char *verb;

	if (!cli_no_options(c, *argc, *argv, 1, -1, code))
		return NULL;
	verb = (*argv)[optind];
	*argc -= optind + 1;
	*argv += optind + 1;
	return verb;
}

/* As read_verb(), with the options of imports. */
static const char *read_image_verb(struct cli *c, int *argc, char ***argv, const char **name,
				   const char **ref, int *code)
{
	static const struct option options[] = {CLI_COMMON_OPTIONS,
						{"name", required_argument, NULL, 'n'},
						{"ref", required_argument, NULL, 'r'},
						{NULL, 0, NULL, 0}};
	const char *verb;
	enum cli_opt got;
	int opt;

	while ((got = cli_getopt(c, *argc, *argv, "h", options, &opt)) == CLI_OPT_OTHER)
		*(opt == 'n' ? name : ref) = optarg;
	*code = got == CLI_OPT_HELP ? EXIT_OK : EXIT_USAGE;
	if (got != CLI_OPT_DONE || cli_check_count(c, *argc - optind, 1, -1))
		return NULL;
	verb = (*argv)[optind];
	*argc -= optind + 1;
	*argv += optind + 1;
	return verb;
}

int cmd_image(struct cli *c, int argc, char **argv)
{
	const char *name = NULL, *ref = NULL, *verb;
	int code = EXIT_OK;

	verb = read_image_verb(c, &argc, &argv, &name, &ref, &code);
	if (!verb)
		return code;
	if (!strcmp(verb, "import"))
		return import_image(c, argc, argv, name, ref);
	if (name || ref)
		return cli_usage_error(c, "--name and --ref are options of import");
	if (!strcmp(verb, "build"))
		return cli_check_count(c, argc, 1, 1) ? EXIT_USAGE
						      : build_file(c, argv[0], NULL, "contentHash");
	if (!strcmp(verb, "ls"))
		return list(c, argc, "/images", print_images);
	if (!strcmp(verb, "rm"))
		return rm(c, argc, argv, "/images", "image");
	return cli_usage_error(c, "\"%s\" is none of build, import, ls, rm", verb);
}

int cmd_snapshot(struct cli *c, int argc, char **argv)
{
	int code = EXIT_OK;
	const char *verb = read_verb(c, &argc, &argv, &code);

	if (!verb)
		return code;
	if (!strcmp(verb, "create"))
		return cli_check_count(c, argc, 2, 2) ? EXIT_USAGE
						      : build_file(c, argv[1], argv[0], "name");
	if (!strcmp(verb, "ls"))
		return list(c, argc, "/snapshots", print_snapshots);
	if (!strcmp(verb, "rm"))
		return rm(c, argc, argv, "/snapshots", "snapshot");
	return cli_usage_error(c, "\"%s\" is none of create, ls, rm", verb);
}
