/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket; see control.h. */
#include "vmm/control.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "vmm/vm.h"

#define LINE_MAX_BYTES	 (64u << 10)
#define UNSENT_MAX_BYTES (1u << 20) /* a controller that lets more pile up is cut off */
#define MAX_CONTROLLERS	 64
#define LINGER_MS	 500

struct peer {
	struct peer *next;
	struct control *control; /* borrowed */
	struct loop_source source;
	int fd;
	char *in, *out; /* owned; freed when empty, as most controllers are idle */
	size_t in_used, in_cap, out_used, out_cap;
	int passed_fd; /* came with what was read last; -1: none. Owned */
	bool closing;  /* no more is read; it goes when all is sent */
};

struct control {
	struct vm *vm; /* borrowed */
	int listen_fd;
	struct loop_source source;
	struct peer *peers;
	unsigned int peers_n;
};

static void peer_destroy(struct peer *p)
{
	struct control *c = p->control;

	for (struct peer **q = &c->peers; *q; q = &(*q)->next)
		if (*q == p) {
			*q = p->next;
			break;
		}
	c->peers_n--;
	loop_remove(&c->vm->loop, &p->source);
	fd_close(&p->fd);
	fd_close(&p->passed_fd);
	free(p->in);
	free(p->out);
	free(p);
}

/* --- sending ------------------------------------------------------------------------- */

/* Return: false if the peer is gone. */
static bool peer_flush(struct peer *p)
{
	while (p->out_used) {
		ssize_t n = send(p->fd, p->out, p->out_used, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return true;
		if (n < 0)
			return false;
		p->out_used -= (size_t)n;
		memmove(p->out, p->out + n, p->out_used);
	}
	free(p->out);
	p->out = NULL;
	p->out_cap = 0;
	return !p->closing;
}

static bool peer_append(struct peer *p, const char *text, size_t len)
{
	if (p->out_used + len > UNSENT_MAX_BYTES)
		return false;
	if (p->out_used + len > p->out_cap) {
		size_t cap = p->out_used + len;
		char *grown = realloc(p->out, cap);

		if (!grown)
			return false;
		p->out = grown;
		p->out_cap = cap;
	}
	memcpy(p->out + p->out_used, text, len);
	p->out_used += len;
	return true;
}

/*
 * Only the loop frees peers: one that fails here is shut down, and the loop is told of it as
 * of any other end. So a list of peers can be walked while sending.
 */
static void peer_send(struct peer *p, const json_t *message)
{
	char *text = json_dumps(message, JSON_COMPACT);
	size_t len;

	if (!text) {
		shutdown(p->fd, SHUT_RDWR);
		return;
	}
	len = strlen(text);
	text[len] = '\n'; /* in place of the NUL */
	if (!peer_append(p, text, len + 1) || !peer_flush(p))
		shutdown(p->fd, SHUT_RDWR);
	free(text);
	loop_modify(&p->control->vm->loop, &p->source,
		    (p->closing ? 0u : EPOLLIN) | (p->out_used ? EPOLLOUT : 0u));
}

void control_event(struct vm *vm, json_t *event)
{
	if (vm->control && event)
		for (struct peer *p = vm->control->peers; p; p = p->next)
			if (!p->closing)
				peer_send(p, event);
	json_decref(event);
}

/* --- receiving ------------------------------------------------------------------------ */

static void refuse(struct peer *p, const char *message)
{
	json_t *answer =
	    json_pack("{sbs{ssss}}", "ok", 0, "error", "code", "EINVAL", "message", message);

	if (answer)
		peer_send(p, answer);
	json_decref(answer);
}

static void handle_line(struct peer *p, const char *text, size_t len)
{
	json_t *line = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	json_t *answer;

	if (!line)
		return refuse(p, "not a line of JSON");
	answer = ops_handle(p->control->vm, line, &p->passed_fd);
	if (answer)
		peer_send(p, answer);
	else
		shutdown(p->fd, SHUT_RDWR);
	json_decref(answer);
	json_decref(line);
}

static void handle_lines(struct peer *p)
{
	size_t start = 0;
	char *nl;

	while ((nl = memchr(p->in + start, '\n', p->in_used - start))) {
		size_t end = (size_t)(nl - p->in);

		handle_line(p, p->in + start, end - start);
		start = end + 1;
	}
	p->in_used -= start;
	memmove(p->in, p->in + start, p->in_used);
	if (p->in_used == 0) {
		/* Nobody asked for it. */
		fd_close(&p->passed_fd);
		free(p->in);
		p->in = NULL;
		p->in_cap = 0;
	} else if (p->in_used == LINE_MAX_BYTES) {
		p->closing = true;
		refuse(p, "a line is longer than 65536 bytes");
	}
}

/*
 * Read, with at most one descriptor. It comes at the latest with the first byte of the line that
 * it was sent with, and nothing of what was sent after that line's message comes with it.
 */
static ssize_t receive(struct peer *p)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {p->in + p->in_used, p->in_cap - p->in_used};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = control.bytes,
			   .msg_controllen = sizeof(control.bytes)};
	ssize_t n = recvmsg(p->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	for (struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS ||
		    c->cmsg_len != CMSG_LEN(sizeof(int)))
			continue;
		fd_close(&p->passed_fd);
		memcpy(&p->passed_fd, CMSG_DATA(c), sizeof(int));
	}
	return n;
}

