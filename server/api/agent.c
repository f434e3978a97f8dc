/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /sandboxes/:id/agent: sessions of claude-agent-wrapper (api.md 7; docs/agent-sessions.md).
 *
 * An agent session is an exec session of its own kind: what it says is read over the exec
 * WebSocket. Here are its start, which writes the first lines to its stdin before any client
 * can, and the calls that write one line each.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/clock.h"
#include "server/api/api.h"
#include "server/manager/session.h"

#define WRAPPER	      "claude-agent-wrapper"
#define LINE_MS	      30000 /* for the wrapper to take a line: node may just be starting */
#define MAX_TURNS_MAX 1000000

struct agent_body {
	const char *prompt, *model, *system_prompt, *permission_mode, *cwd, *resume;
	json_t *allowed_tools, *mcp_servers;
	int64_t max_turns;
};

#define OPTION_STRING(member, name) JSON_FIELD(struct agent_body, member, name, JSON_F_STRING)

/* The first two are no options of the wrapper's. */
static const struct json_field agent_fields[] = {
    OPTION_STRING(prompt, "prompt"),
    OPTION_STRING(resume, "resume"),
    OPTION_STRING(model, "model"),
    OPTION_STRING(system_prompt, "systemPrompt"),
    OPTION_STRING(permission_mode, "permissionMode"),
    OPTION_STRING(cwd, "cwd"),
    JSON_FIELD(struct agent_body, allowed_tools, "allowedTools", JSON_F_STRINGS),
    JSON_FIELD(struct agent_body, mcp_servers, "mcpServers", JSON_F_OBJECT),
    JSON_FIELD(struct agent_body, max_turns, "maxTurns", JSON_F_INT, .min = 1,
	       .max = MAX_TURNS_MAX),
};
#define N_FIELDS     (sizeof(agent_fields) / sizeof(agent_fields[0]))
#define FIRST_OPTION 2

/* --- lines to the wrapper ----------------------------------------------------------------- */

/* One object, one line. @message is released. */
static void add_line(struct strbuf *b, json_t *message)
{
	char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;

	if (text) {
		strbuf_adds(b, text);
		strbuf_adds(b, "\n");
	} else {
		b->failed = true;
	}
	free(text);
	json_decref(message);
}

/* The options that were given, as they were given; with the session to resume if no prompt names
 * it. Nothing if there are none. */
static void add_configure(struct strbuf *b, json_t *given, const struct agent_body *body)
{
	json_t *message = json_pack("{s:s}", "type", "configure");
	bool any = false;

	for (size_t i = FIRST_OPTION; i < N_FIELDS; i++) {
		json_t *value = json_object_get(given, agent_fields[i].name);

		if (!value || json_is_null(value))
			continue;
		json_object_set(message, agent_fields[i].name, value);
		any = true;
	}
	if (body->resume && !body->prompt) {
		json_object_set_new(message, "resume", json_string(body->resume));
		any = true;
	}
	if (any)
		add_line(b, message);
	else
		json_decref(message);
}

static void add_prompt(struct strbuf *b, const char *text, const char *resume)
{
	add_line(b,
		 json_pack("{s:s, s:s, s:s*}", "type", "prompt", "text", text, "resume", resume));
}

/* Return: 0; -EPIPE if the agent has ended; -ETIMEDOUT if it takes no more */
static int write_lines(struct exec_session *x, const struct strbuf *b, struct err *e)
{
	uint64_t deadline = clock_mono_ms() + LINE_MS;
	size_t done = 0;

	if (b->failed)
		return err_set(e, -ENOMEM, "out of memory");
	while (done < b->len) {
		uint64_t now = clock_mono_ms();
		ssize_t n;

		if (now >= deadline)
			return err_set(e, -ETIMEDOUT, "the agent does not read its stdin");
		n = exec_write(x, b->data + done, b->len - done, (int)(deadline - now), e);
		if (n < 0)
			return (int)n;
		done += (size_t)n;
	}
	return 0;
}

/* --- start, list --------------------------------------------------------------------------- */

