/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of previews and their threads; see preview.h. */
#include "server/preview/preview.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "server/preview/host.h"
#include "server/preview/proxy.h"

#define THREAD_STACK (256u << 10)

struct connection {
	struct preview_server *p;
	int fd;
	char client[INET6_ADDRSTRLEN]; /* "": a Unix socket */
	struct connection *prev, *next;
};

struct preview_server {
	struct manager *m;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct connection *first;
	bool stopping;
	struct preview_stats stats;
};

bool preview_claims(const char *host, size_t len)
{
	struct preview_host h;

	return preview_host_parse(host, len, &h);
}

struct preview_server *preview_server_create(struct manager *m)
{
	struct preview_server *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->m = m;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->changed, NULL);
	return p;
}

const struct preview_stats *preview_stats(const struct preview_server *p)
{
	return &p->stats;
}

void preview_server_destroy(struct preview_server *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->stopping = true;
	for (struct connection *c = p->first; c; c = c->next)
		shutdown(c->fd, SHUT_RDWR);
	while (p->first)
		pthread_cond_wait(&p->changed, &p->lock);
	pthread_mutex_unlock(&p->lock);
	pthread_mutex_destroy(&p->lock);
	pthread_cond_destroy(&p->changed);
	free(p);
}

static bool enter(struct preview_server *p, struct connection *c)
{
	bool ok;

	pthread_mutex_lock(&p->lock);
	ok = !p->stopping && p->stats.open < PREVIEW_MAX_CONNECTIONS;
	__atomic_add_fetch(&p->stats.connections, 1, __ATOMIC_RELAXED);
	__atomic_add_fetch(&p->stats.refused, !ok, __ATOMIC_RELAXED);
	if (ok) {
		c->next = p->first;
		if (c->next)
			c->next->prev = c;
		p->first = c;
		__atomic_add_fetch(&p->stats.open, 1, __ATOMIC_RELAXED);
	}
	pthread_mutex_unlock(&p->lock);
	return ok;
}

/* Closes under the lock: who stops the server must not shut down a number that is another's. */
static void leave(struct preview_server *p, struct connection *c)
{
	pthread_mutex_lock(&p->lock);
	*(c->prev ? &c->prev->next : &p->first) = c->next;
	if (c->next)
		c->next->prev = c->prev;
	__atomic_sub_fetch(&p->stats.open, 1, __ATOMIC_RELAXED);
	close(c->fd);
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->lock);
	free(c);
}

static void *connection_main(void *arg)
{
	struct connection *c = arg;

	proxy_serve(c->p->m, c->fd, c->client[0] ? c->client : NULL, &c->p->stats);
	leave(c->p, c);
	return NULL;
}

static void name_client(struct connection *c, const struct sockaddr_storage *peer)
{
	if (peer->ss_family == AF_INET)
		inet_ntop(AF_INET, &((const struct sockaddr_in *)peer)->sin_addr, c->client,
			  sizeof(c->client));
	else if (peer->ss_family == AF_INET6)
		inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)peer)->sin6_addr, c->client,
			  sizeof(c->client));
}

/* A client that vanishes without a word is noticed after two minutes. */
static void watch_client(int fd)
{
	int on = 1, idle_s = 60, every_s = 10, times = 6;

	/* These fail on Unix sockets, which need none. */
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof(every_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof(times));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

static int start_thread(struct connection *c)
{
	pthread_attr_t attr;
	pthread_t thread;
	int rc;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	rc = pthread_create(&thread, &attr, connection_main, c);
	pthread_attr_destroy(&attr);
	return rc;
}

static void turn_away(int fd)
{
	static const char text[] =
	    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
	    "Content-Length: 70\r\nRetry-After: 2\r\nConnection: close\r\n\r\n"
	    "{\"error\":\"too many preview connections\",\"code\":\"worker_unavailable\"} \n";

	if (send(fd, text, sizeof(text) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_guest("a preview connection was refused: %s", strerror(errno));
	close(fd);
}

void preview_take(void *server, int fd, const struct sockaddr_storage *peer)
{
	struct preview_server *p = server;
	struct connection *c = calloc(1, sizeof(*c));

	if (!c) {
		turn_away(fd);
		return;
	}
	*c = (struct connection){.p = p, .fd = fd};
	name_client(c, peer);
	watch_client(fd);
	if (!enter(p, c)) {
		free(c);
		turn_away(fd);
	} else if (start_thread(c)) {
		log_guest("no thread for a preview connection");
		leave(p, c);
	}
}

void preview_forward(struct preview_server *p, int fd, struct tunnel *t, const void *early,
		     size_t early_len)
{
	struct connection *c = calloc(1, sizeof(*c));

	if (!c)
		return;
	*c = (struct connection){.p = p, .fd = fcntl(fd, F_DUPFD_CLOEXEC, 0)};
	if (c->fd >= 0 && enter(p, c)) {
		watch_client(c->fd);
		proxy_forward(c->fd, t, early, early_len, &p->stats);
		leave(p, c);
		return;
	}
	log_guest("a forwarded connection was refused: too many are open");
	fd_close(&c->fd);
	free(c);
}
