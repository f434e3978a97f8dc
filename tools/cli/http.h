/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small HTTP client over libcurl: one connection kept alive, JSON in memory,
 * files streamed both ways. One thread.
 */
#ifndef TOOLS_CLI_HTTP_H
#define TOOLS_CLI_HTTP_H

#include <curl/curl.h>
#include <jansson.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"
#include "tools/cli/endpoint.h"

/* JSON answers above this are refused: the server is not ours. */
#define HTTP_MAX_ANSWER (64u * 1024 * 1024)

struct http {
	CURL *curl; /* owned */
	struct endpoint ep;
	const volatile sig_atomic_t *stop; /* borrowed; NULL, or not 0 to give up (-EINTR) */
};

struct http_request {
	const char *method;
	const char *path;   /* after /api; already percent-encoded */
	const json_t *json; /* borrowed body; or NULL */
	const char *accept; /* a media type; NULL: any */
	/*
	 * A streamed body, instead of json: fills @buf with up to @len bytes.
	 * Return: the number, 0 at the end, -errno.
	 */
	ssize_t (*source)(void *ctx, void *buf, size_t len);
	void *source_ctx;
	int64_t source_len; /* -1: not known, sent in chunks */
	/* Takes the body of a 2xx answer, instead of http_answer. Return: 0 or -errno. */
	int (*sink)(void *ctx, const void *data, size_t len);
	void *sink_ctx;
};

struct http_answer {
	long status;   /* 0 without an answer */
	json_t *json;  /* owned; NULL if the body is not JSON, or empty */
	char *text;    /* owned; NUL-terminated, "" without a body */
	size_t length; /* of text */
};

int http_init(struct http *h, const struct endpoint *ep, struct err *e);
void http_fini(struct http *h);

/**
 * http_call() - Send a request, wait for its answer
 * @a:		Always set; release with http_answer_fini() in every case
 *
 * Return: 0 for a 2xx answer.
 *	   -EREMOTEIO for another one: a->status and the server's text in @e.
 *	   -ECONNREFUSED if there is no server; @e says how to start it.
 *	   -EINTR if stopped, -ECANCELED if source or sink failed (they keep the reason),
 *	   -EIO for a connection that broke.
 */
int http_call(struct http *h, const struct http_request *r, struct http_answer *a, struct err *e);
void http_answer_fini(struct http_answer *a);

/* Why there was no answer of the server called @name. Return: -ECONNREFUSED or -EIO. */
int http_explain_curl(const char *name, CURLcode code, struct err *e);
/* What an answer that is not 2xx says; @json may be NULL. Return: -EREMOTEIO. */
int http_explain_status(long status, const json_t *json, struct err *e);

/* Percent-encode for a path segment or a query value. Return: malloc'ed, or NULL. */
char *http_escape(const char *s);

#endif
