/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A growing byte buffer, and compact JSON written into it.
 *
 * A failed allocation sets `failed` and stays: callers write everything and
 * check once, at the end. Bytes that are not UTF-8 become U+FFFD in JSON strings, because
 * what processes print is arbitrary and JSON is not.
 */
#ifndef SERVER_HTTP_STRBUF_H
#define SERVER_HTTP_STRBUF_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct strbuf {
	char *data; /* owned; NUL-terminated once anything was written */
	size_t len, cap;
	bool failed;
};

void strbuf_fini(struct strbuf *b);
void strbuf_add(struct strbuf *b, const void *data, size_t len);
void strbuf_adds(struct strbuf *b, const char *text);
void strbuf_addf(struct strbuf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A JSON string with its quotes. */
void strbuf_json_string(struct strbuf *b, const void *bytes, size_t len);

/*
 * Members of an object: `,"name":value`, the comma only where the last byte is not '{' or '['.
 * Names are literals of ours and are written as they are.
 */
void strbuf_json_str(struct strbuf *b, const char *name, const char *value);
void strbuf_json_strn(struct strbuf *b, const char *name, const void *bytes, size_t len);
void strbuf_json_int(struct strbuf *b, const char *name, int64_t value);
void strbuf_json_bool(struct strbuf *b, const char *name, bool value);
/* RFC 3339 in UTC with milliseconds. @ms: since 1970. */
void strbuf_json_time(struct strbuf *b, const char *name, int64_t ms);
/* Any value; NULL is null. */
void strbuf_json_value(struct strbuf *b, const char *name, const json_t *value);
/* The comma, if one is due, and the name; the value follows. */
void strbuf_json_name(struct strbuf *b, const char *name);
/* A comma between items of an array, if one is due. */
void strbuf_json_next(struct strbuf *b);

/**
 * utf8_valid_len() - How many bytes at the start of @p are one valid UTF-8 character
 *
 * Return: 1 to 4; 0 if the bytes are invalid; -1 if they are the beginning of a character that
 *	   @len cuts off
 */
int utf8_valid_len(const uint8_t *p, size_t len);

#endif
