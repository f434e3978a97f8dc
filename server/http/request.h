/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One HTTP request and its reply, and the table that leads from one to the other.
 *
 * Theory of operation
 * -------------------
 * Each connection has a thread of its own (libmicrohttpd), so handlers may block.
 * A request goes through these steps, and an error at one of them ends it:
 * target parsed, route found, credentials checked, body read, handler run. Bodies are
 * buffered up to a limit, except on routes with upload ops: those get
 * the bytes as they come, after upload->begin() had a chance to refuse.
 * After an error the rest of the body is read and dropped, so that the connection
 * stays usable, unless it is announced to be so long that closing is kinder.
 *
 * Every handler ends with exactly one reply_*() call. Replies are sent after it has returned.
 */
#ifndef SERVER_HTTP_REQUEST_H
#define SERVER_HTTP_REQUEST_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/err.h"
#include "lib/json.h"
#include "server/http/strbuf.h"
#include "server/http/url.h"

#define ROUTE_MAX_PARAMS 3

struct request;
struct httpd;
struct ws_set;
struct ws_upgrade;
struct slow;

/* For routes whose body is a stream. data, end and abort are only called after a begin() that
 * made no reply. abort: the client went away, or end() will not come for another reason; exactly
 * one of end and abort is called. Where the route has a handler, too, that is called in place of
 * end, in the way the route's flags say. After a reply by data(), neither is: it must have cleaned
 * up. */
struct upload_ops {
	void (*begin)(struct request *r);
	void (*data)(struct request *r, const void *data, size_t len);
	void (*end)(struct request *r);
	void (*abort)(struct request *r);
};

#define ROUTE_OPEN     1u  /* needs no credentials */
#define ROUTE_NO_TOKEN 2u  /* needs an API key: the token of one sandbox is not enough */
#define ROUTE_SLOW     4u  /* may take longer than clients wait for a sign of life: see slow.h */
#define ROUTE_CREATES  8u  /* a slow one that answers 201, not 200 */
#define ROUTE_EVENTS   16u /* a slow one that sends events to clients that accept them */
#define ROUTE_LARGE    32u /* its body may have BODY_LARGE_MAX bytes */

#define BODY_LARGE_MAX (80u << 20)

struct route {
	const char *method;
	const char *pattern; /* "/sandboxes/:id/files": segments with ':' are parameters */
	void (*handler)(struct request *r);
	unsigned int flags;
	const struct upload_ops *upload; /* then handler may be NULL */
	const char *feature;		 /* for routes that answer 501: what is missing */
};

struct request {
	void *app; /* of httpd_config; borrowed */
	struct MHD_Connection *conn;
	const struct route *route;
	const char *method, *version; /* borrowed from the connection */
	struct ws_set *sockets;	      /* of the server; borrowed */
	struct ws_upgrade *upgrade;   /* owned; set by reply_websocket() */
	/* Of a reply that goes on after the handler: released first when the request is. */
	void *tail;
	void (*tail_release)(void *tail);
	struct url url;
	const char *param[ROUTE_MAX_PARAMS]; /* in the order of the pattern; borrowed from url */
	struct strbuf body;
	json_t *json;	  /* owned; set by request_json() */
	void *upload;	  /* state of the route's upload ops, theirs to free */
	bool uploading;	  /* begin() was called and neither end() nor abort() */
	bool over_socket; /* came over a Unix socket: the file's permissions were the credentials */
	bool started, client_gone;
	const struct httpd *httpd; /* that it came to */
	uint64_t begun_ns;	   /* monotonic; when its headers had come */
	uint64_t dropped_bytes;	   /* of the body, after an error */
	size_t large_bytes;	   /* of the body, that count for the server's limit */
	struct slow *events;	   /* of a handler whose client accepts events; or NULL */
	/* The reply. */
	bool keeps_reply; /* as text in `late`, not as a response; see slow.h */
	bool retryable;	  /* then */
	struct strbuf late;
	unsigned int status;
	struct MHD_Response *response; /* owned until queued */
};

/* Return: the header's value or NULL. */
const char *request_header(const struct request *r, const char *name);

/**
 * request_json() - Parse the body as a JSON object into r->json
 *
 * An empty body counts as {}. Deep nesting is refused before the parser recurses.
 *
 * Return: true; false after having replied 400
 */
bool request_json(struct request *r);

/**
 * request_bind() - request_json() and json_bind() with unknown fields ignored
 *
 * Return: true; false after having replied 400
 */
bool request_bind(struct request *r, const struct json_field *fields, size_t n, void *out);

/* Parse a JSON object from untrusted bytes; NULL and @e on failure. The caller releases it. */
json_t *json_parse_object(const char *text, size_t len, struct err *e);

void reply_empty(struct request *r, unsigned int status);
/* Takes the buffer over; an out-of-memory buffer becomes a 500. */
void reply_json(struct request *r, unsigned int status, struct strbuf *b);
void reply_bytes(struct request *r, unsigned int status, const char *type, const void *data,
		 size_t len);
/* {"error": text} with a "code" derived from the status. */
void reply_error(struct request *r, unsigned int status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* With a code of its own, NULL: derived from the status; retryable adds Retry-After: 2. */
void reply_error_code(struct request *r, unsigned int status, const char *code, bool retryable,
		      const char *text);
/* The one table from errno to status and code; e->msg is the text. */
void reply_errno(struct request *r, int rc, const struct err *e);

/**
 * reply_stream() - A reply whose body is produced while it is sent
 * @size:	Length of the body, or MHD_SIZE_UNKNOWN: chunked
 * @read:	As MHD_ContentReaderCallback; may block; runs on the connection's thread
 * @release:	Called once with @state when the reply is done, also if it could not be made; maybe
 *		after the request has gone; or NULL
 */
void reply_stream(struct request *r, unsigned int status, const char *type, uint64_t size,
		  MHD_ContentReaderCallback read, void *state, void (*release)(void *state));

/* A reply that is made already; takes @response over. */
void request_set_reply(struct request *r, unsigned int status, struct MHD_Response *response);

/* After one of the replies above. */
void reply_header(struct request *r, const char *name, const char *value);

/**
 * route_find() - Find the route of a request
 * @params:	Set to the segments that stand for ':' segments
 * @allow:	Set to a list of the methods that the path has, "" if it has none
 *
 * HEAD finds what GET does. Return: NULL if there is none.
 */
const struct route *route_find(const struct route *routes, size_t n, const char *method,
			       const struct url *u, const char *params[ROUTE_MAX_PARAMS],
			       char allow[64]);

#endif
