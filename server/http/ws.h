/* SPDX-License-Identifier: Apache-2.0 */
/*
 * WebSockets (RFC 6455), the server's side, over a connection that libmicrohttpd hands over.
 *
 * Theory of operation
 * -------------------
 * A handler ends with reply_websocket() in place of another reply. The function that it gives runs
 * on the connection's own thread after the 101 has gone out, may block, and moves messages with
 * the calls below; when it returns the connection ends. Frames are libwslay's affair: masks,
 * fragments, reserved bits and opcodes, control frames in between, UTF-8 of text, close codes.
 *
 * Messages come in pieces as they arrive and are never held as a whole, so their size costs no
 * memory; at most WS_INBOX_BYTES are read ahead. What is sent is queued: a caller that asks
 * ws_can_send() before queues one message at a time.
 *
 * No extension and no subprotocol is accepted. The first message must not be sent together
 * with the 101: clients exist that lose it then. So the function runs WS_FIRST_FRAME_MS later.
 */
#ifndef SERVER_HTTP_WS_H
#define SERVER_HTTP_WS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

#define WS_INBOX_BYTES	  (64u << 10)
#define WS_MESSAGE_MAX	  (64u << 20) /* of one message from the client; then close code 1009 */
#define WS_FIRST_FRAME_MS 6

#define WS_NORMAL     1000u
#define WS_GOING_AWAY 1001u
#define WS_INTERNAL   1011u
#define WS_TRY_LATER  1013u

struct request;
struct ws;

/* Part of a message from the client. Empty ones come, too: of empty messages. */
struct ws_piece {
	const uint8_t *data; /* borrowed until the next call of ws_recv() */
	size_t len;
	bool first, last; /* of its message */
	bool text;
};

/**
 * ws_recv() - Take the next piece that has arrived; does not wait
 *
 * Return: 1 and *@p; 0: nothing there; -EPIPE: the client has closed, is gone, or broke the
 *	   protocol; -ESHUTDOWN: the server stops
 */
int ws_recv(struct ws *w, struct ws_piece *p);

/* Nothing is queued: the client takes what it is sent. */
bool ws_can_send(struct ws *w);

/* Queue one binary message, made of two parts. Return: 0, -ENOMEM, -EPIPE. */
int ws_send(struct ws *w, const void *head, size_t head_len, const void *data, size_t len);

#define WS_READY 1 /* ws_recv() or ws_can_send() may have changed */
#define WS_OTHER 2 /* the other descriptor is readable */

/**
 * ws_wait() - Send what is queued, and wait for something to happen
 * @other_fd:	Waited for, too, until it is readable; or -1
 * @want_read:	Wait for the client's bytes. If not, they stay where they are, and the client waits
 * @timeout_ms:	-1: as long as it takes
 *
 * Return: bits as above; 0 when the time is over, or earlier; or as ws_recv()
 */
int ws_wait(struct ws *w, int other_fd, bool want_read, int timeout_ms);

/**
 * ws_close() - End the conversation: after all that is queued, a close frame
 * @reason:	At most 123 bytes
 *
 * Waits until the client has it, as long as it takes anything, and for the client's own
 * close frame, but not long. Nothing can be sent after it.
 */
void ws_close(struct ws *w, unsigned int code, const char *reason);

/* --- for the HTTP side ---------------------------------------------------------------------- */

/* The WebSockets of a server, so that it can end them. Zero-initialise, then ws_set_init(). */
struct ws_set {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct ws *first;
	bool stopping;
	unsigned int *requests; /* atomic; a WebSocket does not count as a request in progress */
};

void ws_set_init(struct ws_set *set, unsigned int *requests);
/* End all, and those that come later: ws_recv() and ws_wait() return -ESHUTDOWN. */
void ws_set_stop(struct ws_set *set);
/* After ws_set_stop(): until all have ended. */
void ws_set_wait(struct ws_set *set);

/**
 * reply_websocket() - Switch to the WebSocket protocol
 * @run:	Called on the connection's thread; borrows @w
 * @release:	Called once with @state in any case, after @run if that is called
 *
 * A request that is no handshake is answered with 400 or 426.
 */
void reply_websocket(struct request *r, void (*run)(struct ws *w, void *state), void *state,
		     void (*release)(void *state));

/* Of a request that is destroyed. */
struct ws_upgrade;
void ws_upgrade_free(struct ws_upgrade *u);

/* --- parts of it, for tests ------------------------------------------------------------------ */

/* The headers that matter; NULL: absent. */
struct ws_handshake {
	const char *method, *version;	       /* "GET", "HTTP/1.1" */
	const char *upgrade, *connection;      /* lists of tokens */
	const char *key, *ws_version;	       /* Sec-WebSocket-Key, -Version */
	const char *content_length, *encoding; /* of a body, which must not be */
	bool repeated;			       /* one of the latter four came twice */
};

#define WS_ACCEPT_SIZE 29

/**
 * ws_handshake_check() - Is this the client's side of a handshake?
 * @accept:	Set to the value of Sec-WebSocket-Accept
 *
 * Return: 0; -EINVAL: malformed; -EPROTONOSUPPORT: no WebSocket, or another version (426)
 */
int ws_handshake_check(const struct ws_handshake *h, char accept[WS_ACCEPT_SIZE], struct err *e);

/* A WebSocket on @fd, which is borrowed; @extra was read from it before. NULL without memory. */
struct ws *ws_new(int fd, const void *extra, size_t extra_len);
void ws_free(struct ws *w);

#endif
