/* SPDX-License-Identifier: Apache-2.0 */
/* EXEC and ATTACH requests. */
#ifndef AGENT_EXEC_H
#define AGENT_EXEC_H

#include "guest-kernel/agent/agent.h"
#include "guest-kernel/agent/request.h"

/*
 * Serve one request to its end on @p. When the connection is lost the thread
 * goes on with the session and returns when that has ended or was taken.
 */
void exec_serve(struct agent *a, struct peer *p, uint64_t id, const struct request *r);
void attach_serve(struct agent *a, struct peer *p, uint64_t id, const struct request *r);
/* The same for a session that was begun elsewhere. @sent: what the client has of its output. */
void session_serve(struct agent *a, struct peer *p, uint64_t id, struct session *s,
		   const uint64_t sent[2]);
/* List the sessions that have labels. Return: 0 or -errno. */
int sessions_serve(struct agent *a, struct peer *p, uint64_t id, struct err *e);
/* Answer a request that failed. */
void session_refuse(struct peer *p, uint64_t id, const struct err *e);

#endif
