/* SPDX-License-Identifier: Apache-2.0 */
/* Base and layers; see chain.h. */
#include "snapshot/chain.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "snapshot/layer_seal.h"

void chain_init(struct chain *c)
{
	*c = (struct chain){.base_fd = -1};
}

void chain_fini(struct chain *c)
{
	for (unsigned int i = 0; i < c->n; i++) {
		if (c->links[i].layer)
			layer_close(c->links[i].layer);
		free(c->links[i].layer);
		free(c->links[i].path);
	}
	free(c->links);
	free(c->base_path);
	fd_close(&c->base_fd);
	chain_init(c);
}

int chain_set_base(struct chain *c, const char *path, struct err *e)
{
	struct stat st;
	int rc;

	c->base_fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (c->base_fd < 0 || fstat(c->base_fd, &st) < 0)
		return err_sys(e, -errno, "disk %s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "disk %s: not a regular file", path);
	if (st.st_size <= 0 || st.st_size % 512)
		return err_set(e, -EINVAL, "disk %s: %lld bytes: not a multiple of 512", path,
			       (long long)st.st_size);
	rc = layer_lock(c->base_fd, false);
	if (rc == -EBUSY)
		return err_set(e, rc, "disk %s: another process is writing it", path);
	if (rc < 0)
		return err_sys(e, rc, "disk %s: lock", path);
	c->base_path = strdup(path);
	if (!c->base_path)
		return err_set(e, -ENOMEM, "out of memory");
	c->base = (struct layer_base){(uint64_t)st.st_size, st.st_mtim.tv_sec,
				      (uint32_t)st.st_mtim.tv_nsec};
	return 0;
}

static int add(struct chain *c, const char *path, struct layer *l, struct err *e)
{
	struct chain_link *links;
	char *copy;

	if (c->n >= CHAIN_MAX)
		return err_set(e, -E2BIG, "layer %s: more than %d layers", path, CHAIN_MAX);
	links = realloc(c->links, (c->n + 1) * sizeof(*links));
	if (!links)
		return err_set(e, -ENOMEM, "out of memory");
	c->links = links;
	copy = strdup(path);
	if (!copy)
		return err_set(e, -ENOMEM, "out of memory");
	c->links[c->n++] = (struct chain_link){.path = copy, .layer = l};
	return 0;
}

int chain_add(struct chain *c, const char *path, struct err *e)
{
	return add(c, path, NULL, e);
}

int chain_add_open(struct chain *c, struct layer *l, struct err *e)
{
	return add(c, l->path, l, e);
}

void chain_drop(struct chain *c)
{
	free(c->links[--c->n].path);
}

int chain_check_base(const struct chain *c, const struct layer *l, struct err *e)
{
	if (c->any_base || layer_same_base(&l->h, &c->base))
		return 0;
	return err_set(e, -EINVAL,
		       "layer %s: made on another base, or the base has changed "
		       "(size or modification time)",
		       l->path);
}

int chain_check_link(const struct chain *c, const struct layer *child, const struct layer *parent,
		     struct err *e)
{
	static const uint8_t none[LAYER_ID_BYTES];
	int rc = chain_check_base(c, child, e);

	if (rc < 0)
		return rc;
	if (!parent && memcmp(child->h.parent, none, sizeof(none)))
		return err_set(e, -EINVAL, "layer %s: the layer below it (its parent) is missing",
			       child->path);
	if (!parent)
		return 0;
	if (memcmp(child->h.parent, parent->h.id, sizeof(parent->h.id)))
		return err_set(e, -EINVAL, "layer %s: %s is not the layer below it (its parent)",
			       child->path, parent->path);
	if (parent->h.size_bytes > child->h.size_bytes)
		return err_set(e, -EINVAL, "layer %s: smaller than its parent %s", child->path,
			       parent->path);
	return 0;
}

int chain_layer(struct chain *c, unsigned int i, struct layer **out, struct err *e)
{
	struct layer *above = NULL, *l = c->links[i].layer;
	int rc = 0;

	*out = l;
	if (l)
		return 0;
	if (i + 1 < c->n)
		rc = chain_layer(c, i + 1, &above, e);
	if (rc < 0)
		return rc;
	l = malloc(sizeof(*l));
	if (!l)
		return err_set(e, -ENOMEM, "out of memory");
	rc = layer_open(l, c->links[i].path,
			c->links[i].busy ? LAYER_READ : LAYER_READ | LAYER_WAIT, e);
	c->links[i].busy = rc == -EBUSY;
	if (rc == 0 && above)
		rc = chain_check_link(c, above, l, e);
	if (rc == 0 && i == 0 && !c->any_base)
		rc = chain_check_link(c, l, NULL, e);
	if (rc < 0) {
		layer_close(l);
		free(l);
		return rc;
	}
	*out = c->links[i].layer = l;
	return 0;
}

/* The layer that has a cluster, from the top. Return: 1, 0 if none has, -EIO. */
static int owner_of(struct chain *c, uint64_t cluster, struct layer **owner)
{
	for (unsigned int i = c->n; i-- > 0;) {
		struct err e;
		int rc;

		if (chain_layer(c, i, owner, &e) < 0) {
			log_guest("%s", e.msg);
			return -EIO;
		}
		rc = layer_has(*owner, cluster);
		if (rc)
			return rc;
	}
	*owner = NULL;
	return 0;
}

int chain_find(struct chain *c, uint64_t offset, uint64_t end, struct chain_run *run)
{
	uint64_t cluster = offset / LAYER_CLUSTER, stop, limit;
	struct layer *owner, *next;
	int rc = owner_of(c, cluster, &owner);

	if (rc < 0)
		return rc;
	for (stop = (cluster + 1) * LAYER_CLUSTER; stop < end; stop += LAYER_CLUSTER) {
		/* A failure is that of the next run. */
		if (owner_of(c, stop / LAYER_CLUSTER, &next) < 0 || next != owner)
			break;
	}
	if (stop > end)
		stop = end;
	*run = (struct chain_run){.layer = owner, .fd = -1};
	limit = owner ? owner->h.size_bytes : c->any_base ? 0 : c->base.bytes;
	if (offset >= limit) {
		/* Where a smaller disk below ends, or nothing was ever written. */
		run->layer = NULL;
	} else {
		run->fd = owner ? owner->fd : c->base_fd;
		run->file_offset = owner ? LAYER_DATA + offset : offset;
		if (stop > limit)
			stop = limit;
	}
	run->len_bytes = stop - offset;
	return 0;
}

/* The checksum of @len bytes at @skip of a vector. */
static uint32_t sum_iov(const struct iovec *iov, unsigned int n, uint64_t skip, uint32_t len)
{
	uint32_t crc = 0, left = len;

	for (; n && left; iov++, n--) {
		uint64_t take = iov->iov_len;

		if (skip >= take) {
			skip -= take;
			continue;
		}
		take -= skip;
		if (take > left)
			take = left;
		crc = layer_sum_add(crc, (const char *)iov->iov_base + skip, (uint32_t)take);
		skip = 0;
		left -= (uint32_t)take;
	}
	return layer_sum_end(crc, len);
}

int chain_verify(const struct chain_run *run, uint64_t offset, const struct iovec *iov,
		 unsigned int iov_n, uint64_t skip)
{
	uint64_t end = offset + run->len_bytes;
	uint64_t cluster = layer_clusters(offset);

	if (!run->layer || !(run->layer->h.flags & LAYER_SEALED))
		return 0;
	for (; cluster * LAYER_CLUSTER < end; cluster++) {
		uint64_t from = cluster * LAYER_CLUSTER, to = from + LAYER_CLUSTER;
		uint32_t want;

		if (to > run->layer->h.size_bytes)
			to = run->layer->h.size_bytes;
		if (to > end)
			break;
		if (layer_sum(run->layer, cluster, &want) < 0)
			return -EIO;
		if (sum_iov(iov, iov_n, skip + from - offset, (uint32_t)(to - from)) == want)
			continue;
		/* Also a guest that writes to its buffer meanwhile can get here. */
		log_guest("layer %s: cluster %llu is damaged (checksum)", run->layer->path,
			  (unsigned long long)cluster);
		return -EIO;
	}
	return 0;
}

static int read_run(const struct chain_run *run, void *buf)
{
	uint64_t done = 0;

	while (done < run->len_bytes) {
		ssize_t n = pread(run->fd, (char *)buf + done, run->len_bytes - done,
				  (off_t)(run->file_offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			log_guest("%s: reading: %s", run->layer ? run->layer->path : "base",
				  n < 0 ? strerror(errno) : "it is too short");
			return -EIO;
		}
		done += (uint64_t)n;
	}
	return 0;
}

int chain_read(struct chain *c, uint64_t offset, void *buf, uint64_t len)
{
	uint64_t end = offset + len;

	while (offset < end) {
		struct chain_run run;
		struct iovec iov;
		int rc = chain_find(c, offset, end, &run);

		if (rc < 0)
			return rc;
		iov = (struct iovec){buf, run.len_bytes};
		if (run.fd < 0)
			memset(buf, 0, run.len_bytes);
		else
			rc = read_run(&run, buf);
		if (rc == 0)
			rc = chain_verify(&run, offset, &iov, 1, 0);
		if (rc < 0)
			return rc;
		offset += run.len_bytes;
		buf = (char *)buf + run.len_bytes;
	}
	return 0;
}
