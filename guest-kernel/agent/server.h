/* SPDX-License-Identifier: Apache-2.0 */
/* The agent's server: a thread per connection, one request at a time on each. */
#ifndef AGENT_SERVER_H
#define AGENT_SERVER_H

#include "guest-kernel/agent/agent.h"

#define SERVER_CONNECTIONS_MAX 2048u

/* Accept connections on @listen_fd for ever. Return: -errno when that cannot go on. */
int server_run(struct agent *a, int listen_fd);
/* Serve one connection until it ends. Takes @fd. */
void server_serve(struct agent *a, int fd);

#endif
