/* SPDX-License-Identifier: Apache-2.0 */
/* /sandboxes/:id/exec: run, run-async, result, start, list, kill (api.md 4.1 - 4.5). */
#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "lib/clock.h"
#include "server/api/api.h"
#include "server/manager/session.h"

#define RUN_TIMEOUT_S	   60
#define ASYNC_HOLD_MS	   1500	 /* a command that ends within it needs one round trip */
#define RESULT_HOLD_MS	   20000 /* long poll */
#define RUN_QUIET_MS	   10000 /* then headers go out, and blanks follow */
#define RUN_BLANK_EVERY_MS 15000

struct exec_body {
	struct exec_spec spec;
};

static const struct json_field exec_fields[] = {
    JSON_FIELD(struct exec_body, spec.cmd, "cmd", JSON_F_STRING,
	       .flags = JSON_REQUIRED | JSON_NONEMPTY),
    JSON_FIELD(struct exec_body, spec.args, "args", JSON_F_STRINGS),
    JSON_FIELD(struct exec_body, spec.envs, "envs", JSON_F_MAP),
    JSON_FIELD(struct exec_body, spec.cwd, "cwd", JSON_F_STRING),
    JSON_FIELD(struct exec_body, spec.timeout_s, "timeout", JSON_F_INT),
    JSON_FIELD(struct exec_body, spec.max_alone_s, "maxRunAfterDisconnect", JSON_F_INT,
	       .max = INT32_MAX),
};

static const struct exec_spec run_defaults = {.timeout_s = RUN_TIMEOUT_S, .foreground = true};
static const struct exec_spec async_defaults = {
    .timeout_s = RUN_TIMEOUT_S, .foreground = true, .listed = true};
static const struct exec_spec start_defaults = {.with_stdin = true, .listed = true};

/* Start what the body asks for. NULL after having replied; unknown sandboxes come first. */
static struct exec_session *start_command(struct request *r, const struct exec_spec *defaults,
					  struct sandbox **sandbox)
{
	struct exec_body body = {.spec = *defaults};
	struct exec_session *x;
	struct err e;
	int rc;

	*sandbox = api_sandbox(r);
	if (!*sandbox)
		return NULL;
	if (request_bind(r, exec_fields, sizeof(exec_fields) / sizeof(exec_fields[0]), &body)) {
		rc = exec_start(*sandbox, &body.spec, &x, &e);
		if (!rc)
			return x;
		reply_errno(r, rc, &e);
	}
	sandbox_put(*sandbox);
	*sandbox = NULL;
	return NULL;
}

/* --- results -------------------------------------------------------------------------------- */

static void write_outcome(struct strbuf *b, struct exec_session *x)
{
	struct exec_view v;

	exec_view(x, &v);
	strbuf_adds(b, "{");
	strbuf_json_int(b, "exitCode", v.exit_code);
	strbuf_json_strn(b, "stdout", v.stream[0].data, v.stream[0].len);
	/* What never ran has its reason where people look for one. */
	if (v.state == EXEC_ENDED)
		strbuf_json_strn(b, "stderr", v.stream[1].data, v.stream[1].len);
	else
		strbuf_json_str(b, "stderr", v.error);
	if (v.stream[0].start || v.stream[1].start)
		strbuf_json_bool(b, "truncated", true);
	strbuf_adds(b, "}");
	exec_view_end(x);
}

/* For a command that has ended. A lost sandbox is an error of the request, while that can be said.
 */
static void reply_outcome(struct request *r, struct exec_session *x)
{
	struct strbuf b = {0};
	struct exec_view v;
	struct err e;
	bool lost;

	exec_view(x, &v);
	lost = v.state == EXEC_LOST;
	if (lost)
		err_set(&e, v.rc, "%s", v.error);
	exec_view_end(x);
	if (lost) {
		reply_errno(r, e.code, &e);
		return;
	}
	write_outcome(&b, x);
	reply_json(r, 200, &b);
}

/* --- run ---------------------------------------------------------------------------------------
 */

struct long_run {
	struct exec_session *x;	 /* a reference */
	struct sandbox *sandbox; /* a reference */
	struct manager *manager;
	struct strbuf body;
	size_t sent;
	bool ended, begun;
};

