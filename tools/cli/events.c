/* SPDX-License-Identifier: Apache-2.0 */
/* Server-sent events; see events.h. */
#include "tools/cli/events.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The rest of a line that begins with @name, or NULL. */
static char *field(char *line, const char *name)
{
	size_t len = strlen(name);

	return strncmp(line, name, len) ? NULL : line + len;
}

/* @record: NUL-terminated, without the empty line behind it; changed. */
static void take_record(struct events *e, char *record)
{
	char *event = NULL, *data = NULL, *line, *rest = record;
	json_t *json;

	while ((line = strsep(&rest, "\n"))) {
		char *value = field(line, "event: ");

		event = value ? value : event;
		value = field(line, "data: ");
		data = value ? value : data;
	}
	if (!data)
		return;
	json = json_loads(data, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
	if (json)
		e->on_event(e->ctx, event ? event : "", json);
	json_decref(json);
}

static int append(struct events *e, const char *bytes, size_t len)
{
	size_t need = e->len + len + 1;
	char *grown;

	if (need > EVENTS_MAX_RECORD)
		return -EFBIG;
	if (need > e->cap) {
		grown = realloc(e->text, 2 * need);
		if (!grown)
			return -ENOMEM;
		e->text = grown;
		e->cap = 2 * need;
	}
	memcpy(e->text + e->len, bytes, len);
	e->len += len;
	e->text[e->len] = '\0';
	return 0;
}

int events_feed(struct events *e, const char *bytes, size_t len)
{
	int rc = append(e, bytes, len);
	char *from = e->text, *end;

	if (rc)
		return rc;
	/* A NUL is in no JSON: what follows it in its record is not seen. */
	while ((end = memmem(from, e->len - (size_t)(from - e->text), "\n\n", 2))) {
		*end = '\0';
		take_record(e, from);
		from = end + 2;
	}
	e->len -= (size_t)(from - e->text);
	memmove(e->text, from, e->len);
	return 0;
}

void events_fini(struct events *e)
{
	free(e->text);
	e->text = NULL;
	e->len = e->cap = 0;
}
