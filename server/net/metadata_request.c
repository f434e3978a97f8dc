/* SPDX-License-Identifier: Apache-2.0 */
/* Requests to the metadata service; see metadata.h. */
#include <errno.h>
#include <string.h>

#include "lib/json.h"
#include "server/net/metadata.h"

#define LIST	    "{\"paths\":[\"/v1/status\",\"/v1/limits\",\"/v1/metadata\",\"/v1/scale\"]}"
#define NOT_ALLOWED "{\"error\":\"method not allowed\"}"
#define NO_MEMORY   "{\"error\":\"memoryMB: a number is needed\"}"

static int on_url(http_parser *p, const char *at, size_t len)
{
	struct metadata_request *r = p->data;

	if (r->path_len + len >= sizeof(r->path))
		return 1;
	memcpy(r->path + r->path_len, at, len);
	r->path_len += len;
	return 0;
}

static int on_body(http_parser *p, const char *at, size_t len)
{
	struct metadata_request *r = p->data;

	if (r->body_len + len > sizeof(r->body))
		return 1;
	memcpy(r->body + r->body_len, at, len);
	r->body_len += len;
	return 0;
}

static int on_complete(http_parser *p)
{
	struct metadata_request *r = p->data;

	r->complete = true;
	http_parser_pause(p, 1);
	return 0;
}

void metadata_request_init(struct metadata_request *r)
{
	memset(r, 0, sizeof(*r));
	http_parser_init(&r->parser, HTTP_REQUEST);
	r->parser.data = r;
}

int metadata_request_feed(struct metadata_request *r, const char *data, size_t len)
{
	static const http_parser_settings settings = {
	    .on_url = on_url, .on_body = on_body, .on_message_complete = on_complete};

	if (r->total + len > METADATA_HEAD_MAX + METADATA_BODY_MAX)
		return -EBADMSG;
	r->total += len;
	http_parser_execute(&r->parser, &settings, data, len);
	if (r->complete)
		return 0;
	return HTTP_PARSER_ERRNO(&r->parser) == HPE_OK && !r->parser.upgrade ? 0 : -EBADMSG;
}

static bool read_scale(const struct metadata_request *r, struct metadata_question *q)
{
	static const struct json_field fields[] = {
	    JSON_FIELD(struct metadata_question, memory_mb, "memoryMB", JSON_F_INT,
		       .flags = JSON_REQUIRED, .min = 1, .max = 1 << 20),
	};
	json_t *body = json_loadb(r->body, r->body_len, JSON_REJECT_DUPLICATES, NULL);
	int rc = json_bind(body, fields, 1, JSON_IGNORE_UNKNOWN, q, NULL);

	json_decref(body);
	return !rc;
}

void metadata_request_read(const struct metadata_request *r, struct metadata_question *q)
{
	static const char *const gets[] = {"status", "limits", "metadata"};
	bool get = r->parser.method == HTTP_GET || r->parser.method == HTTP_HEAD;
	char path[sizeof(r->path)];
	bool allowed;

	*q = (struct metadata_question){.status = 404, .text = "{\"error\":\"not found\"}"};
	memcpy(path, r->path, r->path_len);
	path[r->path_len] = '\0';
	path[strcspn(path, "?#")] = '\0';
	if (!strcmp(path, "/") || !strcmp(path, "/v1") || !strcmp(path, "/v1/")) {
		q->status = get ? 200 : 405;
		q->text = get ? LIST : NOT_ALLOWED;
		return;
	}
	if (strncmp(path, "/v1/", 4))
		return;
	for (size_t i = 0; i < sizeof(gets) / sizeof(gets[0]); i++)
		if (!strcmp(path + 4, gets[i]))
			q->what = gets[i];
	if (!strcmp(path + 4, "scale"))
		q->what = "scale";
	if (!q->what)
		return;
	allowed = strcmp(q->what, "scale") ? get : r->parser.method == HTTP_POST;
	if (!allowed)
		*q = (struct metadata_question){.status = 405, .text = NOT_ALLOWED};
	else if (!get && !read_scale(r, q))
		*q = (struct metadata_question){.status = 400, .text = NO_MEMORY};
}
