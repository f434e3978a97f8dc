/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The proxy for previews (api.md 11): HTTP to the ports of sandboxes, by Host name.
 *
 * Each connection has a thread of its own and carries one request, whatever its Host and its
 * client: head read and checked, token checked, sandbox woken, tunnel opened, then bytes moved
 * in both directions until one of the two messages has ended, or, after a 101, both sides have.
 */
#ifndef SERVER_PREVIEW_PREVIEW_H
#define SERVER_PREVIEW_PREVIEW_H

#include <sys/socket.h>

#include "server/manager/tunnel.h"

#define PREVIEW_MAX_CONNECTIONS 2048u

struct preview_server;

/* Since the server started. All members are atomic. */
struct preview_stats {
	uint64_t connections, refused; /* of which refused: too many were open */
	uint64_t bytes_up, bytes_down; /* to ports of sandboxes, and from them */
	unsigned int open;
};

/* @m: borrowed. Return: NULL without memory. */
struct preview_server *preview_server_create(struct manager *m);
/* Ends all connections and waits for their threads; after manager_interrupt(). NULL is fine. */
void preview_server_destroy(struct preview_server *p);

const struct preview_stats *preview_stats(const struct preview_server *p);

/* For httpd_config: which Host headers are previews. */
bool preview_claims(const char *host, size_t len);
/* Serve a connection; takes @fd, which does not block. @server: a struct preview_server. */
void preview_take(void *server, int fd, const struct sockaddr_storage *peer);

/**
 * preview_forward() - Move raw bytes between a client and a tunnel, until both have ended
 * @fd:		Borrowed
 * @early:	What the client has said already
 *
 * On this thread; ends when the server stops. Counts as one of the connections.
 */
void preview_forward(struct preview_server *p, int fd, struct tunnel *t, const void *early,
		     size_t early_len);

#endif
