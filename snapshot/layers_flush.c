/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FLUSH on a disk of layers.
 *
 * Theory of operation
 *
 * The map in a layer's file changes only at a FLUSH, which, for each layer that this
 * process has written and that has anything to make durable, the oldest first,
 *	1. takes copies of the changed sectors of the map,
 *	2. makes the data durable that they speak of (fdatasync),
 *	3. writes the copies,
 *	4. makes them durable (fdatasync; the first time also the directory).
 * Bits that are set after step 1 wait for the next FLUSH. Whatever stops us at any
 * point: a cluster of which the file's map says that it is in the layer has
 * been written there as a whole before; all others are as below. So a sector
 * has the content of a write that was flushed, or of a later one. Flushes that
 * arrive while one runs share the next one.
 *
 * Usually only the top has something to do. After a switch that is also the layer
 * below it, until it is durable: so a FLUSH covers what was written before the switch.
 *
 * When fdatasync has failed once, the kernel may have dropped the data and say yes
 * to the next: so every later FLUSH fails.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "snapshot/layers_priv.h"

static void round_start(struct layers_disk *d);
static void round_layer(struct layers_disk *d);

static struct layer *round_of(struct layers_disk *d)
{
	return d->chain.links[d->round.link].layer;
}

/* What belongs to the layer of the round, not to the round. */
static void forget_layer(struct flush_round *f)
{
	free(f->sectors);
	free(f->copies);
	free(f->ops);
	free(f->iov);
	f->sectors = NULL;
	f->copies = NULL;
	f->ops = NULL;
	f->iov = NULL;
	f->n = 0;
}

static void round_end(struct layers_disk *d, int result)
{
	struct flush_round *f = &d->round;
	struct disk_req *r = f->reqs;

	forget_layer(f);
	*f = (struct flush_round){0};
	while (r) {
		struct disk_req *next = r->next;

		r->done(r, result);
		r = next;
	}
	round_start(d);
}

/* The layer is durable, or cannot be made so. */
static void layer_end(struct layers_disk *d, int result)
{
	struct flush_round *f = &d->round;

	if (result < 0) {
		layer_put_back(round_of(d), f->sectors, f->n);
		round_of(d)->unsynced = true;
		round_end(d, result);
		return;
	}
	forget_layer(f);
	f->link++;
	round_layer(d);
}

static void round_sync(struct layers_disk *d, int fd);

static void map_written(struct aio_op *op, int result)
{
	struct layers_disk *d =
	    container_of((struct flush_round *)op->owner, struct layers_disk, round);
	struct flush_round *f = &d->round;

	if (result < 0)
		f->result = result;
	if (--f->pending)
		return;
	if (f->result < 0)
		layer_end(d, f->result);
	else
		round_sync(d, round_of(d)->fd);
}

/* Write the copies: one operation for each run of neighbours. */
static void round_write_map(struct layers_disk *d)
{
	struct flush_round *f = &d->round;
	unsigned int n_ops = 0;

	for (uint32_t i = 0, j; i < f->n; i = j) {
		for (j = i + 1; j < f->n && f->sectors[j] == f->sectors[j - 1] + 1; j++)
			;
		f->iov[n_ops] = (struct iovec){&f->copies[i], (j - i) * LAYER_SECTOR};
		f->ops[n_ops] = (struct aio_op){.kind = AIO_WRITE,
						.fd = round_of(d)->fd,
						.iov = &f->iov[n_ops],
						.iov_n = 1,
						.offset = layer_map_offset(f->sectors[i]),
						.len_bytes = f->iov[n_ops].iov_len,
						.done = map_written,
						.owner = f};
		n_ops++;
	}
	f->pending = n_ops;
	/* The last one's end may end the round, and free them. */
	for (unsigned int i = 0; i < n_ops; i++)
		layers_start_op(d, &f->ops[i], "map");
}

static void synced(struct aio_op *op, int result)
{
	struct layers_disk *d = container_of(op, struct layers_disk, round.sync);
	struct flush_round *f = &d->round;
	struct layer *l = round_of(d);

	if (result < 0) {
		l->sync_failed = true;
		log_error("layer %s: sync: %s: nothing written since is safe", l->path,
			  strerror(-result));
		layer_end(d, result);
	} else if (f->phase == ROUND_DATA && f->n) {
		f->phase = ROUND_MAP;
		round_write_map(d);
	} else if (f->phase != ROUND_DIR && l->dir_fd >= 0) {
		f->phase = ROUND_DIR;
		round_sync(d, l->dir_fd);
	} else {
		fd_close(&l->dir_fd);
		layer_end(d, 0);
	}
}

static void round_sync(struct layers_disk *d, int fd)
{
	d->round.sync = (struct aio_op){.kind = AIO_SYNC, .fd = fd, .done = synced};
	layers_start_op(d, &d->round.sync, fd == round_of(d)->fd ? "sync" : "dir");
}

/* Is there anything to make durable? */
static bool unflushed(const struct layer *l)
{
	return l && l->writable &&
	       (l->unsynced || l->sync_failed || l->dirty_count || l->dir_fd >= 0);
}

/* The next layer that needs it, from f->link on; or the end. */
static void round_layer(struct layers_disk *d)
{
	struct flush_round *f = &d->round;
	struct layer *l;
	uint32_t max;

	while (f->link < d->chain.n && !unflushed(round_of(d)))
		f->link++;
	if (f->link == d->chain.n) {
		round_end(d, 0);
		return;
	}
	l = round_of(d);
	if (l->sync_failed) {
		round_end(d, -EIO);
		return;
	}
	max = l->dirty_count;
	f->phase = ROUND_DATA;
	f->result = 0;
	f->sectors = malloc((max + 1) * sizeof(*f->sectors));
	f->copies = malloc((max + 1) * sizeof(*f->copies));
	f->ops = malloc((max + 1) * sizeof(*f->ops));
	f->iov = malloc((max + 1) * sizeof(*f->iov));
	if (!f->sectors || !f->copies || !f->ops || !f->iov) {
		round_end(d, -ENOMEM);
		return;
	}
	l->unsynced = false;
	f->n = layer_take(l, f->sectors, f->copies, max);
	round_sync(d, l->fd);
}

/* Begin a round for all flushes that wait, unless one runs. */
static void round_start(struct layers_disk *d)
{
	struct flush_round *f = &d->round;

	if (f->running || !d->flushes)
		return;
	f->running = true;
	f->reqs = d->flushes;
	d->flushes = NULL;
	/* Only the last layers can be ours. */
	for (f->link = d->chain.n; f->link > 0; f->link--) {
		const struct layer *below = d->chain.links[f->link - 1].layer;

		if (!below || !below->writable)
			break;
	}
	round_layer(d);
}

void layers_flush(struct layers_disk *d, struct disk_req *r)
{
	r->next = d->flushes;
	d->flushes = r;
	round_start(d);
}
