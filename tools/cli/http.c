/* SPDX-License-Identifier: Apache-2.0 */
/* A small HTTP client over libcurl; see http.h. */
#include "tools/cli/http.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

/* What the callbacks of one call share. */
struct exchange {
	struct http *h;
	const struct http_request *r;
	struct http_answer *a;
	bool own_failure; /* source or sink, not the connection */
	bool too_long;
};

int http_init(struct http *h, const struct endpoint *ep, struct err *e)
{
	*h = (struct http){.ep = *ep};
	if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		return err_set(e, -ENOMEM, "libcurl does not start");
	h->curl = curl_easy_init();
	return h->curl ? 0 : err_set(e, -ENOMEM, "out of memory");
}

void http_fini(struct http *h)
{
	if (h->curl)
		curl_easy_cleanup(h->curl);
	h->curl = NULL;
}

void http_answer_fini(struct http_answer *a)
{
	json_decref(a->json);
	free(a->text);
	*a = (struct http_answer){0};
}

static int keep(struct exchange *x, const char *data, size_t len)
{
	struct http_answer *a = x->a;
	char *grown;

	if (a->length + len > HTTP_MAX_ANSWER) {
		x->too_long = true;
		return -EFBIG;
	}
	grown = realloc(a->text, a->length + len + 1);
	if (!grown)
		return -ENOMEM;
	a->text = grown;
	memcpy(a->text + a->length, data, len);
	a->length += len;
	a->text[a->length] = '\0';
	return 0;
}

static size_t on_body(char *data, size_t size, size_t n, void *ctx)
{
	struct exchange *x = ctx;
	size_t len = size * n;
	long status = 0;

	curl_easy_getinfo(x->h->curl, CURLINFO_RESPONSE_CODE, &status);
	if (!x->r->sink || status / 100 != 2)
		return keep(x, data, len) < 0 ? CURL_WRITEFUNC_ERROR : len;
	if (x->r->sink(x->r->sink_ctx, data, len) < 0) {
		x->own_failure = true;
		return CURL_WRITEFUNC_ERROR;
	}
	return len;
}

static size_t on_upload(char *buf, size_t size, size_t n, void *ctx)
{
	struct exchange *x = ctx;
	ssize_t got = x->r->source(x->r->source_ctx, buf, size * n);

	if (got >= 0)
		return (size_t)got;
	x->own_failure = true;
	return CURL_READFUNC_ABORT;
}

static int on_progress(void *ctx, curl_off_t dt, curl_off_t dn, curl_off_t ut, curl_off_t un)
{
	const struct exchange *x = ctx;

	(void)dt, (void)dn, (void)ut, (void)un;
	return x->h->stop && *x->h->stop;
}

/* Return: 0 or -errno; *@list is freed by the caller in every case. */
static int add_header(struct curl_slist **list, const char *name, const char *value)
{
	char text[400];
	struct curl_slist *grown;

	/* libcurl takes "Name:" as: do not send this header. */
	snprintf(text, sizeof(text), "%s:%s%s", name, *value ? " " : "", value);
	grown = curl_slist_append(*list, text);
	if (!grown)
		return -ENOMEM;
	*list = grown;
	return 0;
}

static void set_body(struct exchange *x, const char *json)
{
	CURL *c = x->h->curl;

	if (x->r->source) {
		curl_easy_setopt(c, CURLOPT_UPLOAD, 1L);
		curl_easy_setopt(c, CURLOPT_READFUNCTION, on_upload);
		curl_easy_setopt(c, CURLOPT_READDATA, x);
		curl_easy_setopt(c, CURLOPT_UPLOAD_BUFFERSIZE, 512L * 1024);
		if (x->r->source_len >= 0)
			curl_easy_setopt(c, CURLOPT_INFILESIZE_LARGE, (curl_off_t)x->r->source_len);
	} else if (json || !strcmp(x->r->method, "POST")) {
		curl_easy_setopt(c, CURLOPT_POSTFIELDS, json ? json : "");
	}
	curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, x->r->method);
}

static int set_request(struct exchange *x, const char *url, const char *json,
		       struct curl_slist **headers)
{
	struct http *h = x->h;
	int rc;