/* Blanks while the command runs, then the JSON (api.md 4.3, 17.4). */
static ssize_t read_long_run(void *cls, uint64_t pos, char *buf, size_t max)
{
	struct long_run *l = cls;
	size_t n;

	(void)pos;
	/* The first one at once: it is what makes the headers go out. */
	if (!l->ended && l->begun)
		l->ended = exec_drive(l->x, RUN_BLANK_EVERY_MS);
	if (!l->ended && manager_interrupted(l->manager))
		return MHD_CONTENT_READER_END_WITH_ERROR;
	l->begun = true;
	if (!l->ended) {
		buf[0] = ' ';
		return 1;
	}
	if (!l->body.len)
		write_outcome(&l->body, l->x);
	if (l->body.failed)
		return MHD_CONTENT_READER_END_WITH_ERROR;
	n = l->body.len - l->sent < max ? l->body.len - l->sent : max;
	if (!n)
		return MHD_CONTENT_READER_END_OF_STREAM;
	memcpy(buf, l->body.data + l->sent, n);
	l->sent += n;
	return (ssize_t)n;
}

static void release_long_run(void *cls)
{
	struct long_run *l = cls;
	struct err e;

	/* A client that goes away does not end its command. */
	if (!l->ended)
		exec_background(l->x, false, &e);
	exec_put(l->x);
	sandbox_put(l->sandbox);
	strbuf_fini(&l->body);
	free(l);
}

static void reply_long_run(struct request *r, struct sandbox *s, struct exec_session *x)
{
	struct long_run *l = calloc(1, sizeof(*l));
	struct err e;

	if (!l) {
		exec_background(x, false, &e);
		exec_put(x);
		sandbox_put(s);
		reply_error(r, 503, "out of memory");
		return;
	}
	l->x = x;
	l->sandbox = s;
	l->manager = api_manager(r);
	reply_stream(r, 200, "application/json", MHD_SIZE_UNKNOWN, read_long_run, l,
		     release_long_run);
}

void api_exec_run(struct request *r)
{
	struct sandbox *s;
	struct exec_session *x = start_command(r, &run_defaults, &s);

	if (!x)
		return;
	if (!exec_drive(x, RUN_QUIET_MS)) {
		reply_long_run(r, s, x);
		return;
	}
	reply_outcome(r, x);
	exec_put(x);
	sandbox_put(s);
}

/* --- run-async, start
 * ------------------------------------------------------------------------------ */

static void write_handle(struct strbuf *b, struct exec_session *x)
{
	strbuf_adds(b, "{");
	strbuf_json_str(b, "execId", exec_id(x));
	strbuf_json_bool(b, "running", true);
	strbuf_json_time(b, "startedAt", exec_started_ms(x));
	strbuf_adds(b, "}");
}

/* ?hold=MS, an addition to the API: how long to wait for the end before answering with a handle. */
static int async_hold_ms(const struct request *r)
{
	const char *hold = url_query(&r->url, "hold");
	long ms = hold && *hold ? strtol(hold, NULL, 10) : ASYNC_HOLD_MS;

	return ms < 0 ? 0 : ms > RESULT_HOLD_MS ? RESULT_HOLD_MS : (int)ms;
}

void api_exec_run_async(struct request *r)
{
	struct sandbox *s;
	struct exec_session *x = start_command(r, &async_defaults, &s);
	struct strbuf b = {0};
	struct err e;

	if (!x)
		return;
	/*
	 * Who asks for a handle is going to follow, and not to lose what comes before: said before
	 * the loop reads anything, which may be faster than this thread.
	 */
	if (url_query(&r->url, "hold"))
		exec_note_reader(x, (const uint64_t[2]){0, 0});
	if (exec_drive(x, async_hold_ms(r))) {
		reply_outcome(r, x);
	} else if (exec_background(x, true, &e)) {
		reply_error(r, 500, "%s", e.msg);
	} else {
		write_handle(&b, x);
		reply_json(r, 202, &b);
	}
	exec_put(x);
	sandbox_put(s);
}

void api_session_write(struct strbuf *b, const char *sandbox, struct exec_session *x)
{
	struct exec_view v;

	exec_view(x, &v);
	strbuf_json_next(b);
	strbuf_adds(b, "{");
	strbuf_json_str(b, "sessionID", exec_id(x));
	strbuf_json_str(b, "sandboxID", sandbox);
	strbuf_json_str(b, "command", exec_command(x));
	strbuf_json_value(b, "args", exec_args(x));
	strbuf_json_bool(b, "running", v.state == EXEC_RUNNING);
	if (v.state != EXEC_RUNNING)
		strbuf_json_int(b, "exitCode", v.exit_code);
	strbuf_json_time(b, "startedAt", exec_started_ms(x));
	exec_view_end(x);
	strbuf_json_int(b, "attachedClients", exec_readers(x));
	strbuf_adds(b, "}");
}

