/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cli/events.h"

static char seen[256];

static void note(void *ctx, const char *event, const json_t *data)
{
	char *text = json_dumps(data, JSON_COMPACT | JSON_ENCODE_ANY);
	size_t used = strlen(seen);

	(void)ctx;
	snprintf(seen + used, sizeof(seen) - used, "%s=%s;", event, text);
	free(text);
}

/* In pieces of @step bytes, which may end anywhere. */
static void feed(const char *text, size_t step)
{
	struct events e = {.on_event = note};

	seen[0] = '\0';
	for (size_t at = 0, len = strlen(text); at < len; at += step)
		cr_assert_eq(events_feed(&e, text + at, len - at < step ? len - at : step), 0);
	events_fini(&e);
}

Test(events, come_whole_however_they_are_cut)
{
	static const char text[] =
	    ": keepalive\n\nevent: build_log\ndata: {\"message\":\"a\"}\n\n"
	    "data: 1\n\nevent: x\n\nevent: result\ndata: {\"a\":[]}\n\nevent: cut";

	for (size_t step = 1; step < sizeof(text); step++) {
		feed(text, step);
		cr_assert_str_eq(seen, "build_log={\"message\":\"a\"};=1;result={\"a\":[]};");
	}
}

Test(events, what_is_no_json_is_passed_over)
{
	feed("event: a\ndata: {\n\nevent: b\ndata: \n\nevent: c\ndata: null\n\n", 7);
	cr_assert_str_eq(seen, "c=null;");
}

Test(events, a_record_without_end_is_refused)
{
	struct events e = {.on_event = note};
	char block[4096];
	int rc = 0;

	memset(block, 'x', sizeof(block));
	for (size_t i = 0; !rc && i <= EVENTS_MAX_RECORD / sizeof(block); i++)
		rc = events_feed(&e, block, sizeof(block));
	cr_assert_eq(rc, -EFBIG);
	events_fini(&e);
}
