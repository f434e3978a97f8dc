/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk made of a raw base and a private overlay.
 *
 * Theory of operation
 *
 * The format is described in overlay_file.h. A read is cut into runs of clusters
 * from the overlay, from the base and of zeros. A write goes to the overlay in one
 * piece, as every cluster has its fixed place there; when it is complete, the
 * clusters that it covers as a whole are added to the map in memory. A cluster
 * that it covers in part and that is not in the overlay is first copied up. That
 * happens at once, while no other write is in flight: it may not overwrite what
 * another one brings. File systems with blocks of 4 KiB do it next to never.
 *
 * What survives
 *
 * The map in the file changes only at a FLUSH, which
 *	1. takes copies of the changed sectors of the map,
 *	2. makes the data durable that they speak of (fdatasync),
 *	3. writes the copies,
 *	4. makes them durable (fdatasync; the first time also the directory).
 * Bits that are set after step 1 wait for the next FLUSH. Whatever stops us at any
 * point: a cluster of which the file's map says that it is in the overlay has
 * been written there as a whole before; all others are as in the base. So a sector
 * has the content of a write that was flushed, or of a later one. Flushes that
 * arrive while one runs share the next one.
 *
 * When fdatasync has failed once, the kernel may have dropped the data and say yes
 * to the next: so every later FLUSH fails.
 */
#include "snapshot/disk_overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "snapshot/aio.h"
#include "snapshot/overlay_file.h"

/* One round of flushing, for all requests that had come when it began. */
struct flush_round {
	struct aio_op sync;
	enum { ROUND_DATA, ROUND_MAP, ROUND_DIR } phase;
	struct disk_req *reqs;
	unsigned int pending; /* writes of the map */
	int result;
	uint32_t n;
	uint32_t *sectors;		   /* owned, as the next three */
	struct overlay_map_sector *copies; /* n each */
	struct aio_op *ops;
	struct iovec *iov;
	bool running;
};

struct overlay_disk {
	struct disk disk;
	struct aio aio;
	struct overlay_file file;
	int base_fd; /* owned */
	uint64_t base_bytes;
	unsigned int writes; /* in flight */
	struct disk_req *deferred, **deferred_end;
	struct disk_req *flushes; /* that wait for the next round */
	struct flush_round round;
	bool unsynced;	  /* data was written since the last round began */
	bool sync_failed; /* for ever */
	int (*fault)(void *opaque, const char *point);
	void *fault_opaque;
};

/* A piece of a request, with its own copy of the vector. */
struct part {
	struct aio_op op;
	struct overlay_disk *d;
	struct disk_req *r;
	uint64_t add_cluster, add_n; /* to the map, when done */
	struct iovec iov[];
};

static const uint8_t zeros[OVERLAY_CLUSTER];

static struct overlay_disk *of_disk(struct disk *disk)
{
	return container_of(disk, struct overlay_disk, disk);
}

static int fault(struct overlay_disk *d, const char *point)
{
	return d->fault ? d->fault(d->fault_opaque, point) : 0;
}

static void start_op(struct overlay_disk *d, struct aio_op *op, const char *point)
{
	int rc = fault(d, point);

	if (rc < 0)
		op->done(op, rc);
	else
		aio_submit(&d->aio, op);
}

static void start_write(struct overlay_disk *d, struct disk_req *r);

static bool is_write(const struct disk_req *r)
{
	return r->op != DISK_READ && r->op != DISK_FLUSH;
}

/* One of the pieces of @r is over, or its submission is. */
static void put(struct overlay_disk *d, struct disk_req *r, int result)
{
	bool write = is_write(r);

	if (result < 0 && !r->result)
		r->result = result;
	if (--r->pending)
		return;
	/* First the count: done() may submit again. */
	if (write)
		d->writes--;
	r->done(r, r->result);
	while (write && !d->writes && d->deferred) {
		struct disk_req *next = d->deferred;

		d->deferred = next->next;
		if (!d->deferred)
			d->deferred_end = &d->deferred;
		start_write(d, next);
	}
}

static void part_done(struct aio_op *op, int result)
{
	struct part *p = container_of(op, struct part, op);
	struct overlay_disk *d = p->d;
	struct disk_req *r = p->r;

	if (is_write(r))
		d->unsynced = true;
	if (result == 0 && p->add_n)
		result = overlay_file_add(&d->file, p->add_cluster, p->add_n);
	free(p);
	put(d, r, result);
}

/* Cut @len bytes at @skip out of a vector. Return: number of entries of @out used. */
static unsigned int slice(const struct iovec *iov, unsigned int n, uint64_t skip, uint64_t len,
			  struct iovec *out)
{
	unsigned int used = 0;

