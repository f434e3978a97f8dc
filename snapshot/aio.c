/* SPDX-License-Identifier: Apache-2.0 */
/* Asynchronous file I/O; see aio.h. */
#include "snapshot/aio.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "snapshot/rings.h"

#define RING_ENTRIES RINGS_ENTRIES

void aio_init(struct aio *a, struct loop *loop, void (*batch)(void *opaque), void *opaque)
{
	memset(a, 0, sizeof(*a));
	a->loop = loop;
	a->event_fd = -1;
	a->batch = batch;
	a->opaque = opaque;
	a->waiting_end = &a->waiting;
}

static void reap(struct aio *a);

static void ring_event(struct loop_source *s, uint32_t events)
{
	struct aio *a = container_of(s, struct aio, source);
	uint64_t count;

	(void)events;
	if (read(a->event_fd, &count, sizeof(count)) < 0)
		return;
	reap(a);
	aio_kick(a);
	a->batch(a->opaque);
}

/* Some 100 us: not on the way of a VM that starts, but at its first real I/O. */
static int make_ring(struct aio *a)
{
	int rc = rings_get(&a->ring, RING_ENTRIES, &a->event_fd);

	if (rc < 0)
		return rc;
	rc = loop_add(a->loop, &a->source, a->event_fd, EPOLLIN, ring_event);
	if (rc < 0) {
		rings_put(&a->ring, a->event_fd, false);
		a->event_fd = -1;
		return rc;
	}
	a->ready = true;
	return 0;
}

static void prepare(struct io_uring_sqe *sqe, struct aio_op *op)
{
	switch (op->kind) {
	case AIO_READ:
		io_uring_prep_readv(sqe, op->fd, op->iov, op->iov_n, op->offset);
		break;
	case AIO_WRITE:
		io_uring_prep_writev(sqe, op->fd, op->iov, op->iov_n, op->offset);
		break;
	case AIO_SYNC:
		io_uring_prep_fsync(sqe, op->fd, IORING_FSYNC_DATASYNC);
		break;
	case AIO_PUNCH:
		io_uring_prep_fallocate(sqe, op->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					(off_t)op->offset, (off_t)op->len_bytes);
		break;
	}
	io_uring_sqe_set_data(sqe, op);
}

/* @done_bytes of the operation are through: make it describe the rest. */
static void advance(struct aio_op *op, uint64_t done_bytes)
{
	op->offset += done_bytes;
	op->len_bytes -= done_bytes;
	while (done_bytes && done_bytes >= op->iov->iov_len) {
		done_bytes -= op->iov->iov_len;
		op->iov++;
		op->iov_n--;
	}
	if (done_bytes) {
		op->iov->iov_base = (char *)op->iov->iov_base + done_bytes;
		op->iov->iov_len -= done_bytes;
	}
}

static void enqueue(struct aio *a, struct aio_op *op)
{
	op->next = NULL;
	*a->waiting_end = op;
	a->waiting_end = &op->next;
}

void aio_submit(struct aio *a, struct aio_op *op)
{
	if (op->kind == AIO_READ) {
		/* What the page cache has needs no ring, no wake-up and no interrupt later. */
		ssize_t n = preadv2(op->fd, op->iov, (int)op->iov_n, (off_t)op->offset, RWF_NOWAIT);

		if (n > 0)
			advance(op, (uint64_t)n);
		if (!op->len_bytes) {
			op->done(op, 0);
			return;
		}
	}
	enqueue(a, op);
}

static int transfer(struct aio_op *op)
{
	while (op->len_bytes) {
		ssize_t n = op->kind == AIO_READ
				? preadv(op->fd, op->iov, (int)op->iov_n, (off_t)op->offset)
				: pwritev(op->fd, op->iov, (int)op->iov_n, (off_t)op->offset);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			return -EIO;
		if (n > 0)
			advance(op, (uint64_t)n);
	}
	return 0;
}

static int run_now(struct aio_op *op)
{
	int rc;

	if (op->kind == AIO_READ || op->kind == AIO_WRITE)
		return transfer(op);
	if (op->kind == AIO_SYNC)
		rc = fdatasync(op->fd);
	else
		rc = fallocate(op->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       (off_t)op->offset, (off_t)op->len_bytes);
	return rc < 0 ? -errno : 0;
}

/*
 * There is no ring: the host allows none, or a jail no more. Slower, and as right.
 *
 * #syscalls preadv preadv2 pwritev fdatasync fallocate
 */
static void run_waiting(struct aio *a)
{
	struct aio_op *op;

	while ((op = a->waiting)) {
		a->waiting = op->next;
		if (!a->waiting)
			a->waiting_end = &a->waiting;
		op->done(op, run_now(op));
	}
}

/* Move operations into the ring while it has room. */
static void fill(struct aio *a)
{
	while (a->waiting && a->in_ring < RING_ENTRIES) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&a->ring);
		struct aio_op *op = a->waiting;

		if (!sqe)
			return;
		a->waiting = op->next;
		if (!a->waiting)
			a->waiting_end = &a->waiting;
		prepare(sqe, op);
		a->in_ring++;
		a->unsubmitted++;
	}
}

void aio_kick(struct aio *a)
{
	uint64_t one = 1;

	if (!a->waiting && !a->unsubmitted)
		return;
	if (!a->ready) {
		if (!a->no_ring && make_ring(a) < 0) {
			log_warn("disk: without io_uring");
			a->no_ring = true;
		}
		if (a->no_ring) {
			run_waiting(a);
			a->batch(a->opaque);
			return;
		}
	}
	fill(a);
	while (a->unsubmitted) {
		int n = io_uring_submit(&a->ring);

		if (n == -EINTR)
			continue;
		if (n <= 0) {
			/* The kernel is short of memory. Completions bring us back, or we do. */
			if (a->in_ring == a->unsubmitted &&
			    write(a->event_fd, &one, sizeof(one)) < 0)
				log_guest("disk: io_uring: %s", strerror(-n));
			break;
		}
		a->unsubmitted -= (unsigned int)n;
	}
}

static void completed(struct aio *a, struct aio_op *op, int res)
{
	bool transfer = op->kind == AIO_READ || op->kind == AIO_WRITE;

	if (res == -EINTR || res == -EAGAIN) {
		enqueue(a, op);
		return;
	}
	if (transfer && res > 0) {
		advance(op, (uint64_t)res);
		if (op->len_bytes) {
			enqueue(a, op);
			return;
		}
	}
	/* Nothing read where the file must have bytes: somebody cut it. */
	if (transfer && res == 0)
		res = -EIO;
	op->done(op, res < 0 ? res : 0);
}

static void reap(struct aio *a)
{
	struct io_uring_cqe *cqe;

	while (a->ready && io_uring_peek_cqe(&a->ring, &cqe) == 0) {
		struct aio_op *op = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		io_uring_cqe_seen(&a->ring, cqe);
		a->in_ring--;
		completed(a, op, res);
	}
}

void aio_drain(struct aio *a)
{
	struct io_uring_cqe *cqe;

	for (;;) {
		aio_kick(a);
		reap(a);
		if (!a->in_ring && !a->waiting)
			break;
		if (a->in_ring > a->unsubmitted && io_uring_wait_cqe(&a->ring, &cqe) < 0)
			continue;
	}
	a->batch(a->opaque);
}

void aio_fini(struct aio *a)
{
	if (!a->ready)
		return;
	aio_drain(a);
	loop_remove(a->loop, &a->source);
	rings_put(&a->ring, a->event_fd, false);
	a->event_fd = -1;
	a->ready = false;
}
