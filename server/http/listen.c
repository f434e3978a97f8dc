/* SPDX-License-Identifier: Apache-2.0 */
/* Listening sockets by text; see listen.h. */
#include "server/http/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "lib/fd.h"

#define BACKLOG 1024

static int split_tcp(const char *text, char host[256], char port[16], struct err *e)
{
	const char *colon = strrchr(text, ':');
	size_t host_len;

	if (!colon || !colon[1] || strlen(colon + 1) > 5 ||
	    strspn(colon + 1, "0123456789") != strlen(colon + 1) || atoi(colon + 1) > 65535)
		return err_set(e, -EINVAL, "--listen tcp:%s: no port number at the end", text);
	host_len = (size_t)(colon - text);
	if (host_len > 1 && text[0] == '[' && colon[-1] == ']') {
		text++;
		host_len -= 2;
	}
	if (!host_len || host_len >= 256)
		return err_set(e, -EINVAL, "--listen tcp:%s: no address before the port", text);
	memcpy(host, text, host_len);
	host[host_len] = '\0';
	memcpy(port, colon + 1, strlen(colon + 1) + 1);
	return 0;
}

int listen_check(const char *text, struct err *e)
{
	char host[256], port[16];

	if (!strncmp(text, "unix:", 5) && text[5])
		return 0;
	if (!strncmp(text, "tcp:", 4))
		return split_tcp(text + 4, host, port, e);
	return err_set(e, -EINVAL, "--listen %s: neither unix:PATH nor tcp:ADDR:PORT", text);
}

static int bind_tcp(const struct addrinfo *ai, int *out)
{
	cleanup_close int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int on = 1;

	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0)
		return -errno;
	if (ai->ai_family == AF_INET6 &&
	    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) < 0)
		return -errno;
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)
		return -errno;
	*out = fd_steal(&fd);
	return 0;
}

static int open_tcp(struct listener *l, const char *text, struct err *e)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
				       .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
	char host[256], port[16];
	struct addrinfo *found;
	int rc = split_tcp(text, host, port, e);

	if (rc)
		return rc;
	rc = getaddrinfo(host, port, &hints, &found);
	if (rc)
		return err_set(e, -EINVAL, "listen on tcp:%s: %s", text, gai_strerror(rc));
	rc = bind_tcp(found, &l->fd);
	freeaddrinfo(found);
	return rc ? err_sys(e, rc, "listen on tcp:%s", text) : 0;
}

/* /run/dormouse is gone after each boot. If this fails, so does bind(), and says why. */
static void make_parent(const char *path)
{
	const char *slash = strrchr(path, '/');
	char parent[PATH_MAX];

	if (!slash || slash == path || slash - path >= PATH_MAX)
		return;
	snprintf(parent, sizeof(parent), "%.*s", (int)(slash - path), path);
	mkdir(parent, 0755);
}

int listen_open(struct listener *l, const char *text, struct err *e)
{
	int rc = listen_check(text, e);

	l->fd = -1;
	l->unix_path = NULL;
	if (rc)
		return rc;
	if (!strncmp(text, "tcp:", 4))
		return open_tcp(l, text + 4, e);
	l->unix_path = strdup(text + 5);
	if (!l->unix_path)
		return err_set(e, -ENOMEM, "out of memory");
	make_parent(l->unix_path);
	l->fd = fd_unix_listen(l->unix_path, 0660, e);
	if (l->fd >= 0)
		return 0;
	rc = l->fd;
	free(l->unix_path); /* not ours to remove */
	l->unix_path = NULL;
	l->fd = -1;
	return rc;
}

void listen_close(struct listener *l)
{
	fd_close(&l->fd);
	if (l->unix_path)
		unlink(l->unix_path);
	free(l->unix_path);
	l->unix_path = NULL;
}

unsigned int listen_port(const struct listener *l)
{
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} sa = {.v6 = {0}};
	socklen_t len = sizeof(sa);

	if (l->unix_path || getsockname(l->fd, &sa.any, &len))
		return 0;
	return ntohs(sa.any.sa_family == AF_INET6 ? sa.v6.sin6_port : sa.v4.sin_port);
}

const char *listen_name(const struct listener *l, char *buf, size_t len)
{
	struct sockaddr_storage sa = {0};
	socklen_t sa_len = sizeof(sa);
	char host[NI_MAXHOST], port[NI_MAXSERV];

	if (l->unix_path)
		snprintf(buf, len, "unix:%s", l->unix_path);
	else if (getsockname(l->fd, (struct sockaddr *)&sa, &sa_len) ||
		 getnameinfo((struct sockaddr *)&sa, sa_len, host, sizeof(host), port, sizeof(port),
			     NI_NUMERICHOST | NI_NUMERICSERV))
		snprintf(buf, len, "tcp:?");
	else
		snprintf(buf, len, sa.ss_family == AF_INET6 ? "tcp:[%s]:%s" : "tcp:%s:%s", host,
			 port);
	return buf;
}
