/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dormouse exec: run a command, show its output while it runs, end as it ended.
 *
 * Theory of operation: POST exec/run-async?hold=0 starts the command, and GET
 * exec/ID/result?stdoutFrom=N&stderrFrom=M waits for news: it answers as soon
 * as there are bytes after these offsets, or the command has ended, or after
 * some 20 s, with the new bytes only and the offsets to ask for next. The answer
 * that says "running": false has all that was left. encoding=base64 makes it
 * exact for bytes that are not UTF-8; --json asks for text.
 *
 * A server without these parameters answers with everything so far, as text.
 * Then what was already shown is skipped by its length.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/base64.h"
#include "lib/fd.h"
#include "tools/cli/cli.h"

/* The two outputs of the command. */
struct stream {
	const char *field, *next_field;
	FILE *out;
	size_t shown;	/* bytes of JSON text, for a server that sends all of it each time */
	long long next; /* offset to ask for */
	char *all;	/* owned: everything, kept for --json */
	size_t all_len;
};

struct run {
	struct cli *c;
	struct http h;
	const char *id;
	char exec_id[64]; /* empty until the server has answered */
	struct stream streams[2];
	bool incremental;
	bool warned;
	bool timeout_set;
	bool interactive, detach;
};

static int stream_take(struct run *x, struct stream *s, const char *text, size_t len)
{
	char *grown;

	if (!len)
		return 0;
	if (!x->c->json) {
		if (fwrite(text, 1, len, s->out) != len || fflush(s->out) == EOF)
			return -EPIPE;
		return 0;
	}
	grown = realloc(s->all, s->all_len + len);
	if (!grown)
		return -ENOMEM;
	s->all = grown;
	memcpy(s->all + s->all_len, text, len);
	s->all_len += len;
	return 0;
}

/* New bytes from a server that knows offsets. Return: their number, or -errno. */
static ssize_t take_increment(struct run *x, struct stream *s, const char *text, size_t len)
{
	cleanup_free unsigned char *bytes = NULL;
	ssize_t n;
	int rc;

	if (x->c->json || !len)
		return stream_take(x, s, text, len) < 0 ? -EPIPE : (ssize_t)len;
	bytes = malloc(len);
	n = bytes ? base64_decode(text, len, bytes) : -ENOMEM;
	if (n < 0)
		return n;
	rc = stream_take(x, s, (char *)bytes, (size_t)n);
	return rc < 0 ? rc : n;
}

/* Show what is new in an answer. Return: the number of new bytes, or -errno. */
static ssize_t show_news(struct run *x, const json_t *answer)
{
	ssize_t news = 0;

	for (int i = 0; i < 2; i++) {
		struct stream *s = &x->streams[i];
		const json_t *v = json_object_get(answer, s->field);
		const json_t *next = json_object_get(answer, s->next_field);
		const char *text = json_is_string(v) ? json_string_value(v) : "";
		size_t len = json_is_string(v) ? json_string_length(v) : 0, skip;
		ssize_t n;

		if (json_is_integer(next)) {
			s->next = json_integer_value(next);
			n = take_increment(x, s, text, len);
		} else {
			skip = s->shown < len ? s->shown : len;
			s->shown += len - skip;
			n = stream_take(x, s, text + skip, len - skip);
			n = n < 0 ? n : (ssize_t)(len - skip);
		}
		if (n < 0)
			return n;
		news += n;
	}
	x->incremental = json_is_integer(json_object_get(answer, x->streams[0].next_field));
	if (json_is_true(json_object_get(answer, "truncated")) && !x->warned) {
		x->warned = true;
		fputs("dormouse exec: some output was lost: it came faster than it was fetched\n",
		      stderr);
	}
	return news;
}

static void kill_session(struct run *x)
{
	char path[400];
	json_t *body = json_object();
	struct http_request r = {.method = "POST", .path = path, .json = body};
	struct http_answer a;
	struct err e = {0};

	/* A second Ctrl-C ends us as usual: this call must not be given up by the first. */
	x->h.stop = NULL;
	snprintf(path, sizeof(path), "/sandboxes/%.200s/exec/%s/kill", x->id, x->exec_id);
	if (x->exec_id[0] && http_call(&x->h, &r, &a, &e) < 0)
		fprintf(stderr, "dormouse exec: the command may still run: %s\n", e.msg);
	if (x->exec_id[0])
		http_answer_fini(&a);
	json_decref(body);
}

