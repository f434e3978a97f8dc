/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signed URLs: one file of one sandbox, read or written without other credentials until a certain
 * time (api.md 5.4).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/clock.h"
#include "server/api/api.h"

#define EXPIRES_DEFAULT_S 3600
#define EXPIRES_MAX_S	  86400

/* The path comes last: it may contain newlines. */
static void list_texts(const char *texts[5], const char *id, const char *operation,
		       const char *expires, const char *path)
{
	texts[0] = id;
	texts[1] = operation;
	texts[2] = expires;
	texts[3] = path;
	texts[4] = NULL;
}

static const struct signer *signer_of(const struct request *r)
{
	return &((const struct api *)r->app)->signer;
}

/* --- making them ------------------------------------------------------------------------------ */

static void add_escaped(struct strbuf *b, const char *text)
{
	for (; *text; text++)
		if (strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~",
			   *text))
			strbuf_add(b, text, 1);
		else
			strbuf_addf(b, "%%%02X", (unsigned char)*text);
}

struct url_body {
	const char *path;
	int64_t expires_in;
};

static void reply_url(struct request *r, const char *operation, const struct url_body *body)
{
	int64_t expires_s = clock_wall_ms() / 1000 + body->expires_in;
	char expires[24], signature[SIGNATURE_SIZE], base[300];
	struct strbuf url = {0}, b = {0};
	const char *texts[5];

	if (!api_base_url(r, base, sizeof(base))) {
		reply_error(r, 400,
			    "the server does not know its address: over a Unix socket it needs "
			    "--public-url");
		return;
	}
	snprintf(expires, sizeof(expires), "%lld", (long long)expires_s);
	list_texts(texts, r->param[0], operation, expires, body->path);
	b.failed = signer_sign(signer_of(r), "file URL", texts, signature) != 0;
	strbuf_addf(&url, "%s/api/sandboxes/%s/files/%s?path=", base, r->param[0], operation);
	add_escaped(&url, body->path);
	strbuf_addf(&url, "&expires=%s&signature=%s", expires, signature);
	strbuf_adds(&b, "{");
	strbuf_json_strn(&b, "url", url.data ? url.data : "", url.len);
	strbuf_json_time(&b, "expiresAt", expires_s * 1000);
	strbuf_adds(&b, "}");
	b.failed |= url.failed;
	strbuf_fini(&url);
	reply_json(r, 200, &b);
}

static void make_url(struct request *r, const char *operation)
{
	static const struct json_field fields[] = {
	    JSON_FIELD(struct url_body, path, "path", JSON_F_STRING,
		       .flags = JSON_REQUIRED | JSON_NONEMPTY),
	    JSON_FIELD(struct url_body, expires_in, "expiresIn", JSON_F_INT),
	};
	struct url_body body = {.expires_in = EXPIRES_DEFAULT_S};
	struct sandbox *s = api_sandbox(r);

	if (!s)
		return;
	sandbox_put(s);
	if (!request_bind(r, fields, 2, &body))
		return;
	if (body.expires_in <= 0)
		body.expires_in = EXPIRES_DEFAULT_S;
	if (body.expires_in > EXPIRES_MAX_S)
		body.expires_in = EXPIRES_MAX_S;
	reply_url(r, operation, &body);
}

void api_file_download_url(struct request *r)
{
	make_url(r, "download");
}

void api_file_upload_url(struct request *r)
{
	make_url(r, "upload");
}

/* --- using them ------------------------------------------------------------------------------- */

/* Before anything is said about the sandbox. Return: true; false after having replied 400, 403. */
static bool check_url(struct request *r, const char *operation)
{
	const char *path = url_query(&r->url, "path"), *expires = url_query(&r->url, "expires");
	const char *signature = url_query(&r->url, "signature");
	const char *texts[5];
	char *end;
	long long expires_s;

	if (!path || !*path || !expires || !*expires || !signature || !*signature) {
		reply_error(r, 400, "path, expires and signature are required");
		return false;
	}
	errno = 0;
	expires_s = strtoll(expires, &end, 10);
	if (errno || *end || *expires < '0' || *expires > '9') {
		reply_error(r, 400, "expires: must be a number of seconds");
		return false;
	}
	if (expires_s <= clock_wall_ms() / 1000) {
		reply_error(r, 403, "signed URL expired");
		return false;
	}
	list_texts(texts, r->param[0], operation, expires, path);
	if (signer_check(signer_of(r), "file URL", texts, signature))
		return true;
	reply_error(r, 403, "invalid signature");
	return false;
}

void api_file_download(struct request *r)
{
	if (check_url(r, "download"))
		api_file_read(r);
}

static void upload_begin(struct request *r)
{
	if (check_url(r, "upload"))
		api_file_write.begin(r);
}

static void upload_data(struct request *r, const void *data, size_t len)
{
	api_file_write.data(r, data, len);
}

static void upload_end(struct request *r)
{
	api_file_write.end(r);
}

static void upload_abort(struct request *r)
{
	api_file_write.abort(r);
}

const struct upload_ops api_file_upload = {
    .begin = upload_begin,
    .data = upload_data,
    .end = upload_end,
    .abort = upload_abort,
};
