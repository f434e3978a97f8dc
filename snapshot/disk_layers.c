/* SPDX-License-Identifier: Apache-2.0 */
/* A disk of layers: opening, switching, closing; see disk_layers.h and layers_priv.h. */
#include "snapshot/disk_layers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/log.h"
#include "snapshot/layers_priv.h"

static void layers_submit(struct disk *disk, struct disk_req *r)
{
	struct layers_disk *d = layers_of(disk);

	if (d->later_path) {
		r->done(r, -EIO);
	} else if (r->op == DISK_READ) {
		layers_read(d, r);
	} else if (r->op == DISK_FLUSH) {
		if (disk->read_only)
			r->done(r, 0);
		else
			layers_flush(d, r);
	} else if (disk->read_only) {
		r->done(r, -EROFS);
	} else if (d->deferred) {
		/* Not past those that wait: they would wait for ever. */
		r->next = NULL;
		*d->deferred_end = r;
		d->deferred_end = &r->next;
	} else {
		layers_write(d, r);
	}
}

static void layers_kick(struct disk *disk)
{
	aio_kick(&layers_of(disk)->aio);
}

static void layers_drain(struct disk *disk)
{
	aio_drain(&layers_of(disk)->aio);
}

static void last_flush_done(struct disk_req *r, int result)
{
	if (result < 0)
		log_error("disk: last flush: %s", strerror(-result));
	r->pending = 0;
}

static void release(struct layers_disk *d)
{
	disk_layers_unprepare(&d->disk);
	aio_fini(&d->aio);
	chain_fini(&d->chain);
	free(d->later_path);
	free(d->later_base);
	free(d);
}

static void layers_close(struct disk *disk)
{
	struct layers_disk *d = layers_of(disk);
	struct disk_req last = {.op = DISK_FLUSH, .done = last_flush_done};

	disk->batch = NULL;
	aio_drain(&d->aio);
	layers_seal_stop(d);
	if (!d->later_path)
		layers_submit(disk, &last);
	aio_drain(&d->aio);
	release(d);
}

static void layers_drop(struct disk *disk)
{
	struct layers_disk *d = layers_of(disk);

	disk->batch = NULL;
	aio_drain(&d->aio);
	layers_seal_stop(d);
	release(d);
}

static const struct disk_ops layers_ops = {
    .submit = layers_submit,
    .kick = layers_kick,
    .drain = layers_drain,
    .close = layers_close,
    .drop = layers_drop,
};

static void batch(void *opaque)
{
	struct layers_disk *d = opaque;

	if (d->disk.batch)
		d->disk.batch(d->disk.batch_opaque);
}

/* The newest immutable layer, or NULL. @least: the bytes of what is below a new layer. */
static int below_top(struct layers_disk *d, struct layer **out, uint64_t *least, struct err *e)
{
	int rc = 0;

	*out = NULL;
	if (d->chain.n)
		rc = chain_layer(&d->chain, d->chain.n - 1, out, e);
	if (rc >= 0)
		*least = *out ? (*out)->h.size_bytes : d->chain.base.bytes;
	return rc;
}

/* A new writable layer on what there is. */
static int init_top(struct layers_disk *d, struct layer *l, uint64_t size, struct err *e)
{
	struct layer *below;
	uint64_t least;
	int rc = below_top(d, &below, &least, e);

	if (rc < 0)
		return rc;
	if (!size)
		size = least;
	if (size < least)
		return err_set(e, -EINVAL, "layer %s: a disk of %llu bytes cannot shrink to %llu",
			       l->path, (unsigned long long)least, (unsigned long long)size);
	return layer_init(l, size, below, &d->chain.base, e);
}

static int open_top(struct layers_disk *d, const char *path, uint64_t size, struct err *e)
{
	struct layer *l = malloc(sizeof(*l));
	int rc;

	if (!l)
		return err_set(e, -ENOMEM, "out of memory");
	rc = layer_open(l, path, LAYER_WRITE | LAYER_CREATE, e);
	if (rc >= 0 && layers_fault(d, "header") < 0)
		rc = err_set(e, -EIO, "layer %s: writing the header", path);
	if (rc == 1) {
		rc = init_top(d, l, size, e);
	} else if (rc == 0) {
		/* What is below is not opened yet, but the base is at hand. */
		rc = d->chain.n ? chain_check_base(&d->chain, l, e)
				: chain_check_link(&d->chain, l, NULL, e);
		if (rc == 0 && size)
			rc = layer_grow(l, size, e);
	}
	if (rc == 0)
		rc = chain_add_open(&d->chain, l, e);
	if (rc < 0) {
		layer_close(l);
		free(l);
		return rc;
	}
	d->top = l;
	return 0;
}

/* The size of a disk that nobody writes. */
static int read_only_size(struct layers_disk *d, uint64_t size, struct err *e)
{
	struct layer *below;
	uint64_t least;
	int rc = below_top(d, &below, &least, e);

	if (rc < 0)
		return rc;
	d->disk.size_bytes = size ? size : least;
	if (d->disk.size_bytes < least || d->disk.size_bytes % 512 || !d->disk.size_bytes)
		return err_set(e, -EINVAL, "disk: a size of %llu bytes is not possible",
			       (unsigned long long)d->disk.size_bytes);
	return 0;
}

