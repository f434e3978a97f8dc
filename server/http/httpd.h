/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP listeners: Unix sockets and TCP ports in front of libmicrohttpd.
 *
 * One thread accepts on all listeners, looks whose a connection is (edge.h), and hands it to
 * libmicrohttpd, which gives it a thread of its own, or to who claims its Host header.
 */
#ifndef SERVER_HTTP_HTTPD_H
#define SERVER_HTTP_HTTPD_H

#include <stddef.h>

#include "lib/err.h"
#include "server/http/auth.h"
#include "server/http/edge.h"
#include "server/http/request.h"
#include "server/stats.h"

#define HTTPD_MAX_LISTEN 16

struct httpd_config {
	const char *const *listen; /* "unix:PATH", "tcp:ADDR:PORT", "tcp:[V6]:PORT" */
	size_t n_listen;
	const struct auth_keys *keys; /* NULL: no credentials are asked for on TCP */
	auth_token_fn *token_good;    /* on listeners where keys are asked for */
	const struct route *routes;
	size_t n_routes;
	void *app; /* handed to handlers */
	/* Called before anything is served, with the port of the first TCP listener or 0. */
	void (*bound)(void *app, unsigned int tcp_port);
	/* Which Host headers are not for the routes; NULL: none. Any thread. */
	edge_claims *claims;
	/* Takes a connection with such a header: nothing is read yet, it does not block. */
	void (*take)(void *taker, int fd, const struct sockaddr_storage *peer);
	void *taker;
	/* How slow handlers may be (slow.h), in ms; 0: as clients need it. */
	unsigned int quiet_ms, blank_ms;
};

struct httpd;

/**
 * httpd_start() - Bind all listeners and begin to serve
 * @c:		Copied, but what it points to must outlive the httpd
 *
 * Return: 0; -EADDRINUSE, -EINVAL for a listen text that is none, ...
 */
int httpd_start(const struct httpd_config *c, struct httpd **out, struct err *e);

/* Check a listen text without binding it. Return: 0 or -EINVAL. */
int httpd_check_listen(const char *text, struct err *e);

/* Stop accepting, remove the Unix sockets, end WebSockets; requests in progress go on. */
void httpd_stop_accepting(struct httpd *h);

/* Requests whose reply has not been sent completely; WebSockets do not count. */
unsigned int httpd_active(const struct httpd *h);

/* Open ones, WebSockets too. */
unsigned int httpd_connections(const struct httpd *h);

/* One for each route, in their order, and one for requests that match none. Counts go on. */
const struct route_stats *httpd_route_stats(const struct httpd *h);

/* Ends all connections, waits for handlers, frees. NULL is fine. */
void httpd_destroy(struct httpd *h);

#endif
