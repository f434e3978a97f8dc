/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dormouse shell: a terminal in a sandbox, in this terminal.
 *
 * Theory of operation: POST pty makes a terminal, GET pty/TERMINAL as a WebSocket is
 * its bytes both ways, POST pty/TERMINAL/resize its size. The server closes with 1000 when its
 * program has ended, and says the exit code in the text of the close frame. Any other end is one of
 * the connection alone: the terminal goes on in the sandbox, so this attaches again, from the
 * byte on that it lacks (?stdoutFrom=N, an addition to the API). After a hibernation not before a
 * key is pressed, for to attach wakes the sandbox.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/clock.h"
#include "tools/cli/cli.h"
#include "tools/cli/rawtty.h"
#include "tools/cli/table.h"
#include "tools/cli/ws.h"

#define PREFIX_KEY     0x1d /* Ctrl-] */
#define UNSENT_MAX     (256u << 10)
#define AGAIN_EVERY_MS 500
#define AGAIN_MAX_MS   60000

struct shell {
	struct cli *c;
	struct http h;
	struct rawtty tty;
	const char *id;
	char term[64];
	struct ws *w; /* owned */
	bool counted; /* shown is the offset in all that the terminal has said */
	unsigned long long shown;
	bool prefix;	 /* Ctrl-] was pressed */
	bool in_ended;	 /* standard input has */
	bool out_failed; /* standard output has */
};

enum outcome { ENDED, DETACHED, STOPPED, BROKEN };

/* --- bytes ---------------------------------------------------------------------------------- */

static void show(struct shell *s, const uint8_t *data, size_t len)
{
	rawtty_watch(&s->tty, data, len);
	s->shown += len;
	while (len && !s->out_failed) {
		ssize_t n = write(STDOUT_FILENO, data, len);
		struct pollfd p = {.fd = STDOUT_FILENO, .events = POLLOUT};

		if (n > 0) {
			data += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN) {
			ppoll(&p, 1, NULL, &s->tty.waiting);
			s->out_failed = rawtty_signal();
		} else if (errno != EINTR) {
			s->out_failed = true;
		}
	}
}

/* Text of our own, between what the sandbox says. */
static void say(struct shell *s, const char *text)
{
	fprintf(stderr, s->tty.raw ? "\r\n[%s]\r\n" : "[%s]\n", text);
}

static void send_size(struct shell *s)
{
	char path[300];
	json_t *body;
	struct http_answer a;
	unsigned int rows, cols;
	struct err e;

	rawtty_size(&rows, &cols);
	body = json_pack("{s:i, s:i}", "rows", (int)rows, "cols", (int)cols);
	snprintf(path, sizeof(path), "/sandboxes/%.200s/pty/%s/resize", s->id, s->term);
	/* If it fails the connection of the terminal itself will tell, or the next size. */
	http_call(&s->h, &(struct http_request){.method = "POST", .path = path, .json = body}, &a,
		  &e);
	http_answer_fini(&a);
	json_decref(body);
}

/* Take the detach key out. Return: true if it was pressed. */
static bool send_keys(struct shell *s, const uint8_t *data, size_t len)
{
	uint8_t out[2 * 4096];
	size_t n = 0;
	bool detach = false;

	for (size_t i = 0; i < len && !detach; i++) {
		bool after = s->prefix;

		s->prefix = s->tty.is_tty && !after && data[i] == PREFIX_KEY;
		if (after && data[i] == 'd') {
			detach = true;
		} else if (!s->prefix) {
			if (after && data[i] != PREFIX_KEY)
				out[n++] = PREFIX_KEY;
			out[n++] = data[i];
		}
	}
	if (n)
		ws_send(s->w, out, n, NULL, 0);
	return detach;
}

static enum outcome take_input(struct shell *s)
{
	uint8_t buf[4096];
	ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));

	if (n > 0)
		return send_keys(s, buf, (size_t)n) ? DETACHED : ENDED;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return ENDED;
	s->in_ended = true;
	/* The user's terminal is gone. */
	if (s->tty.is_tty)
		return STOPPED;
	/* Of a file: what somebody would press at its end. */
	ws_send(s->w, "\004", 1, NULL, 0);
	return ENDED;
}

