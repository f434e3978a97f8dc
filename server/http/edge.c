/* SPDX-License-Identifier: Apache-2.0 */
/* New connections, until it is known whose they are; see edge.h. */
#include "server/http/edge.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"

#define EVENTS_AT_ONCE 64

/* In the list of those without a byte, or of those whose head has begun: each is in the order of
 * its deadlines. */
struct held {
	int fd;
	struct sockaddr_storage sa;
	socklen_t sa_len;
	uint64_t deadline_ms;
	bool begun;
	struct held *prev, *next;
};

struct list {
	struct held *first, *last;
};

struct edge {
	struct edge_ops ops;
	int epoll_fd;
	struct list idle, begun;
	unsigned int n;
	char peek[EDGE_PEEK];
};

/* --- what the bytes say ---------------------------------------------------------------------- */

/* One header line, without its end. Return: EDGE_WAIT: it says nothing. */
static enum edge_verdict look_at_line(const char *line, size_t len, edge_claims *claims)
{
	if (len && line[len - 1] == '\r')
		len--;
	if (!len)
		return EDGE_OURS; /* the end of the head: no Host */
	if (len < 5 || strncasecmp(line, "host:", 5))
		return EDGE_WAIT;
	line += 5;
	len -= 5;
	while (len && (*line == ' ' || *line == '\t')) {
		line++;
		len--;
	}
	while (len && (line[len - 1] == ' ' || line[len - 1] == '\t'))
		len--;
	return claims(line, len) ? EDGE_CLAIMED : EDGE_OURS;
}

enum edge_verdict edge_look(const char *data, size_t len, edge_claims *claims)
{
	const char *end = data + len, *line = data, *eol;
	bool first = true;

	if (len && (data[0] < 'A' || data[0] > 'Z'))
		return EDGE_OURS; /* TLS, or whatever it is */
	while ((eol = memchr(line, '\n', (size_t)(end - line)))) {
		enum edge_verdict v =
		    first ? EDGE_WAIT : look_at_line(line, (size_t)(eol - line), claims);

		if (v != EDGE_WAIT)
			return v;
		first = false;
		line = eol + 1;
	}
	return len >= EDGE_PEEK ? EDGE_OURS : EDGE_WAIT;
}

/* --- those that wait ---------------------------------------------------------------------------
 */

static struct list *list_of(struct edge *e, const struct held *h)
{
	return h->begun ? &e->begun : &e->idle;
}

static void append(struct edge *e, struct held *h)
{
	struct list *l = list_of(e, h);

	h->prev = l->last;
	h->next = NULL;
	*(l->last ? &l->last->next : &l->first) = h;
	l->last = h;
}

static void unlink_held(struct edge *e, struct held *h)
{
	struct list *l = list_of(e, h);

	*(h->prev ? &h->prev->next : &l->first) = h->next;
	*(h->next ? &h->next->prev : &l->last) = h->prev;
}

static void release(struct edge *e, struct held *h)
{
	epoll_ctl(e->epoll_fd, EPOLL_CTL_DEL, h->fd, NULL);
	unlink_held(e, h);
	e->n--;
	free(h);
}

static void hand_over(struct edge *e, enum edge_verdict v, int fd,
		      const struct sockaddr_storage *sa, socklen_t len)
{
	if (v == EDGE_CLAIMED)
		e->ops.claimed(e->ops.arg, fd, sa, len);
	else
		e->ops.ours(e->ops.arg, fd, sa, len);
}

/* Return: bytes that are there, -EAGAIN for none; 0 or -errno: the client is gone. */
static ssize_t peek(struct edge *e, int fd)
{
	ssize_t n;

	do
		n = recv(fd, e->peek, sizeof(e->peek), MSG_PEEK | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

static void hold(struct edge *e, int fd, bool begun, const struct sockaddr_storage *sa,
		 socklen_t len)
{
	struct held *h = e->n < EDGE_MAX_HELD ? calloc(1, sizeof(*h)) : NULL;
	struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = h};

	if (!h || epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, fd, &ev)) {
		free(h);
		e->ops.ours(e->ops.arg, fd, sa, len); /* which has limits of its own */
		return;
	}
	*h = (struct held){.fd = fd, .sa = *sa, .sa_len = len, .begun = begun};
	h->deadline_ms = clock_mono_ms() + (begun ? EDGE_HEAD_MS : EDGE_IDLE_MS);
	append(e, h);
	e->n++;
}

