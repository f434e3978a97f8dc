/* SPDX-License-Identifier: Apache-2.0 */
/* /sandboxes/:id/preview (api.md 11). server/preview/ serves the URLs themselves. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/api.h"

#define CUSTOM_MAX 253 /* of a host name */

void api_set_domain(struct api *a, const char *configured, unsigned int tcp_port)
{
	if (configured)
		snprintf(a->domain, sizeof(a->domain), "%s", configured);
	else if (tcp_port && tcp_port != 80)
		snprintf(a->domain, sizeof(a->domain), "localhost:%u", tcp_port);
	else
		snprintf(a->domain, sizeof(a->domain), "localhost");
}

/* Will it pass as the value of a header? */
static bool is_visible_ascii(const json_t *text)
{
	const char *t = json_string_value(text);

	for (size_t i = 0; i < json_string_length(text); i++)
		if (t[i] <= ' ' || t[i] > '~')
			return false;
	return true;
}

bool api_read_preview_auth(struct request *r, struct preview_auth *auth)
{
	const json_t *given = json_object_get(r->json, "previewAuth"), *scheme, *token;
	size_t len;
	struct err e;

	auth->token[0] = auth->hash[0] = '\0';
	if (!given || json_is_null(given))
		return true;
	scheme = json_object_get(given, "scheme");
	token = json_object_get(given, "token");
	if (!json_is_object(given)) {
		reply_error(r, 400, "previewAuth: must be an object");
		return false;
	}
	if (scheme && strcmp(json_is_string(scheme) ? json_string_value(scheme) : "", "bearer")) {
		reply_error(r, 400, "previewAuth: the only scheme is \"bearer\"");
		return false;
	}
	len = json_string_length(token);
	if (!token || (json_is_string(token) && !strcmp(json_string_value(token), "auto"))) {
		if (preview_token_make(auth->token, &e)) {
			reply_errno(r, -EIO, &e);
			return false;
		}
	} else if (len < PREVIEW_TOKEN_MIN || len > PREVIEW_TOKEN_MAX || !is_visible_ascii(token)) {
		reply_error(r, 400,
			    "previewAuth: token must be \"auto\" or %d to %d characters of "
			    "ASCII without blanks",
			    PREVIEW_TOKEN_MIN, PREVIEW_TOKEN_MAX);
		return false;
	} else {
		snprintf(auth->token, sizeof(auth->token), "%s", json_string_value(token));
	}
	preview_hash(auth->token, strlen(auth->token), auth->hash);
	return true;
}

static void write_preview(struct strbuf *b, const struct api *a, const struct preview_row *row)
{
	char host[API_DOMAIN_SIZE + SANDBOX_ID_SIZE + 32];

	snprintf(host, sizeof(host), "%s-p%lld.%s", row->sandbox_id, (long long)row->port,
		 a->domain);
	strbuf_json_next(b);
	strbuf_adds(b, "{");
	strbuf_json_str(b, "id", row->id);
	strbuf_json_str(b, "sandboxId", row->sandbox_id);
	strbuf_json_str(b, "orgId", API_ORG_ID);
	strbuf_json_str(b, "hostname", host);
	if (row->custom)
		strbuf_json_str(b, "customHostname", row->custom);
	strbuf_json_int(b, "port", row->port);
	strbuf_json_str(b, "sslStatus", "active");
	strbuf_json_value(b, "authConfig", row->auth_config);
	strbuf_json_time(b, "createdAt", row->created_ms);
	strbuf_adds(b, "}");
}

struct preview_body {
	int64_t port;
	const char *domain;
	json_t *auth_config;
};

static const struct json_field preview_fields[] = {
    JSON_FIELD(struct preview_body, port, "port", JSON_F_INT, .flags = JSON_REQUIRED, .min = 1,
	       .max = 65535),
    JSON_FIELD(struct preview_body, domain, "domain", JSON_F_STRING),
    JSON_FIELD(struct preview_body, auth_config, "authConfig", JSON_F_OBJECT),
};

/* The body is looked at before the sandbox (api.md 2.4). */
void api_preview_create(struct request *r)
{
	struct preview_body body = {0};
	struct preview_row want = {0}, row;
	struct strbuf b = {0};
	struct err e;
	int rc;

	if (!request_bind(r, preview_fields, sizeof(preview_fields) / sizeof(preview_fields[0]),
			  &body))
		return;
	if (body.domain && strlen(body.domain) > CUSTOM_MAX) {
		reply_error(r, 400, "domain: longer than %d characters", CUSTOM_MAX);
		return;
	}
	snprintf(want.sandbox_id, sizeof(want.sandbox_id), "%s", r->param[0]);
	want.port = body.port;
	want.custom = body.domain && *body.domain ? (char *)body.domain : NULL; /* borrowed */
	want.auth_config = body.auth_config;
	rc = preview_create(api_manager(r), &want, &row, &e);
	if (rc && rc != -EEXIST) {
		reply_errno(r, rc, &e);
		return;
	}
	write_preview(&b, r->app, &row);
	preview_row_fini(&row);
	reply_json(r, rc ? 200 : 201, &b);
}

struct list {
	struct strbuf b;
	const struct api *a;
};

static void write_item(void *arg, struct preview_row *row)
{
	struct list *l = arg;

	write_preview(&l->b, l->a, row);
}

void api_preview_list(struct request *r)
{
	struct list l = {.a = r->app};
	struct err e;
	int rc;

	strbuf_adds(&l.b, "[");
	rc = preview_each(api_manager(r), r->param[0], write_item, &l, &e);
	strbuf_adds(&l.b, "]");
	if (rc) {
		strbuf_fini(&l.b);
		reply_errno(r, rc, &e);
	} else {
		reply_json(r, 200, &l.b);
	}
}

void api_preview_delete(struct request *r)
{
	char *end;
	long port = strtol(r->param[1], &end, 10);
	struct err e;
	int rc;

	if (*end || port < 1 || port > 65535) {
		reply_error(r, 400, "port: \"%.64s\" is none", r->param[1]);
		return;
	}
	rc = preview_delete(api_manager(r), r->param[0], port, &e);
	if (rc)
		reply_errno(r, rc, &e);
	else
		reply_empty(r, 204);
}

void api_preview_rotate(struct request *r)
{
	char token[PREVIEW_TOKEN_SIZE];
	struct strbuf b = {0};
	struct err e;
	int rc = preview_rotate(api_manager(r), r->param[0], token, &e);

	if (rc) {
		reply_errno(r, rc, &e);
		return;
	}
	strbuf_adds(&b, "{");
	strbuf_json_str(&b, "previewAuthToken", token);
	strbuf_json_str(&b, "scheme", "bearer");
	strbuf_adds(&b, "}");
	reply_json(r, 200, &b);
}
