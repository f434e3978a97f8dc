/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads and writes of a disk of layers.
 *
 * Theory of operation
 *
 * A read is cut into runs of clusters from one place: a layer, the base, zeros. What
 * comes from a sealed layer is compared with its checksums. A write goes to the top
 * layer in one piece, as every cluster has its fixed place there; when it is complete,
 * the clusters that it covers as a whole are added to the map in memory. A cluster
 * that it covers in part and that is not in the top is first copied up. That
 * happens at once, while no other write is in flight: it may not overwrite what
 * another one brings. File systems with blocks of 4 KiB do it next to never.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "snapshot/layers_priv.h"

/* A piece of a request, with its own copy of the vector. */
struct part {
	struct aio_op op;
	struct layers_disk *d;
	struct disk_req *r;
	uint64_t add_cluster, add_n; /* to the map, when done */
	struct chain_run run;	     /* of a read */
	uint64_t offset;	     /* of the disk, where the run is */
	struct iovec iov[];
};

static const uint8_t zeros[LAYER_CLUSTER];

static bool is_write(const struct disk_req *r)
{
	return r->op != DISK_READ && r->op != DISK_FLUSH;
}

/* One of the pieces of @r is over, or its submission is. */
static void put(struct layers_disk *d, struct disk_req *r, int result)
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
		layers_write(d, next);
	}
}

