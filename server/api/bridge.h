/* SPDX-License-Identifier: Apache-2.0 */
/* A WebSocket on one side, a session on the other: bytes both ways, as fast as the slower one. */
#ifndef SERVER_API_BRIDGE_H
#define SERVER_API_BRIDGE_H

#include "server/http/ws.h"
#include "server/manager/session.h"

enum bridge_format {
	/* api.md 17.1: the first byte of each message is a channel. */
	BRIDGE_CHANNELS,
	/* api.md 17.2: bytes as they are, stdout only, no replay marker, no exit code. */
	BRIDGE_RAW,
};

struct bridge {
	struct exec_session *session; /* a reference */
	struct exec_reader *reader;
	enum bridge_format format;
	const char *ended; /* reason of the close frame after the end; NULL: tells the exit code */
};

/**
 * bridge_reply() - Reply with a WebSocket that is a client of a session
 * @x:		The reference is taken
 * @from:	As exec_attach()
 * @ended:	Text for the close frame; static; NULL: "exited with code N"
 */
void bridge_reply(struct request *r, struct exec_session *x, enum bridge_format format,
		  const uint64_t from[2], const char *ended);

#endif
