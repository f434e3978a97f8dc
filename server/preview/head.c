/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP/1 messages on their way through a preview; see head.h. */
#include "server/preview/head.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

size_t head_end(const char *data, size_t len)
{
	const char *p = data, *end = data + len;

	while ((p = memchr(p, '\n', (size_t)(end - p)))) {
		p++;
		if (p < end && *p == '\n')
			return (size_t)(p - data) + 1;
		if (p + 1 < end && p[0] == '\r' && p[1] == '\n')
			return (size_t)(p - data) + 2;
	}
	return 0;
}

static bool text_is(const struct head_text *t, const char *s)
{
	return t->len == strlen(s) && !strncasecmp(t->at, s, t->len);
}

const struct head_text *head_find(const struct head *h, const char *name)
{
	for (size_t i = 0; i < h->n; i++)
		if (text_is(&h->fields[i].name, name))
			return &h->fields[i].value;
	return NULL;
}

static size_t count(const struct head *h, const char *name)
{
	size_t found = 0;

	for (size_t i = 0; i < h->n; i++)
		found += text_is(&h->fields[i].name, name);
	return found;
}

/* --- the parser's callbacks. All bytes of a head come in one call: texts are whole ------------ */

static int on_target(http_parser *p, const char *at, size_t len)
{
	struct head *h = p->data;

	h->bad |= h->target.at != NULL;
	h->target = (struct head_text){at, len};
	return 0;
}

static int on_reason(http_parser *p, const char *at, size_t len)
{
	struct head *h = p->data;

	h->reason = (struct head_text){at, len};
	return 0;
}

static int on_name(http_parser *p, const char *at, size_t len)
{
	struct head *h = p->data;

	if (h->done)
		return 0; /* a trailer, which is part of the body */
	if (h->n == HEAD_FIELDS_MAX)
		return 1;
	h->fields[h->n++] = (struct head_field){{at, len}, {at + len, 0}};
	h->value_open = true;
	return 0;
}

static int on_value(http_parser *p, const char *at, size_t len)
{
	struct head *h = p->data;

	if (h->done)
		return 0;
	/* A second text for a value: a folded line. */
	if (!h->n || !h->value_open)
		return 1;
	h->value_open = false;
	while (len && (at[len - 1] == ' ' || at[len - 1] == '\t'))
		len--;
	h->fields[h->n - 1].value = (struct head_text){at, len};
	return 0;
}

static int on_head(http_parser *p)
{
	struct head *h = p->data;

	h->done = true;
	if (p->type == HTTP_RESPONSE && p->status_code != 101 &&
	    (p->status_code / 100 == 1 || p->status_code == 204 || p->status_code == 304))
		h->no_body = true;
	return h->no_body;
}

static int on_message(http_parser *p)
{
	struct head *h = p->data;

	h->complete = true;
	http_parser_pause(p, 1); /* what follows is none of ours */
	return 0;
}

static const http_parser_settings settings = {
    .on_url = on_target,
    .on_status = on_reason,
    .on_header_field = on_name,
    .on_header_value = on_value,
    .on_headers_complete = on_head,
    .on_message_complete = on_message,
};

/* --- checks ------------------------------------------------------------------------------------
 */

static bool value_is_clean(const struct head_text *t)
{
	for (size_t i = 0; i < t->len; i++)
		if (((unsigned char)t->at[i] < ' ' && t->at[i] != '\t') || t->at[i] == 0x7f)
			return false;
	return true;
}

static bool name_is_token(const struct head_text *t)
{
	static const char legal[] = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
				    "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

	for (size_t i = 0; i < t->len; i++)
		if (!t->at[i] || !strchr(legal, t->at[i]))
			return false;
	return t->len != 0;
}

static int check_fields(const struct head *h, struct err *e)
{
	const struct head_text *encoding = head_find(h, "Transfer-Encoding");

	for (size_t i = 0; i < h->n; i++)
		if (!name_is_token(&h->fields[i].name) || !value_is_clean(&h->fields[i].value))
			return err_set(e, -EPROTO, "a header has bytes that are not allowed");
	if (!value_is_clean(&h->reason))
		return err_set(e, -EPROTO, "the status line has bytes that are not allowed");
	if (h->parser.http_major != 1 || h->parser.http_minor > 1)
		return err_set(e, -EPROTO, "HTTP/1.0 and HTTP/1.1 are spoken here");
	if (count(h, "Content-Length") + count(h, "Transfer-Encoding") > 1)
		return err_set(e, -EPROTO, "the length of the body is given twice");
	if (count(h, "Upgrade") > 1)
		return err_set(e, -EPROTO, "Upgrade is given twice");
	if (encoding && (!text_is(encoding, "chunked") || !h->parser.http_minor))
		return err_set(e, -EPROTO, "the only transfer encoding is chunked");
	return 0;
}

