/* SPDX-License-Identifier: Apache-2.0 */
/* The host's side of virtio-vsock: Unix sockets in both directions. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devices/vsock_int.h"
#include "lib/fd.h"
#include "lib/log.h"

/* #syscalls accept4 recvfrom recvmsg sendto sendmsg shutdown getsockopt setsockopt getsockname */

#define ACCEPTS_A_TURN 64

static void accept_clients(struct loop_source *s, uint32_t events);

int vsock_host_init(struct vsock *v, struct err *e)
{
	v->next_port = VSOCK_FIRST_PORT;
	/* Clients of a VM are its owner's. */
	v->listen_fd = fd_unix_listen(v->uds_path, 0600, e);
	return v->listen_fd < 0 ? v->listen_fd : 0;
}

void vsock_host_fini(struct vsock *v)
{
	if (v->listen_fd < 0)
		return;
	vsock_host_listen(v, false);
	unlink(v->uds_path);
	fd_close(&v->listen_fd);
}

void vsock_host_listen(struct vsock *v, bool on)
{
	v->accept_paused = false;
	if (!on)
		loop_remove(v->dev->loop, &v->listener);
	else if (!v->listener.handler &&
		 loop_add(v->dev->loop, &v->listener, v->listen_fd, EPOLLIN, accept_clients) < 0)
		log_error("vsock: %s cannot be watched", v->uds_path);
}

/* Until a connection ends; clients wait in the socket's queue. */
static void pause_accept(struct vsock *v)
{
	vsock_host_listen(v, false);
	v->accept_paused = true;
}

void vsock_host_resume(struct vsock *v)
{
	if (v->accept_paused)
		vsock_host_listen(v, true);
}

static void accept_clients(struct loop_source *s, uint32_t events)
{
	struct vsock *v = container_of(s, struct vsock, listener);

	(void)events;
	for (int i = 0; i < ACCEPTS_A_TURN; i++) {
		struct conn *c;
		int fd;

		if (v->n_conns >= VSOCK_MAX_CONNS) {
			pause_accept(v);
			break;
		}
		fd = accept4(v->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0 && (errno == EMFILE || errno == ENFILE) && v->n_conns) {
			log_guest("vsock: no descriptors left at %u connections", v->n_conns);
			pause_accept(v);
			break;
		}
		if (fd < 0)
			break;
		c = conn_new(v, fd, CONN_HANDSHAKE);
		if (!c)
			continue;
		conn_watch(c);
		/* The line is there already, as a rule. */
		vsock_host_handshake(c);
	}
	vsock_pump(v);
}

/* "CONNECT <port>\n" and nothing else. */
static bool parse_line(const char *line, uint32_t *port)
{
	unsigned long long n = 0;
	const char *p = line + strlen("CONNECT ");

	if (strncmp(line, "CONNECT ", strlen("CONNECT ")) || *p < '0' || *p > '9')
		return false;
	for (; *p >= '0' && *p <= '9' && n <= UINT32_MAX; p++)
		n = n * 10 + (unsigned int)(*p - '0');
	*port = (uint32_t)n;
	return *p == '\n' && n < UINT32_MAX;
}

static bool take_port(struct vsock *v, uint32_t guest_port, uint32_t *port)
{
	for (unsigned int i = 0; i <= VSOCK_MAX_CONNS; i++) {
		*port = v->next_port++;
		if (v->next_port == UINT32_MAX)
			v->next_port = VSOCK_FIRST_PORT;
		if (!conn_find(v, *port, guest_port))
			return true;
	}
	return false;
}

void vsock_host_handshake(struct conn *c)
{
	uint32_t port, host_port;
	char *at = c->line + c->line_len, *end;
	size_t room = sizeof(c->line) - 1 - c->line_len;
	ssize_t n;

	/* Looking first: what follows the line is the guest's. */
	n = recv(c->fd, at, room, MSG_PEEK | MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	end = n > 0 ? memchr(at, '\n', (size_t)n) : NULL;
	if (n <= 0 || (!end && (size_t)n == room)) {
		conn_close(c, false);
		return;
	}
	if (end)
		n = end - at + 1;
	if (recv(c->fd, at, (size_t)n, MSG_DONTWAIT) != n) {
		conn_close(c, false);
		return;
	}
	c->line_len += (uint32_t)n;
	c->line[c->line_len] = '\0';
	if (!end)
		return;
	if (!parse_line(c->line, &port) || !take_port(c->v, port, &host_port)) {
		conn_close(c, false);
		return;
	}
	conn_name(c, host_port, port);
	c->state = CONN_REQUEST;
	conn_want(c, WANT_REQUEST);
	conn_watch(c);
}

int vsock_host_accepted(struct conn *c)
{
	char line[VSOCK_LINE_BYTES];
	int n = snprintf(line, sizeof(line), "OK %u\n", c->host_port);

	/* The socket is empty: it takes so few bytes, or its client is gone. */
	if (send(c->fd, line, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) != n)
		return -EPIPE;
	return 0;
}

int vsock_host_connect(struct vsock *v, const struct vsock_header *h)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct conn *c;
	int fd, n;

	n = snprintf(sa.sun_path, sizeof(sa.sun_path), "%s_%u", v->uds_path, h->dst_port);
	if (n < 0 || (size_t)n >= sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* A Unix socket connects at once or not at all; a full queue is a refusal. */
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		int rc = -errno;

		fd_close(&fd);
		return rc;
	}
	c = conn_new(v, fd, CONN_OPEN);
	if (!c)
		return -ENOMEM;
	conn_name(c, h->dst_port, h->src_port);
	c->peer_buf_alloc = h->buf_alloc;
	c->peer_fwd_cnt = h->fwd_cnt;
	conn_want(c, WANT_RESPONSE);
	conn_watch(c);
	return 0;
}
