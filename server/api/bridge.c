/* SPDX-License-Identifier: Apache-2.0 */
/* Clients of sessions over WebSockets; see bridge.h. */
#include "server/api/bridge.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "server/http/request.h"

#define BLOCK_BYTES	  (32u << 10) /* of one message */
#define MESSAGES_PER_TURN 16

/* Channels (api.md 17.1), and one of ours: the end of stdin, from clients that know it. */
enum { CH_STDIN = 0, CH_STDOUT = 1, CH_STDERR = 2, CH_EXIT = 3, CH_LIVE = 4, CH_STDIN_EOF = 5 };

struct state {
	struct ws *w;
	struct bridge *b;
	struct ws_piece in; /* what is left of it is to be written to stdin */
	bool has_in;
	unsigned int channel; /* of the message that `in` is from */
	bool no_stdin;	      /* it is closed: drop what comes */
	uint8_t *block;
};

/* --- from the client
 * ------------------------------------------------------------------------------ */

/* Take the channel off; false for pieces that are to be ignored. */
static bool take_channel(struct state *s)
{
	struct ws_piece *p = &s->in;

	if (s->b->format == BRIDGE_RAW)
		return true;
	if (p->first) {
		s->channel = p->len && !p->text ? p->data[0] : UINT_MAX;
		if (p->len) {
			p->data++;
			p->len--;
		}
	}
	if (s->channel == CH_STDIN_EOF && p->last)
		exec_write_eof(s->b->session);
	return s->channel == CH_STDIN;
}

/* Return: 0 when all that has come was taken, 1 if stdin has no room, or as ws_recv(). */
static int feed(struct state *s)
{
	struct err e;

	for (;;) {
		ssize_t n;
		int rc;

		if (!s->has_in) {
			rc = ws_recv(s->w, &s->in);
			if (rc <= 0)
				return rc;
			s->has_in = take_channel(s);
			continue;
		}
		n = s->no_stdin || !s->in.len
			? (ssize_t)s->in.len
			: exec_write(s->b->session, s->in.data, s->in.len, 0, &e);
		if (n < 0) {
			s->no_stdin = true;
			continue;
		}
		s->in.data += n;
		s->in.len -= (size_t)n;
		s->has_in = s->in.len > 0;
		if (s->has_in)
			return 1;
	}
}

/* --- to the client
 * -------------------------------------------------------------------------------- */

static int send_channel(struct state *s, uint8_t channel, const void *data, size_t len)
{
	bool raw = s->b->format == BRIDGE_RAW;

	return raw && !len ? 0 : ws_send(s->w, &channel, raw ? 0 : 1, data, len);
}

/* A command that never ran, or is lost, has no output that says so. */
static int send_exit(struct state *s)
{
	struct exec_view v;
	char text[300] = "";
	uint8_t code[4];
	int rc = 0;

	if (s->b->format == BRIDGE_RAW)
		return 0;
	exec_view(s->b->session, &v);
	for (int i = 0; i < 4; i++)
		code[i] = (uint8_t)((uint32_t)v.exit_code >> (24 - 8 * i));
	if (v.state != EXEC_ENDED)
		snprintf(text, sizeof(text), "%s\n", v.error);
	exec_view_end(s->b->session);
	if (*text)
		rc = send_channel(s, CH_STDERR, text, strlen(text));
	return rc ? rc : send_channel(s, CH_EXIT, code, sizeof(code));
}

/* A terminal has no message for its exit code: the close frame tells it to who wants to know. */
static void close_ended(struct state *s)
{
	struct exec_view v;
	char text[124];

	exec_view(s->b->session, &v);
	if (v.state == EXEC_ENDED)
		snprintf(text, sizeof(text), "exited with code %d", v.exit_code);
	else
		snprintf(text, sizeof(text), "%s", v.error);
	exec_view_end(s->b->session);
	ws_close(s->w, WS_NORMAL, s->b->ended ? s->b->ended : text);
}

/* Return: 1: goes on, 0: nothing more for now, -errno: it is over. */
static int tell(struct state *s, size_t max)
{
	size_t len;

	switch (exec_read(s->b->reader, s->block, max, &len)) {
	case EXEC_STDOUT:
		return send_channel(s, CH_STDOUT, s->block, len) ? -EPIPE : 1;
	case EXEC_STDERR:
		return send_channel(s, CH_STDERR, s->block, len) ? -EPIPE : 1;
	case EXEC_LIVE:
		if (s->b->format == BRIDGE_RAW)
			exec_redraw(s->b->session);
		return s->b->format == BRIDGE_CHANNELS && send_channel(s, CH_LIVE, NULL, 0) ? -EPIPE
											    : 1;
	case EXEC_END:
		if (!send_exit(s))
			close_ended(s);
		return -EPIPE;
	case EXEC_CUT:
		if (exec_removed(s->b->session))
			ws_close(s->w, WS_NORMAL, "the terminal was removed");
		else
			ws_close(s->w, WS_GOING_AWAY, "the sandbox was hibernated or restored");
		return -EPIPE;
	case EXEC_ROOM:
		return feed(s) < 0 ? -EPIPE : 1;
	case EXEC_NOTHING:
		break;
	}
	return 0;
}

/*
 * What there is to say, while the client takes it; not without end, for it may have something to
 * say, too. Return: as tell().
 */
static int tell_some(struct state *s)
{
	int rc = 1;

	for (int i = 0; i < MESSAGES_PER_TURN && rc > 0 && ws_can_send(s->w); i++) {
		rc = tell(s, BLOCK_BYTES);
		/* Send it now: the next message waits until this one is gone. */
		if (rc >= 0 && ws_wait(s->w, -1, false, 0) < 0)
			return -EPIPE;
	}
	if (rc <= 0 || ws_can_send(s->w))
		return rc;
	/* The client is behind. The session may still have room for stdin, or let go. */
	while (rc > 0)
		rc = tell(s, 0);
	return rc;
}

static void move(struct state *s)
{
	for (;;) {
		int more;

		if (feed(s) < 0 || (more = tell_some(s)) < 0)
			return;
		if (ws_wait(s->w, exec_reader_fd(s->b->reader), !s->has_in, more ? 0 : -1) < 0)
			return;
	}
}

static void run(struct ws *w, void *arg)
{
	struct state s = {.w = w, .b = arg, .block = malloc(BLOCK_BYTES)};

	if (s.block)
		move(&s);
	else
		ws_close(w, WS_INTERNAL, "out of memory");
	/* Not again for who has closed already. */
	ws_close(w, WS_GOING_AWAY, "");
	free(s.block);
}

static void release(void *arg)
{
	struct bridge *b = arg;

	exec_detach(b->reader);
	exec_put(b->session);
	free(b);
}

void bridge_reply(struct request *r, struct exec_session *x, enum bridge_format format,
		  const uint64_t from[2], const char *ended)
{
	struct bridge *b = calloc(1, sizeof(*b));
	struct err e;
	int rc = b ? exec_attach(x, from, &b->reader, &e) : err_set(&e, -ENOMEM, "out of memory");

	if (rc) {
		exec_put(x);
		free(b);
		reply_errno(r, rc == -ERANGE ? -EINVAL : rc, &e);
		return;
	}
	b->session = x;
	b->format = format;
	b->ended = ended;
	reply_websocket(r, run, b, release);
}
