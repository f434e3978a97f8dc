/* SPDX-License-Identifier: Apache-2.0 */
/* Replies and request bodies; see request.h. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "server/http/request.h"

#define STREAM_BLOCK_BYTES (256u << 10)
#define JSON_MAX_DEPTH	   64

void request_set_reply(struct request *r, unsigned int status, struct MHD_Response *response)
{
	if (r->response)
		MHD_destroy_response(r->response);
	r->response = response;
	r->status = status;
}

/* For a handler whose reply is sent by another thread. @b: taken over; NULL: no body. */
static void keep_reply(struct request *r, unsigned int status, struct strbuf *b)
{
	strbuf_fini(&r->late);
	r->status = status;
	r->retryable = false;
	if (b) {
		r->late = *b;
		memset(b, 0, sizeof(*b));
	}
}

void reply_header(struct request *r, const char *name, const char *value)
{
	if (r->response)
		MHD_add_response_header(r->response, name, value);
}

void reply_empty(struct request *r, unsigned int status)
{
	if (r->keeps_reply) {
		keep_reply(r, status, NULL);
		return;
	}
	request_set_reply(r, status,
			  MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT));
}

void reply_bytes(struct request *r, unsigned int status, const char *type, const void *data,
		 size_t len)
{
	request_set_reply(
	    r, status, MHD_create_response_from_buffer(len, (void *)data, MHD_RESPMEM_MUST_COPY));
	reply_header(r, "Content-Type", type);
}

void reply_json(struct request *r, unsigned int status, struct strbuf *b)
{
	struct MHD_Response *response;

	if (b->failed) {
		strbuf_fini(b);
		reply_error(r, 500, "out of memory");
		return;
	}
	if (r->keeps_reply) {
		keep_reply(r, status, b);
		return;
	}
	response = MHD_create_response_from_buffer(b->len, b->data, MHD_RESPMEM_MUST_FREE);
	if (!response)
		free(b->data);
	memset(b, 0, sizeof(*b));
	request_set_reply(r, status, response);
	reply_header(r, "Content-Type", "application/json");
}

static const char *code_of_status(unsigned int status)
{
	static const struct {
		unsigned int status;
		const char *code;
	} codes[] = {
	    {400, "bad_request"},
	    {401, "unauthorized"},
	    {403, "forbidden"},
	    {404, "not_found"},
	    {405, "bad_method"},
	    {409, "conflict"},
	    {410, "stopped"},
	    {413, "too_large"},
	    {421, "misdirected"},
	    {426, "upgrade_required"},
	    {501, "not_implemented"},
	    {502, "sandbox_failed"},
	    {503, "worker_unavailable"},
	};

	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
		if (codes[i].status == status)
			return codes[i].code;
	return "internal";
}

void reply_error_code(struct request *r, unsigned int status, const char *code, bool retryable,
		      const char *text)
{
	struct strbuf b = {0};

	strbuf_adds(&b, "{");
	strbuf_json_str(&b, "error", text);
	strbuf_json_str(&b, "code", code ? code : code_of_status(status));
	if (retryable)
		strbuf_json_bool(&b, "retryable", true);
	strbuf_adds(&b, "}");
	if (b.failed) {
		/* No memory even for this: a reply that needs none. */
		static const char none[] = "{\"error\":\"out of memory\",\"code\":\"internal\"}";

		strbuf_fini(&b);
		if (r->keeps_reply) {
			keep_reply(r, 500, NULL);
			return;
		}
		request_set_reply(r, 500,
				  MHD_create_response_from_buffer(sizeof(none) - 1, (void *)none,
								  MHD_RESPMEM_PERSISTENT));
		return;
	}
	reply_json(r, status, &b);
	r->retryable = retryable;
	if (retryable)
		reply_header(r, "Retry-After", "2");
	if (status >= 500 && status != 501)
		log_guest("%s %s %s: %u %s", r->method, r->route ? r->route->pattern : "",
			  r->param[0] ? r->param[0] : "-", status, text);
}

void reply_error(struct request *r, unsigned int status, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	reply_error_code(r, status, NULL, false, text);
}