void edge_accept(struct edge *e, int fd, const struct sockaddr_storage *sa, socklen_t len)
{
	ssize_t n = peek(e, fd);
	enum edge_verdict v = n > 0 ? edge_look(e->peek, (size_t)n, e->ops.claims) : EDGE_WAIT;

	if (n == 0 || (n < 0 && n != -EAGAIN))
		close(fd);
	else if (v == EDGE_WAIT)
		hold(e, fd, n > 0, sa, len); /* bytes that come in between raise an event, too */
	else
		hand_over(e, v, fd, sa, len);
}

static void look_again(struct edge *e, struct held *h)
{
	ssize_t n = peek(e, h->fd);
	enum edge_verdict v;
	struct held was = *h;

	if (n == -EAGAIN)
		return;
	if (n <= 0) {
		release(e, h);
		close(was.fd);
		return;
	}
	v = edge_look(e->peek, (size_t)n, e->ops.claims);
	if (v != EDGE_WAIT) {
		release(e, h);
		hand_over(e, v, was.fd, &was.sa, was.sa_len);
	} else if (!h->begun) {
		unlink_held(e, h);
		h->begun = true;
		h->deadline_ms = clock_mono_ms() + EDGE_HEAD_MS;
		append(e, h);
	}
}

void edge_run(struct edge *e)
{
	struct epoll_event ev[EVENTS_AT_ONCE];
	int n = epoll_wait(e->epoll_fd, ev, EVENTS_AT_ONCE, 0);

	for (int i = 0; i < n; i++) {
		struct held *h = ev[i].data.ptr;
		struct held was = *h;

		/* A client that only ends its half may still want an answer, but not without a
		 * head. */
		if (ev[i].events & (EPOLLHUP | EPOLLERR)) {
			release(e, h);
			close(was.fd);
		} else if (ev[i].events & EPOLLRDHUP) {
			enum edge_verdict v = EDGE_OURS;
			ssize_t len = peek(e, h->fd);

			if (len > 0)
				v = edge_look(e->peek, (size_t)len, e->ops.claims);
			release(e, h);
			if (len <= 0)
				close(was.fd);
			else
				hand_over(e, v == EDGE_WAIT ? EDGE_OURS : v, was.fd, &was.sa,
					  was.sa_len);
		} else {
			look_again(e, h);
		}
	}
}

/* --- time ----------------------------------------------------------------------------------------
 */

int edge_next_ms(const struct edge *e, uint64_t now_ms)
{
	uint64_t at = UINT64_MAX;

	if (e->idle.first)
		at = e->idle.first->deadline_ms;
	if (e->begun.first && e->begun.first->deadline_ms < at)
		at = e->begun.first->deadline_ms;
	if (at == UINT64_MAX)
		return -1;
	return at > now_ms ? (int)(at - now_ms) : 0;
}

void edge_tick(struct edge *e, uint64_t now_ms)
{
	struct held *h;

	/* Unlinking the first one moves the head of its list, which the analyzer does not follow.
	 */
	/* NOLINTBEGIN(clang-analyzer-unix.Malloc) */
	while ((h = e->idle.first) && h->deadline_ms <= now_ms) {
		int fd = h->fd;

		release(e, h);
		close(fd);
	}
	while ((h = e->begun.first) && h->deadline_ms <= now_ms) {
		struct held was = *h;

		release(e, h);
		hand_over(e, EDGE_OURS, was.fd, &was.sa, was.sa_len);
	}
	/* NOLINTEND(clang-analyzer-unix.Malloc) */
}

/* --- life ----------------------------------------------------------------------------------------
 */

struct edge *edge_create(const struct edge_ops *ops)
{
	struct edge *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->ops = *ops;
	e->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (e->epoll_fd >= 0)
		return e;
	free(e);
	return NULL;
}

void edge_destroy(struct edge *e)
{
	if (!e)
		return;
	for (int i = 0; i < 2; i++) {
		struct list *l = i ? &e->begun : &e->idle;

		while (l->first) {
			int fd = l->first->fd; /* NOLINT(clang-analyzer-unix.Malloc): as above */

			release(e, l->first);
			close(fd);
		}
	}
	fd_close(&e->epoll_fd);
	free(e);
}

int edge_fd(const struct edge *e)
{
	return e->epoll_fd;
}
