/* SPDX-License-Identifier: Apache-2.0 */
/* Flatten, import, export; see disk_image.h. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/fd.h"
#include "snapshot/chain.h"
#include "snapshot/disk_image.h"
#include "snapshot/layer_seal.h"

#define CHUNK_CLUSTERS 256u /* 1 MiB */

struct copy {
	struct chain chain;
	uint64_t size_bytes;
	const struct disk_image_env *env;
	struct layer *out_layer; /* NULL: raw */
	int out_fd;		 /* owned, unless it is the layer's; -1 */
	uint64_t out_offset;	 /* where the disk begins in it */
	bool whole;		 /* with the base; else what is in the layers only */
	bool unsealed;		 /* the result is to be sealed at the end */
	char part[PATH_MAX];
	const char *path;
	uint8_t *buf;
};

static int point(const struct copy *c, const char *name, struct err *e)
{
	int rc = c->env->fault ? c->env->fault(c->env->fault_opaque, name) : 0;

	return rc < 0 ? err_sys(e, rc, "%s: %s", c->part, name) : 0;
}

/* --- What is read --------------------------------------------------------------------- */

static int open_source(struct copy *c, const struct disk_image_source *s, struct err *e)
{
	struct layer *top = NULL;
	int rc = s->base_path ? chain_set_base(&c->chain, s->base_path, e) : 0;

	for (unsigned int i = 0; i < s->layers_n && rc == 0; i++)
		rc = chain_add(&c->chain, s->layers[i], e);
	if (rc == 0 && s->layers_n)
		rc = chain_layer(&c->chain, s->layers_n - 1, &top, e);
	/* All of them now: better before than after an hour of copying. */
	for (unsigned int i = s->layers_n; i-- > 0 && rc == 0;) {
		struct layer *l;

		rc = chain_layer(&c->chain, i, &l, e);
	}
	if (rc < 0)
		return rc;
	if (!top && !s->base_path)
		return err_set(e, -EINVAL, "neither a base nor a layer");
	c->size_bytes = top ? top->h.size_bytes : c->chain.base.bytes;
	return 0;
}

/* Is there nothing in the base in this range, or no base? */
static bool base_is_hole(const struct copy *c, uint64_t from, uint64_t to)
{
	off_t data;

	if (!c->whole || c->chain.base_fd < 0 || from >= c->chain.base.bytes)
		return true;
	data = lseek(c->chain.base_fd, (off_t)from, SEEK_DATA);
	return data < 0 ? errno == ENXIO : (uint64_t)data >= to;
}

/* --- What is written ------------------------------------------------------------------- */

