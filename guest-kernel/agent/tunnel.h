/* SPDX-License-Identifier: Apache-2.0 */
/* CONNECT requests: sessions whose streams are a TCP connection to the guest's loopback. */
#ifndef AGENT_TUNNEL_H
#define AGENT_TUNNEL_H

#include "guest-kernel/agent/agent.h"
#include "guest-kernel/agent/request.h"

/* As exec_serve(). */
void connect_serve(struct agent *a, struct peer *p, uint64_t id, const struct request *r);

#endif