	for (; n && len; iov++, n--) {
		uint64_t take = iov->iov_len;

		if (skip >= take) {
			skip -= take;
			continue;
		}
		take -= skip;
		if (take > len)
			take = len;
		out[used].iov_base = (char *)iov->iov_base + skip;
		out[used++].iov_len = take;
		skip = 0;
		len -= take;
	}
	return used;
}

/* A piece of @r with room for @iov_n entries, counted in r->pending. NULL: r->result says it. */
static struct part *part_new(struct overlay_disk *d, struct disk_req *r, enum aio_kind kind, int fd,
			     uint64_t offset, uint64_t len, unsigned int iov_n)
{
	struct part *p = malloc(sizeof(*p) + iov_n * sizeof(p->iov[0]));

	if (!p) {
		r->result = -ENOMEM;
		return NULL;
	}
	*p = (struct part){.d = d, .r = r};
	p->op = (struct aio_op){.kind = kind,
				.fd = fd,
				.iov = p->iov,
				.offset = offset,
				.len_bytes = len,
				.done = part_done};
	r->pending++;
	return p;
}

enum source { FROM_ZERO, FROM_BASE, FROM_OVERLAY };

/* Where the bytes at @offset are, and until where (@end at most) it stays so. */
static int source_of(struct overlay_disk *d, uint64_t offset, uint64_t *end)
{
	uint64_t cluster = offset / OVERLAY_CLUSTER, stop;
	int has = d->file.map ? overlay_file_has(&d->file, cluster) : 0;

	if (has < 0)
		return has;
	stop = (cluster + 1) * OVERLAY_CLUSTER;
	while (stop < *end && d->file.map) {
		if (overlay_file_has(&d->file, stop / OVERLAY_CLUSTER) != has)
			break;
		stop += OVERLAY_CLUSTER;
	}
	if (stop < *end && d->file.map)
		*end = stop;
	if (has)
		return FROM_OVERLAY;
	if (offset >= d->base_bytes)
		return FROM_ZERO;
	if (*end > d->base_bytes)
		*end = d->base_bytes;
	return FROM_BASE;
}

static void read_run(struct overlay_disk *d, struct disk_req *r, uint64_t offset, uint64_t len,
		     int from)
{
	struct part *p;

	if (from == FROM_ZERO) {
		uint64_t skip = offset - r->offset_bytes;

		for (unsigned int i = 0; i < r->iov_n && len; i++) {
			uint64_t n = r->iov[i].iov_len;

			if (skip >= n) {
				skip -= n;
				continue;
			}
			n = n - skip < len ? n - skip : len;
			memset((char *)r->iov[i].iov_base + skip, 0, n);
			skip = 0;
			len -= n;
		}
		return;
	}
	p = part_new(d, r, AIO_READ, from == FROM_BASE ? d->base_fd : d->file.fd,
		     from == FROM_BASE ? offset : OVERLAY_DATA + offset, len, r->iov_n);
	if (!p)
		return;
	p->op.iov_n = slice(r->iov, r->iov_n, offset - r->offset_bytes, len, p->iov);
	aio_submit(&d->aio, &p->op);
}

static void start_read(struct overlay_disk *d, struct disk_req *r)
{
	uint64_t offset = r->offset_bytes, end = offset + r->len_bytes;
	int rc = 0;

	r->pending = 1;
	r->result = 0;
	while (offset < end && !r->result) {
		uint64_t stop = end;

		rc = source_of(d, offset, &stop);
		if (rc < 0)
			break;
		read_run(d, r, offset, stop - offset, rc);
		offset = stop;
	}
	put(d, r, rc < 0 ? rc : 0);
}

/* What a range covers: clusters [first, last) as a whole, and up to two in part. */
struct cover {
	uint64_t first, last;
	uint64_t partial[2];
	unsigned int n_partial;
};

static struct cover cover_of(const struct overlay_disk *d, const struct disk_req *r)
{
	uint64_t start = r->offset_bytes, end = start + r->len_bytes;
	struct cover c = {.first = (start + OVERLAY_CLUSTER - 1) / OVERLAY_CLUSTER,
			  .last = end / OVERLAY_CLUSTER};

