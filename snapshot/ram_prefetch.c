/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that streams memory in before it is wanted; see ram_pager.h. */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/log.h"
#include "snapshot/cold_int.h"
#include "snapshot/ram_pager_int.h"
#include "snapshot/rings.h"

/* Without a record the machine is waited for until it is calm, but for at most this many times
 * as long as being calm takes. */
#define CALM_LIMIT 20

struct read {
	uint32_t chunk;
	bool busy;
	uint8_t *buf; /* owned */
};

struct prefetch {
	struct ram_pager *p; /* borrowed */
	struct io_uring ring;
	int event_fd; /* of the ring; nobody waits for it */
	bool ring_ready;
	struct read *reads; /* owned; p->depth of them */
	unsigned int in_ring;
	uint32_t next; /* place in the plan, then chunk */
	bool planned;  /* the plan is behind us */
};

/**
 * next_chunk() - What is to be read next; nobody has claimed it so far
 *
 * Return: false when there is nothing more
 */
static bool next_chunk(struct prefetch *f, uint32_t *chunk)
{
	struct ram_pager *p = f->p;

	while (!f->planned && f->next < p->plan_n) {
		*chunk = p->plan[f->next++];
		if (pager_chunk(p, *chunk) == CHUNK_EMPTY)
			return true;
	}
	if (!f->planned) {
		f->planned = true;
		f->next = 0;
		/* What the machine does comes before what it might do. */
		setpriority(PRIO_PROCESS, (id_t)gettid(), 10);
	}
	while (f->next < p->image.chunks) {
		*chunk = f->next++;
		if (pager_chunk(p, *chunk) == CHUNK_EMPTY)
			return true;
	}
	return false;
}

static void take(struct prefetch *f, uint32_t chunk, const void *stored)
{
	if (pager_claim(f->p, chunk))
		pager_load(f->p, chunk, stored, f->p->prefetch_codec);
}

/* Without io_uring: the kernel's read-ahead does what it can. */
static void stream_plainly(struct prefetch *f)
{
	uint32_t chunk;

	while (!pager_must_end(f->p) && next_chunk(f, &chunk))
		take(f, chunk, NULL);
}

static void submit(struct prefetch *f)
{
	const struct cold_image *c = &f->p->image;
	uint32_t chunk;

	for (unsigned int i = 0; i < f->p->depth; i++) {
		struct read *r = &f->reads[i];
		struct io_uring_sqe *sqe;

		if (r->busy)
			continue;
		/* There are as many entries as reads. */
		if (!io_uring_sq_space_left(&f->ring) || !next_chunk(f, &chunk))
			break;
		sqe = io_uring_get_sqe(&f->ring);
		r->busy = true;
		r->chunk = chunk;
		io_uring_prep_read(sqe, c->fd, r->buf, c->index[chunk].stored_bytes,
				   c->index[chunk].offset);
		io_uring_sqe_set_data(sqe, r);
		f->in_ring++;
	}
}

/* Return: 0 or -errno */
static int reap(struct prefetch *f, bool drop)
{
	struct io_uring_cqe *cqe;
	int rc = io_uring_wait_cqe(&f->ring, &cqe);

	if (rc == -EINTR)
		return 0;
	if (rc)
		return rc;
	do {
		struct read *r = io_uring_cqe_get_data(cqe);
		uint32_t want = f->p->image.index[r->chunk].stored_bytes;
		int got = cqe->res;

		io_uring_cqe_seen(&f->ring, cqe);
		f->in_ring--;
		/* A read that did not give everything is done again, and says what is wrong. */
		if (!drop)
			take(f, r->chunk, got == (int)want ? r->buf : NULL);
		r->busy = false;
	} while (io_uring_peek_cqe(&f->ring, &cqe) == 0);
	return 0;
}

static void stream(struct prefetch *f)
{
	int rc = 0;

	while (!rc && !pager_must_end(f->p)) {
		submit(f);
		if (!f->in_ring)
			return;
		rc = io_uring_submit(&f->ring);
		if (rc >= 0)
			rc = reap(f, false);
	}
	/* The kernel writes into our buffers until the last read is over. */
	while (f->in_ring && rc == 0)
		rc = reap(f, true);
	if (rc) {
		struct err e;

		err_sys(&e, rc, "memory image %s: io_uring", f->p->image.path);
		pager_fail(f->p, &e);
	}
}

static bool setup(struct prefetch *f)
{
	uint32_t chunk_bytes = f->p->image.chunk_bytes;
	int rc;

	if (f->p->no_uring)
		return false;
	f->reads = calloc(f->p->depth, sizeof(*f->reads));
	for (unsigned int i = 0; f->reads && i < f->p->depth; i++) {
		f->reads[i].buf = malloc(chunk_bytes + cold_bitmap_bytes(chunk_bytes));
		if (!f->reads[i].buf)
			return false;
	}
	if (!f->reads)
		return false;
	rc = rings_get(&f->ring, f->p->depth, &f->event_fd);
	if (rc < 0)
		log_warn("memory image %s: without io_uring: %s", f->p->image.path, strerror(-rc));
	f->ring_ready = rc == 0;
	return f->ring_ready;
}

static void release(struct prefetch *f)
{
	/* Reads that io_uring did not give back still have their buffers: those are not freed. */
	if (f->ring_ready)
		rings_put(&f->ring, f->event_fd, f->in_ring);
	for (unsigned int i = 0; f->reads && i < f->p->depth; i++)
		if (!f->reads[i].busy)
			free(f->reads[i].buf);
	free(f->reads);
}

static void wait_ms(struct ram_pager *p, uint64_t ms)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_nsec += (long)(ms * 1000000);
	t.tv_sec += t.tv_nsec / 1000000000;
	t.tv_nsec %= 1000000000;
	pthread_cond_timedwait(&p->changed, &p->lock, &t);
}

/* Let the faults tell what the machine needs first. */
static void wait_calm(struct ram_pager *p)
{
	uint64_t start = clock_mono_ms(), last = start;
	uint32_t faults = 0;

	pthread_mutex_lock(&p->lock);
	while (!p->stopping && !p->hurry && p->now.state == RAM_PAGER_LOADING) {
		uint64_t now = clock_mono_ms();

		if (p->now.faults != faults) {
			faults = p->now.faults;
			last = now;
		}
		if (now - last >= p->calm_ms || now - start >= (uint64_t)p->calm_ms * CALM_LIMIT)
			break;
		wait_ms(p, p->calm_ms / 5 + 1);
	}
	pthread_mutex_unlock(&p->lock);
}

/* Return: whether everything is in */
static bool wait_all(struct ram_pager *p)
{
	bool all;

	pthread_mutex_lock(&p->lock);
	while (!p->stopping && p->now.state == RAM_PAGER_LOADING && p->now.loaded < p->now.chunks)
		pthread_cond_wait(&p->changed, &p->lock);
	all = !p->stopping && p->now.state == RAM_PAGER_LOADING;
	pthread_mutex_unlock(&p->lock);
	return all;
}

void *prefetch_main(void *pager)
{
	struct prefetch f = {.p = pager};

	pthread_setname_np(pthread_self(), "ram-prefetch");
	if (f.p->order_path && !f.p->plan_n)
		wait_calm(f.p);
	if (setup(&f))
		stream(&f);
	else
		stream_plainly(&f);
	/* The rest is being loaded by others. */
	if (wait_all(f.p))
		pager_done(f.p);
	release(&f);
	return NULL;
}