static void part_done(struct aio_op *op, int result)
{
	struct part *p = container_of(op, struct part, op);
	struct layers_disk *d = p->d;
	struct disk_req *r = p->r;

	if (is_write(r))
		d->top->unsynced = true;
	else if (result == 0)
		result =
		    chain_verify(&p->run, p->offset, r->iov, r->iov_n, p->offset - r->offset_bytes);
	if (result == 0 && p->add_n)
		result = layer_add(d->top, p->add_cluster, p->add_n);
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
static struct part *part_new(struct layers_disk *d, struct disk_req *r, enum aio_kind kind, int fd,
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

static void read_zeros(struct disk_req *r, uint64_t offset, uint64_t len)
{
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
}

static void read_run(struct layers_disk *d, struct disk_req *r, uint64_t offset,
		     const struct chain_run *run)
{
	struct part *p;

	if (run->fd < 0) {
		read_zeros(r, offset, run->len_bytes);
		return;
	}
	p = part_new(d, r, AIO_READ, run->fd, run->file_offset, run->len_bytes, r->iov_n);
	if (!p)
		return;
	p->run = *run;
	p->offset = offset;
	p->op.iov_n = slice(r->iov, r->iov_n, offset - r->offset_bytes, run->len_bytes, p->iov);
	aio_submit(&d->aio, &p->op);
}

void layers_read(struct layers_disk *d, struct disk_req *r)
{
	uint64_t offset = r->offset_bytes, end = offset + r->len_bytes;
	int rc = 0;

	r->pending = 1;
	r->result = 0;
	while (offset < end && !r->result) {
		struct chain_run run;

		rc = chain_find(&d->chain, offset, end, &run);
		if (rc < 0)
			break;
		read_run(d, r, offset, &run);
		offset += run.len_bytes;
	}
	put(d, r, rc < 0 ? rc : 0);
}

/* What a range covers: clusters [first, last) as a whole, and up to two in part. */
struct cover {
	uint64_t first, last;
	uint64_t partial[2];
	unsigned int n_partial;
};

static struct cover cover_of(const struct layers_disk *d, const struct disk_req *r)
{
	uint64_t start = r->offset_bytes, end = start + r->len_bytes;
	struct cover c = {.first = (start + LAYER_CLUSTER - 1) / LAYER_CLUSTER,
			  .last = end / LAYER_CLUSTER};

	/* The last cluster of the disk may be short, and is covered by what reaches its end. */
	if (end == d->disk.size_bytes)
		c.last = (end + LAYER_CLUSTER - 1) / LAYER_CLUSTER;
	if (start % LAYER_CLUSTER)
		c.partial[c.n_partial++] = start / LAYER_CLUSTER;
	if (end % LAYER_CLUSTER && end != d->disk.size_bytes &&
	    !(c.n_partial && c.partial[0] == end / LAYER_CLUSTER))
		c.partial[c.n_partial++] = end / LAYER_CLUSTER;
	if (c.last < c.first)
		c.last = c.first;
	return c;
}

/* Copy a cluster from below to its place in the top and add it to the map. */
static int copy_up(struct layers_disk *d, uint64_t cluster)
{
	uint64_t offset = cluster * LAYER_CLUSTER, len = d->disk.size_bytes - offset;
	int rc = layers_fault(d, "copy-up");
	uint8_t buf[LAYER_CLUSTER];
	ssize_t n;

	if (len > sizeof(buf))
		len = sizeof(buf);
	if (rc == 0)
		rc = chain_read(&d->chain, offset, buf, len);
	if (rc < 0)
		return rc;
	n = pwrite(d->top->fd, buf, len, (off_t)(LAYER_DATA + offset));
	if (n != (ssize_t)len)
		return n < 0 ? -errno : -EIO;
	d->top->unsynced = true;
	return layer_add(d->top, cluster, 1);
}

/**
 * copy_up_edges() - Make a write independent of what is below
 *
 * Return: 0, -EAGAIN if other writes must end before, or -errno
 */
static int copy_up_edges(struct layers_disk *d, const struct cover *c)
{
	for (unsigned int i = 0; i < c->n_partial; i++) {
		int has = layer_has(d->top, c->partial[i]);

		if (has == 0 && d->writes)
			return -EAGAIN;
		if (has == 0)
			has = copy_up(d, c->partial[i]);
		if (has < 0)
			return has;
	}
	return 0;
}

static void write_data(struct layers_disk *d, struct disk_req *r, const struct cover *c)
{
	struct part *p = part_new(d, r, AIO_WRITE, d->top->fd, LAYER_DATA + r->offset_bytes,
				  r->len_bytes, r->iov_n);

	if (!p)
		return;
	memcpy(p->iov, r->iov, r->iov_n * sizeof(p->iov[0]));
	p->op.iov_n = r->iov_n;
	p->add_cluster = c->first;
	p->add_n = c->last - c->first;
	layers_start_op(d, &p->op, "write");
}

static void punch(struct layers_disk *d, struct disk_req *r, const struct cover *c)
{
	struct part *p;

	if (c->last == c->first)
		return;
	p = part_new(d, r, AIO_PUNCH, d->top->fd, LAYER_DATA + c->first * LAYER_CLUSTER,
		     (c->last - c->first) * LAYER_CLUSTER, 0);
	if (!p)
		return;
	p->add_cluster = c->first;
	p->add_n = c->last - c->first;
	layers_start_op(d, &p->op, "punch");
}

/* Zeros into the part of a cluster that the range covers. */
static void write_edge_zeros(struct layers_disk *d, struct disk_req *r, uint64_t cluster)
{
	uint64_t start = cluster * LAYER_CLUSTER, end = start + LAYER_CLUSTER;
	struct part *p;

	if (start < r->offset_bytes)
		start = r->offset_bytes;
	if (end > r->offset_bytes + r->len_bytes)
		end = r->offset_bytes + r->len_bytes;
	p = part_new(d, r, AIO_WRITE, d->top->fd, LAYER_DATA + start, end - start, 1);
	if (!p)
		return;
	/* The kernel reads from it; iovec has no const. */
	p->iov[0] = (struct iovec){(void *)(uintptr_t)zeros, end - start};
	p->op.iov_n = 1;
	layers_start_op(d, &p->op, "write");
}

/* Write, discard or write zeroes, now or when what it must wait for is over. */
void layers_write(struct layers_disk *d, struct disk_req *r)
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