static bool peer_read(struct peer *p)
{
	ssize_t n;

	if (p->in_used == p->in_cap) {
		size_t cap = p->in_cap ? p->in_cap * 4 : 4096;
		char *grown = realloc(p->in, cap);

		if (!grown)
			return false;
		p->in = grown;
		p->in_cap = cap;
	}
	n = receive(p);
	if (n < 0)
		return errno == EINTR || errno == EAGAIN;
	if (n == 0)
		return false;
	p->in_used += (size_t)n;
	handle_lines(p);
	return true;
}

static void peer_event(struct loop_source *s, uint32_t events)
{
	struct peer *p = container_of(s, struct peer, source);

	if ((events & EPOLLOUT) && !peer_flush(p))
		return peer_destroy(p);
	if ((events & EPOLLIN) && !p->closing && !peer_read(p))
		return peer_destroy(p);
	if ((events & (EPOLLHUP | EPOLLERR)) && !(events & EPOLLIN))
		return peer_destroy(p);
	if (p->closing && !p->out_used)
		return peer_destroy(p);
	loop_modify(&p->control->vm->loop, &p->source,
		    (p->closing ? 0u : EPOLLIN) | (p->out_used ? EPOLLOUT : 0u));
}

static void accept_event(struct loop_source *s, uint32_t events)
{
	struct control *c = container_of(s, struct control, source);
	cleanup_close int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct peer *p;

	(void)events;
	if (fd < 0)
		return;
	if (c->peers_n == MAX_CONTROLLERS) {
		log_warn("more than %d controllers: one is turned away", MAX_CONTROLLERS);
		return;
	}
	p = calloc(1, sizeof(*p));
	if (!p)
		return;
	p->control = c;
	p->fd = fd;
	p->passed_fd = -1;
	if (loop_add(&c->vm->loop, &p->source, fd, EPOLLIN, peer_event)) {
		free(p);
		return;
	}
	fd_steal(&fd);
	p->next = c->peers;
	c->peers = p;
	c->peers_n++;
}

/* --- life -------------------------------------------------------------------------------- */

int control_create(struct control **out, struct vm *vm, int listen_fd, struct err *e)
{
	struct control *c = calloc(1, sizeof(*c));
	int rc;

	if (!c) {
		close(listen_fd);
		return err_set(e, -ENOMEM, "out of memory");
	}
	c->vm = vm;
	c->listen_fd = listen_fd;
	rc = loop_add(&vm->loop, &c->source, listen_fd, EPOLLIN, accept_event);
	if (rc) {
		close(listen_fd);
		free(c);
		return err_sys(e, rc, "control socket");
	}
	*out = c;
	return 0;
}

static void linger(struct control *c)
{
	uint64_t until = clock_mono_ms() + LINGER_MS;

	for (struct peer *p = c->peers; p; p = p->next) {
		while (p->out_used && peer_flush(p) && p->out_used) {
			struct pollfd pfd = {.fd = p->fd, .events = POLLOUT};
			uint64_t now = clock_mono_ms();

			if (now >= until || poll(&pfd, 1, (int)(until - now)) <= 0)
				break;
		}
	}
}

void control_destroy(struct control *c)
{
	if (!c)
		return;
	linger(c);
	for (struct peer *p = c->peers, *next; p; p = next) {
		next = p->next;
		peer_destroy(p);
	}
	loop_remove(&c->vm->loop, &c->source);
	fd_close(&c->listen_fd);
	free(c);
}
