/* SPDX-License-Identifier: Apache-2.0 */
/*
 * New connections, until it is known whose they are.
 *
 * Theory of operation
 * -------------------
 * libmicrohttpd owns a connection from its first byte to its last, so who is to serve it has
 * to be known before. A connection is looked at (MSG_PEEK: nothing is consumed) until the Host
 * header is there. Mostly that is at once; the others wait in an epoll set, which costs no thread:
 * a client that opens connections in advance, or says nothing, keeps nobody busy. What is
 * not to be understood goes to libmicrohttpd, which knows what to answer.
 *
 * One thread calls all of this: the acceptor's.
 */
#ifndef SERVER_HTTP_EDGE_H
#define SERVER_HTTP_EDGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define EDGE_PEEK     (16u << 10) /* the Host header has to be within so many bytes */
#define EDGE_HEAD_MS  10000	  /* a head that has begun */
#define EDGE_IDLE_MS  360000	  /* not a byte yet */
#define EDGE_MAX_HELD 8192u

typedef bool edge_claims(const char *host, size_t len);

enum edge_verdict {
	EDGE_WAIT,    /* more bytes are needed */
	EDGE_OURS,    /* libmicrohttpd's */
	EDGE_CLAIMED, /* the Host header is one that is claimed */
};

/* Pure: from the first bytes of a connection. */
enum edge_verdict edge_look(const char *data, size_t len, edge_claims *claims);

/* One of these gets the descriptor. */
struct edge_ops {
	edge_claims *claims;
	void (*ours)(void *arg, int fd, const struct sockaddr_storage *sa, socklen_t len);
	void (*claimed)(void *arg, int fd, const struct sockaddr_storage *sa, socklen_t len);
	void *arg;
};

struct edge;

/* Return: NULL without memory or descriptors. */
struct edge *edge_create(const struct edge_ops *ops);
/* Closes what it holds. NULL is fine. */
void edge_destroy(struct edge *e);
/* Takes @fd. */
void edge_accept(struct edge *e, int fd, const struct sockaddr_storage *sa, socklen_t len);
/* Readable: edge_run(). */
int edge_fd(const struct edge *e);
void edge_run(struct edge *e);
/* Return: ms until edge_tick() has something to do, -1: nothing. */
int edge_next_ms(const struct edge *e, uint64_t now_ms);
void edge_tick(struct edge *e, uint64_t now_ms);

#endif
