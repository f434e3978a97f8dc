/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libslirp: TCP, UDP and echo requests of the guest as sockets of this process.
 *
 * One thread. Sockets are counted by what they are for: as many as are open is what a guest can
 * cost the host.
 */
#ifndef SERVER_NET_STACK_H
#define SERVER_NET_STACK_H

#include <poll.h>

#include "lib/err.h"
#include "server/net/filter.h"

#define STACK_TCP_MAX  512
#define STACK_UDP_MAX  256
#define STACK_ECHO_MAX 128
#define STACK_FDS_MAX  (STACK_TCP_MAX + STACK_UDP_MAX + STACK_ECHO_MAX)
#define STACK_FD_LIMIT 1024 /* descriptors have lower numbers: see jail_limits() */

struct stack;

/**
 * stack_create() - Make it
 * @f:		Borrowed, outlives it: all frames pass it
 * @metadata:	Path of the socket that connections to the metadata service go to; NULL: none
 * @send:	Called with each frame for the guest
 *
 * stack_destroy() ends all connections.
 *
 * Return: 0 or -errno
 */
int stack_create(struct stack **out, struct filter *f, const char *metadata,
		 void (*send)(void *arg, const struct frame *f), void *arg, struct err *e);
void stack_destroy(struct stack *s);

/* A frame from the guest, at most FRAME_MAX bytes: through the filter and in. */
void stack_input(struct stack *s, uint8_t *data, size_t len);

/**
 * stack_prepare() - Before poll(): what to wait for
 * @p:		Room for STACK_FDS_MAX entries
 * @slow:	The guest takes no more for now: nothing is read for it
 * @timeout_ms:	Lowered to when it wants to be called anyway; -1: never
 *
 * Return: the number of entries
 */
size_t stack_prepare(struct stack *s, struct pollfd *p, bool slow, int *timeout_ms);
/* After it, with the same entries. */
void stack_dispatch(struct stack *s, const struct pollfd *p);

/* The policy has changed: connections that it does not allow are reset on both sides. */
void stack_enforce(struct stack *s);

struct stack_counts {
	unsigned int tcp, udp, echo;
};
struct stack_counts stack_counts(const struct stack *s);

#endif
