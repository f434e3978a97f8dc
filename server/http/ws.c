/* SPDX-License-Identifier: Apache-2.0 */
/* WebSocket connections: frames in and out; see ws.h. */
#include "server/http/ws.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <wslay/wslay.h>

#include "lib/clock.h"
#include "server/http/ws_int.h"

#define PONGS_MAX	  8	 /* queued; then the client's bytes wait */
#define CLOSE_SEND_MS	  300000 /* for a client that takes nothing any more */
#define CLOSE_ANSWER_MS	  3000	 /* for its close frame */
#define STOP_LOOK_MS	  1000
#define CLOSE_STOPPING_MS 500 /* for both, when the server stops */

/* --- from the socket -------------------------------------------------------------------------- */

static bool may_read(const struct ws *w)
{
	return (w->inbox_at == w->inbox.len || w->inbox_len < WS_INBOX_BYTES) &&
	       wslay_event_get_queued_msg_count(w->events) < PONGS_MAX;
}

static ssize_t on_recv(wslay_event_context_ptr events, uint8_t *buf, size_t len, int flags,
		       void *arg)
{
	struct ws *w = arg;
	ssize_t n;

	(void)flags;
	if (!may_read(w)) {
		wslay_event_set_error(events, WSLAY_ERR_WOULDBLOCK);
		return -1;
	}
	if (w->extra_at < w->extra_len) {
		n = (ssize_t)(w->extra_len - w->extra_at);
		if ((size_t)n > len)
			n = (ssize_t)len;
		memcpy(buf, w->extra + w->extra_at, (size_t)n);
		w->extra_at += (size_t)n;
		return n;
	}
	do
		n = recv(w->fd, buf, len, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		return n;
	if (n < 0 && errno == EAGAIN) {
		wslay_event_set_error(events, WSLAY_ERR_WOULDBLOCK);
		return -1;
	}
	w->gone = true;
	wslay_event_set_error(events, WSLAY_ERR_CALLBACK_FAILURE);
	return -1;
}

static ssize_t on_send(wslay_event_context_ptr events, const uint8_t *data, size_t len, int flags,
		       void *arg)
{
	struct ws *w = arg;
	ssize_t n;

	do
		n = send(w->fd, data, len,
			 MSG_NOSIGNAL | MSG_DONTWAIT | (flags & WSLAY_MSG_MORE ? MSG_MORE : 0));
	while (n < 0 && errno == EINTR);
	if (n >= 0) {
		w->sent_bytes += (uint64_t)n;
		return n;
	}
	w->gone |= errno != EAGAIN;
	wslay_event_set_error(events,
			      errno == EAGAIN ? WSLAY_ERR_WOULDBLOCK : WSLAY_ERR_CALLBACK_FAILURE);
	return -1;
}

/* --- pieces of messages: in the inbox as a header each, and their bytes ------------------------
 */

struct piece_header {
	uint32_t len;
	bool first, last, text;
};

static void put_piece(struct ws *w, const uint8_t *data, size_t len, bool last)
{
	struct piece_header h = {(uint32_t)len, w->at_start, last, w->is_text};

	w->at_start = false;
	strbuf_add(&w->inbox, &h, sizeof(h));
	strbuf_add(&w->inbox, data, len);
	w->inbox_len += len + sizeof(h);
	if (w->inbox.failed)
		w->gone = true;
}

static void on_frame_start(wslay_event_context_ptr events,
			   const struct wslay_event_on_frame_recv_start_arg *a, void *arg)
{
	struct ws *w = arg;

	w->in_control = wslay_is_ctrl_frame(a->opcode);
	if (w->in_control)
		return;
	if (a->opcode != WSLAY_CONTINUATION_FRAME) {
		w->at_start = true;
		w->is_text = a->opcode == WSLAY_TEXT_FRAME;
		w->message_bytes = 0;
	}
	w->is_last = a->fin;
	w->frame_left = a->payload_length;
	if (a->payload_length > WS_MESSAGE_MAX ||
	    (w->message_bytes += a->payload_length) > WS_MESSAGE_MAX) {
		wslay_event_queue_close(events, WSLAY_CODE_MESSAGE_TOO_BIG, NULL, 0);
		wslay_event_shutdown_read(events);
		w->refused = true;
	}
}

static void on_frame_chunk(wslay_event_context_ptr events,
			   const struct wslay_event_on_frame_recv_chunk_arg *a, void *arg)
{
	struct ws *w = arg;

	(void)events;
	if (w->in_control || w->refused)
		return;
	w->frame_left -= a->data_length;
	if (a->data_length || (w->is_last && !w->frame_left))
		put_piece(w, a->data, a->data_length, w->is_last && !w->frame_left);
}

static bool make_context(struct ws *w)
{
	static const struct wslay_event_callbacks callbacks = {
	    .recv_callback = on_recv,
	    .send_callback = on_send,
	    .on_frame_recv_start_callback = on_frame_start,
	    .on_frame_recv_chunk_callback = on_frame_chunk,
	};

	if (wslay_event_context_server_init(&w->events, &callbacks, w))
		return false;
	wslay_event_config_set_no_buffering(w->events, 1);
	return true;
}

static void receive(struct ws *w)
{
	struct wslay_event_context *old = w->events;
	bool idle = ws_can_send(w);
	int rc = wslay_event_recv(w->events);

	if (!rc)
		return;
	w->refused = true;
	if (w->gone || !idle)
		return;
	/*
	 * The library has queued a close frame that does not say why. Nothing else
	 * is under way: put a better one in its place.
	 */
	if (!make_context(w)) {
		w->events = old;
		return;
	}
	wslay_event_context_free(old);
	wslay_event_queue_close(w->events, WSLAY_CODE_PROTOCOL_ERROR, NULL, 0);
}

int ws_recv(struct ws *w, struct ws_piece *p)
{
	struct piece_header h;

	if (w->inbox_at == w->inbox.len) {
		/* A large buffer is for large messages only. */
		if (w->inbox.cap > WS_INBOX_BYTES / 4)
			strbuf_fini(&w->inbox);
		w->inbox.len = w->inbox_at = w->inbox_len = 0;
		if (!ws_state(w))
			receive(w);
	}
	if (w->inbox_at == w->inbox.len || w->inbox.failed)
		return ws_state(w);
	memcpy(&h, w->inbox.data + w->inbox_at, sizeof(h));
	p->data = (uint8_t *)w->inbox.data + w->inbox_at + sizeof(h);
	p->len = h.len;
	p->first = h.first;
	p->last = h.last;
	p->text = h.text;
	w->inbox_at += sizeof(h) + h.len;
	return 1;
}

/* --- to the client ------------------------------------------------------------------------------
 */

bool ws_can_send(struct ws *w)
{
	return !wslay_event_want_write(w->events);
}

int ws_send(struct ws *w, const void *head, size_t head_len, const void *data, size_t len)
{
	struct wslay_event_msg msg = {.opcode = WSLAY_BINARY_FRAME, .msg_length = head_len + len};
	uint8_t *whole = malloc(head_len + len + 1);
	int rc;

	if (!whole)
		return -ENOMEM;
	if (head_len)
		memcpy(whole, head, head_len);
	if (len)
		memcpy(whole + head_len, data, len);
	msg.msg = whole;
	rc = wslay_event_queue_msg(w->events, &msg);
	free(whole);
	return rc == 0 ? 0 : rc == WSLAY_ERR_NOMEM ? -ENOMEM : -EPIPE;
}

/* Send what goes without waiting. */
static void flush(struct ws *w)
{
	if (wslay_event_want_write(w->events) && wslay_event_send(w->events))
		w->gone = true;
}

int ws_state(struct ws *w)
{
	if (__atomic_load_n(&w->stopping, __ATOMIC_ACQUIRE))
		return -ESHUTDOWN;
	if (w->gone || w->refused || wslay_event_get_close_received(w->events) ||
	    !wslay_event_get_read_enabled(w->events))
		return -EPIPE;
	return 0;
}

int ws_wait(struct ws *w, int other_fd, bool want_read, int timeout_ms)
{
	struct pollfd p[2] = {{.fd = w->fd}, {.fd = other_fd, .events = POLLIN}};
	bool could_send = ws_can_send(w);
	int rc, ready = 0;

	flush(w);
	rc = ws_state(w);
	if (rc)
		return rc;
	if (w->inbox_at < w->inbox.len || w->extra_at < w->extra_len)
		ready = want_read ? WS_READY : 0;
	if (!could_send && ws_can_send(w))
		ready |= WS_READY;
	p[0].events =
	    (short)((want_read && may_read(w) ? POLLIN : 0) | (ws_can_send(w) ? 0 : POLLOUT));
	/* Where the client is not read, the server's stop shows on no descriptor. */
	if (!(p[0].events & POLLIN) && (timeout_ms < 0 || timeout_ms > STOP_LOOK_MS))
		timeout_ms = STOP_LOOK_MS;
	if (poll(p, 2, ready ? 0 : timeout_ms) < 0)
		return errno == EINTR ? 0 : -errno;
	if (__atomic_load_n(&w->stopping, __ATOMIC_ACQUIRE))
		return -ESHUTDOWN;
	/* Nobody reads: an end shows only here. */
	if (p[0].revents & (POLLERR | POLLHUP) && !(p[0].events & POLLIN))
		w->gone = true;
	if (p[0].revents & POLLOUT)
		flush(w);
	return w->gone ? -EPIPE
		       : ready | (p[0].revents ? WS_READY : 0) | (p[1].revents ? WS_OTHER : 0);
}

/* --- the end
 * -------------------------------------------------------------------------------------- */

/* Until all is sent; false if the client takes nothing for @patience_ms. */
static bool flush_all(struct ws *w, int patience_ms)
{
	while (!w->gone && wslay_event_want_write(w->events)) {
		struct pollfd p = {.fd = w->fd, .events = POLLOUT};
		uint64_t before = w->sent_bytes;

		flush(w);
		if (w->gone || !wslay_event_want_write(w->events))
			break;
		/* In slices: the server may stop meanwhile. */
		if (poll(&p, 1, CLOSE_STOPPING_MS) == 0 && w->sent_bytes == before) {
			patience_ms -= CLOSE_STOPPING_MS;
			if (patience_ms <= 0 || __atomic_load_n(&w->stopping, __ATOMIC_ACQUIRE))
				return false;
		}
	}
	return !w->gone;
}

/* Read and drop until the client has closed, so that what it was sent is not torn away from it. */
static void await_close(struct ws *w, int timeout_ms)
{
	uint64_t deadline = clock_mono_ms() + (uint64_t)timeout_ms, now;
	char rest[4096];

	shutdown(w->fd, SHUT_WR);
	while ((now = clock_mono_ms()) < deadline) {
		struct pollfd p = {.fd = w->fd, .events = POLLIN};
		ssize_t n;

		if (poll(&p, 1, (int)(deadline - now)) <= 0)
			return;
		n = recv(w->fd, rest, sizeof(rest), MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			return;
	}
}

void ws_close(struct ws *w, unsigned int code, const char *reason)
{
	bool stopping = __atomic_load_n(&w->stopping, __ATOMIC_ACQUIRE);
	int patience_ms = stopping ? CLOSE_STOPPING_MS : CLOSE_SEND_MS;
	size_t len = strlen(reason);

	if (w->closed)
		return;
	w->closed = true;
	/* Control frames overtake messages, and nothing goes out after this one. */
	if (!flush_all(w, patience_ms))
		return;
	/* Does nothing if one went out already: the answer to the client's, or a complaint. */
	wslay_event_queue_close(w->events, (uint16_t)code, (const uint8_t *)reason,
				len < 123 ? len : 123);
	if (flush_all(w, patience_ms))
		await_close(w, stopping ? CLOSE_STOPPING_MS : CLOSE_ANSWER_MS);
}

/* --- life
 * ----------------------------------------------------------------------------------------- */

struct ws *ws_new(int fd, const void *extra, size_t extra_len)
{
	struct ws *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->fd = fd;
	w->extra = malloc(extra_len + 1);
	if (!w->extra || !make_context(w)) {
		free(w->extra);
		free(w);
		return NULL;
	}
	if (extra_len)
		memcpy(w->extra, extra, extra_len);
	w->extra_len = extra_len;
	return w;
}

void ws_free(struct ws *w)
{
	if (!w)
		return;
	wslay_event_context_free(w->events);
	strbuf_fini(&w->inbox);
	free(w->extra);
	free(w);
}
