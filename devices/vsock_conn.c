/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of virtio-vsock: life, buffers, what their sockets are watched for. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "devices/vsock_int.h"
#include "lib/fd.h"

/* Buffers of all connections together, roughly: more connections get smaller ones. */
#define BUDGET_BYTES  (64u << 20)
#define BUF_MAX_BYTES (256u << 10)
#define BUF_MIN_BYTES (16u << 10)

static void conn_event(struct loop_source *s, uint32_t events);

struct conn *conn_new(struct vsock *v, int fd, enum conn_state state)
{
	uint32_t alloc = BUDGET_BYTES / (v->n_conns + 1);
	struct conn *c = NULL;

	if (v->n_conns < VSOCK_MAX_CONNS)
		c = calloc(1, sizeof(*c));
	if (!c) {
		fd_close(&fd);
		return NULL;
	}
	if (alloc > BUF_MAX_BYTES)
		alloc = BUF_MAX_BYTES;
	if (alloc < BUF_MIN_BYTES)
		alloc = BUF_MIN_BYTES;
	c->v = v;
	c->fd = fd;
	c->source.fd = -1;
	c->state = state;
	c->buf_alloc = alloc;
	LIST_INSERT_HEAD(&v->all, c, all);
	v->n_conns++;
	return c;
}

static struct conn_list *bucket(struct vsock *v, uint32_t host_port, uint32_t guest_port)
{
	return &v->buckets[(host_port * 31 + guest_port) % VSOCK_BUCKETS];
}

void conn_name(struct conn *c, uint32_t host_port, uint32_t guest_port)
{
	c->host_port = host_port;
	c->guest_port = guest_port;
	c->hashed = true;
	LIST_INSERT_HEAD(bucket(c->v, host_port, guest_port), c, hash);
}

struct conn *conn_find(struct vsock *v, uint32_t host_port, uint32_t guest_port)
{
	struct conn *c;

	LIST_FOREACH(c, bucket(v, host_port, guest_port), hash)
	if (c->host_port == host_port && c->guest_port == guest_port)
		return c;
	return NULL;
}

void conn_unhash(struct conn *c)
{
	if (c->hashed)
		LIST_REMOVE(c, hash);
	c->hashed = false;
}

void conn_want(struct conn *c, unsigned int want)
{
	c->want |= want;
	if (c->in_rx)
		return;
	c->in_rx = true;
	TAILQ_INSERT_TAIL(&c->v->rx, c, rx);
}

void conn_unqueue(struct conn *c)
{
	if (c->in_rx)
		TAILQ_REMOVE(&c->v->rx, c, rx);
	c->in_rx = false;
}

static void drop_socket(struct conn *c)
{
	loop_remove(c->v->dev->loop, &c->source);
	fd_close(&c->fd);
}

void conn_free(struct conn *c)
{
	struct vsock *v = c->v;

	conn_unqueue(c);
	conn_unhash(c);
	drop_socket(c);
	LIST_REMOVE(c, all);
	v->n_conns--;
	free(c->buf);
	free(c);
	vsock_host_resume(v);
}

bool conn_free_if_over(struct conn *c)
{
	if (c->state != CONN_CLOSING || c->want || c->buf_len)
		return false;
	conn_free(c);
	return true;
}

void conn_close(struct conn *c, bool rst)
{
	c->state = CONN_CLOSING;
	c->want = 0;
	conn_unqueue(c);
	if (rst)
		conn_want(c, WANT_RST);
	else
		conn_unhash(c);
	if (!c->buf_len)
		drop_socket(c);
	if (!conn_free_if_over(c))
		conn_watch(c);
}

uint32_t conn_credit(const struct conn *c)
{
	/* Both count modulo 2^32 (5.10.6.3); a guest that lies gets nothing. */
	uint32_t in_flight = c->sent_cnt - c->peer_fwd_cnt;

	return in_flight < c->peer_buf_alloc ? c->peer_buf_alloc - in_flight : 0;
}

void conn_watch(struct conn *c)
{
	struct loop *loop = c->v->dev->loop;
	bool in = false, hup = false;
	uint32_t events = c->buf_len ? EPOLLOUT : 0;

	switch (c->state) {
	case CONN_HANDSHAKE:
		in = true;
		break;
	case CONN_REQUEST:
		hup = true;
		break;
	case CONN_OPEN:
		in = !c->host_eof && !(c->guest_shut & VSOCK_SHUT_RCV) && !(c->want & WANT_READ) &&
		     conn_credit(c);
		hup = (c->host_eof || (c->guest_shut & VSOCK_SHUT_RCV)) && !c->host_gone;
		break;
	case CONN_CLOSING:
		break;
	}
	if (in)
		events |= EPOLLIN;
	/*
	 * epoll reports a hang-up whether asked or not: a socket that can do nothing
	 * for now must leave it, or the loop would spin.
	 */
	if (c->fd < 0 || (!events && !hup))
		loop_remove(loop, &c->source);
	else if (!c->source.handler)
		loop_add(loop, &c->source, c->fd, events, conn_event);
	else
		loop_modify(loop, &c->source, events);
}

/* The client has taken, or will never take, @len more bytes: the guest may send that much. */
static void forwarded(struct conn *c, uint32_t len)
{
	uint32_t free_as_told;

	c->fwd_cnt += len;
	if (c->state != CONN_OPEN)
		return;
	free_as_told = c->buf_alloc - (c->received_cnt - c->fwd_cnt_told);
	if (c->fwd_cnt != c->fwd_cnt_told && free_as_told < c->buf_alloc / 2)
		conn_want(c, WANT_CREDIT);
}

