/* SPDX-License-Identifier: Apache-2.0 */
/* A connection through the server to a port of a sandbox. One thread each. */
#ifndef TOOLS_CLI_TUNNEL_H
#define TOOLS_CLI_TUNNEL_H

#include "lib/err.h"
#include "tools/cli/endpoint.h"

struct tunnel;

/* @path: after /api. Return: 0; -EREMOTEIO: what the server said; as http_explain_curl() */
int tunnel_open(const struct endpoint *ep, const char *path, struct tunnel **out, struct err *e);
void tunnel_close(struct tunnel *t);
/* Move bytes between it and @fd, which does not block, until both have ended, or one broke. */
void tunnel_pump(struct tunnel *t, int fd);

#endif