/* The connection or the server failed, or the user had enough. */
static int give_up(struct run *x, int rc, const struct err *e)
{
	if (rc == -EINTR) {
		kill_session(x);
		return EXIT_INTERRUPTED;
	}
	cli_fail(x->c, e);
	return EXIT_EXEC_FAILED;
}

/* Output that cannot be shown: @rc of show_news(). */
static int output_lost(struct run *x, ssize_t rc)
{
	struct err e;

	err_set(&e, (int)rc, "%s",
		rc == -EINVAL	? "the answer makes no sense"
		: rc == -ENOMEM ? "out of memory"
				: "the output could not be written");
	kill_session(x);
	return give_up(x, (int)rc, &e);
}

/* Print the result for --json and turn the exit code of the command into ours. */
static int finish(struct run *x, const json_t *answer)
{
	const json_t *code = json_object_get(answer, "exitCode");
	const char *error = json_string_value(json_object_get(answer, "error"));
	long long n = json_is_integer(code) ? json_integer_value(code) : -1;

	if (x->c->json) {
		const struct stream *s = x->streams;

		if (cli_print_json(
			json_pack("{s:o, s:o, s:o}", "exitCode", json_integer(n), "stdout",
				  json_stringn(s[0].all ? s[0].all : "", s[0].all_len), "stderr",
				  json_stringn(s[1].all ? s[1].all : "", s[1].all_len))))
			return EXIT_EXEC_FAILED;
	}
	if (error) {
		struct err e;

		err_set(&e, -EIO, "%s", error);
		cli_fail(x->c, &e);
	}
	if (n >= 0 && n <= 255)
		return (int)n;
	return x->timeout_set && !error ? EXIT_EXEC_TIMEOUT : EXIT_EXEC_FAILED;
}

/* A server that does not wait for news must not be asked without a pause. */
static void pause_between_polls(const struct run *x, ssize_t news)
{
	struct timespec t = {.tv_nsec = 100 * 1000000};

	if (!x->incremental && news == 0)
		nanosleep(&t, NULL);
}

static int follow(struct run *x)
{
	for (;;) {
		char path[500];
		struct http_request r = {.method = "GET", .path = path};
		struct http_answer a;
		struct err e = {0};
		ssize_t news;
		int rc, code = -1;

		snprintf(path, sizeof(path),
			 "/sandboxes/%.200s/exec/%s/result?stdoutFrom=%lld&stderrFrom=%lld%s",
			 x->id, x->exec_id, x->streams[0].next, x->streams[1].next,
			 x->c->json ? "" : "&encoding=base64");
		rc = http_call(&x->h, &r, &a, &e);
		if (rc < 0) {
			http_answer_fini(&a);
			return give_up(x, rc, &e);
		}
		news = show_news(x, a.json);
		if (news < 0)
			code = output_lost(x, news);
		else if (!json_is_true(json_object_get(a.json, "running")))
			code = finish(x, a.json);
		http_answer_fini(&a);
		if (code >= 0)
			return code;
		pause_between_polls(x, news);
	}
}

static int start(struct run *x, const json_t *body)
{
	char path[300];
	struct http_request r = {.method = "POST", .path = path, .json = body};
	struct http_answer a;
	struct err e = {0};
	const char *exec_id;
	ssize_t news;
	int rc, code = EXIT_OK;

	snprintf(path, sizeof(path), "/sandboxes/%.200s/exec/run-async?hold=0", x->id);
	rc = http_call(&x->h, &r, &a, &e);
	exec_id = json_string_value(json_object_get(a.json, "execId"));
	if (rc < 0)
		code = give_up(x, rc, &e);
	else if (exec_id && !cli_check_id(x->c, exec_id))
		snprintf(x->exec_id, sizeof(x->exec_id), "%.60s", exec_id);
	else if (exec_id || !json_is_integer(json_object_get(a.json, "exitCode")))
		code = give_up(x, -EIO, &(struct err){.msg = "the answer makes no sense"});
	else if ((news = show_news(x, a.json)) < 0)
		code = output_lost(x, news);
	else
		code = finish(x, a.json);
	http_answer_fini(&a);
	return x->exec_id[0] ? follow(x) : code;
}