	/* The last cluster of the disk may be short, and is covered by what reaches its end. */
	if (end == d->disk.size_bytes)
		c.last = (end + OVERLAY_CLUSTER - 1) / OVERLAY_CLUSTER;
	if (start % OVERLAY_CLUSTER)
		c.partial[c.n_partial++] = start / OVERLAY_CLUSTER;
	if (end % OVERLAY_CLUSTER && end != d->disk.size_bytes &&
	    !(c.n_partial && c.partial[0] == end / OVERLAY_CLUSTER))
		c.partial[c.n_partial++] = end / OVERLAY_CLUSTER;
	if (c.last < c.first)
		c.last = c.first;
	return c;
}

/* Copy a cluster of the base to its place in the overlay and add it to the map. */
static int copy_up(struct overlay_disk *d, uint64_t cluster)
{
	uint64_t offset = cluster * OVERLAY_CLUSTER, len = d->disk.size_bytes - offset;
	uint8_t buf[OVERLAY_CLUSTER] = {0};
	int rc = fault(d, "copy-up");
	uint64_t from_base = 0;
	ssize_t n;

	if (rc < 0)
		return rc;
	if (len > sizeof(buf))
		len = sizeof(buf);
	if (offset < d->base_bytes)
		from_base = d->base_bytes - offset < len ? d->base_bytes - offset : len;
	n = from_base ? pread(d->base_fd, buf, from_base, (off_t)offset) : 0;
	if (n != (ssize_t)from_base)
		return n < 0 ? -errno : -EIO;
	n = pwrite(d->file.fd, buf, len, (off_t)(OVERLAY_DATA + offset));
	if (n != (ssize_t)len)
		return n < 0 ? -errno : -EIO;
	d->unsynced = true;
	return overlay_file_add(&d->file, cluster, 1);
}

/**
 * copy_up_edges() - Make a write independent of the base
 *
 * Return: 0, -EAGAIN if other writes must end before, or -errno
 */
static int copy_up_edges(struct overlay_disk *d, const struct cover *c)
{
	for (unsigned int i = 0; i < c->n_partial; i++) {
		int has = overlay_file_has(&d->file, c->partial[i]);

		if (has == 0 && d->writes)
			return -EAGAIN;
		if (has == 0)
			has = copy_up(d, c->partial[i]);
		if (has < 0)
			return has;
	}
	return 0;
}

static void write_data(struct overlay_disk *d, struct disk_req *r, const struct cover *c)
{
	struct part *p = part_new(d, r, AIO_WRITE, d->file.fd, OVERLAY_DATA + r->offset_bytes,
				  r->len_bytes, r->iov_n);

	if (!p)
		return;
	memcpy(p->iov, r->iov, r->iov_n * sizeof(p->iov[0]));
	p->op.iov_n = r->iov_n;
	p->add_cluster = c->first;
	p->add_n = c->last - c->first;
	start_op(d, &p->op, "write");
}

static void punch(struct overlay_disk *d, struct disk_req *r, const struct cover *c)
{
	struct part *p;

	if (c->last == c->first)
		return;
	p = part_new(d, r, AIO_PUNCH, d->file.fd, OVERLAY_DATA + c->first * OVERLAY_CLUSTER,
		     (c->last - c->first) * OVERLAY_CLUSTER, 0);
	if (!p)
		return;
	p->add_cluster = c->first;
	p->add_n = c->last - c->first;
	start_op(d, &p->op, "punch");
}

/* Zeros into the part of a cluster that the range covers. */
static void write_edge_zeros(struct overlay_disk *d, struct disk_req *r, uint64_t cluster)
{
	uint64_t start = cluster * OVERLAY_CLUSTER, end = start + OVERLAY_CLUSTER;
	struct part *p;

	if (start < r->offset_bytes)
		start = r->offset_bytes;
	if (end > r->offset_bytes + r->len_bytes)
		end = r->offset_bytes + r->len_bytes;
	p = part_new(d, r, AIO_WRITE, d->file.fd, OVERLAY_DATA + start, end - start, 1);
	if (!p)
		return;
	/* The kernel reads from it; iovec has no const. */
	p->iov[0] = (struct iovec){(void *)(uintptr_t)zeros, end - start};
	p->op.iov_n = 1;
	start_op(d, &p->op, "write");
}

/* Write, discard or write zeroes, now or when what it must wait for is over. */
static void start_write(struct overlay_disk *d, struct disk_req *r)
{
	struct cover c = cover_of(d, r);
	int rc = r->op == DISK_DISCARD ? 0 : copy_up_edges(d, &c);

	if (rc == -EAGAIN) {
		r->next = NULL;
		*d->deferred_end = r;
		d->deferred_end = &r->next;
		return;
	}
	r->pending = 1;
	r->result = 0;
	d->writes++;
	if (rc == 0 && r->op == DISK_WRITE)
		write_data(d, r, &c);
	else if (rc == 0)
		punch(d, r, &c);
	for (unsigned int i = 0; rc == 0 && r->op == DISK_WRITE_ZEROES && i < c.n_partial; i++)
		write_edge_zeros(d, r, c.partial[i]);
	put(d, r, rc);
}