/* A file of that name from a run that died is removed, from one that lives is not. */
static int make_part(struct copy *c, struct err *e)
{
	struct layer *l;
	int fd, rc;

	if (!c->env->replace && access(c->path, F_OK) == 0)
		return err_set(e, -EEXIST, "%s: exists already", c->path);
	if (snprintf(c->part, sizeof(c->part), "%s.part", c->path) >= (int)sizeof(c->part))
		return err_set(e, -ENAMETOOLONG, "%s: too long", c->path);
	fd = open(c->part, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd >= 0) {
		rc = layer_lock(fd, true);
		close(fd);
		if (rc < 0)
			return err_sys(e, rc, "%s", c->part);
		unlink(c->part);
	}
	rc = point(c, "create", e);
	if (rc < 0)
		return rc;
	if (!c->unsealed) {
		c->out_fd = open(c->part, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		rc = c->out_fd < 0 ? -errno : layer_lock(c->out_fd, true);
		if (rc == 0 && ftruncate(c->out_fd, (off_t)c->size_bytes) < 0)
			rc = -errno;
		return rc < 0 ? err_sys(e, rc, "%s", c->part) : 0;
	}
	l = malloc(sizeof(*l));
	if (!l)
		return err_set(e, -ENOMEM, "out of memory");
	rc = layer_open(l, c->part, LAYER_WRITE | LAYER_NEW, e);
	if (rc < 0) {
		free(l);
		return rc;
	}
	c->out_layer = l;
	c->out_fd = l->fd;
	c->out_offset = LAYER_DATA;
	return 0;
}

static int init_layer(struct copy *c, struct err *e)
{
	struct chain *in = &c->chain;
	struct layer *top = NULL, *lowest = NULL;
	struct layer_base base = {0};
	int rc;

	if (!c->whole) {
		rc = chain_layer(in, in->n - 1, &top, e);
		for (unsigned int i = 0; rc == 0 && !lowest; i++)
			rc = chain_layer(in, i, &lowest, e);
		if (rc < 0)
			return rc;
		base = layer_base_of(&top->h);
	}
	rc = layer_init(c->out_layer, c->size_bytes, NULL, &base, e);
	if (rc == 0 && top)
		rc = layer_stand_for(c->out_layer, top, lowest, e);
	return rc;
}

static int write_out(struct copy *c, const uint8_t *buf, uint64_t len, uint64_t offset,
		     struct err *e)
{
	int rc = point(c, "data", e);
	ssize_t n;

	for (uint64_t done = 0; done < len && rc == 0; done += (uint64_t)n) {
		n = pwrite(c->out_fd, buf + done, len - done,
			   (off_t)(c->out_offset + offset + done));
		if (n <= 0)
			return err_sys(e, n < 0 ? -errno : -ENOSPC, "%s: writing", c->part);
	}
	return rc;
}

static bool all_zero(const uint8_t *p, uint64_t len)
{
	return !len || (!p[0] && !memcmp(p, p + 1, len - 1));
}

/* Copy [@from, @to), at most a chunk, leaving out clusters that are zero. */
static int copy_chunk(struct copy *c, uint64_t from, uint64_t to, struct err *e)
{
	int rc = chain_read(&c->chain, from, c->buf, to - from);

	if (rc < 0)
		return err_set(e, rc, "reading at byte %llu of the disk: I/O error, or damage",
			       (unsigned long long)from);
	for (uint64_t at = from, end; at < to && rc == 0; at = end) {
		const uint8_t *p = c->buf + (at - from);
		bool zero = all_zero(p, to - at < LAYER_CLUSTER ? to - at : LAYER_CLUSTER);

		for (end = at + LAYER_CLUSTER; end < to; end += LAYER_CLUSTER) {
			uint64_t len = to - end < LAYER_CLUSTER ? to - end : LAYER_CLUSTER;

			if (all_zero(c->buf + (end - from), len) != zero)
				break;
		}
		if (end > to)
			end = to;
		if (!zero)
			rc = write_out(c, p, end - at, at, e);
		/* A zero cluster hides what is below; with nothing below it need not. */
		if (rc == 0 && c->out_layer && !(zero && c->whole))
			rc = layer_add(c->out_layer, at / LAYER_CLUSTER,
				       layer_clusters(end) - at / LAYER_CLUSTER);
	}
	return rc;
}

/*
 * How far from @cluster on the clusters are alike, to be copied or to be left out; @limit
 * at most.
 */
static int next_run(struct copy *c, uint64_t cluster, uint64_t limit, bool *wanted, uint64_t *end,
		    struct err *e)
{
	int64_t skip = chain_skip(&c->chain, cluster);
	struct layer *owner;
	int has;

	*wanted = false;
	*end = limit;
	if (skip >= 0 && (uint64_t)skip > cluster &&
	    base_is_hole(c, cluster * LAYER_CLUSTER, limit * LAYER_CLUSTER)) {
		if ((uint64_t)skip < limit)
			*end = (uint64_t)skip;
		return 0;
	}
	if (limit > cluster + CHUNK_CLUSTERS)
		*end = cluster + CHUNK_CLUSTERS;
	*wanted = true;
	if (skip < 0)
		return err_set(e, -EIO, "reading a map: I/O error, or damage");
	if (c->whole)
		return 0;
	has = chain_owner(&c->chain, cluster, &owner);
	for (uint64_t i = cluster + 1; i < *end && has >= 0; i++) {
		int other = chain_owner(&c->chain, i, &owner);

		if (other != has)
			*end = i;
	}
	*wanted = has;
	return has < 0 ? err_set(e, -EIO, "reading a map: I/O error, or damage") : 0;
}

static int copy_all(struct copy *c, struct err *e)
{
	uint64_t total = layer_clusters(c->size_bytes);

	for (uint64_t at = 0, end; at < total; at = end) {
		/* Of a base's data the kernel is asked for a piece at a time. */
		uint64_t limit = at + LAYER_SECTOR_BITS < total ? at + LAYER_SECTOR_BITS : total;
		uint64_t to;
		bool wanted;
		int rc = next_run(c, at, limit, &wanted, &end, e);

		if (rc < 0)
			return rc;
		to = end * LAYER_CLUSTER < c->size_bytes ? end * LAYER_CLUSTER : c->size_bytes;
		rc = wanted ? copy_chunk(c, at * LAYER_CLUSTER, to, e) : 0;
		if (rc < 0)
			return rc;
		if (c->env->progress)
			c->env->progress(c->env->progress_opaque, to, c->size_bytes);
	}
	return 0;
}

/* --- The end ------------------------------------------------------------------------------ */

static int write_map(struct copy *c, struct err *e)
{
	struct layer *l = c->out_layer;
	struct layer_sector copy;
	uint32_t sector;

	while (layer_take(l, &sector, &copy, 1)) {
		int rc = point(c, "map", e);

		if (rc < 0)
			return rc;
		if (pwrite(l->fd, &copy, sizeof(copy), (off_t)layer_map_offset(sector)) !=
		    sizeof(copy))
			return err_sys(e, errno ? -errno : -ENOSPC, "%s: writing", c->part);
	}
	return 0;
}

static int sync_dir(const struct copy *c, struct err *e)
{
	char dir[PATH_MAX], *slash;
	cleanup_close int fd = -1;
	int rc = point(c, "dir", e);

	if (rc < 0)
		return rc;
	memcpy(dir, c->part, sizeof(dir));
	slash = strrchr(dir, '/');
	if (slash)
		slash[slash == dir] = '\0';
	fd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		return err_sys(e, -errno, "%s: its directory", c->path);
	return 0;
}

static int finish(struct copy *c, struct err *e)
{
	struct layer_seal_env env = {c->env->fault, c->env->fault_opaque, NULL};
	int rc = 0;

	if (c->out_layer) {
		rc = write_map(c, e);
		if (rc == 0)
			rc = layer_seal(c->out_fd, &c->out_layer->h, c->part, &env, e);
	}
	if (rc == 0 && fsync(c->out_fd) < 0)
		rc = err_sys(e, -errno, "%s: sync", c->part);
	if (rc == 0)
		rc = point(c, "rename", e);
	if (rc == 0 && rename(c->part, c->path) < 0)
		rc = err_sys(e, -errno, "%s", c->path);
	return rc ? rc : sync_dir(c, e);
}

static void release(struct copy *c, int rc)
{
	if (rc < 0 && c->out_fd >= 0)
		unlink(c->part);
	if (c->out_layer) {
		layer_close(c->out_layer);
		free(c->out_layer);
	} else {
		fd_close(&c->out_fd);
	}
	chain_fini(&c->chain);
	free(c->buf);
}

static int run(struct copy *c, const struct disk_image_source *s, struct err *e)
{
	int rc = open_source(c, s, e);

	c->buf = malloc(CHUNK_CLUSTERS * LAYER_CLUSTER);
	if (rc == 0 && !c->buf)
		rc = err_set(e, -ENOMEM, "out of memory");
	if (rc == 0)
		rc = make_part(c, e);
	if (rc == 0 && c->out_layer)
		rc = init_layer(c, e);
	if (rc == 0)
		rc = copy_all(c, e);
	if (rc == 0)
		rc = finish(c, e);
	release(c, rc);
	return rc;
}

static void init(struct copy *c, const char *out_path, const struct disk_image_env *env)
{
	*c = (struct copy){.env = env, .path = out_path, .out_fd = -1};
	chain_init(&c->chain);
}

int disk_layers_flatten(const struct disk_image_source *s, const char *out_path,
			const struct disk_image_env *env, struct err *e)
{
	struct copy c;

	if (!s->layers_n)
		return err_set(e, -EINVAL, "no layers to flatten");
	init(&c, out_path, env);
	c.unsealed = true;
	c.chain.any_base = !s->base_path;
	return run(&c, s, e);
}

int disk_layers_export(const struct disk_image_source *s, const char *out_path,
		       const struct disk_image_env *env, struct err *e)
{
	struct copy c;

	init(&c, out_path, env);
	c.whole = true;
	return run(&c, s, e);
}

int disk_layers_import(const struct disk_image_source *s, const char *out_path,
		       const struct disk_image_env *env, struct err *e)
{
	struct copy c;

	init(&c, out_path, env);
	c.whole = c.unsealed = true;
	return run(&c, s, e);
}
