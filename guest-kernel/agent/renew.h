/* SPDX-License-Identifier: Apache-2.0 */
/* FREEZE, THAW and RENEW: what the host asks for around a checkpoint and after a restore. */
#ifndef AGENT_RENEW_H
#define AGENT_RENEW_H

#include "guest-kernel/agent/agent.h"
#include "guest-kernel/agent/request.h"

/* Serve one request; on a failure @e is set for the ERROR answer. Return: 0 or -errno. */
int freeze_serve(struct agent *a, struct peer *p, uint64_t id, const struct request *r,
		 struct err *e);
int thaw_serve(struct agent *a, struct peer *p, uint64_t id, struct err *e);
/*
 * Does every part whatever becomes of the others, and thaws; the answer names those that failed.
 * In test mode nothing of the machine is touched but the machine id in a folder given by --etc.
 */
int renew_serve(struct agent *a, struct peer *p, uint64_t id, const struct request *r);

#endif
