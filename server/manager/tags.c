/* SPDX-License-Identifier: Apache-2.0 */
/* Tags of sandboxes; see manager.h. */
#include <errno.h>
#include <string.h>

#include "lib/clock.h"

#include "server/manager/internal.h"

#define TAGS_MAX      50
#define TAG_KEY_MAX   128
#define TAG_VALUE_MAX 256 /* characters */
#define RESERVED      "oc:"

static size_t characters(const char *text)
{
	size_t n = 0;

	for (; *text; text++)
		n += (*text & 0xc0) != 0x80;
	return n;
}

static int check_key(const char *key, struct err *e)
{
	size_t len = strlen(key);

	if (!len || len > TAG_KEY_MAX ||
	    key[strspn(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:-")])
		return err_set(e, -EINVAL,
			       "tags: \"%.64s\" is not a key: 1 to %d of letters, digits, _ . : -",
			       key, TAG_KEY_MAX);
	if (!strncmp(key, RESERVED, strlen(RESERVED)))
		return err_set(e, -EINVAL, "tags: \"%.64s\": keys with " RESERVED " are reserved",
			       key);
	return 0;
}

static int check_tags(const json_t *tags, struct err *e)
{
	const char *key;
	json_t *value;

	if (json_object_size(tags) > TAGS_MAX)
		return err_set(e, -EINVAL, "tags: more than %d", TAGS_MAX);
	json_object_foreach((json_t *)tags, key, value)
	{
		int rc = check_key(key, e);

		if (rc)
			return rc;
		if (!json_is_string(value))
			return err_set(e, -EINVAL, "tags: the value of \"%s\" is not a string",
				       key);
		if (strlen(json_string_value(value)) != json_string_length(value))
			return err_set(e, -EINVAL, "tags: the value of \"%s\" contains NUL", key);
		if (characters(json_string_value(value)) > TAG_VALUE_MAX)
			return err_set(e, -EINVAL,
				       "tags: the value of \"%s\" is longer than %d characters",
				       key, TAG_VALUE_MAX);
	}
	return 0;
}

static void set_tags(struct sandbox_row *row, const void *arg)
{
	json_decref(row->tags);
	row->tags = json_incref((json_t *)arg);
	row->tagged_ms = clock_wall_ms();
}

int sandbox_set_tags(struct manager *m, const char *id, const json_t *tags, struct sandbox_row *row,
		     struct err *e)
{
	struct sandbox *s;
	int rc = sandbox_find_known(m, id, &s, e);
	json_t *copy;

	if (rc)
		return rc;
	rc = check_tags(tags, e);
	copy = rc ? NULL : json_deep_copy(tags);
	if (!rc && !copy)
		rc = err_set(e, -ENOMEM, "out of memory");
	if (!rc)
		rc = sandbox_update_settings(s, set_tags, copy, e);
	if (!rc && sandbox_copy_row(s, row))
		rc = err_set(e, -ENOMEM, "out of memory");
	json_decref(copy);
	sandbox_put(s);
	return rc;
}
