/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Table-driven reading of JSON objects (jansson) into structs.
 *
 * One table says every field's name, type, range and place; json_bind() checks
 * the object against it and names the field that is wrong. Strings and values
 * that are bound are borrowed from the JSON object.
 */
#ifndef LIB_JSON_H
#define LIB_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

enum json_kind {
	JSON_F_STRING,	/* const char * */
	JSON_F_INT,	/* int64_t, within min..max */
	JSON_F_BOOL,	/* bool */
	JSON_F_OBJECT,	/* json_t *, borrowed */
	JSON_F_ARRAY,	/* json_t *, borrowed */
	JSON_F_STRINGS, /* json_t *, borrowed: an array of strings only */
	JSON_F_MAP,	/* json_t *, borrowed: an object whose values are all strings */
};

#define JSON_REQUIRED 1u /* absence is an error */
#define JSON_NONEMPTY 2u /* "" is as bad as absence */

struct json_field {
	const char *name;
	enum json_kind kind;
	unsigned int flags;
	size_t offset;	  /* of the member in the struct */
	int64_t min, max; /* JSON_F_INT; max 0 means no limits */
};

#define JSON_FIELD(type, member, json_name, json_kind, ...)                                        \
	{                                                                                          \
		.name = (json_name), .kind = (json_kind), .offset = offsetof(type, member),        \
		__VA_ARGS__                                                                        \
	}

/* What to do with fields that are not in the table. */
enum json_unknown { JSON_IGNORE_UNKNOWN, JSON_REFUSE_UNKNOWN };

/**
 * json_bind() - Check an object against a table and fill a struct from it
 * @obj:	Must be a JSON object, else -EINVAL
 * @fields:	Table of @n entries
 * @out:	Members of absent (and null) fields are left as they are: set defaults before
 *
 * Return: 0, or -EINVAL with a message that names the field
 */
int json_bind(json_t *obj, const struct json_field *fields, size_t n, enum json_unknown unknown,
	      void *out, struct err *e);

#endif