static const struct {
	int code;
	unsigned int status;
	const char *name;
	bool retryable;
} by_errno[] = {
    {-EINVAL, 400, "bad_request", false},	{-E2BIG, 400, "bad_request", false},
    {-EMSGSIZE, 400, "bad_request", false},	{-ENOENT, 404, "not_found", false},
    {-ESRCH, 404, "not_found", false},		{-EEXIST, 409, "conflict", false},
    {-ESHUTDOWN, 410, "stopped", false},	{-ENOSYS, 501, "not_implemented", false},
    {-EHOSTDOWN, 502, "sandbox_failed", false}, {-ENOSPC, 503, "worker_unavailable", true},
    {-EDQUOT, 503, "worker_unavailable", true}, {-ENOMEM, 503, "worker_unavailable", true},
    {-EAGAIN, 503, "worker_unavailable", true}, {-EMFILE, 503, "worker_unavailable", true},
    {-ENFILE, 503, "worker_unavailable", true},
};

void reply_errno(struct request *r, int rc, const struct err *e)
{
	for (size_t i = 0; i < sizeof(by_errno) / sizeof(by_errno[0]); i++)
		if (by_errno[i].code == rc) {
			reply_error_code(r, by_errno[i].status, by_errno[i].name,
					 by_errno[i].retryable, e->msg);
			return;
		}
	reply_error_code(r, 500, NULL, false, e->msg);
}

void reply_stream(struct request *r, unsigned int status, const char *type, uint64_t size,
		  MHD_ContentReaderCallback read, void *state, void (*release)(void *state))
{
	struct MHD_Response *response =
	    MHD_create_response_from_callback(size, STREAM_BLOCK_BYTES, read, state, release);

	if (!response) {
		if (release)
			release(state);
		reply_error(r, 500, "out of memory");
		return;
	}
	request_set_reply(r, status, response);
	reply_header(r, "Content-Type", type);
}

const char *request_header(const struct request *r, const char *name)
{
	return MHD_lookup_connection_value(r->conn, MHD_HEADER_KIND, name);
}

/* jansson recurses per level; a connection's stack is small. */
static bool nests_too_deep(const char *text, size_t len)
{
	bool in_string = false;
	int depth = 0;

	for (size_t i = 0; i < len; i++) {
		if (in_string) {
			if (text[i] == '\\')
				i++;
			else if (text[i] == '"')
				in_string = false;
		} else if (text[i] == '"') {
			in_string = true;
		} else if (text[i] == '{' || text[i] == '[') {
			if (++depth > JSON_MAX_DEPTH)
				return true;
		} else if (text[i] == '}' || text[i] == ']') {
			depth--;
		}
	}
	return false;
}

json_t *json_parse_object(const char *text, size_t len, struct err *e)
{
	json_error_t where;
	json_t *json;

	if (nests_too_deep(text, len)) {
		err_set(e, -EINVAL, "invalid JSON: nested deeper than %d levels", JSON_MAX_DEPTH);
		return NULL;
	}
	json = json_loadb(text, len, JSON_ALLOW_NUL, &where);
	if (!json) {
		err_set(e, -EINVAL, "invalid JSON: %s", where.text);
		return NULL;
	}
	if (!json_is_object(json)) {
		json_decref(json);
		err_set(e, -EINVAL, "invalid JSON: an object is expected");
		return NULL;
	}
	return json;
}

bool request_json(struct request *r)
{
	struct err e;

	if (r->json)
		return true;
	r->json = r->body.len ? json_parse_object(r->body.data, r->body.len, &e) : json_object();
	if (!r->json && !r->body.len)
		err_set(&e, -ENOMEM, "out of memory");
	if (!r->json)
		reply_error(r, 400, "%s", e.msg);
	return r->json != NULL;
}

bool request_bind(struct request *r, const struct json_field *fields, size_t n, void *out)
{
	struct err e;

	if (!request_json(r))
		return false;
	if (json_bind(r->json, fields, n, JSON_IGNORE_UNKNOWN, out, &e)) {
		reply_error(r, 400, "%s", e.msg);
		return false;
	}
	return true;
}
