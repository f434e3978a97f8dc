/* SPDX-License-Identifier: Apache-2.0 */
/* How answers of the server are shown; see output.h. */
#include "tools/cli/output.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fd.h"
#include "tools/cli/table.h"

char *output_text(const json_t *v)
{
	if (!v || json_is_null(v))
		return NULL;
	if (json_is_string(v))
		return *json_string_value(v) ? strdup(json_string_value(v)) : NULL;
	if (json_is_object(v) && !json_object_size(v))
		return NULL;
	return json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
}

char *output_bytes(int64_t bytes, char *out, size_t len)
{
	static const char units[][4] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
	double n = (double)bytes / 1024;
	size_t u = 0;

	if (bytes < 1024) {
		snprintf(out, len, "%lld B", (long long)bytes);
		return out;
	}
	/* 1023.95 would be shown as 1024.0. */
	for (; n >= 1023.95 && u + 1 < sizeof(units) / sizeof(units[0]); u++)
		n /= 1024;
	snprintf(out, len, "%.1f %s", n, units[u]);
	return out;
}

char *output_size(const json_t *v)
{
	char text[32];

	if (!json_is_number(v))
		return output_text(v);
	return strdup(output_bytes((int64_t)json_number_value(v), text, sizeof(text)));
}

char *output_duration(int64_t seconds, char *out, size_t len)
{
	static const struct {
		int64_t seconds;
		const char *name;
	} units[] = {{86400, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}};
	size_t u = 0;

	/* A clock that is a little ahead of ours is no reason for a sign. */
	if (seconds < 0)
		seconds = 0;
	while (u < 3 && seconds < 2 * units[u].seconds)
		u++;
	snprintf(out, len, "%lld %s", (long long)(seconds / units[u].seconds), units[u].name);
	return out;
}

int output_parse_time(const char *text, time_t *out)
{
	struct tm tm = {0};
	const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);

	if (end && *end == '.')
		end += 1 + strspn(end + 1, "0123456789");
	if (!end || strcmp(end, "Z") != 0)
		return -EINVAL;
	*out = timegm(&tm);
	return 0;
}

char *output_age(const json_t *v)
{
	char text[32];
	time_t then;

	if (!json_is_string(v) || output_parse_time(json_string_value(v), &then) < 0)
		return output_text(v);
	return strdup(output_duration(time(NULL) - then, text, sizeof(text)));
}

void output_list(const json_t *list, const struct output_column *columns)
{
	const char *titles[TABLE_MAX_COLUMNS];
	struct table t;
	json_t *item;
	size_t i, n = 0;

	for (; columns[n].title; n++)
		titles[n] = columns[n].title;
	table_init(&t, n);
	table_add_row(&t, titles);
	json_array_foreach(list, i, item)
	{
		char *cells[TABLE_MAX_COLUMNS];

		for (size_t k = 0; k < n; k++) {
			output_format *format = columns[k].format ? columns[k].format : output_text;

			cells[k] = format(json_object_get(item, columns[k].field));
		}
		table_add_row(&t, (const char *const *)cells);
		for (size_t k = 0; k < n; k++)
			free(cells[k]);
	}
	table_print(&t, stdout);
	table_fini(&t);
}

/* By convention of the API, what is a number of bytes says so in its name. */
static bool is_size(const char *key)
{
	size_t n = strlen(key);

	return n >= 5 && (!strcmp(key + n - 5, "Bytes") || !strcmp(key + n - 5, "bytes"));
}

void output_fields(const json_t *object)
{
	struct table t;
	const char *key;
	json_t *v;

	table_init(&t, 2);
	json_object_foreach((json_t *)object, key, v)
	{
		cleanup_free char *text = is_size(key) ? output_size(v) : output_text(v);

		if (text)
			table_add_row(&t, (const char *[]){key, text});
	}
	table_print(&t, stdout);
	table_fini(&t);
}

int output_check_type(const struct cli *c, const json_t *v, json_type type)
{
	if (v && json_typeof(v) == type)
		return 0;
	return cli_fail(c, &(struct err){.msg = "the answer is not of a Dormouse server"});
}

int output_call_more(struct cli *c, const struct http_request *r, json_type type,
		     void (*more)(struct http *h, const struct http_request *r, json_t *v),
		     void (*print)(const json_t *v))
{
	struct http_answer a = {0};
	struct err e = {0};
	struct http h;
	int code = cli_connect(c, &h);

	if (!code && http_call(&h, r, &a, &e) < 0)
		code = cli_fail(c, &e);
	if (!code)
		code = output_check_type(c, a.json, type);
	if (!code && more)
		more(&h, r, a.json);
	if (!code && c->json)
		code = cli_print_json(json_incref(a.json));
	else if (!code)
		print(a.json);
	http_answer_fini(&a);
	http_fini(&h);
	return code;
}

int output_call(struct cli *c, const struct http_request *r, json_type type,
		void (*print)(const json_t *v))
{
	return output_call_more(c, r, type, NULL, print);
}
