/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asynchronous file I/O: io_uring with its completions in the loop.
 *
 * Everything under the loop's lock. The ring is made by the first operation that
 * needs it. Short transfers are continued here: an operation is done as a whole or
 * has failed. What is over at once (a read from the page cache) is reported from
 * within aio_submit().
 */
#ifndef SNAPSHOT_AIO_H
#define SNAPSHOT_AIO_H

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "lib/loop.h"

enum aio_kind { AIO_READ, AIO_WRITE, AIO_SYNC, AIO_PUNCH };

struct aio_op {
	enum aio_kind kind;
	int fd;		   /* borrowed until done */
	struct iovec *iov; /* read, write; changed by short transfers */
	unsigned int iov_n;
	uint64_t offset, len_bytes; /* also of a hole to punch */
	/* @result: 0 or -errno; the operation may be freed. */
	void (*done)(struct aio_op *op, int result);
	void *owner;	     /* the caller's; borrowed */
	struct aio_op *next; /* while it waits for a place in the ring */
};

struct aio {
	struct loop *loop; /* borrowed */
	struct io_uring ring;
	bool ready, no_ring;
	int event_fd;
	struct loop_source source;
	unsigned int in_ring, unsubmitted;
	struct aio_op *waiting, **waiting_end;
	/* After each batch of completions that did not come from within aio_submit(). */
	void (*batch)(void *opaque);
	void *opaque; /* borrowed */
};

void aio_init(struct aio *a, struct loop *loop, void (*batch)(void *opaque), void *opaque);
/* aio_drain() and release; idempotent. */
void aio_fini(struct aio *a);
/* Start an operation, or keep it until aio_kick(). Failures come through done(). */
void aio_submit(struct aio *a, struct aio_op *op);
void aio_kick(struct aio *a);
/* Wait for everything, including what completions submit anew. */
void aio_drain(struct aio *a);

#endif