static void write_agent(struct strbuf *b, const char *sandbox, struct exec_session *x)
{
	struct exec_view v;

	exec_view(x, &v);
	strbuf_json_next(b);
	strbuf_adds(b, "{");
	strbuf_json_str(b, "sessionID", exec_id(x));
	strbuf_json_str(b, "sandboxID", sandbox);
	strbuf_json_bool(b, "running", v.state == EXEC_RUNNING);
	if (v.state != EXEC_RUNNING)
		strbuf_json_int(b, "exitCode", v.exit_code);
	strbuf_json_time(b, "startedAt", exec_started_ms(x));
	strbuf_adds(b, "}");
	exec_view_end(x);
}

/* The process, with all that it is told first in its stdin. */
static int start_agent(struct sandbox *s, const struct strbuf *lines, struct exec_session **out,
		       struct err *e)
{
	struct exec_spec spec = {
	    .cmd = WRAPPER, .with_stdin = true, .kind = EXEC_AGENT, .listed = true};
	int rc = exec_start(s, &spec, out, e);

	if (rc)
		return rc;
	rc = exec_background(*out, true, e);
	if (!rc)
		rc = write_lines(*out, lines, e);
	/* A wrapper that ended at once says why on its stdout, which is there to be read. */
	if (rc == -EPIPE)
		rc = 0;
	if (rc) {
		exec_signal(*out, 9, &(struct err){0});
		exec_put(*out);
	}
	return rc;
}

void api_agent_start(struct request *r)
{
	struct strbuf lines = {0}, b = {0};
	struct sandbox *s = api_sandbox(r);
	struct agent_body body = {0};
	struct exec_session *x;
	struct err e;
	int rc;

	if (!s)
		return;
	if (!request_bind(r, agent_fields, N_FIELDS, &body)) {
		sandbox_put(s);
		return;
	}
	if (body.prompt && !*body.prompt)
		body.prompt = NULL;
	add_configure(&lines, r->json, &body);
	if (body.prompt)
		add_prompt(&lines, body.prompt, body.resume);
	rc = start_agent(s, &lines, &x, &e);
	strbuf_fini(&lines);
	if (rc) {
		reply_errno(r, rc, &e);
	} else {
		write_agent(&b, sandbox_id(s), x);
		reply_json(r, 201, &b);
		exec_put(x);
	}
	sandbox_put(s);
}

void api_agent_list(struct request *r)
{
	api_session_list(r, EXEC_KIND(EXEC_AGENT), write_agent);
}

/* --- one session --------------------------------------------------------------------------- */

/* The agent session that the second parameter names; NULL after having replied. */
static struct exec_session *find_agent(struct request *r)
{
	return api_session_find(r, EXEC_KIND(EXEC_AGENT), "agent session not found");
}

void api_agent_kill(struct request *r)
{
	struct exec_session *x = find_agent(r);

	if (!x)
		return;
	api_kill_session(r, x);
	exec_put(x);
}

/* 204 after the wrapper was given @b, which is released. */
static void reply_written(struct request *r, struct exec_session *x, struct strbuf *b)
{
	struct err e;
	int rc = exec_wake(x, &e);

	if (!rc)
		rc = write_lines(x, b, &e);
	if (rc == -EPIPE)
		reply_error(r, 409, "the agent session has ended");
	else if (rc)
		reply_errno(r, rc, &e);
	else
		reply_empty(r, 204);
	strbuf_fini(b);
}

struct prompt_body {
	const char *text, *resume;
};

void api_agent_prompt(struct request *r)
{
	static const struct json_field fields[] = {
	    JSON_FIELD(struct prompt_body, text, "text", JSON_F_STRING,
		       .flags = JSON_REQUIRED | JSON_NONEMPTY),
	    JSON_FIELD(struct prompt_body, resume, "resume", JSON_F_STRING),
	};
	struct exec_session *x = find_agent(r);
	struct prompt_body body = {0};
	struct strbuf b = {0};

	if (!x)
		return;
	if (request_bind(r, fields, 2, &body)) {
		add_prompt(&b, body.text, body.resume);
		reply_written(r, x, &b);
	}
	exec_put(x);
}

void api_agent_interrupt(struct request *r)
{
	struct exec_session *x = find_agent(r);
	struct strbuf b = {0};

	if (!x)
		return;
	add_line(&b, json_pack("{s:s}", "type", "interrupt"));
	reply_written(r, x, &b);
	exec_put(x);
}
