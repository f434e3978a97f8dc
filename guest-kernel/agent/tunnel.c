/* SPDX-License-Identifier: Apache-2.0 */
/* Connections within the guest, as sessions; see tunnel.h. */
#include "guest-kernel/agent/tunnel.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest-kernel/agent/exec.h"
#include "lib/fd.h"

/* On the loopback only a server that does not accept keeps anybody waiting. */
#define CONNECT_MS 5000

static int finish_connect(int fd)
{
	struct pollfd pfd = {.fd = fd, .events = POLLOUT};
	socklen_t len = sizeof(int);
	int error = 0;

	if (poll(&pfd, 1, CONNECT_MS) <= 0)
		return -ETIMEDOUT;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		return -errno;
	return -error;
}

/* Return: a connected socket that does not block, or -errno. */
static int dial(const struct sockaddr *sa, socklen_t len)
{
	cleanup_close int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int on = 1, rc = 0;

	if (fd < 0)
		return -errno;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (connect(fd, sa, len) < 0)
		rc = errno == EINPROGRESS ? finish_connect(fd) : -errno;
	return rc ? rc : fd_steal(&fd);
}

static int dial_loopback(uint32_t port)
{
	const struct sockaddr_in v4 = {.sin_family = AF_INET,
				       .sin_port = htons((uint16_t)port),
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	const struct sockaddr_in6 v6 = {.sin6_family = AF_INET6,
					.sin6_port = htons((uint16_t)port),
					.sin6_addr = IN6ADDR_LOOPBACK_INIT};
	int fd = dial((const struct sockaddr *)&v4, sizeof(v4)), fd6;

	if (fd != -ECONNREFUSED)
		return fd;
	/* Without IPv6 in the guest it is the first failure that says what is the matter. */
	fd6 = dial((const struct sockaddr *)&v6, sizeof(v6));
	return fd6 >= 0 ? fd6 : fd;
}

static int start(struct session *s, uint32_t port, struct err *e)
{
	s->tunnel = true;
	s->out_fd[0] = dial_loopback(port);
	if (s->out_fd[0] < 0)
		return err_sys(e, s->out_fd[0], "connect to port %u", port);
	s->in_fd = fcntl(s->out_fd[0], F_DUPFD_CLOEXEC, 0);
	return s->in_fd < 0 ? err_sys(e, -errno, "connect to port %u", port) : 0;
}

void connect_serve(struct agent *a, struct peer *p, uint64_t id, const struct request *r)
{
	static const uint64_t from_start[2] = {0, 0};
	struct session *s;
	struct err e = {0};

	if (sessions_add(&a->sessions, r->session, p, &s, &e)) {
		session_refuse(p, id, &e);
		return;
	}
	if (start(s, r->port, &e)) {
		sessions_remove(&a->sessions, s);
		session_refuse(p, id, &e);
		return;
	}
	session_serve(a, p, id, s, from_start);
}
