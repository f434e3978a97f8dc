/* SPDX-License-Identifier: Apache-2.0 */
/* All of dormouse-net but its start: a guest's wire, its service, and who controls them. */
#ifndef SERVER_NET_WIRE_H
#define SERVER_NET_WIRE_H

#include "lib/err.h"
#include "server/net/policy.h"

struct wire_config {
	int frames_fd;	  /* port.h; taken over */
	int listen_fd;	  /* control and metadata (docs/network.md); taken over; -1: none */
	const char *path; /* its name; borrowed for the process's life */
	struct policy policy;
	bool jail;
};

/* Until the guest's side closes. Return: 0; -errno: it cannot begin, or go on */
int wire_run(const struct wire_config *c, struct err *e);

#endif
