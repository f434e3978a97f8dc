/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A WebSocket to the server (RFC 6455, the client's side). One thread.
 *
 * Theory of operation
 *
 * libcurl connects (TCP, TLS or the Unix socket) and then only moves bytes; the handshake is made
 * here, and libwslay does the frames. Nothing waits but ws_open() and ws_close(). A caller does:
 *
 *   ws_turn(), then ws_recv() until there is nothing; then
 *   poll() for ws_events() on ws_fd(), and what else it waits for; and so on until
 *   ws_turn() says that it is over.
 *
 * What is sent is queued: callers look at ws_unsent() before they read more of it.
 */
#ifndef TOOLS_CLI_WS_H
#define TOOLS_CLI_WS_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"
#include "tools/cli/endpoint.h"

#define WS_CODE_NORMAL	   1000u
#define WS_CODE_GOING_AWAY 1001u
#define WS_CODE_BROKEN	   1006u /* never sent: the connection ended without a close frame */

struct ws;

struct ws_message {
	const uint8_t *data; /* borrowed until the next call with this WebSocket */
	size_t len;
	bool text;
};

/**
 * ws_open() - Connect and make the handshake
 * @path:	After /api; already percent-encoded; may have a query
 * @stop:	NULL, or not 0 to give up
 * @out:	Release with ws_free()
 *
 * Return: 0; as http_call(): -EREMOTEIO with the server's text for a refusal, -ECONNREFUSED
 *	   without a server, -EINTR if stopped, -ETIMEDOUT, -EIO
 */
int ws_open(const struct endpoint *ep, const char *path, const volatile sig_atomic_t *stop,
	    struct ws **out, struct err *e);
/* NULL is fine. */
void ws_free(struct ws *w);

int ws_fd(const struct ws *w);
/* What to poll for. */
short ws_events(const struct ws *w);

/* Queue one binary message, made of two parts. Return: 0, -ENOMEM, or -EPIPE when it is over. */
int ws_send(struct ws *w, const void *head, size_t head_len, const void *data, size_t len);
/* Bytes of messages that are queued, and not sent. */
size_t ws_unsent(const struct ws *w);

/**
 * ws_turn() - Send and receive what can be, without waiting
 *
 * Return: 0, or -EPIPE when it is over: messages may be left to ws_recv(), ws_code() tells more
 */
int ws_turn(struct ws *w);
/* The next message. Return: 1 or 0. */
int ws_recv(struct ws *w, struct ws_message *m);

/* The server's close code, 0 before it came, WS_CODE_BROKEN if it never will. */
unsigned int ws_code(const struct ws *w);
/* Its text; printable ASCII, may be empty. */
const char *ws_reason(const struct ws *w);

/* Send what is queued and a close frame, and wait for the server's, but not long. */
void ws_close(struct ws *w, unsigned int code);

#endif
