/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Giving up what the process does not need: it parses hostile frames. It keeps the host's network,
 * as a client, and nothing else: no files, no other programs, no servers.
 */
#ifndef SERVER_NET_JAIL_H
#define SERVER_NET_JAIL_H

#include <stddef.h>

#include "lib/err.h"

/* Close what was inherited but 0, 1, 2 and @keep; no privileges by execution, no core dumps. First.
 */
int jail_start(const int *keep, size_t n, struct err *e);
/* Of descriptors (lower than STACK_FD_LIMIT) and memory. */
int jail_limits(struct err *e);
/* Files, capabilities, system calls. When all is open. */
int jail_enter(struct err *e);

#endif
