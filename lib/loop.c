/* SPDX-License-Identifier: Apache-2.0 */
/* A single-threaded event loop; see loop.h. */
#include "lib/loop.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"

/* #syscalls epoll_create1 epoll_ctl epoll_wait epoll_pwait */

#define BATCH 64

int loop_init(struct loop *l, pthread_mutex_t *lock)
{
	struct epoll_event ev = {.events = EPOLLIN};
	int rc;

	memset(l, 0, sizeof(*l));
	l->lock = lock;
	l->wake_fd = -1;
	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll_fd < 0)
		return -errno;
	l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->wake_fd < 0)
		goto fail;
	/* The wake source is the one without a struct: data.ptr is NULL. */
	if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, l->wake_fd, &ev) < 0)
		goto fail;
	return 0;
fail:
	rc = -errno;
	loop_fini(l);
	return rc;
}

void loop_fini(struct loop *l)
{
	fd_close(&l->epoll_fd);
	fd_close(&l->wake_fd);
}

int loop_add(struct loop *l, struct loop_source *s, int fd, uint32_t events, loop_handler *h)
{
	struct epoll_event ev = {.events = events, .data.ptr = s};

	if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
		return -errno;
	s->fd = fd;
	s->events = events;
	s->handler = h;
	return 0;
}

int loop_modify(struct loop *l, struct loop_source *s, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = s};

	if (s->events == events)
		return 0;
	if (epoll_ctl(l->epoll_fd, EPOLL_CTL_MOD, s->fd, &ev) < 0)
		return -errno;
	s->events = events;
	return 0;
}

void loop_remove(struct loop *l, struct loop_source *s)
{
	if (!s->handler)
		return;
	/* By now the number may be another thread's; a mistake of the caller's, and not silent. */
	if (epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, s->fd, NULL) < 0)
		log_error("event loop: descriptor %d was closed before it was removed: %s", s->fd,
			  strerror(errno));
	/* Events of it that were fetched already must not reach its handler. */
	for (int i = 0; i < l->batch_len; i++)
		if (l->batch[i].data.ptr == s)
			l->batch[i].data.ptr = NULL;
	l->removals++;
	s->fd = -1;
	s->handler = NULL;
}

/**
 * dispatch() - Call the handlers of a batch
 * @seen:	l->removals as it was before the batch was fetched
 *
 * Between fetching and taking the lock another thread may have removed a source,
 * and freed it: then the whole batch is dropped, and comes again.
 *
 * Return: l->removals
 */
static unsigned int dispatch(struct loop *l, struct epoll_event *events, int n, unsigned int seen)
{
	if (l->lock)
		pthread_mutex_lock(l->lock);
	if (l->removals != seen)
		n = 0;
	l->batch = events;
	l->batch_len = n;
	for (int i = 0; i < n; i++) {
		struct loop_source *s = events[i].data.ptr;

		if (s)
			s->handler(s, events[i].events);
	}
	l->batch_len = 0;
	seen = l->removals;
	if (l->lock)
		pthread_mutex_unlock(l->lock);
	return seen;
}

int loop_run(struct loop *l)
{
	struct epoll_event events[BATCH];
	unsigned int seen = dispatch(l, events, 0, 0);
	uint64_t drained;

	while (!__atomic_load_n(&l->stopped, __ATOMIC_ACQUIRE)) {
		int n = epoll_wait(l->epoll_fd, events, BATCH, -1);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		for (int i = 0; i < n; i++)
			if (!events[i].data.ptr && read(l->wake_fd, &drained, 8) < 0)
				break;
		seen = dispatch(l, events, n, seen);
	}
	return 0;
}

void loop_wake(struct loop *l)
{
	uint64_t one = 1;

	/* A full counter means that a wake-up is pending already. */
	if (write(l->wake_fd, &one, sizeof(one)) < 0)
		return;
}

void loop_stop(struct loop *l)
{
	__atomic_store_n(&l->stopped, true, __ATOMIC_RELEASE);
	loop_wake(l);
}
