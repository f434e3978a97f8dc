/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes between a client and a tunnel; see proxy.h.
 *
 * Both sides have buffers of their own limits (64 KiB each way here), so a side that does not
 * read holds the other one. A request's body is passed on as far as it goes: what a client sends
 * after it stays unread. Where one message can be followed by nothing, the ends of connections
 * are passed on like bytes.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/clock.h"
#include "server/preview/proxy.h"

#define BLOCK	 (64u << 10)
#define QUIET_MS 60000 /* for an answer to a client that has ended its half, and may be gone */

void pump_fini(struct pump *p)
{
	strbuf_fini(&p->answer_head);
	strbuf_fini(&p->up.b);
	strbuf_fini(&p->down.b);
}

int pump_send(int fd, const void *data, size_t len, int timeout_ms)
{
	uint64_t deadline = clock_mono_ms() + (uint64_t)timeout_ms;
	const char *at = data;

	while (len) {
		ssize_t n = send(fd, at, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		struct pollfd pfd = {.fd = fd, .events = POLLOUT};
		uint64_t now = clock_mono_ms();

		if (n > 0) {
			at += n;
			len -= (size_t)n;
		} else if (n < 0 && errno != EAGAIN && errno != EINTR) {
			return -errno;
		} else if (now >= deadline) {
			return -ETIMEDOUT;
		} else {
			poll(&pfd, 1, (int)(deadline - now));
		}
	}
	return 0;
}

static size_t left(const struct pending *p)
{
	return p->b.len - p->sent;
}

static void take_away(struct pending *p, size_t n)
{
	p->sent += n;
	__atomic_add_fetch(p->counted, n, __ATOMIC_RELAXED);
	if (p->sent < p->b.len)
		return;
	p->b.len = p->sent = 0;
}

/* --- to the client --------------------------------------------------------------------------- */

/* Return: 1 if something went, 0, -EPIPE: it is gone. */
static int flush_down(struct pump *p)
{
	int some = 0;

	while (left(&p->down)) {
		ssize_t n = send(p->fd, p->down.b.data + p->down.sent, left(&p->down),
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? some : -EPIPE;
		some = 1;
		p->answer_seen = true;
		take_away(&p->down, (size_t)n);
	}
	return some;
}

/* Return: 0, or -EPROTO. */
static int pass_answer(struct pump *p, const char *data, size_t len)
{
	ssize_t n = p->raw ? (ssize_t)len : head_body(p->answer, data, len);

	if (n > 0)
		strbuf_add(&p->down.b, data, (size_t)n);
	return n < 0 ? -EPROTO : 0;
}

/* A whole head is there. */
static int pass_head(struct pump *p, size_t end)
{
	struct strbuf *raw = &p->answer_head;
	int rc;

	p->answer->no_body = p->request->parser.method == HTTP_HEAD;
	rc = head_parse_response(p->answer, raw->data, end, &p->err);
	if (!rc && head_upgrades(p->answer) && !head_upgrades(p->request))
		rc = err_set(&p->err, -EPROTO, "an upgrade that nobody asked for");
	if (rc)
		return rc;
	head_write_response(p->answer, &p->down.b);
	p->raw = head_upgrades(p->answer);
	if (!head_is_interim(p->answer)) {
		rc = pass_answer(p, raw->data + end, raw->len - end);
		strbuf_fini(raw);
		return rc;
	}
	memmove(raw->data, raw->data + end, raw->len - end);
	raw->len -= end;
	p->answer->done = false;
	return 0;
}

static bool has_answer_head(const struct pump *p)
{
	return p->raw || p->answer->done;
}

static int from_port(struct pump *p, const char *data, size_t len)
{
	size_t end;
	int rc = 0;

	if (has_answer_head(p))
		return pass_answer(p, data, len);
	strbuf_add(&p->answer_head, data, len);
	while (!rc && !has_answer_head(p) && !p->answer_head.failed &&
	       (end = head_end(p->answer_head.data, p->answer_head.len)) != 0)
		rc = pass_head(p, end);
	if (!rc && p->answer_head.len > HEAD_MAX)
		rc = err_set(&p->err, -EPROTO, "a head of more than %u KiB", HEAD_MAX >> 10);
	return p->answer_head.failed ? -ENOMEM : rc;
}

static int on_port_end(struct pump *p)
{
	p->port_end = true;
	if (p->raw)
		return 0;
	if (!p->answer->done)
		return err_set(&p->err, -EPROTO, "the server in the sandbox gave no answer");
	return head_body_end(p->answer);
}

/* Return: 1 if there was something, 0, -errno. */
static int read_port(struct pump *p)
{
	char block[BLOCK / 4];
	ssize_t n;
	int rc;

	if (p->port_end || left(&p->down) >= BLOCK)
		return 0;
	n = tunnel_read(p->t, block, sizeof(block), &p->err);
	if (n == -EAGAIN)
		return 0;
	if (n < 0)
		return (int)n;
	if (p->client_end)
		p->quiet_until_ms = clock_mono_ms() + QUIET_MS;
	rc = n ? from_port(p, block, (size_t)n) : on_port_end(p);
	return rc ? rc : 1;
}

/* --- to the port ---------------------------------------------------------------------------------
 */

/* Return: 1 if something went, 0, -errno. */
static int flush_up(struct pump *p)
{
	size_t before = left(&p->up);

	while (left(&p->up)) {
		ssize_t n = tunnel_write(p->t, p->up.b.data + p->up.sent, left(&p->up), &p->err);

		if (n < 0)
			return (int)n;
		if (!n)
			break;
		take_away(&p->up, (size_t)n);
	}
	if (p->raw && p->client_end && !left(&p->up) && !p->told_port) {
		tunnel_write_end(p->t);
		p->told_port = true;
	}
	return left(&p->up) != before;
}

/* After a request that asks for an upgrade, bytes wait until it is agreed to. */
static bool wants_client(const struct pump *p)
{
	return !p->client_end && !left(&p->up) && (p->raw || !p->request->complete);
}

/* Return: 1 if there was something, 0, -errno. */
static int read_client(struct pump *p)
{
	char block[BLOCK / 4];
	ssize_t n, mine;

	if (!wants_client(p))
		return 0;
	n = recv(p->fd, block, sizeof(block), MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (!n) {
		p->client_end = true;
		p->quiet_until_ms = clock_mono_ms() + QUIET_MS;
		return p->raw || p->request->complete ? 1 : -EPIPE;
	}
	mine = p->raw ? n : head_body(p->request, block, (size_t)n);
	if (mine < 0)
		return -EPIPE; /* no chunks: whatever was said is no request */
	strbuf_add(&p->up.b, block, (size_t)mine);
	return p->up.b.failed ? -ENOMEM : 1;
}

/* --- both
 * -------------------------------------------------------------------------------------------- */

static bool is_over(struct pump *p)
{
	if (left(&p->down))
		return false;
	if (!p->raw)
		return p->answer->complete && !head_is_interim(p->answer);
	if (p->port_end && !p->told_client) {
		shutdown(p->fd, SHUT_WR);
		p->told_client = true;
	}
	return p->port_end && p->client_end && p->told_port && !left(&p->up);
}

/* Return: 0; -errno: nothing more will happen. */
static int wait_for_more(struct pump *p)
{
	/* Of a port whose words have no place nothing is heard, not that it has room either. */
	bool want_tunnel = left(&p->down) < BLOCK && (left(&p->up) || !p->port_end);
	int timeout = -1, events = 0, got;
	uint64_t now = clock_mono_ms();

	if (wants_client(p))
		events |= POLLIN;
	else if (!p->client_end && !p->raw)
		events |= POLLRDHUP;
	if (left(&p->down))
		events |= POLLOUT;
	if (p->client_end && (!p->raw || p->client_gone)) {
		if (now >= p->quiet_until_ms)
			return -ETIMEDOUT;
		timeout = (int)(p->quiet_until_ms - now);
	}
	got = tunnel_wait(p->t, want_tunnel, p->client_gone ? -1 : p->fd, (short)events, timeout);
	if (got < 0)
		return got;
	if (got & (POLLHUP | POLLERR))
		p->client_gone = true; /* there may still be something to read */
	if ((got & POLLRDHUP) && !wants_client(p)) {
		p->client_end = true;
		p->quiet_until_ms = clock_mono_ms() + QUIET_MS;
	}
	/* Nobody is there to hear an answer; but what he has said may still be on its way. */
	return p->client_gone && !p->raw ? -EPIPE : 0;
}

static int turn(struct pump *p)
{
	int up = flush_up(p), down, in, out;

	if (up < 0)
		return up;
	in = read_client(p);
	if (in < 0)
		return in;
	down = read_port(p);
	if (down < 0)
		return down;
	out = flush_down(p);
	if (out < 0)
		return out;
	if (is_over(p))
		return 1;
	/* Only when nothing is left to be tried: what was read ahead wakes nobody. */
	return up || in || down || out ? 0 : wait_for_more(p);
}

enum pump_end pump_run(struct pump *p)
{
	int rc;

	p->quiet_until_ms = UINT64_MAX;
	do
		rc = turn(p);
	while (!rc);
	if (rc > 0)
		return PUMP_DONE;
	flush_down(p);
	if (rc == -EPIPE || rc == -ETIMEDOUT || p->answer_seen || left(&p->down))
		return PUMP_ABORTED;
	return PUMP_NO_ANSWER;
}