/* Until the connection ends, or the user has enough. */
static enum outcome talk(struct shell *s)
{
	for (;;) {
		bool over = ws_turn(s->w), full;
		struct ws_message m;
		struct pollfd p[2];

		while (ws_recv(s->w, &m))
			show(s, m.data, m.len);
		if (rawtty_signal() || s->out_failed)
			return STOPPED;
		if (over)
			return ws_code(s->w) == WS_CODE_NORMAL ? ENDED : BROKEN;
		if (rawtty_resized(&s->tty))
			send_size(s);
		full = ws_unsent(s->w) > UNSENT_MAX;
		p[0] = (struct pollfd){.fd = ws_fd(s->w), .events = ws_events(s->w)};
		p[1] = (struct pollfd){.fd = s->in_ended || full ? -1 : STDIN_FILENO,
				       .events = POLLIN};
		if (ppoll(p, 2, NULL, &s->tty.waiting) > 0 && p[1].revents) {
			enum outcome o = take_input(s);

			if (o != ENDED)
				return o;
		}
	}
}

/* --- connections --------------------------------------------------------------------------------
 */

static int attach(struct shell *s, struct err *e)
{
	char path[400], from[40] = "";

	if (s->counted)
		snprintf(from, sizeof(from), "?stdoutFrom=%llu", s->shown);
	ws_free(s->w);
	s->w = NULL;
	snprintf(path, sizeof(path), "/sandboxes/%.200s/pty/%.63s%.39s", s->id, s->term, from);
	return ws_open(&s->h.ep, path, NULL, &s->w, e);
}

/* Return: false if the user wants the end. */
static bool wait_ms(struct shell *s, int ms, bool for_key)
{
	struct pollfd p = {.fd = for_key ? STDIN_FILENO : -1, .events = POLLIN};
	struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};

	while (!rawtty_signal()) {
		if (ppoll(&p, 1, for_key ? NULL : &t, &s->tty.waiting) >= 0)
			return true;
		if (!for_key)
			return !rawtty_signal();
	}
	return false;
}

/* After a connection that ended early. BROKEN: it failed, and @e says why; ENDED: it goes on. */
static enum outcome attach_again(struct shell *s, struct err *e)
{
	uint64_t deadline = clock_mono_ms() + AGAIN_MAX_MS;
	int rc;

	if (ws_code(s->w) == WS_CODE_GOING_AWAY && *ws_reason(s->w)) {
		char text[200];

		snprintf(text, sizeof(text), "%s; press a key to go on", ws_reason(s->w));
		say(s, text);
		if (s->tty.is_tty && !wait_ms(s, 0, true))
			return STOPPED;
		deadline = clock_mono_ms() + AGAIN_MAX_MS;
	} else {
		say(s, "connection lost; trying again");
	}
	for (;;) {
		rc = attach(s, e);
		if (!rc)
			break;
		if (rc == -EREMOTEIO || clock_mono_ms() > deadline)
			return BROKEN;
		if (!wait_ms(s, AGAIN_EVERY_MS, false))
			return STOPPED;
	}
	/* It may have changed meanwhile; and if not, this has the screen drawn again. */
	send_size(s);
	return ENDED;
}

/* --- the end ------------------------------------------------------------------------------------
 */

static void give_back(struct shell *s)
{
	char text[256];

	rawtty_reset_text(&s->tty, text, sizeof(text));
	if (*text && s->tty.is_tty && !s->out_failed &&
	    write(STDOUT_FILENO, text, strlen(text)) < 0)
		s->out_failed = true;
	rawtty_leave(&s->tty);
}

static void tell_how_to_go_on(const struct shell *s)
{
	fprintf(stderr, "detached; go on with: dormouse shell --attach %s %s\n", s->term, s->id);
}

static int exit_code(const struct shell *s)
{
	static const char said[] = "exited with code ";
	const char *reason = ws_reason(s->w);
	long code;

	if (strncmp(reason, said, strlen(said))) {
		fprintf(stderr, "dormouse shell: the terminal is gone%s%s\n", *reason ? ": " : "",
			reason);
		return EXIT_EXEC_FAILED;
	}
	code = strtol(reason + strlen(said), NULL, 10);
	return code >= 0 && code <= 255 ? (int)code : EXIT_EXEC_FAILED;
}

static int run(struct shell *s)
{
	enum outcome o;
	struct err e = {0};

	if (attach(s, &e)) {
		cli_fail(s->c, &e);
		return EXIT_EXEC_FAILED;
	}
	rawtty_enter(&s->tty);
	/* Of one that is there already the screen is to be drawn, in this terminal's size. */
	if (!s->counted)
		send_size(s);
	while ((o = talk(s)) == BROKEN) {
		o = attach_again(s, &e);
		if (o != ENDED)
			break;
	}
	give_back(s);
	if (o == DETACHED || o == STOPPED) {
		if (s->w)
			ws_close(s->w, WS_CODE_NORMAL);
		tell_how_to_go_on(s);
		return o == DETACHED ? EXIT_OK : 128 + (rawtty_signal() ? rawtty_signal() : SIGHUP);
	}
	if (o == BROKEN) {
		cli_fail(s->c, &e);
		return EXIT_EXEC_FAILED;
	}
	return exit_code(s);
}