static int open_later(struct layers_disk *d, const struct disk_layers_config *c, struct err *e)
{
	int rc = layer_check_size(c->overlay_path, c->size_bytes, e);

	if (rc < 0)
		return rc;
	d->later_path = strdup(c->overlay_path);
	d->later_base = c->base_path ? strdup(c->base_path) : NULL;
	d->disk.size_bytes = c->size_bytes;
	return d->later_path && (d->later_base || !c->base_path)
		   ? 0
		   : err_set(e, -ENOMEM, "out of memory");
}

static int open_now(struct layers_disk *d, const char *base, const char *top, uint64_t size,
		    struct err *e)
{
	int rc = base ? chain_set_base(&d->chain, base, e) : 0;

	if (rc == 0)
		rc = top ? open_top(d, top, size, e) : read_only_size(d, size, e);
	if (rc == 0 && d->top)
		d->disk.size_bytes = d->top->h.size_bytes;
	return rc;
}

int disk_layers_finish(struct disk *disk, struct err *e)
{
	struct layers_disk *d = layers_of(disk);
	int rc;

	if (!d->later_path)
		return 0;
	rc = open_now(d, d->later_base, d->later_path, disk->size_bytes, e);
	if (rc < 0)
		return rc;
	free(d->later_path);
	d->later_path = NULL;
	return 0;
}

int disk_layers_open(struct disk **out, const struct disk_layers_config *c, struct err *e)
{
	struct layers_disk *d = calloc(1, sizeof(*d));
	int rc = 0;

	*out = NULL;
	if (!d)
		return err_set(e, -ENOMEM, "out of memory");
	d->disk.ops = &layers_ops;
	d->disk.block_bytes = LAYER_CLUSTER;
	d->disk.read_only = !c->overlay_path;
	d->deferred_end = &d->deferred;
	d->loop = c->loop;
	d->fault = c->fault;
	d->fault_opaque = c->fault_opaque;
	chain_init(&d->chain);
	layers_seal_init(d);
	aio_init(&d->aio, c->loop, batch, d);
	for (unsigned int i = 0; i < c->layers_n && rc == 0; i++)
		rc = chain_add(&d->chain, c->layers[i], e);
	if (rc == 0 && c->later && c->overlay_path && c->size_bytes)
		rc = open_later(d, c, e);
	else if (rc == 0)
		rc = open_now(d, c->base_path, c->overlay_path, c->size_bytes, e);
	if (rc < 0) {
		release(d);
		return rc;
	}
	*out = &d->disk;
	return 0;
}

void disk_layers_unprepare(struct disk *disk)
{
	struct layers_disk *d = layers_of(disk);

	if (!d->next)
		return;
	unlink(d->next->path);
	layer_close(d->next);
	free(d->next);
	d->next = NULL;
}

static int can_switch(const struct layers_disk *d, struct err *e)
{
	if (!d->top)
		return err_set(e, -EROFS, "disk: without a writable layer");
	if (d->seal.running)
		return err_set(e, -EBUSY, "disk: the layer before is still being sealed");
	return 0;
}

static int create_next(struct layers_disk *d, struct layer *l, const char *path, struct err *e)
{
	int rc = layer_open(l, path, LAYER_WRITE | LAYER_NEW, e);

	if (rc < 0)
		return rc;
	rc = layers_fault(d, "header");
	if (rc < 0)
		err_sys(e, rc, "layer %s: writing the header", path);
	else
		rc = layer_init(l, d->disk.size_bytes, d->top, &d->chain.base, e);
	if (rc < 0) {
		unlink(path);
		layer_close(l);
	}
	return rc;
}

int disk_layers_prepare(struct disk *disk, const char *new_path, struct err *e)
{
	struct layers_disk *d = layers_of(disk);
	struct layer *l;
	int rc = can_switch(d, e);

	if (rc < 0)
		return rc;
	disk_layers_unprepare(disk);
	rc = layers_fault(d, "switch");
	if (rc < 0)
		return err_sys(e, rc, "layer %s", new_path);
	l = malloc(sizeof(*l));
	if (!l)
		return err_set(e, -ENOMEM, "out of memory");
	rc = create_next(d, l, new_path, e);
	if (rc < 0)
		free(l);
	else
		d->next = l;
	return rc;
}

int disk_layers_switch(struct disk *disk, const char *new_path,
		       void (*sealed)(void *opaque, int result), void *opaque, struct err *e)
{
	struct layers_disk *d = layers_of(disk);
	int rc = can_switch(d, e);

	if (rc < 0)
		return rc;
	if (d->writes || d->deferred)
		return err_set(e, -EBUSY, "disk: writes are in flight");
	if (!d->next || strcmp(d->next->path, new_path))
		rc = disk_layers_prepare(disk, new_path, e);
	if (rc == 0)
		rc = chain_add_open(&d->chain, d->next, e);
	if (rc == 0) {
		rc = layers_seal_start(d, sealed, opaque, e);
		if (rc < 0)
			chain_drop(&d->chain);
	}
	if (rc < 0) {
		disk_layers_unprepare(disk);
		return rc;
	}
	d->top = d->next;
	d->next = NULL;
	return 0;
}

static uint64_t used_bytes(const struct layer *l)
{
	struct stat st;

	return l && fstat(l->fd, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

void disk_layers_info(struct disk *disk, struct disk_layers_info *info)
{
	const struct layers_disk *d = layers_of(disk);
	unsigned int below = d->chain.n - (d->top ? 1 : 0);

	*info = (struct disk_layers_info){.layers = d->chain.n,
					  .size_bytes = disk->size_bytes,
					  .used_bytes = used_bytes(d->top),
					  .sealing = d->seal.running};
	if (below)
		info->frozen_bytes = used_bytes(d->chain.links[below - 1].layer);
}
