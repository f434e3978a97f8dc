/* SPDX-License-Identifier: Apache-2.0 */
/* /sandboxes/:id/tags and /tags (api.md 14). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/api.h"

static void write_tags(struct request *r, struct sandbox_row *row)
{
	struct strbuf b = {0};

	strbuf_adds(&b, "{");
	api_write_tags(&b, row);
	strbuf_adds(&b, "}");
	sandbox_row_fini(row);
	reply_json(r, 200, &b);
}

void api_write_tags(struct strbuf *b, const struct sandbox_row *row)
{
	strbuf_json_value(b, "tags", row->tags);
	if (row->tagged_ms)
		strbuf_json_time(b, "tagsLastUpdatedAt", row->tagged_ms);
	else
		strbuf_json_value(b, "tagsLastUpdatedAt", NULL);
}

void api_tags_get(struct request *r)
{
	api_reply_row(r, write_tags);
}

void api_tags_set(struct request *r)
{
	struct sandbox_row row;
	struct err e;
	int rc;

	if (!api_known(r))
		return;
	if (!request_json(r))
		return;
	rc = sandbox_set_tags(api_manager(r), r->param[0], r->json, &row, &e);
	if (rc)
		reply_errno(r, rc, &e);
	else
		write_tags(r, &row);
}

/* --- all of them ------------------------------------------------------------------------------ */

/* @keys: {key: {value: number of sandboxes}}. Return: 0 or -ENOMEM. */
static int count_tags(json_t *keys, const json_t *tags)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)tags, key, value)
	{
		json_t *values = json_object_get(keys, key);
		const char *text = json_string_value(value);
		json_int_t n;

		if (!values) {
			values = json_object();
			if (json_object_set_new(keys, key, values))
				return -ENOMEM;
		}
		n = json_integer_value(json_object_get(values, text));
		if (json_object_set_new(values, text, json_integer(n + 1)))
			return -ENOMEM;
	}
	return 0;
}

static void write_key(struct strbuf *b, const char *key, json_t *values)
{
	const char *text;
	json_t *count;
	int64_t sandboxes = 0;

	json_object_foreach(values, text, count) sandboxes += json_integer_value(count);
	strbuf_json_next(b);
	strbuf_adds(b, "{");
	strbuf_json_str(b, "key", key);
	strbuf_json_int(b, "sandboxCount", sandboxes);
	strbuf_json_int(b, "valueCount", (int64_t)json_object_size(values));
	strbuf_adds(b, "}");
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void write_keys(struct strbuf *b, json_t *keys)
{
	size_t n = 0;
	const char **names = calloc(json_object_size(keys) + 1, sizeof(*names));
	const char *key;
	json_t *values;

	if (!names) {
		b->failed = true;
		return;
	}
	json_object_foreach(keys, key, values) names[n++] = key;
	qsort(names, n, sizeof(*names), by_name);
	for (size_t i = 0; i < n; i++)
		write_key(b, names[i], json_object_get(keys, names[i]));
	free(names);
}

void api_tags_list(struct request *r)
{
	json_t *keys = json_object();
	struct sandbox_row *rows = NULL;
	struct strbuf b = {0};
	struct err e;
	size_t n = 0;
	int rc = sandbox_list(api_manager(r), NULL, &rows, &n, &e);

	for (size_t i = 0; i < n; i++) {
		if (!keys || count_tags(keys, rows[i].tags))
			b.failed = true;
		sandbox_row_fini(&rows[i]);
	}
	free(rows);
	if (rc) {
		reply_errno(r, rc, &e);
	} else {
		strbuf_adds(&b, "{\"keys\":[");
		write_keys(&b, keys);
		strbuf_adds(&b, "]}");
		reply_json(r, 200, &b);
	}
	json_decref(keys);
}