void api_exec_start(struct request *r)
{
	struct sandbox *s;
	struct exec_session *x = start_command(r, &start_defaults, &s);
	struct strbuf b = {0};
	struct err e;

	if (!x)
		return;
	if (exec_background(x, true, &e)) {
		reply_error(r, 500, "%s", e.msg);
	} else {
		api_session_write(&b, sandbox_id(s), x);
		reply_json(r, 201, &b);
	}
	exec_put(x);
	sandbox_put(s);
}

/* --- list, kill
 * ---------------------------------------------------------------------------------------- */

struct session_list {
	struct strbuf b;
	const char *sandbox;
	unsigned int kinds;
	void (*write)(struct strbuf *b, const char *sandbox, struct exec_session *x);
};

static void add_session(void *arg, struct exec_session *x)
{
	struct session_list *l = arg;

	if (EXEC_KIND(exec_kind(x)) & l->kinds)
		l->write(&l->b, l->sandbox, x);
}

/* One all of whose sessions are known then; NULL after having replied. */
static struct sandbox *settled(struct request *r)
{
	struct sandbox *s = api_sandbox(r);
	struct err e;
	int rc;

	if (!s)
		return NULL;
	rc = exec_settle(s, &e);
	if (!rc)
		return s;
	sandbox_put(s);
	reply_errno(r, rc, &e);
	return NULL;
}

void api_session_list(struct request *r, unsigned int kinds,
		      void (*write)(struct strbuf *b, const char *sandbox, struct exec_session *x))
{
	struct session_list l = {.sandbox = r->param[0], .kinds = kinds, .write = write};
	struct sandbox *s = settled(r);

	if (!s)
		return;
	strbuf_adds(&l.b, "[");
	exec_each(s, add_session, &l);
	strbuf_adds(&l.b, "]");
	sandbox_put(s);
	reply_json(r, 200, &l.b);
}

/* Agents are commands, too; terminals and tunnels are not. */
void api_exec_list(struct request *r)
{
	api_session_list(r, EXEC_KIND(EXEC_COMMAND) | EXEC_KIND(EXEC_AGENT), api_session_write);
}

struct exec_session *api_session_find(struct request *r, unsigned int kinds, const char *missing)
{
	struct sandbox *s = api_sandbox(r);
	struct exec_session *x;
	struct err e;
	int rc;

	if (!s)
		return NULL;
	sandbox_touch(s);
	rc = exec_find(s, kinds, r->param[1], &x, &e);
	sandbox_put(s);
	if (!rc)
		return x;
	if (rc == -ENOENT)
		reply_error(r, 404, "%s", missing);
	else
		reply_errno(r, rc, &e);
	return NULL;
}

struct exec_session *api_exec_find(struct request *r)
{
	/* Agents are commands, too. */
	return api_session_find(r, EXEC_KIND(EXEC_COMMAND) | EXEC_KIND(EXEC_AGENT),
				"exec session not found");
}

struct kill_body {
	int64_t signal;
};

void api_kill_session(struct request *r, struct exec_session *x)
{
	static const struct json_field fields[] = {
	    JSON_FIELD(struct kill_body, signal, "signal", JSON_F_INT, .min = 1, .max = 64),
	};
	struct kill_body body = {.signal = 9};
	struct err e;
	int rc;

	if (!request_bind(r, fields, 1, &body))
		return;
	rc = exec_signal(x, (int)body.signal, &e);
	if (rc)
		reply_errno(r, rc, &e);
	else
		reply_empty(r, 204);
}

void api_exec_kill(struct request *r)
{
	struct exec_session *x = api_exec_find(r);

	if (!x)
		return;
	api_kill_session(r, x);
	exec_put(x);
}

/* --- result
 * ------------------------------------------------------------------------------------------- */

/* How a client wants the output: all of it, or (an addition to the API) what is new to it. */
struct result_query {
	bool follow, base64;
	uint64_t from[2];
};

static bool parse_offset(struct request *r, const char *name, uint64_t *from, bool *given)
{
	const char *text = url_query(&r->url, name);
	char *end;

	if (!text)
		return true;
	errno = 0;
	*from = strtoull(text, &end, 10);
	*given = true;
	if (!errno && *text >= '0' && *text <= '9' && !*end)
		return true;
	reply_error(r, 400, "%s: must be a number of bytes", name);
	return false;
}

bool api_exec_offsets(struct request *r, uint64_t from[2], bool *given)
{
	from[0] = from[1] = 0;
	*given = false;
	return parse_offset(r, "stdoutFrom", &from[0], given) &&
	       parse_offset(r, "stderrFrom", &from[1], given);
}

static bool parse_result_query(struct request *r, struct result_query *q)
{
	const char *encoding = url_query(&r->url, "encoding");

	memset(q, 0, sizeof(*q));
	if (encoding && strcmp(encoding, "base64") && strcmp(encoding, "utf-8")) {
		reply_error(r, 400, "encoding: neither utf-8 nor base64");
		return false;
	}
	q->base64 = encoding && !strcmp(encoding, "base64");
	return api_exec_offsets(r, q->from, &q->follow);
}