static void round_start(struct overlay_disk *d);

static void round_end(struct overlay_disk *d, int result)
{
	struct flush_round *f = &d->round;
	struct disk_req *r = f->reqs;

	if (result < 0) {
		overlay_file_put_back(&d->file, f->sectors, f->n);
		d->unsynced = true;
	}
	free(f->sectors);
	free(f->copies);
	free(f->ops);
	free(f->iov);
	*f = (struct flush_round){0};
	while (r) {
		struct disk_req *next = r->next;

		r->done(r, result);
		r = next;
	}
	round_start(d);
}

static void round_sync(struct overlay_disk *d, int fd);

static void map_written(struct aio_op *op, int result)
{
	struct overlay_disk *d =
	    container_of((struct flush_round *)op->owner, struct overlay_disk, round);
	struct flush_round *f = &d->round;

	if (result < 0)
		f->result = result;
	if (--f->pending)
		return;
	if (f->result < 0)
		round_end(d, f->result);
	else
		round_sync(d, d->file.fd);
}

/* Write the copies: one operation for each run of neighbours. */
static void round_write_map(struct overlay_disk *d)
{
	struct flush_round *f = &d->round;
	unsigned int n_ops = 0;

	for (uint32_t i = 0, j; i < f->n; i = j) {
		for (j = i + 1; j < f->n && f->sectors[j] == f->sectors[j - 1] + 1; j++)
			;
		f->iov[n_ops] = (struct iovec){&f->copies[i], (j - i) * OVERLAY_SECTOR};
		f->ops[n_ops] = (struct aio_op){.kind = AIO_WRITE,
						.fd = d->file.fd,
						.iov = &f->iov[n_ops],
						.iov_n = 1,
						.offset = overlay_map_offset(f->sectors[i]),
						.len_bytes = f->iov[n_ops].iov_len,
						.done = map_written,
						.owner = f};
		n_ops++;
	}
	f->pending = n_ops;
	for (unsigned int i = 0; i < n_ops; i++)
		start_op(d, &f->ops[i], "map");
}

static void synced(struct aio_op *op, int result)
{
	struct overlay_disk *d = container_of(op, struct overlay_disk, round.sync);
	struct flush_round *f = &d->round;

	if (result < 0) {
		d->sync_failed = true;
		log_error("overlay %s: sync: %s: nothing written since is safe", d->file.path,
			  strerror(-result));
		round_end(d, result);
	} else if (f->phase == ROUND_DATA && f->n) {
		f->phase = ROUND_MAP;
		round_write_map(d);
	} else if (f->phase != ROUND_DIR && d->file.dir_fd >= 0) {
		f->phase = ROUND_DIR;
		round_sync(d, d->file.dir_fd);
	} else {
		fd_close(&d->file.dir_fd);
		round_end(d, 0);
	}
}

static void round_sync(struct overlay_disk *d, int fd)
{
	d->round.sync = (struct aio_op){.kind = AIO_SYNC, .fd = fd, .done = synced};
	start_op(d, &d->round.sync, fd == d->file.fd ? "sync" : "dir");
}

/* Begin a round for all flushes that wait, unless one runs. */
static void round_start(struct overlay_disk *d)
{
	struct flush_round *f = &d->round;
	uint32_t max = d->file.dirty_count;

	if (f->running || !d->flushes)
		return;
	f->running = true;
	f->reqs = d->flushes;
	d->flushes = NULL;
	if (d->sync_failed) {
		round_end(d, -EIO);
		return;
	}
	if (!d->unsynced && !max && d->file.dir_fd < 0) {
		round_end(d, 0);
		return;
	}
	f->sectors = malloc((max + 1) * sizeof(*f->sectors));
	f->copies = malloc((max + 1) * sizeof(*f->copies));
	f->ops = malloc((max + 1) * sizeof(*f->ops));
	f->iov = malloc((max + 1) * sizeof(*f->iov));
	if (!f->sectors || !f->copies || !f->ops || !f->iov) {
		round_end(d, -ENOMEM);
		return;
	}
	d->unsynced = false;
	f->n = overlay_file_take(&d->file, f->sectors, f->copies, max);
	round_sync(d, d->file.fd);
}

