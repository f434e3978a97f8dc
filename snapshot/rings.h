/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rings of io_uring, made in advance by a process that is to make none later.
 *
 * What is asked of a ring passes by seccomp: with one of its own a process could open sockets
 * that its filter denies. Those that are reserved can read, write, sync and punch, for ever, and
 * with a filter that denies io_uring_setup() there are no others.
 */
#ifndef SNAPSHOT_RINGS_H
#define SNAPSHOT_RINGS_H

#include <liburing.h>
#include <stdbool.h>

/* Of a reserved ring; others have as many as are asked for. */
#define RINGS_ENTRIES 64

/**
 * rings_reserve() - Make rings to be handed out later
 *
 * By one thread, before there are others.
 *
 * Return: how many there are now: fewer than @n if the kernel has none to give
 */
unsigned int rings_reserve(unsigned int n);

/**
 * rings_get() - A ring: a reserved one, or one made now
 * @entries:	At most RINGS_ENTRIES
 * @event_fd:	Set to an eventfd that is signalled at completions; borrowed until rings_put().
 *		It may be signalled already
 *
 * Any thread.
 *
 * Return: 0 or -errno
 */
int rings_get(struct io_uring *ring, unsigned int entries, int *event_fd);
/* Give it back, with nothing in flight; or with @lost, and then it is never used again. */
void rings_put(struct io_uring *ring, int event_fd, bool lost);

#endif