/* A character of which only the beginning has arrived: its bytes wait for the rest. */
static size_t cut_off_tail(const uint8_t *data, size_t len)
{
	for (size_t back = 1; back <= 3 && back <= len; back++)
		if ((data[len - back] & 0xc0) != 0x80)
			return utf8_valid_len(data + len - back, back) < 0 ? back : 0;
	return 0;
}

static void write_base64(struct strbuf *b, const char *name, const uint8_t *data, size_t len)
{
	uint8_t text[4096 + 1];

	strbuf_json_name(b, name);
	strbuf_adds(b, "\"");
	for (size_t at = 0; at < len; at += 3072) {
		size_t part = len - at < 3072 ? len - at : 3072;

		strbuf_add(b, text, (size_t)EVP_EncodeBlock(text, data + at, (int)part));
	}
	strbuf_adds(b, "\"");
}

/* The part of a stream that the client wants. Return: where it goes on. */
static uint64_t write_stream(struct strbuf *b, const struct exec_view *v, int i,
			     const struct result_query *q, bool *truncated)
{
	static const char *const names[] = {"stdout", "stderr"};
	uint64_t start = v->stream[i].start, end = start + v->stream[i].len;
	uint64_t from = q->from[i] < start ? start : q->from[i];
	const uint8_t *data;
	size_t len;

	if (q->from[i] < start)
		*truncated = true;
	if (from > end)
		from = end;
	data = v->stream[i].data ? v->stream[i].data + (from - start) : NULL;
	len = data ? (size_t)(end - from) : 0;
	if (len && q->follow && !q->base64 && v->state == EXEC_RUNNING)
		len -= cut_off_tail(data, len);
	if (q->base64)
		write_base64(b, names[i], data, len);
	else
		strbuf_json_strn(b, names[i], data, len);
	return from + len;
}

/* Return: true if there is something to tell a follower. */
static bool write_result(struct strbuf *b, struct exec_session *x, const struct result_query *q)
{
	bool truncated = false, news;
	struct exec_view v;
	uint64_t next[2];

	exec_view(x, &v);
	strbuf_adds(b, "{");
	strbuf_json_bool(b, "running", v.state == EXEC_RUNNING);
	if (v.state == EXEC_ENDED)
		strbuf_json_int(b, "exitCode", v.exit_code);
	for (int i = 0; i < 2; i++)
		next[i] = write_stream(b, &v, i, q, &truncated);
	if (q->follow) {
		strbuf_json_int(b, "stdoutNext", (int64_t)next[0]);
		strbuf_json_int(b, "stderrNext", (int64_t)next[1]);
	}
	if (truncated)
		strbuf_json_bool(b, "truncated", true);
	if (v.state == EXEC_REFUSED || v.state == EXEC_LOST)
		strbuf_json_str(b, "error", v.error);
	strbuf_adds(b, "}");
	news = v.state != EXEC_RUNNING || next[0] > q->from[0] || next[1] > q->from[1];
	exec_view_end(x);
	return news;
}

static void stream_ends(struct exec_session *x, uint64_t ends[2])
{
	struct exec_view v;

	exec_view(x, &v);
	for (int i = 0; i < 2; i++)
		ends[i] = v.stream[i].start + v.stream[i].len;
	exec_view_end(x);
}

void api_exec_result(struct request *r)
{
	struct exec_session *x = api_exec_find(r);
	uint64_t deadline = clock_mono_ms() + RESULT_HOLD_MS, beyond[2];
	struct result_query q;
	struct strbuf b = {0};
	struct err e;
	int rc;

	if (!x)
		return;
	if (!parse_result_query(r, &q)) {
		exec_put(x);
		return;
	}
	rc = exec_wake(x, &e);
	if (rc) {
		reply_errno(r, rc, &e);
		exec_put(x);
		return;
	}
	if (q.follow)
		exec_note_reader(x, q.from);
	memcpy(beyond, q.from, sizeof(beyond));
	for (;;) {
		uint64_t now = clock_mono_ms();

		if (now < deadline)
			exec_wait(x, (int)(deadline - now), q.follow ? beyond : NULL);
		strbuf_fini(&b);
		/* Only half a character may have come: then wait for more than that. */
		if (write_result(&b, x, &q) || !q.follow || clock_mono_ms() >= deadline ||
		    manager_interrupted(api_manager(r)))
			break;
		stream_ends(x, beyond);
	}
	exec_put(x);
	reply_json(r, 200, &b);
}