void conn_host_ended(struct conn *c, bool eof, bool gone)
{
	uint32_t flags;

	c->host_eof |= eof;
	c->host_gone |= gone;
	if (c->host_gone && c->buf_len) {
		uint32_t lost = c->buf_len;

		c->buf_len = 0;
		forwarded(c, lost);
	}
	if (c->host_eof && c->host_gone)
		drop_socket(c);
	if (c->state != CONN_OPEN)
		return;
	flags = (c->host_gone ? VSOCK_SHUT_RCV : 0) | (c->host_eof ? VSOCK_SHUT_SEND : 0);
	if (flags & ~c->shut_sent)
		conn_want(c, WANT_SHUTDOWN);
}

/* After the guest's last byte has reached the client. */
static void pass_shutdown_on(struct conn *c)
{
	if ((c->guest_shut & VSOCK_SHUT_SEND) && !c->buf_len && c->fd >= 0)
		shutdown(c->fd, SHUT_WR);
}

void conn_guest_shutdown(struct conn *c, uint32_t flags)
{
	c->guest_shut |= flags & VSOCK_SHUT_BOTH;
	if (c->guest_shut == VSOCK_SHUT_BOTH) {
		conn_close(c, true);
		return;
	}
	if ((flags & VSOCK_SHUT_RCV) && c->fd >= 0)
		shutdown(c->fd, SHUT_RD);
	pass_shutdown_on(c);
	conn_watch(c);
}

/* Write what is buffered, as far as the client takes it. */
static void flush(struct conn *c)
{
	while (c->buf_len && c->fd >= 0) {
		uint32_t first = c->buf_alloc - c->buf_head;
		struct iovec iov[2];
		struct msghdr m = {.msg_iov = iov, .msg_iovlen = 1};
		ssize_t n;

		if (first > c->buf_len)
			first = c->buf_len;
		iov[0] = (struct iovec){c->buf + c->buf_head, first};
		if (first < c->buf_len) {
			iov[1] = (struct iovec){c->buf, c->buf_len - first};
			m.msg_iovlen = 2;
		}
		n = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			conn_host_ended(c, false, true);
			break;
		}
		c->buf_head = (c->buf_head + (uint32_t)n) % c->buf_alloc;
		c->buf_len -= (uint32_t)n;
		forwarded(c, (uint32_t)n);
	}
	/* Most connections never need it again. */
	free(c->buf);
	c->buf = NULL;
	c->buf_head = c->buf_len = 0;
	if (c->state == CONN_OPEN)
		pass_shutdown_on(c);
}

/* Keep @len bytes, of which the first @skip are through already. */
static int keep(struct conn *c, const struct iovec *iov, unsigned int n, size_t skip)
{
	if (!c->buf)
		c->buf = malloc(c->buf_alloc);
	if (!c->buf)
		return -ENOMEM;
	for (; n; iov++, n--) {
		const uint8_t *from = iov->iov_base;
		size_t len = iov->iov_len;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		from += skip;
		len -= skip;
		skip = 0;
		/* There is room: the caller has checked the guest's credit. */
		while (len) {
			uint32_t tail = (c->buf_head + c->buf_len) % c->buf_alloc;
			size_t part = c->buf_alloc - tail;

			if (part > len)
				part = len;
			memcpy(c->buf + tail, from, part);
			c->buf_len += (uint32_t)part;
			from += part;
			len -= part;
		}
	}
	return 0;
}

int conn_deliver(struct conn *c, struct iovec *iov, unsigned int n, uint32_t len_bytes)
{
	struct msghdr m = {.msg_iov = iov, .msg_iovlen = n};
	ssize_t done = 0;

	c->received_cnt += len_bytes;
	if (c->host_gone || c->fd < 0) {
		forwarded(c, len_bytes);
		return 0;
	}
	if (!c->buf_len) {
		do
			done = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
		while (done < 0 && errno == EINTR);
	}
	if (done < 0 && errno != EAGAIN) {
		conn_host_ended(c, false, true);
		forwarded(c, len_bytes);
		return 0;
	}
	if (done < 0)
		done = 0;
	forwarded(c, (uint32_t)done);
	if ((uint32_t)done == len_bytes)
		return 0;
	return keep(c, iov, n, (size_t)done);
}

static void conn_event(struct loop_source *s, uint32_t events)
{
	struct conn *c = container_of(s, struct conn, source);
	bool hup = events & (EPOLLHUP | EPOLLERR);
	struct vsock *v = c->v;

	if (c->state == CONN_HANDSHAKE) {
		vsock_host_handshake(c);
		vsock_pump(v);
		return;
	}
	if (c->buf_len && (hup || (events & EPOLLOUT)))
		flush(c);
	if (conn_free_if_over(c))
		return;
	if (c->state == CONN_REQUEST && hup) {
		/* The client gave up. A request that was not sent yet needs no reset. */
		conn_close(c, !(c->want & WANT_REQUEST));
		vsock_pump(v);
		return;
	}
	if (c->state == CONN_OPEN) {
		bool reading = !c->host_eof && !(c->guest_shut & VSOCK_SHUT_RCV);

		if (reading && (events & EPOLLIN))
			conn_want(c, WANT_READ);
		else if (hup && !reading)
			conn_host_ended(c, true, true);
		else if (hup)
			conn_host_ended(c, false, true);
	}
	conn_watch(c);
	vsock_pump(v);
}