/* --- the beginning -------------------------------------------------------------------------------
 */

static int make_terminal(struct shell *s, json_t *body)
{
	char path[300];
	struct http_request r = {.method = "POST", .path = path, .json = body};
	struct http_answer a;
	unsigned int rows, cols;
	const char *id;
	struct err e = {0};
	int code = 0;

	rawtty_size(&rows, &cols);
	json_object_set_new(body, "rows", json_integer(rows));
	json_object_set_new(body, "cols", json_integer(cols));
	snprintf(path, sizeof(path), "/sandboxes/%.200s/pty", s->id);
	if (http_call(&s->h, &r, &a, &e)) {
		cli_fail(s->c, &e);
		code = EXIT_EXEC_FAILED;
	} else {
		id = json_string_value(json_object_get(a.json, "sessionID"));
		if (id && !cli_check_id(s->c, id))
			snprintf(s->term, sizeof(s->term), "%.60s", id);
		else
			code = EXIT_EXEC_FAILED;
	}
	http_answer_fini(&a);
	return code;
}

static enum cli_opt parse_options(struct shell *s, int argc, char **argv, json_t *body)
{
	static const struct option options[] = {CLI_COMMON_OPTIONS,
						{"env", required_argument, NULL, 'e'},
						{"workdir", required_argument, NULL, 'w'},
						{"attach", required_argument, NULL, 'a'},
						{0}};
	json_t *envs = json_object();
	int opt;

	json_object_set_new(body, "envs", envs);
	for (;;) {
		enum cli_opt what = cli_getopt(s->c, argc, argv, "+he:w:", options, &opt);
		int bad = 0;

		if (what != CLI_OPT_OTHER)
			return what;
		if (opt == 'e')
			bad = cli_add_pair(s->c, envs, optarg, true);
		else if (opt == 'w')
			bad = json_object_set_new(body, "cwd", json_string(optarg));
		else if (!(bad = cli_check_id(s->c, optarg)))
			snprintf(s->term, sizeof(s->term), "%.60s", optarg);
		if (bad)
			return CLI_OPT_BAD;
	}
}

/* ID [[--] CMD [ARGS]] from argv[optind] on. Return: 0 or EXIT_USAGE. */
static int parse_command(struct shell *s, int argc, char **argv, json_t *body)
{
	json_t *args = json_array();
	int i = optind;

	json_object_set_new(body, "args", args);
	if (s->c->json)
		return cli_usage_error(s->c, "a terminal cannot be shown as JSON");
	if (i >= argc)
		return cli_usage_error(s->c, "which sandbox?");
	s->id = argv[i++];
	if (cli_check_id(s->c, s->id))
		return EXIT_USAGE;
	if (i < argc && !strcmp(argv[i], "--"))
		i++;
	else if (i < argc && argv[i][0] == '-')
		return cli_usage_error(s->c, "%s: options go before the id of the sandbox",
				       argv[i]);
	if (i < argc && s->term[0])
		return cli_usage_error(s->c, "with --attach its program runs already");
	/* One word is a line for the shell, as with exec. */
	if (i + 1 == argc)
		json_array_append_new(args, json_string("-c"));
	if (i < argc)
		json_object_set_new(body, "shell",
				    json_string(i + 1 == argc ? "/bin/sh" : argv[i++]));
	for (; i < argc; i++)
		if (json_array_append_new(args, json_string(argv[i])) < 0)
			return cli_usage_error(s->c, "an argument is not valid UTF-8");
	return 0;
}

int cmd_shell(struct cli *c, int argc, char **argv)
{
	struct shell s = {.c = c};
	json_t *body = json_object();
	enum cli_opt what = parse_options(&s, argc, argv, body);
	int code = what == CLI_OPT_HELP ? EXIT_OK : EXIT_USAGE;

	if (what == CLI_OPT_DONE && !parse_command(&s, argc, argv, body) &&
	    !(code = cli_connect(c, &s.h))) {
		s.counted = !s.term[0];
		if (s.counted)
			code = make_terminal(&s, body);
		if (!code) {
			rawtty_init(&s.tty);
			code = run(&s);
		}
		ws_free(s.w);
		http_fini(&s.h);
	}
	json_decref(body);
	return code;
}
