/* SPDX-License-Identifier: Apache-2.0 */
/* What ws.c and ws_upgrade.c share. */
#ifndef SERVER_HTTP_WS_INT_H
#define SERVER_HTTP_WS_INT_H

#include "server/http/strbuf.h"
#include "server/http/ws.h"

struct wslay_event_context;

struct ws {
	int fd; /* borrowed */
	struct wslay_event_context *events;
	uint8_t *extra; /* owned; bytes that were read before the switch */
	size_t extra_at, extra_len;

	struct strbuf inbox; /* pieces from inbox_at on */
	size_t inbox_at, inbox_len;
	bool at_start, is_text, is_last, in_control; /* of the frame that is being read */
	uint64_t frame_left, message_bytes;

	uint64_t sent_bytes;
	bool gone;     /* the transport has ended */
	bool refused;  /* the client broke the protocol; the close frame says how */
	bool closed;   /* by ws_close() */
	bool stopping; /* atomic: the server stops */

	struct ws *next; /* in the set, under its lock */
};

/* 0, or why nothing more comes. */
int ws_state(struct ws *w);

#endif
