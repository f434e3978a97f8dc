/* SPDX-License-Identifier: Apache-2.0 */
/* Server-sent events of a build: cut out of the bytes of an answer as they come. */
#ifndef TOOLS_CLI_EVENTS_H
#define TOOLS_CLI_EVENTS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#define EVENTS_MAX_RECORD (4u << 20) /* the server is not ours */

struct events {
	/* Called for each record that has data; @data is borrowed. */
	void (*on_event)(void *ctx, const char *event, const json_t *data);
	void *ctx;
	char *text; /* owned; what has no end yet */
	size_t len, cap;
};

/* Return: 0, -EFBIG for a record that is too long, -ENOMEM. */
int events_feed(struct events *e, const char *bytes, size_t len);
void events_fini(struct events *e);

#endif
