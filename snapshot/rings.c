/* SPDX-License-Identifier: Apache-2.0 */
/* Rings of io_uring; see rings.h. */
#include "snapshot/rings.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>

#include "lib/fd.h"

#define MOST 4

/* The process's, as what it may not make any more is. */
static struct {
	pthread_mutex_t lock;
	struct {
		struct io_uring ring;
		int event_fd;
	} free[MOST];
	unsigned int n;
} reserve = {.lock = PTHREAD_MUTEX_INITIALIZER};

static const uint8_t allowed[] = {IORING_OP_READ, IORING_OP_READV, IORING_OP_WRITEV,
				  IORING_OP_FSYNC, IORING_OP_FALLOCATE};

static int restrict_ring(struct io_uring *ring)
{
	struct io_uring_restriction r[sizeof(allowed)];
	int rc;

	memset(r, 0, sizeof(r));
	for (unsigned int i = 0; i < sizeof(allowed); i++) {
		r[i].opcode = IORING_RESTRICTION_SQE_OP;
		r[i].sqe_op = allowed[i];
	}
	rc = io_uring_register(ring->ring_fd, IORING_REGISTER_RESTRICTIONS, r, sizeof(allowed));
	if (rc < 0)
		return rc;
	rc = io_uring_register(ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
	return rc < 0 ? rc : 0;
}

static int make(struct io_uring *ring, unsigned int entries, int *event_fd, bool restricted)
{
	struct io_uring_params p = {.flags = restricted ? IORING_SETUP_R_DISABLED : 0};
	int rc = io_uring_queue_init_params(entries, ring, &p);

	if (rc < 0)
		return rc;
	*event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rc = *event_fd < 0 ? -errno : io_uring_register_eventfd(ring, *event_fd);
	if (rc == 0 && restricted)
		rc = restrict_ring(ring);
	if (rc == 0)
		return 0;
	fd_close(event_fd);
	io_uring_queue_exit(ring);
	return rc;
}

/*
 * io_uring_setup() and io_uring_register() are the reserve's alone: a jail denies them.
 *
 * #syscalls io_uring_enter eventfd2 io_uring_setup=EPERM io_uring_register=EPERM
 */
unsigned int rings_reserve(unsigned int n)
{
	while (reserve.n < n && reserve.n < MOST &&
	       make(&reserve.free[reserve.n].ring, RINGS_ENTRIES, &reserve.free[reserve.n].event_fd,
		    true) == 0)
		reserve.n++;
	return reserve.n;
}

int rings_get(struct io_uring *ring, unsigned int entries, int *event_fd)
{
	bool found;

	pthread_mutex_lock(&reserve.lock);
	found = reserve.n && entries <= RINGS_ENTRIES;
	if (found) {
		reserve.n--;
		*ring = reserve.free[reserve.n].ring;
		*event_fd = reserve.free[reserve.n].event_fd;
	}
	pthread_mutex_unlock(&reserve.lock);
	return found ? 0 : make(ring, entries, event_fd, false);
}

void rings_put(struct io_uring *ring, int event_fd, bool lost)
{
	bool kept;

	pthread_mutex_lock(&reserve.lock);
	kept = !lost && (ring->flags & IORING_SETUP_R_DISABLED) && reserve.n < MOST;
	if (kept) {
		reserve.free[reserve.n].ring = *ring;
		reserve.free[reserve.n].event_fd = event_fd;
		reserve.n++;
	}
	pthread_mutex_unlock(&reserve.lock);
	if (kept)
		return;
	fd_close(&event_fd);
	io_uring_queue_exit(ring);
}