static enum cli_opt parse_options(struct run *x, int argc, char **argv, json_t *body)
{
	static const struct option options[] = {CLI_COMMON_OPTIONS,
						{"env", required_argument, NULL, 'e'},
						{"workdir", required_argument, NULL, 'w'},
						{"timeout", required_argument, NULL, 't'},
						{"interactive", no_argument, NULL, 'i'},
						{"detach", no_argument, NULL, 'd'},
						{0}};
	json_t *envs = json_object();
	long long seconds = 0;
	int opt;

	json_object_set_new(body, "envs", envs);
	for (;;) {
		enum cli_opt what = cli_getopt(x->c, argc, argv, "+he:w:id", options, &opt);
		int bad = 0;

		if (what != CLI_OPT_OTHER) {
			json_object_set_new(body, "timeout", json_integer(seconds));
			x->timeout_set = seconds > 0;
			return what;
		}
		if (opt == 'e')
			bad = cli_add_pair(x->c, envs, optarg, true);
		else if (opt == 'w')
			bad = json_object_set_new(body, "cwd", json_string(optarg));
		else if (opt == 'i')
			x->interactive = true;
		else if (opt == 'd')
			x->detach = true;
		else
			bad = cli_parse_number(x->c, "--timeout", optarg, 0, 1LL << 31, &seconds);
		if (bad)
			return CLI_OPT_BAD;
	}
}

/* ID [--] CMD [ARGS] from argv[optind] on. Return: 0 or EXIT_USAGE. */
static int parse_command(struct run *x, int argc, char **argv, json_t *body)
{
	json_t *args = json_array();
	int i = optind;

	json_object_set_new(body, "args", args);
	if (i >= argc)
		return cli_usage_error(x->c, "which sandbox?");
	x->id = argv[i++];
	if (cli_check_id(x->c, x->id))
		return EXIT_USAGE;
	if (i < argc && !strcmp(argv[i], "--"))
		i++;
	else if (i < argc && argv[i][0] == '-')
		return cli_usage_error(x->c, "%s: options go before the id of the sandbox",
				       argv[i]);
	if (i >= argc || !*argv[i])
		return cli_usage_error(x->c, "which command?");
	if (json_object_set_new(body, "cmd", json_string(argv[i++])) < 0)
		return cli_usage_error(x->c, "the command is not valid UTF-8");
	for (; i < argc; i++) {
		if (json_array_append_new(args, json_string(argv[i])) < 0)
			return cli_usage_error(x->c, "an argument is not valid UTF-8");
	}
	return 0;
}

/* As a session, which has an input and clients that come and go. */
static int start_session(struct run *x, const json_t *body)
{
	unsigned int flags = FOLLOW_STDIN | FOLLOW_KILL | (x->timeout_set ? FOLLOW_TIMEOUT : 0);
	json_t *answer;
	int code = cli_start_session(x->c, &x->h, x->id, body, x->exec_id, &answer);

	if (code)
		return code;
	if (!x->detach)
		code = cli_follow_session(x->c, &x->h, x->id, x->exec_id, flags);
	else if (x->c->json)
		return cli_print_json(answer);
	else
		code =
		    puts(x->exec_id) == EOF || fflush(stdout) == EOF ? EXIT_EXEC_FAILED : EXIT_OK;
	json_decref(answer);
	return code;
}

static bool options_fit(const struct run *x)
{
	if (x->interactive && x->detach)
		return !cli_usage_error(x->c, "-i and -d exclude each other");
	if (x->interactive && x->c->json)
		return !cli_usage_error(x->c, "-i and --json exclude each other");
	return true;
}

int cmd_exec(struct cli *c, int argc, char **argv)
{
	struct run x = {
	    .c = c,
	    .streams = {{.field = "stdout", .next_field = "stdoutNext", .out = stdout},
			{.field = "stderr", .next_field = "stderrNext", .out = stderr}}};
	json_t *body = json_object();
	enum cli_opt what = parse_options(&x, argc, argv, body);
	int code = what == CLI_OPT_HELP ? EXIT_OK : EXIT_USAGE;

	if (what == CLI_OPT_DONE && options_fit(&x) && !parse_command(&x, argc, argv, body) &&
	    !cli_connect(c, &x.h)) {
		x.h.stop = cli_catch_interrupt();
		code = x.interactive || x.detach ? start_session(&x, body) : start(&x, body);
		http_fini(&x.h);
	}
	json_decref(body);
	free(x.streams[0].all);
	free(x.streams[1].all);
	return code;
}
