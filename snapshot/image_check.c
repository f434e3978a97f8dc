/* SPDX-License-Identifier: Apache-2.0 */
/* Check, seal, describe; see disk_image.h. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "lib/fd.h"
#include "snapshot/chain.h"
#include "snapshot/disk_image.h"
#include "snapshot/layer_seal.h"

struct check {
	void (*problem)(void *opaque, const char *text);
	void *opaque;
	const struct disk_image_env *env;
	int problems;
	uint64_t done_bytes, total_bytes;
	uint8_t buf[LAYER_SECTOR_SUMS * LAYER_CLUSTER];
};

static void found(struct check *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void found(struct check *c, const char *fmt, ...)
{
	char text[320];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	c->problems++;
	c->problem(c->opaque, text);
}

/* One sector of checksums and the clusters that it speaks of. */
static void check_sums(struct check *c, struct layer *l, uint64_t first, uint64_t end)
{
	ssize_t n = pread(l->fd, c->buf, (end - first) * LAYER_CLUSTER,
			  (off_t)(LAYER_DATA + first * LAYER_CLUSTER));
	uint64_t bad = 0, first_bad = 0;

	if (n < 0) {
		found(c, "%s: cluster %llu and following: %s", l->path, (unsigned long long)first,
		      strerror(errno));
		return;
	}
	memset(c->buf + n, 0, (end - first) * LAYER_CLUSTER - (uint64_t)n);
	for (uint64_t i = first; i < end; i++) {
		int has = layer_has(l, i);
		uint32_t want;

		if (has <= 0)
			continue;
		if (layer_sum(l, i, &want) < 0) {
			found(c, "%s: the checksums of cluster %llu and following are damaged",
			      l->path, (unsigned long long)i);
			return;
		}
		if (layer_sum_of(c->buf + (i - first) * LAYER_CLUSTER, LAYER_CLUSTER) == want)
			continue;
		if (!bad++)
			first_bad = i;
	}
	if (bad)
		found(c, "%s: cluster %llu%s damaged (checksum)", l->path,
		      (unsigned long long)first_bad, bad > 1 ? " and others near it are" : " is");
}

/* One sector of the map. Return: clusters it has. */
static uint64_t check_map_sector(struct check *c, struct layer *l, uint32_t number, uint32_t *crc)
{
	uint64_t total = layer_clusters(l->h.size_bytes), clusters = 0;
	uint64_t first = (uint64_t)number * LAYER_SECTOR_BITS;
	struct layer_sector map;

	if (pread(l->fd, &map, sizeof(map), (off_t)layer_map_offset(number)) != sizeof(map) ||
	    !layer_sector_ok(&map, number)) {
		found(c, "%s: map sector %u is damaged (checksum)", l->path, number);
		return 0;
	}
	*crc = (uint32_t)crc32(*crc, (const Bytef *)&map, sizeof(map));
	for (uint32_t i = 0; i < LAYER_SECTOR_BITS; i++) {
		if (!(map.bytes[i / 8] >> (i % 8) & 1))
			continue;
		clusters++;
		if (first + i < total)
			continue;
		found(c, "%s: the map has clusters beyond the end of the disk", l->path);
		return clusters;
	}
	for (uint64_t at = first; clusters && (l->h.flags & LAYER_SEALED) &&
				  at < first + LAYER_SECTOR_BITS && at < total;
	     at += LAYER_SECTOR_SUMS) {
		uint64_t end = at + LAYER_SECTOR_SUMS < total ? at + LAYER_SECTOR_SUMS : total;
		bool any = false;

		for (uint64_t i = at; i < end && !any; i++)
			any = layer_has(l, i) == 1;
		if (any)
			check_sums(c, l, at, end);
	}
	return clusters;
}

static void check_layer(struct check *c, struct layer *l)
{
	uint64_t total = layer_clusters(l->h.size_bytes), clusters = 0;
	uint32_t crc = 0;
	int before = c->problems;

	for (uint32_t i = 0; (uint64_t)i * LAYER_SECTOR_BITS < total; i++) {
		clusters += check_map_sector(c, l, i, &crc);
		if (!c->env->progress)
			continue;
		c->env->progress(c->env->progress_opaque,
				 c->done_bytes + (uint64_t)i * LAYER_SECTOR_BITS * LAYER_CLUSTER,
				 c->total_bytes);
	}
	c->done_bytes += l->h.size_bytes;
	if (c->problems == before && (l->h.flags & LAYER_SEALED) &&
	    (crc != l->h.map_crc || clusters != l->h.clusters))
		found(c, "%s: the map is not the one that was sealed", l->path);
}

