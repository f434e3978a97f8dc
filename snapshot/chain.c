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
	/* Nothing looked at yet: so it stays, or begins with this one. */
	if (c->low == c->n && !l)
		c->low++;
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

static bool is_none(const uint8_t *id)
{
	static const uint8_t none[LAYER_ID_BYTES];

	return !memcmp(id, none, sizeof(none));
}

int chain_check_base(const struct chain *c, const struct layer *l, struct err *e)
{
	if (c->any_base || layer_same_base(&l->h, &c->base))
		return 0;
	if (!c->base.bytes)
		return err_set(e, -EINVAL, "layer %s: made on a base, which is missing", l->path);
	return err_set(e, -EINVAL,
		       "layer %s: its base has changed, or is another: %llu bytes of %lld.%09u "
		       "then, %llu of %lld.%09u now",
		       l->path, (unsigned long long)l->h.base_bytes, (long long)l->h.base_mtime_s,
		       l->h.base_mtime_ns, (unsigned long long)c->base.bytes,
		       (long long)c->base.mtime_s, c->base.mtime_ns);
}

int chain_check_link(const struct chain *c, const struct layer *child, const struct layer *parent,
		     struct err *e)
{
	int rc = chain_check_base(c, child, e);

	if (rc < 0)
		return rc;
	if (!parent && !is_none(child->h.parent))
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

/* The layer that has to have its parent below link @i. */
static struct layer *child_of(struct chain *c, unsigned int i)
{
	while (++i < c->n)
		if (c->links[i].layer)
			return c->links[i].layer;
	return NULL;
}

/* Is @l a flattened one that the layer with this id (NULL: any) is void for? */
static bool stands_for(const struct layer *l, const uint8_t *id)
{
	if (!l || !(l->h.flags & LAYER_FLAT))
		return false;
	return id ? memcmp(l->h.parent, id, LAYER_ID_BYTES) : is_none(l->h.parent);
}

static int open_link(struct chain *c, unsigned int i, struct layer *above, struct err *e)
{
	struct chain_link *link = &c->links[i];
	struct layer *l = malloc(sizeof(*l));
	int rc;

	if (!l)
		return err_set(e, -ENOMEM, "out of memory");
	rc = layer_open(l, link->path, link->busy ? LAYER_READ | LAYER_NO_WAIT : LAYER_READ, e);
	link->busy = rc == -EBUSY;
	if (rc == 0 && stands_for(above, l->h.id)) {
		link->skipped = true;
	} else if (rc == 0) {
		rc = above ? chain_check_link(c, above, l, e) : chain_check_base(c, l, e);
		if (rc == 0 && i == 0 && !c->any_base)
			rc = chain_check_link(c, l, NULL, e);
	}
	if (rc == 0 && !link->skipped) {
		link->layer = l;
		return 0;
	}
	layer_close(l);
	free(l);
	return rc;
}

/* Open link @i, or find out that it is void. All above it have been looked at. */
static int look_at(struct chain *c, unsigned int i, struct err *e)
{
	struct layer *above = child_of(c, i);
	int rc = 0;

	if (stands_for(above, NULL))
		c->links[i].skipped = true;
	else
		rc = open_link(c, i, above, e);
	/* Its parent should have been among those that were skipped. */
	if (rc == 0 && above && i == 0 && c->links[i].skipped && !c->any_base)
		rc = chain_check_link(c, above, NULL, e);
	if (rc == 0)
		c->low = i;
	return rc;
}

int chain_layer(struct chain *c, unsigned int i, struct layer **out, struct err *e)
{
	while (c->low > i) {
		int rc = look_at(c, c->low - 1, e);

		if (rc < 0)
			return rc;
	}
	*out = c->links[i].layer;
	return 0;
}

/* As chain_layer(), but the failure is logged and -EIO. */
static int need_layer(struct chain *c, unsigned int i, struct layer **out)
{
	struct err e;

	if (chain_layer(c, i, out, &e) == 0)
		return 0;
	log_guest("%s", e.msg);
	return -EIO;
}

int chain_owner(struct chain *c, uint64_t cluster, struct layer **owner)
{
	for (unsigned int i = c->n; i-- > 0;) {
		int rc = need_layer(c, i, owner);

		if (rc < 0)
			return rc;
		rc = *owner ? layer_has(*owner, cluster) : 0;
		if (rc)
			return rc;
	}
	*owner = NULL;
	return 0;
}

int64_t chain_skip(struct chain *c, uint64_t cluster)
{
	int64_t next = INT64_MAX;

	for (unsigned int i = c->n; i-- > 0;) {
		struct layer *l;
		int64_t mine;

		if (need_layer(c, i, &l) < 0)
			return -EIO;
		mine = l ? layer_skip(l, cluster) : INT64_MAX;
		if (mine < next)
			next = mine;
	}
	return next;
}

int chain_find(struct chain *c, uint64_t offset, uint64_t end, struct chain_run *run)
{
	uint64_t cluster = offset / LAYER_CLUSTER, stop, limit;
	struct layer *owner, *next;
	int rc = chain_owner(c, cluster, &owner);

	if (rc < 0)
		return rc;
	for (stop = (cluster + 1) * LAYER_CLUSTER; stop < end; stop += LAYER_CLUSTER) {
		/* A failure is that of the next run. */
		if (chain_owner(c, stop / LAYER_CLUSTER, &next) < 0 || next != owner)
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
