/* SPDX-License-Identifier: Apache-2.0 */
/* Values in the text of JSON: found, not parsed; see manifest.h. */
#include <stdbool.h>
#include <string.h>

#include "server/manager/manifest.h"

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static size_t skip_blanks(const char *text, size_t len, size_t at)
{
	while (at < len && is_blank(text[at]))
		at++;
	return at;
}

/* Behind the string whose opening quote is at @at. */
static size_t skip_string(const char *text, size_t len, size_t at)
{
	for (at++; at < len && text[at] != '"'; at++)
		at += text[at] == '\\';
	return at < len ? at + 1 : len;
}

/* Behind a value: to the comma or bracket that ends it, strings and brackets in it passed over. */
static size_t skip_value(const char *text, size_t len, size_t at)
{
	size_t depth = 0;

	while (at < len) {
		char c = text[at];

		if (c == '"') {
			at = skip_string(text, len, at);
			continue;
		}
		if (!depth && (c == ',' || c == '}' || c == ']'))
			break;
		if (c == '{' || c == '[')
			depth++;
		else if (c == '}' || c == ']')
			depth--;
		at++;
	}
	return at;
}

size_t json_text_member(const char *text, size_t len, const char *name, const char **value)
{
	size_t at = skip_blanks(text, len, 0), name_len = strlen(name), found = 0;

	if (at == len || text[at] != '{')
		return 0;
	for (at++;; at++) {
		size_t key, key_len, start, end;

		at = skip_blanks(text, len, at);
		if (at >= len || text[at] != '"')
			return found;
		key = at + 1;
		at = skip_string(text, len, at);
		key_len = at - key - 1;
		at = skip_blanks(text, len, at);
		if (at >= len || text[at] != ':')
			return found;
		start = skip_blanks(text, len, at + 1);
		at = end = skip_value(text, len, start);
		while (end > start && is_blank(text[end - 1]))
			end--;
		if (key_len == name_len && !memcmp(text + key, name, name_len)) {
			*value = text + start;
			found = end - start;
		}
		if (at >= len || text[at] != ',')
			return found;
	}
}