	curl_easy_reset(h->curl);
	if (h->ep.unix_path[0])
		curl_easy_setopt(h->curl, CURLOPT_UNIX_SOCKET_PATH, h->ep.unix_path);
	curl_easy_setopt(h->curl, CURLOPT_URL, url);
	curl_easy_setopt(h->curl, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(h->curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(h->curl, CURLOPT_CONNECTTIMEOUT, 10L);
	curl_easy_setopt(h->curl, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(h->curl, CURLOPT_WRITEDATA, x);
	curl_easy_setopt(h->curl, CURLOPT_BUFFERSIZE, 512L * 1024);
	curl_easy_setopt(h->curl, CURLOPT_XFERINFOFUNCTION, on_progress);
	curl_easy_setopt(h->curl, CURLOPT_XFERINFODATA, x);
	curl_easy_setopt(h->curl, CURLOPT_NOPROGRESS, 0L);
	rc = add_header(headers, "Accept", x->r->accept ? x->r->accept : "*/*");
	/* The wait for "100 Continue" costs more than a body sent in vain. */
	if (rc == 0)
		rc = add_header(headers, "Expect", "");
	if (h->ep.api_key[0] && rc == 0)
		rc = add_header(headers, "X-API-Key", h->ep.api_key);
	if (rc == 0)
		rc = add_header(headers, "Content-Type",
				x->r->source ? "application/octet-stream" : "application/json");
	set_body(x, json);
	curl_easy_setopt(h->curl, CURLOPT_HTTPHEADER, *headers);
	return rc;
}

int http_explain_curl(const char *name, CURLcode code, struct err *e)
{
	switch (code) {
	case CURLE_COULDNT_RESOLVE_HOST:
	case CURLE_COULDNT_CONNECT:
		return err_set(e, -ECONNREFUSED,
			       "no server at %s. Is dormoused running? Start it with: dormouse "
			       "serve; or set DORMOUSE_URL",
			       name);
	default:
		return err_set(e, -EIO, "the connection to %s broke: %s", name,
			       curl_easy_strerror(code));
	}
}

static int explain_transport(const struct exchange *x, CURLcode code, struct err *e)
{
	const char *name = x->h->ep.name;

	if (code == CURLE_ABORTED_BY_CALLBACK && x->h->stop && *x->h->stop)
		return err_set(e, -EINTR, "interrupted");
	if (x->own_failure)
		return err_set(e, -ECANCELED, "the copy was given up");
	if (x->too_long)
		return err_set(e, -EIO, "the answer of %s is longer than %u MiB", name,
			       HTTP_MAX_ANSWER >> 20);
	return http_explain_curl(name, code, e);
}

int http_explain_status(long status, const json_t *json, struct err *e)
{
	const char *text = json_string_value(json_object_get(json, "error"));

	if (!text)
		text = json ? "no reason given" : "the answer is not of a Dormouse server";
	if (status == 401 || status == 403)
		return err_set(e, -EREMOTEIO,
			       "%s (%ld). Set DORMOUSE_API_KEY to a key of the server", text,
			       status);
	return err_set(e, -EREMOTEIO, "%s (%ld)", text, status);
}

int http_call(struct http *h, const struct http_request *r, struct http_answer *a, struct err *e)
{
	struct exchange x = {.h = h, .r = r, .a = a};
	struct curl_slist *headers = NULL;
	char *json = NULL, *url = NULL;
	CURLcode code;
	int rc = -ENOMEM;

	*a = (struct http_answer){.text = calloc(1, 1)};
	if (!a->text || asprintf(&url, "%s%s", h->ep.base, r->path) < 0)
		return err_set(e, rc, "out of memory");
	if (r->json) {
		json = json_dumps(r->json, JSON_COMPACT);
		if (!json) {
			free(url);
			return err_set(e, -EINVAL, "an argument is not valid UTF-8");
		}
	}
	rc = set_request(&x, url, json, &headers);
	if (rc < 0) {
		err_set(e, rc, "out of memory");
		goto out;
	}
	code = curl_easy_perform(h->curl);
	curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &a->status);
	/* A server that refuses a body half-way answers first and closes then. */
	if (code != CURLE_OK && (a->status < 400 || x.own_failure)) {
		a->status = 0;
		rc = explain_transport(&x, code, e);
		goto out;
	}
	a->json = json_loadb(a->text, a->length, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
	rc = a->status / 100 == 2 ? 0 : http_explain_status(a->status, a->json, e);
out:
	curl_slist_free_all(headers);
	free(json);
	free(url);
	return rc;
}

char *http_escape(const char *s)
{
	static const char hex[] = "0123456789ABCDEF";
	char *out = malloc(3 * strlen(s) + 1), *p = out;

	if (!out)
		return NULL;
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
		    strchr("-._~", c)) {
			*p++ = (char)c;
		} else {
			*p++ = '%';
			*p++ = hex[c >> 4];
			*p++ = hex[c & 15];
		}
	}
	*p = '\0';
	return out;
}