/* The parser takes a CR alone for the end of a line, others do not. */
static bool has_lone_cr(const char *data, size_t len)
{
	const char *p = data, *end = data + len;

	while ((p = memchr(p, '\r', (size_t)(end - p)))) {
		p++;
		if (p == end || *p != '\n')
			return true;
	}
	return false;
}

static int parse(struct head *h, enum http_parser_type type, const char *data, size_t len,
		 struct err *e)
{
	bool no_body = h->no_body;
	size_t used;

	memset(h, 0, sizeof(*h));
	h->no_body = no_body;
	http_parser_init(&h->parser, type);
	h->parser.data = h;
	/* Its head has to end where ours does: at the last byte. */
	used = http_parser_execute(&h->parser, &settings, data, len - 1);
	if (used == len - 1 && !h->done)
		used += http_parser_execute(&h->parser, &settings, data + len - 1, 1);
	if (h->n == HEAD_FIELDS_MAX && !h->done)
		return err_set(e, -EMSGSIZE, "more than %d headers", HEAD_FIELDS_MAX - 1);
	if (used != len || !h->done || h->bad || has_lone_cr(data, len))
		return err_set(e, -EPROTO, "this is not HTTP: %s",
			       http_errno_description(HTTP_PARSER_ERRNO(&h->parser)));
	return check_fields(h, e);
}

static size_t scheme_len(const struct head_text *t)
{
	if (t->len > 7 && !strncasecmp(t->at, "http://", 7))
		return 7;
	return t->len > 8 && !strncasecmp(t->at, "https://", 8) ? 8 : 0;
}

/* "http://host/path", as to a forward proxy: the host has to be the Host, the path is the target.
 */
static int cut_absolute(struct head *h, const struct head_text *host, struct err *e)
{
	size_t scheme = scheme_len(&h->target), n = 0;
	const char *authority = h->target.at + scheme;

	if (!scheme)
		return err_set(e, -EPROTO, "the request target is not a path");
	while (scheme + n < h->target.len && !strchr("/?#", authority[n]))
		n++;
	if (n != host->len || strncasecmp(authority, host->at, n))
		return err_set(e, -EPROTO, "the request target and Host name two hosts");
	h->target.at = authority + n;
	h->target.len -= scheme + n;
	return 0;
}

int head_parse_request(struct head *h, const char *data, size_t len, struct err *e)
{
	const struct head_text *host;
	int rc;

	h->no_body = false;
	rc = parse(h, HTTP_REQUEST, data, len, e);
	if (rc)
		return rc;
	host = head_find(h, "Host");
	if (count(h, "Host") != 1)
		return err_set(e, -EPROTO, "there must be one Host");
	if (h->parser.method == HTTP_CONNECT)
		return err_set(e, -EOPNOTSUPP, "CONNECT does not go through a preview");
	if (h->target.len == 1 && *h->target.at == '*' && h->parser.method == HTTP_OPTIONS)
		return 0;
	if (!h->target.len || *h->target.at != '/')
		return cut_absolute(h, host, e);
	return 0;
}

int head_parse_response(struct head *h, const char *data, size_t len, struct err *e)
{
	return parse(h, HTTP_RESPONSE, data, len, e);
}

/* --- what it says ----------------------------------------------------------------------------- */

bool head_upgrades(const struct head *h)
{
	if (h->parser.type == HTTP_RESPONSE)
		return h->parser.status_code == 101;
	return h->parser.upgrade && head_find(h, "Upgrade");
}

unsigned int head_status(const struct head *h)
{
	return h->parser.status_code;
}

bool head_is_interim(const struct head *h)
{
	return h->parser.status_code / 100 == 1 && h->parser.status_code != 101;
}

ssize_t head_body(struct head *h, const char *data, size_t len)
{
	size_t used;

	if (h->complete || !len)
		return 0;
	used = http_parser_execute(&h->parser, &settings, data, len);
	if (HTTP_PARSER_ERRNO(&h->parser) != HPE_OK && !h->complete)
		return -EPROTO;
	return (ssize_t)(used < len ? used : len);
}

int head_body_end(struct head *h)
{
	if (!h->complete)
		http_parser_execute(&h->parser, &settings, "", 0);
	return h->complete ? 0 : -EPROTO;
}

struct head_text head_token(const struct head *h, bool *from_authorization)
{
	const struct head_text *t = head_find(h, "X-OC-Preview-Token");
	struct head_text token = {NULL, 0};

