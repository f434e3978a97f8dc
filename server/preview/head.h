/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP/1 messages on their way through a preview: heads are read, checked and written anew,
 * bodies are only followed, to know where they end.
 *
 * Theory of operation
 * -------------------
 * A connection carries one request and its answer, and so does the tunnel behind it: what a
 * client says can reach no guest but its own, whatever the two sides take for the end of a message.
 * Still nothing ambiguous passes: lengths that contradict each other, repeated Host
 * headers, folded lines and strange bytes are refused, and each head that goes out was
 * put together here, line by line. Parsing is http-parser's.
 */
#ifndef SERVER_PREVIEW_HEAD_H
#define SERVER_PREVIEW_HEAD_H

#include <http_parser.h>
#include <stdbool.h>
#include <stddef.h>

#include "lib/err.h"
#include "server/http/strbuf.h"

#define HEAD_MAX	(64u << 10) /* bytes */
#define HEAD_FIELDS_MAX 128

struct head_text {
	const char *at; /* borrowed from the head's bytes */
	size_t len;
};

struct head_field {
	struct head_text name, value;
};

struct head {
	http_parser parser; /* goes on into the body */
	struct head_text target, reason;
	struct head_field fields[HEAD_FIELDS_MAX];
	size_t n;
	bool done;     /* the head is complete */
	bool complete; /* so is the whole message */
	bool no_body;  /* set before parsing: the answer to HEAD */
	bool value_open, bad;
};

/* Return: where the body begins, behind the empty line; 0 if that has not come. */
size_t head_end(const char *data, size_t len);

/**
 * head_parse_request() - Read and check the head of a request
 * @data:	@len = head_end() bytes; borrowed by @h
 *
 * Return: 0; -EPROTO for what is no such head, or says two things at once; -EMSGSIZE for too
 *	   many fields; -EOPNOTSUPP for what is legal and does not go through a preview
 */
int head_parse_request(struct head *h, const char *data, size_t len, struct err *e);
/* The same for an answer. h->no_body is the caller's. */
int head_parse_response(struct head *h, const char *data, size_t len, struct err *e);

/* The only field of that name, or the first of several. NULL: none. */
const struct head_text *head_find(const struct head *h, const char *name);

/* Does the client ask for another protocol, or the server agree to one? */
bool head_upgrades(const struct head *h);
unsigned int head_status(const struct head *h);
bool head_is_interim(const struct head *h); /* 1xx but 101: another head follows */

/**
 * head_body() - How many of these bytes belong to the body
 *
 * After the end of the message (h->complete) none do. Return: bytes, or -EPROTO
 */
ssize_t head_body(struct head *h, const char *data, size_t len);
/* The sender has ended: 0 if the message is complete with that, -EPROTO if it is cut short. */
int head_body_end(struct head *h);

struct head_rewrite {
	const char *client;	  /* address of the client, or NULL */
	const char *host;	  /* instead of the client's Host; NULL: as it is */
	bool strip_authorization; /* it was for the preview, not for the guest */
};

/* A head for the guest: one request only, X-Forwarded-*, without the preview's own token. */
void head_write_request(const struct head *h, const struct head_rewrite *w, struct strbuf *out);
/* A head for the client: the connection ends after it, if it is not upgraded. */
void head_write_response(const struct head *h, struct strbuf *out);

/**
 * head_token() - The token that a request brings
 * @from_authorization:	Set if it is that of Authorization
 *
 * Return: borrowed text; at NULL if there is none
 */
struct head_text head_token(const struct head *h, bool *from_authorization);

#endif
