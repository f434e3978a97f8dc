/* SPDX-License-Identifier: Apache-2.0 */
/* A growing byte buffer, and compact JSON written into it; see strbuf.h. */
#include "server/http/strbuf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void strbuf_fini(struct strbuf *b)
{
	free(b->data);
	memset(b, 0, sizeof(*b));
}

static bool reserve(struct strbuf *b, size_t more)
{
	size_t cap = b->cap ? b->cap : 256;
	char *grown;

	if (b->failed)
		return false;
	if (b->cap - b->len > more)
		return true;
	while (cap - b->len <= more)
		cap *= 2;
	grown = realloc(b->data, cap);
	if (!grown) {
		b->failed = true;
		return false;
	}
	b->data = grown;
	b->cap = cap;
	return true;
}

void strbuf_add(struct strbuf *b, const void *data, size_t len)
{
	if (!reserve(b, len))
		return;
	if (len)
		memcpy(b->data + b->len, data, len);
	b->len += len;
	b->data[b->len] = '\0';
}

void strbuf_adds(struct strbuf *b, const char *text)
{
	strbuf_add(b, text, strlen(text));
}

void strbuf_addf(struct strbuf *b, const char *fmt, ...)
{
	va_list ap, again;
	int n;

	va_start(ap, fmt);
	va_copy(again, ap);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		b->failed = true;
	if (n >= 0 && reserve(b, (size_t)n)) {
		vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
		b->len += (size_t)n;
	}
	va_end(again);
}

/* The table of RFC 3629, 4: no surrogates, nothing overlong, nothing above U+10FFFF. */
int utf8_valid_len(const uint8_t *p, size_t len)
{
	uint8_t low = 0x80, high = 0xbf;
	int n;

	if (!len)
		return -1;
	if (p[0] < 0x80)
		return 1;
	if (p[0] < 0xc2 || p[0] > 0xf4)
		return 0;
	n = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
	if (p[0] == 0xe0)
		low = 0xa0;
	else if (p[0] == 0xed)
		high = 0x9f;
	else if (p[0] == 0xf0)
		low = 0x90;
	else if (p[0] == 0xf4)
		high = 0x8f;
	for (int i = 1; i < n; i++) {
		if ((size_t)i >= len)
			return -1;
		if (p[i] < low || p[i] > high)
			return 0;
		low = 0x80;
		high = 0xbf;
	}
	return n;
}

static void add_escaped(struct strbuf *b, uint8_t c)
{
	switch (c) {
	case '"':
		strbuf_add(b, "\\\"", 2);
		break;
	case '\\':
		strbuf_add(b, "\\\\", 2);
		break;
	case '\n':
		strbuf_add(b, "\\n", 2);
		break;
	case '\r':
		strbuf_add(b, "\\r", 2);
		break;
	case '\t':
		strbuf_add(b, "\\t", 2);
		break;
	default:
		strbuf_addf(b, "\\u%04x", c);
	}
}

void strbuf_json_string(struct strbuf *b, const void *bytes, size_t len)
{
	const uint8_t *p = bytes;
	size_t plain = 0, i = 0;

	strbuf_add(b, "\"", 1);
	while (i < len) {
		int n = 1;

		if (p[i] >= 0x80)
			n = utf8_valid_len(p + i, len - i);
		if (n > 0 && p[i] >= 0x20 && p[i] != '"' && p[i] != '\\' && p[i] != 0x7f) {
			i += (size_t)n;
			continue;
		}
		strbuf_add(b, p + plain, i - plain);
		if (n <= 0)
			strbuf_add(b, "\xef\xbf\xbd", 3);
		else
			add_escaped(b, p[i]);
		plain = ++i;
	}
	strbuf_add(b, p + plain, i - plain);
	strbuf_add(b, "\"", 1);
}

void strbuf_json_next(struct strbuf *b)
{
	if (b->len && b->data[b->len - 1] != '{' && b->data[b->len - 1] != '[')
		strbuf_add(b, ",", 1);
}

void strbuf_json_name(struct strbuf *b, const char *name)
{
	strbuf_json_next(b);
	strbuf_addf(b, "\"%s\":", name);
}

void strbuf_json_strn(struct strbuf *b, const char *name, const void *bytes, size_t len)
{
	strbuf_json_name(b, name);
	strbuf_json_string(b, bytes, len);
}

void strbuf_json_str(struct strbuf *b, const char *name, const char *value)
{
	strbuf_json_strn(b, name, value, strlen(value));
}

void strbuf_json_int(struct strbuf *b, const char *name, int64_t value)
{
	strbuf_json_name(b, name);
	strbuf_addf(b, "%lld", (long long)value);
}

void strbuf_json_bool(struct strbuf *b, const char *name, bool value)
{
	strbuf_json_name(b, name);
	strbuf_adds(b, value ? "true" : "false");
}

void strbuf_json_time(struct strbuf *b, const char *name, int64_t ms)
{
	time_t seconds = (time_t)(ms / 1000);
	struct tm tm;

	gmtime_r(&seconds, &tm);
	strbuf_json_name(b, name);
	strbuf_addf(b, "\"%04d-%02d-%02dT%02d:%02d:%02d.%03dZ\"", tm.tm_year + 1900, tm.tm_mon + 1,
		    tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (int)(ms % 1000));
}

void strbuf_json_value(struct strbuf *b, const char *name, const json_t *value)
{
	char *text = value ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;

	strbuf_json_name(b, name);
	strbuf_adds(b, text ? text : "null");
	if (value && !text)
		b->failed = true;
	free(text);
}
