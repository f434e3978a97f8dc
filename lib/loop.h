/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A single-threaded event loop over epoll.
 *
 * loop_wake() and loop_stop() may be called from anywhere. The others belong to
 * the thread that runs the loop, or to a time before it runs; of a loop with a
 * lock they may be called by any thread that holds it. A handler may remove
 * itself or any other source, and may free the structure that embeds a removed
 * source: a removed source's handler is never called again, also not for events
 * already fetched. Sources are level-triggered: events of a batch that was
 * overtaken by a removal are fetched anew. In a loop without a lock none is, so
 * there EPOLLET may be asked for, too.
 */
#ifndef LIB_LOOP_H
#define LIB_LOOP_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

struct loop_source;
typedef void loop_handler(struct loop_source *s, uint32_t events);

/* Embedded in its owner, found again with container_of(). */
struct loop_source {
	int fd; /* borrowed; -1 while not in a loop */
	uint32_t events;
	loop_handler *handler;
};

struct loop {
	int epoll_fd, wake_fd;
	bool stopped;
	pthread_mutex_t *lock; /* borrowed; held while handlers run; may be NULL */
	struct epoll_event *batch;
	int batch_len;
	unsigned int removals; /* how often loop_remove() removed something */
};

/* @lock: taken around every handler, released while waiting; or NULL. */
int loop_init(struct loop *l, pthread_mutex_t *lock);
void loop_fini(struct loop *l);

/* Watch @fd for @events (EPOLLIN, EPOLLOUT, ...). Return: 0 or -errno. */
int loop_add(struct loop *l, struct loop_source *s, int fd, uint32_t events, loop_handler *h);
int loop_modify(struct loop *l, struct loop_source *s, uint32_t events);
/* Idempotent. Does not close the descriptor; remove it before it is closed or given away. */
void loop_remove(struct loop *l, struct loop_source *s);

/* Run until loop_stop(). Return: 0 or -errno. */
int loop_run(struct loop *l);
/* From any thread or signal handler. */
void loop_stop(struct loop *l);
void loop_wake(struct loop *l);

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#endif