	*from_authorization = false;
	if (t)
		return *t;
	t = head_find(h, "Authorization");
	if (!t || t->len < 7 || strncasecmp(t->at, "Bearer ", 7))
		return token;
	*from_authorization = true;
	token = (struct head_text){t->at + 7, t->len - 7};
	while (token.len && *token.at == ' ') {
		token.at++;
		token.len--;
	}
	return token;
}

/* --- writing ------------------------------------------------------------------------------------
 */

static void put_text(struct strbuf *out, const struct head_text *t)
{
	if (t->len)
		strbuf_add(out, t->at, t->len);
}

static void put_field(struct strbuf *out, const char *name, const struct head_text *value)
{
	strbuf_adds(out, name);
	strbuf_adds(out, ": ");
	put_text(out, value);
	strbuf_adds(out, "\r\n");
}

static bool is_one_of(const struct head_text *name, const char *const *list)
{
	for (; *list; list++)
		if (text_is(name, *list))
			return true;
	return false;
}

static void put_fields(const struct head *h, const char *const *without, struct strbuf *out)
{
	for (size_t i = 0; i < h->n; i++) {
		if (is_one_of(&h->fields[i].name, without))
			continue;
		put_text(out, &h->fields[i].name);
		strbuf_adds(out, ": ");
		put_text(out, &h->fields[i].value);
		strbuf_adds(out, "\r\n");
	}
}

/* Who came first said how the outermost client came; each one behind adds its own client. */
static void put_forwarded(const struct head *h, const struct head_rewrite *w, struct strbuf *out)
{
	const struct head_text *proto = head_find(h, "X-Forwarded-Proto");
	const struct head_text *host = head_find(h, "X-Forwarded-Host");
	size_t before = out->len;

	strbuf_adds(out, "X-Forwarded-For: ");
	for (size_t i = 0; i < h->n; i++)
		if (text_is(&h->fields[i].name, "X-Forwarded-For") && h->fields[i].value.len) {
			put_text(out, &h->fields[i].value);
			strbuf_adds(out, ", ");
		}
	if (w->client) {
		strbuf_adds(out, w->client);
		strbuf_adds(out, "\r\n");
	} else if (!out->failed && out->data[out->len - 2] == ',') {
		out->len -= 2;
		strbuf_adds(out, "\r\n");
	} else if (!out->failed) {
		out->len = before;
	}
	put_field(out, "X-Forwarded-Host", host ? host : head_find(h, "Host"));
	strbuf_adds(out, proto && text_is(proto, "https") ? "X-Forwarded-Proto: https\r\n"
							  : "X-Forwarded-Proto: http\r\n");
}

void head_write_request(const struct head *h, const struct head_rewrite *w, struct strbuf *out)
{
	const char *const ours[] = {"Host",
				    "Connection",
				    "Upgrade",
				    "Keep-Alive",
				    "Proxy-Connection",
				    "Proxy-Authorization",
				    "TE",
				    "X-OC-Preview-Token",
				    "X-Forwarded-For",
				    "X-Forwarded-Host",
				    "X-Forwarded-Proto",
				    w->strip_authorization ? "Authorization" : NULL,
				    NULL};

	strbuf_adds(out, http_method_str(h->parser.method));
	/* An absolute target may have no path. */
	strbuf_adds(out,
		    h->target.len && (*h->target.at == '/' || *h->target.at == '*') ? " " : " /");
	put_text(out, &h->target);
	strbuf_adds(out, h->parser.http_minor ? " HTTP/1.1\r\n" : " HTTP/1.0\r\n");
	if (w->host) {
		strbuf_adds(out, "Host: ");
		strbuf_adds(out, w->host);
		strbuf_adds(out, "\r\n");
	} else {
		put_field(out, "Host", head_find(h, "Host"));
	}
	put_fields(h, ours, out);
	put_forwarded(h, w, out);
	if (head_upgrades(h)) {
		put_field(out, "Upgrade", head_find(h, "Upgrade"));
		strbuf_adds(out, "Connection: Upgrade\r\n");
	} else {
		strbuf_adds(out, "Connection: close\r\n");
	}
	strbuf_adds(out, "\r\n");
}

void head_write_response(const struct head *h, struct strbuf *out)
{
	static const char *const ours[] = {"Connection", "Keep-Alive", "Proxy-Connection", NULL};

	strbuf_addf(out, "HTTP/1.1 %u ", h->parser.status_code);
	put_text(out, &h->reason);
	strbuf_adds(out, "\r\n");
	put_fields(h, ours, out);
	if (head_upgrades(h))
		strbuf_adds(out, "Connection: Upgrade\r\n");
	else if (!head_is_interim(h))
		strbuf_adds(out, "Connection: close\r\n");
	strbuf_adds(out, "\r\n");
}
