/* SPDX-License-Identifier: Apache-2.0 */
/* Table-driven reading of JSON objects; see json.h. */
#include "lib/json.h"

#include <errno.h>
#include <string.h>

static int bind_int(const struct json_field *f, json_t *v, void *place, struct err *e)
{
	int64_t n;

	if (!json_is_integer(v))
		return err_set(e, -EINVAL, "%s: must be an integer", f->name);
	n = json_integer_value(v);
	if ((f->min || f->max) && (n < f->min || n > f->max))
		return err_set(e, -EINVAL, "%s: %lld is not within %lld to %lld", f->name,
			       (long long)n, (long long)f->min, (long long)f->max);
	*(int64_t *)place = n;
	return 0;
}

static bool all_strings(json_t *v)
{
	const char *key;
	json_t *item;
	size_t i;

	json_array_foreach(v, i, item) if (!json_is_string(item)) return false;
	json_object_foreach(v, key, item) if (!json_is_string(item)) return false;
	return true;
}

static int bind_one(const struct json_field *f, json_t *v, void *place, struct err *e)
{
	switch (f->kind) {
	case JSON_F_INT:
		return bind_int(f, v, place, e);
	case JSON_F_STRING:
		if (!json_is_string(v))
			return err_set(e, -EINVAL, "%s: must be a string", f->name);
		if (strlen(json_string_value(v)) != json_string_length(v))
			return err_set(e, -EINVAL, "%s: must not contain NUL", f->name);
		if ((f->flags & JSON_NONEMPTY) && !json_string_length(v))
			return err_set(e, -EINVAL, "%s is required", f->name);
		*(const char **)place = json_string_value(v);
		return 0;
	case JSON_F_BOOL:
		if (!json_is_boolean(v))
			return err_set(e, -EINVAL, "%s: must be true or false", f->name);
		*(bool *)place = json_is_true(v);
		return 0;
	case JSON_F_OBJECT:
	case JSON_F_MAP:
		if (!json_is_object(v))
			return err_set(e, -EINVAL, "%s: must be an object", f->name);
		if (f->kind == JSON_F_MAP && !all_strings(v))
			return err_set(e, -EINVAL, "%s: values must be strings", f->name);
		*(json_t **)place = v;
		return 0;
	case JSON_F_ARRAY:
	case JSON_F_STRINGS:
		if (!json_is_array(v))
			return err_set(e, -EINVAL, "%s: must be an array", f->name);
		if (f->kind == JSON_F_STRINGS && !all_strings(v))
			return err_set(e, -EINVAL, "%s: items must be strings", f->name);
		*(json_t **)place = v;
		return 0;
	}
	return err_set(e, -EINVAL, "%s: no such kind of field", f->name);
}

static const struct json_field *find(const struct json_field *fields, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(fields[i].name, name))
			return &fields[i];
	return NULL;
}

int json_bind(json_t *obj, const struct json_field *fields, size_t n, enum json_unknown unknown,
	      void *out, struct err *e)
{
	const char *key;
	json_t *v;

	if (!json_is_object(obj))
		return err_set(e, -EINVAL, "a JSON object is expected");
	json_object_foreach(obj, key, v)
	{
		const struct json_field *f = find(fields, n, key);

		if (!f && unknown == JSON_REFUSE_UNKNOWN)
			return err_set(e, -EINVAL, "unknown field \"%.64s\"", key);
		if (!f || json_is_null(v))
			continue;
		if (bind_one(f, v, (char *)out + f->offset, e))
			return -EINVAL;
	}
	for (size_t i = 0; i < n; i++) {
		v = json_object_get(obj, fields[i].name);
		if ((fields[i].flags & JSON_REQUIRED) && (!v || json_is_null(v)))
			return err_set(e, -EINVAL, "%s is required", fields[i].name);
	}
	return 0;
}