static void overlay_submit(struct disk *disk, struct disk_req *r)
{
	struct overlay_disk *d = of_disk(disk);

	if (r->op == DISK_READ) {
		start_read(d, r);
	} else if (r->op == DISK_FLUSH) {
		if (disk->read_only) {
			r->done(r, 0);
			return;
		}
		r->next = d->flushes;
		d->flushes = r;
		round_start(d);
	} else if (disk->read_only) {
		r->done(r, -EROFS);
	} else if (d->deferred) {
		/* Not past those that wait: they would wait for ever. */
		r->next = NULL;
		*d->deferred_end = r;
		d->deferred_end = &r->next;
	} else {
		start_write(d, r);
	}
}

static void overlay_kick(struct disk *disk)
{
	aio_kick(&of_disk(disk)->aio);
}

static void overlay_drain(struct disk *disk)
{
	aio_drain(&of_disk(disk)->aio);
}

static void last_flush_done(struct disk_req *r, int result)
{
	if (result < 0)
		log_error("overlay: last flush: %s", strerror(-result));
	r->pending = 0;
}

static void release(struct overlay_disk *d)
{
	aio_fini(&d->aio);
	overlay_file_close(&d->file);
	fd_close(&d->base_fd);
	free(d);
}

static void overlay_close(struct disk *disk)
{
	struct overlay_disk *d = of_disk(disk);
	struct disk_req last = {.op = DISK_FLUSH, .done = last_flush_done};

	disk->batch = NULL;
	aio_drain(&d->aio);
	overlay_submit(disk, &last);
	aio_drain(&d->aio);
	release(d);
}

static const struct disk_ops overlay_ops = {
    .submit = overlay_submit,
    .kick = overlay_kick,
    .drain = overlay_drain,
    .close = overlay_close,
};

static void batch(void *opaque)
{
	struct overlay_disk *d = opaque;

	if (d->disk.batch)
		d->disk.batch(d->disk.batch_opaque);
}

static int open_base(struct overlay_disk *d, const char *path, struct stat *st, struct err *e)
{
	int rc;

	d->base_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (d->base_fd < 0 || fstat(d->base_fd, st) < 0)
		return err_sys(e, -errno, "disk %s", path);
	if (!S_ISREG(st->st_mode))
		return err_set(e, -EINVAL, "disk %s: not a regular file", path);
	if (st->st_size <= 0 || st->st_size % 512)
		return err_set(e, -EINVAL, "disk %s: %lld bytes: not a multiple of 512", path,
			       (long long)st->st_size);
	rc = overlay_lock(d->base_fd, false);
	if (rc == -EBUSY)
		return err_set(e, rc, "disk %s: another process is writing it", path);
	if (rc < 0)
		return err_sys(e, rc, "disk %s: lock", path);
	d->base_bytes = (uint64_t)st->st_size;
	return 0;
}

int disk_overlay_open(struct disk **out, const struct disk_overlay_config *c, struct err *e)
{
	struct overlay_disk *d = calloc(1, sizeof(*d));
	struct stat base;
	int rc;

	*out = NULL;
	if (!d)
		return err_set(e, -ENOMEM, "out of memory");
	d->disk.ops = &overlay_ops;
	d->disk.block_bytes = OVERLAY_CLUSTER;
	d->disk.read_only = !c->overlay_path;
	d->base_fd = d->file.fd = d->file.dir_fd = -1;
	d->deferred_end = &d->deferred;
	d->fault = c->fault;
	d->fault_opaque = c->fault_opaque;
	aio_init(&d->aio, c->loop, batch, d);
	rc = open_base(d, c->base_path, &base, e);
	if (rc < 0)
		goto fail;
	d->disk.size_bytes = c->size_bytes ? c->size_bytes : d->base_bytes;
	if (c->overlay_path) {
		rc = fault(d, "header");
		if (rc == 0)
			rc = overlay_file_open(&d->file, c->overlay_path, &base, c->size_bytes, e);
		if (rc < 0)
			goto fail;
		d->disk.size_bytes = d->file.size_bytes;
	} else if (d->disk.size_bytes < d->base_bytes || d->disk.size_bytes % 512) {
		rc = err_set(e, -EINVAL, "disk %s: a size of %llu bytes is not possible",
			     c->base_path, (unsigned long long)d->disk.size_bytes);
		goto fail;
	}
	*out = &d->disk;
	return 0;
fail:
	release(d);
	return rc;
}

uint64_t disk_overlay_used(struct disk *disk)
{
	struct overlay_disk *d = of_disk(disk);
	struct stat st;

	if (d->file.fd < 0 || fstat(d->file.fd, &st) < 0)
		return 0;
	return (uint64_t)st.st_blocks * 512;
}
