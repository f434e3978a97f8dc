/* SPDX-License-Identifier: Apache-2.0 */
/* Listening sockets by text: "unix:PATH", "tcp:ADDR:PORT", "tcp:[V6]:PORT". */
#ifndef SERVER_HTTP_LISTEN_H
#define SERVER_HTTP_LISTEN_H

#include <stddef.h>

#include "lib/err.h"

struct listener {
	int fd;		 /* -1 when absent; non-blocking */
	char *unix_path; /* owned; NULL for TCP */
};

/* Check the form only. Return: 0 or -EINVAL. */
int listen_check(const char *text, struct err *e);

/**
 * listen_open() - Bind and listen
 *
 * A dead Unix socket file is replaced, a live one is -EADDRINUSE. The Unix socket is for its owner
 * and group only: who can open it needs no key.
 *
 * Return: 0 or -errno
 */
int listen_open(struct listener *l, const char *text, struct err *e);

/* Close and remove the socket file. Idempotent. */
void listen_close(struct listener *l);

/* The TCP port; 0 for a Unix socket. */
unsigned int listen_port(const struct listener *l);

/* Where it listens, with the port that the kernel chose for port 0. @buf is returned. */
const char *listen_name(const struct listener *l, char *buf, size_t len);

#endif
