/* SPDX-License-Identifier: Apache-2.0 */
/* /sandboxes/:id/pty: terminals (api.md 6, 17.2). */
#include <string.h>

#include "server/api/api.h"
#include "server/api/bridge.h"
#include "server/manager/session.h"

#define KEEP_BYTES  (1u << 20) /* of output, for who attaches later */
#define MAX_ALONE_S 300	       /* after the last client has left */
#define MAX_SIZE    65535

struct pty_body {
	struct exec_spec spec;
	int64_t rows, cols;
};

static struct exec_session *start(struct request *r, struct sandbox *s)
{
	/* What api.md does not have: args, envs, cwd, maxRunAfterDisconnect. */
	static const struct json_field fields[] = {
	    JSON_FIELD(struct pty_body, spec.cmd, "shell", JSON_F_STRING),
	    JSON_FIELD(struct pty_body, spec.args, "args", JSON_F_STRINGS),
	    JSON_FIELD(struct pty_body, spec.envs, "envs", JSON_F_MAP),
	    JSON_FIELD(struct pty_body, spec.cwd, "cwd", JSON_F_STRING),
	    JSON_FIELD(struct pty_body, spec.max_alone_s, "maxRunAfterDisconnect", JSON_F_INT,
		       .min = 0, .max = 30 * 86400),
	    JSON_FIELD(struct pty_body, rows, "rows", JSON_F_INT, .min = 0, .max = MAX_SIZE),
	    JSON_FIELD(struct pty_body, cols, "cols", JSON_F_INT, .min = 0, .max = MAX_SIZE),
	};
	struct pty_body body = {.spec = {.kind = EXEC_TERMINAL,
					 .with_stdin = true,
					 .listed = true,
					 .keep = KEEP_BYTES,
					 .max_alone_s = MAX_ALONE_S}};
	struct exec_session *x;
	struct err e;
	int rc;

	if (!request_bind(r, fields, sizeof(fields) / sizeof(fields[0]), &body))
		return NULL;
	if (!body.spec.cmd || !*body.spec.cmd) {
		body.spec.cmd = "/bin/bash";
		body.spec.or_sh = !json_array_size(body.spec.args);
	}
	body.spec.rows = body.rows ? (unsigned int)body.rows : 24;
	body.spec.cols = body.cols ? (unsigned int)body.cols : 80;
	rc = exec_start(s, &body.spec, &x, &e);
	if (rc)
		reply_errno(r, rc, &e);
	return rc ? NULL : x;
}

void api_pty_create(struct request *r)
{
	struct sandbox *s = api_sandbox(r);
	struct exec_session *x;
	struct strbuf b = {0};
	struct err e;

	if (!s)
		return;
	sandbox_touch(s);
	x = start(r, s);
	if (x && exec_background(x, true, &e)) {
		reply_error(r, 500, "%s", e.msg);
	} else if (x) {
		strbuf_adds(&b, "{");
		strbuf_json_str(&b, "sessionID", exec_id(x));
		strbuf_json_str(&b, "sandboxID", sandbox_id(s));
		strbuf_adds(&b, "}");
		reply_json(r, 201, &b);
	}
	exec_put(x);
	sandbox_put(s);
}

/* --- one of them
 * ------------------------------------------------------------------------------------ */

/* The terminal that the second parameter names; NULL after having replied. */
static struct exec_session *find(struct request *r)
{
	return api_session_find(r, EXEC_KIND(EXEC_TERMINAL), "terminal not found");
}

void api_pty_attach(struct request *r)
{
	api_session_attach(r, find(r), BRIDGE_RAW, NULL);
}

void api_pty_resize(struct request *r)
{
	static const struct json_field fields[] = {
	    JSON_FIELD(struct pty_body, rows, "rows", JSON_F_INT, .flags = JSON_REQUIRED, .min = 1,
		       .max = MAX_SIZE),
	    JSON_FIELD(struct pty_body, cols, "cols", JSON_F_INT, .flags = JSON_REQUIRED, .min = 1,
		       .max = MAX_SIZE),
	};
	struct pty_body body = {0};
	struct strbuf b = {0};
	struct exec_session *x = find(r);
	struct err e;
	int rc;

	if (!x)
		return;
	if (request_bind(r, fields, 2, &body)) {
		rc = exec_resize(x, (unsigned int)body.rows, (unsigned int)body.cols, &e);
		strbuf_adds(&b, "{}");
		if (rc)
			reply_errno(r, rc, &e);
		else
			reply_json(r, 200, &b);
		if (rc)
			strbuf_fini(&b);
	}
	exec_put(x);
}

void api_pty_delete(struct request *r)
{
	struct sandbox *s = api_sandbox(r);
	struct exec_session *x = s ? find(r) : NULL;
	struct err e;
	int rc;

	if (!x) {
		sandbox_put(s);
		return;
	}
	rc = exec_hang_up(s, x, &e);
	if (rc)
		reply_errno(r, rc, &e);
	else
		reply_empty(r, 204);
	exec_put(x);
	sandbox_put(s);
}

/* --- all of them (an addition to the API)
 * --------------------------------------------------------- */

void api_pty_list(struct request *r)
{
	api_session_list(r, EXEC_KIND(EXEC_TERMINAL), api_session_write);
}