int disk_layers_check(const struct disk_image_source *s,
		      void (*problem)(void *opaque, const char *text), void *opaque,
		      const struct disk_image_env *env, struct err *e)
{
	cleanup_free struct check *c = malloc(sizeof(*c));
	struct chain chain;
	struct layer *l;
	struct err why;
	int rc = 0;

	if (!c)
		return err_set(e, -ENOMEM, "out of memory");
	*c = (struct check){.problem = problem, .opaque = opaque, .env = env};
	chain_init(&chain);
	chain.any_base = !s->base_path;
	if (s->base_path && chain_set_base(&chain, s->base_path, &why) < 0)
		found(c, "%s", why.msg);
	/* Each by itself: what is wrong with one does not hide what is with others. */
	for (unsigned int i = 0; i < s->layers_n; i++) {
		struct layer one;

		if (layer_open(&one, s->layers[i], LAYER_READ, &why) < 0)
			continue; /* said below */
		c->total_bytes = one.h.size_bytes * s->layers_n;
		check_layer(c, &one);
		layer_close(&one);
	}
	for (unsigned int i = 0; i < s->layers_n && rc == 0; i++)
		rc = chain_add(&chain, s->layers[i], e);
	for (unsigned int i = s->layers_n; i-- > 0 && rc == 0;) {
		if (chain_layer(&chain, i, &l, &why) < 0) {
			found(c, "%s", why.msg);
			break;
		}
	}
	chain_fini(&chain);
	return rc ? rc : c->problems;
}

int disk_layers_seal(const char *path, const struct disk_image_env *env, struct err *e)
{
	struct layer_seal_env seal = {env->fault, env->fault_opaque, NULL};
	struct layer l;
	int rc = layer_open(&l, path, LAYER_WRITE, e);

	if (rc == -EROFS)
		return 0;
	if (rc < 0)
		return rc;
	/* Its last writer may have died before the data that the map speaks of was durable. */
	if (fdatasync(l.fd) < 0)
		rc = err_sys(e, -errno, "layer %s: sync", path);
	if (rc == 0)
		rc = layer_seal(l.fd, &l.h, path, &seal, e);
	layer_close(&l);
	return rc;
}

static void hex(char *out, const uint8_t *id)
{
	bool any = false;

	for (unsigned int i = 0; i < LAYER_ID_BYTES; i++) {
		any = any || id[i];
		snprintf(out + 2ul * i, 3, "%02x", id[i]);
	}
	if (!any)
		out[0] = '\0';
}

int disk_layers_describe(const char *path, struct disk_image_info *info, struct err *e)
{
	uint64_t total, clusters = 0;
	struct layer l;
	struct stat st;
	int rc = layer_open(&l, path, LAYER_READ, e);

	if (rc < 0)
		return rc;
	total = layer_clusters(l.h.size_bytes);
	for (uint64_t at = 0; !(l.h.flags & LAYER_SEALED) && at < total && rc >= 0; at++) {
		int64_t next = layer_skip(&l, at);

		rc = next < 0 ? (int)next : next > (int64_t)at ? 0 : layer_has(&l, at);
		if (next > (int64_t)at)
			at = (uint64_t)next - 1;
		else
			clusters += rc > 0;
	}
	if (rc >= 0 && fstat(l.fd, &st) < 0)
		rc = -errno;
	if (rc < 0) {
		layer_close(&l);
		return err_sys(e, rc, "layer %s: reading its map", path);
	}
	*info = (struct disk_image_info){
	    .sealed = l.h.flags & LAYER_SEALED,
	    .flat = l.h.flags & LAYER_FLAT,
	    .size_bytes = l.h.size_bytes,
	    .base_bytes = l.h.base_bytes,
	    .used_bytes = (uint64_t)st.st_blocks * 512,
	    .content_bytes = (l.h.flags & LAYER_SEALED ? l.h.clusters : clusters) * LAYER_CLUSTER};
	hex(info->id, l.h.id);
	hex(info->parent, l.h.parent);
	layer_close(&l);
	return 0;
}
