/* SPDX-License-Identifier: Apache-2.0 */
/* Checksums of a layer's clusters; see layer_seal.h. */
#include "snapshot/layer_seal.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "lib/fd.h"
#include "lib/log.h"

#define SUMS_PER_MAP (LAYER_SECTOR_BITS / LAYER_SECTOR_SUMS) /* sectors: 32 */

static const uint8_t zeros[LAYER_CLUSTER];

/* CRC-32 of 4096 zeros. */
#define CRC_ZEROS 0xc71c0011u

struct seal {
	int fd;
	const char *path;
	const struct layer_header *h;
	const struct layer_seal_env *env;
	struct err *e;
	uint8_t *buf;		     /* of one sector of sums: LAYER_SECTOR_SUMS clusters */
	struct layer_sector *sums;   /* SUMS_PER_MAP */
	uint64_t data_from, data_to; /* clusters outside of it, and before its end, are holes */
	uint64_t clusters;
	uint32_t map_crc;
};

uint32_t layer_sum_add(uint32_t crc, const void *bytes, uint32_t len)
{
	return (uint32_t)crc32(crc, bytes, len);
}

uint32_t layer_sum_end(uint32_t crc, uint32_t len)
{
	if (len < LAYER_CLUSTER)
		crc = (uint32_t)crc32(crc, zeros, LAYER_CLUSTER - len);
	return crc ^ CRC_ZEROS;
}

uint32_t layer_sum_of(const void *bytes, uint32_t len)
{
	return layer_sum_end(layer_sum_add(0, bytes, len), len);
}

static int fault(const struct seal *s, const char *point)
{
	int rc = s->env->fault ? s->env->fault(s->env->fault_opaque, point) : 0;

	if (rc < 0)
		return err_sys(s->e, rc, "layer %s: sealing (%s)", s->path, point);
	if (s->env->cancel && __atomic_load_n(s->env->cancel, __ATOMIC_ACQUIRE))
		return err_set(s->e, -ECANCELED, "layer %s: sealing was cancelled", s->path);
	return 0;
}

static int read_at(const struct seal *s, void *buf, size_t len, uint64_t offset)
{
	ssize_t n = pread(s->fd, buf, len, (off_t)offset);

	/* A disk's end inside a cluster may be the end of the file. */
	if (n >= 0 && (size_t)n < len) {
		memset((char *)buf + n, 0, len - (size_t)n);
		return 0;
	}
	return n < 0 ? err_sys(s->e, -errno, "layer %s: sealing: reading", s->path) : 0;
}

static int write_at(const struct seal *s, const void *buf, size_t len, uint64_t offset)
{
	ssize_t n = pwrite(s->fd, buf, len, (off_t)offset);

	if (n == (ssize_t)len)
		return 0;
	return err_sys(s->e, n < 0 ? -errno : -ENOSPC, "layer %s: sealing: writing", s->path);
}

static int sync_file(const struct seal *s, const char *point)
{
	int rc = fault(s, point);

	if (rc == 0 && fdatasync(s->fd) < 0)
		rc = err_sys(s->e, -errno, "layer %s: sealing: sync", s->path);
	return rc;
}

/* Is there data at @cluster? Holes need not be read. */
static bool in_data(struct seal *s, uint64_t cluster)
{
	uint64_t at = LAYER_DATA + cluster * LAYER_CLUSTER;
	off_t from, to;

	while (cluster >= s->data_to) {
		from = lseek(s->fd, (off_t)at, SEEK_DATA);
		to = from < 0 ? -1 : lseek(s->fd, from, SEEK_HOLE);
		s->data_from =
		    from < 0 ? UINT64_MAX : ((uint64_t)from - LAYER_DATA) / LAYER_CLUSTER;
		s->data_to = to < 0
				 ? UINT64_MAX
				 : ((uint64_t)to - LAYER_DATA + LAYER_CLUSTER - 1) / LAYER_CLUSTER;
		/* Where that is not supported there is no hole. */
		if (from < 0 && errno != ENXIO)
			s->data_from = 0;
	}
	return cluster >= s->data_from;
}

static bool has(const struct layer_sector *map, uint32_t i)
{
	return map->bytes[i / 8] >> (i % 8) & 1;
}

/* The checksums of LAYER_SECTOR_SUMS clusters from @first on; @at: their bit in @map. */
static int sum_sector(struct seal *s, const struct layer_sector *map, uint32_t at, uint64_t first,
		      struct layer_sector *out)
{
	uint64_t total = layer_clusters(s->h->size_bytes);
	uint32_t n = LAYER_SECTOR_SUMS, i, j;

	memset(out, 0, sizeof(*out));
	if (first >= total)
		return 0;
	if (total - first < n)
		n = (uint32_t)(total - first);
	for (i = 0; i < n; i = j) {
		j = i + 1;
		if (!has(map, at + i))
			continue;
		s->clusters++;
		if (!in_data(s, first + i))
			continue;
		while (j < n && has(map, at + j) && in_data(s, first + j)) {
			s->clusters++;
			j++;
		}
		if (read_at(s, s->buf, (j - i) * LAYER_CLUSTER,
			    LAYER_DATA + (first + i) * LAYER_CLUSTER) < 0)
			return -EIO;
		for (uint32_t k = i; k < j; k++) {
			uint32_t sum =
			    layer_sum_of(s->buf + (k - i) * LAYER_CLUSTER, LAYER_CLUSTER);

			memcpy(out->bytes + 4ul * k, &sum, sizeof(sum));
		}
	}
	if (!layer_sector_never(out))
		out->crc = layer_sector_crc(out, first / LAYER_SECTOR_SUMS);
	return 0;
}

/* All checksums of the clusters that one sector of the map speaks of. */
static int sum_map_sector(struct seal *s, const struct layer_sector *map, uint32_t number)
{
	uint64_t first = (uint64_t)number * LAYER_SECTOR_BITS;
	uint64_t at = s->h->sums_offset + first / LAYER_SECTOR_SUMS * LAYER_SECTOR;
	int rc = 0;

	for (uint32_t i = 0; i < SUMS_PER_MAP && rc == 0; i++)
		rc = sum_sector(s, map, i * LAYER_SECTOR_SUMS,
				first + (uint64_t)i * LAYER_SECTOR_SUMS, &s->sums[i]);
	for (uint32_t i = 0, j; i < SUMS_PER_MAP && rc == 0; i = j) {
		j = i + 1;
		if (layer_sector_never(&s->sums[i]))
			continue;
		while (j < SUMS_PER_MAP && !layer_sector_never(&s->sums[j]))
			j++;
		rc = fault(s, "sums");
		if (rc == 0)
			rc = write_at(s, &s->sums[i], (j - i) * LAYER_SECTOR,
				      at + (uint64_t)i * LAYER_SECTOR);
	}
	return rc;
}

static int sum_all(struct seal *s)
{
	uint64_t clusters = layer_clusters(s->h->size_bytes);
	uint32_t n = (uint32_t)((clusters + LAYER_SECTOR_BITS - 1) / LAYER_SECTOR_BITS);
	struct layer_sector map;

	for (uint32_t i = 0; i < n; i++) {
		int rc = read_at(s, &map, sizeof(map), layer_map_offset(i));

		if (rc < 0)
			return rc;
		if (!layer_sector_ok(&map, i))
			return err_set(s->e, -EIO, "layer %s: map sector %u is damaged (checksum)",
				       s->path, i);
		s->map_crc = (uint32_t)crc32(s->map_crc, (const Bytef *)&map, sizeof(map));
		if (layer_sector_never(&map))
			continue;
		rc = sum_map_sector(s, &map, i);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int layer_seal(int fd, struct layer_header *h, const char *path, const struct layer_seal_env *env,
	       struct err *e)
{
	struct layer_header sealed = *h;
	cleanup_free uint8_t *buf = malloc(LAYER_SECTOR_SUMS * LAYER_CLUSTER);
	cleanup_free struct layer_sector *sums = malloc(SUMS_PER_MAP * sizeof(*sums));
	struct seal s = {.fd = fd, .path = path, .h = &sealed, .env = env, .e = e};
	int rc;

	if (h->flags & LAYER_SEALED)
		return 0;
	if (!buf || !sums)
		return err_set(e, -ENOMEM, "out of memory");
	s.buf = buf;
	s.sums = sums;
	sealed.flags |= LAYER_SEALED;
	sealed.sums_offset = layer_sums_offset(h->size_bytes);
	rc = fault(&s, "sums");
	/* First to its start: what an earlier try left there would be taken for sums. */
	if (rc == 0 &&
	    (ftruncate(fd, (off_t)(LAYER_DATA + h->size_bytes)) < 0 ||
	     ftruncate(fd, (off_t)(sealed.sums_offset + layer_sums_bytes(h->size_bytes))) < 0))
		rc = err_sys(e, -errno, "layer %s: sealing: setting its size", path);
	if (rc == 0)
		rc = sum_all(&s);
	if (rc == 0)
		rc = sync_file(&s, "sums-sync");
	if (rc < 0)
		return rc;
	sealed.clusters = s.clusters;
	sealed.map_crc = s.map_crc;
	sealed.crc = layer_header_crc(&sealed);
	rc = fault(&s, "seal");
	if (rc == 0)
		rc = write_at(&s, &sealed, sizeof(sealed), 0);
	if (rc == 0)
		rc = sync_file(&s, "seal-sync");
	if (rc == 0)
		*h = sealed;
	return rc;
}

int layer_sum(struct layer *l, uint64_t cluster, uint32_t *sum)
{
	uint64_t number = cluster / LAYER_SECTOR_SUMS;

	if (number != l->sums_number) {
		uint64_t at = l->h.sums_offset + number * LAYER_SECTOR;
		struct layer_sector s;

		if (pread(l->fd, &s, sizeof(s), (off_t)at) != sizeof(s) ||
		    !layer_sector_ok(&s, number)) {
			log_guest("layer %s: sector %llu of the checksums is damaged", l->path,
				  (unsigned long long)number);
			return -EIO;
		}
		l->sums = s;
		l->sums_number = number;
	}
	memcpy(sum, l->sums.bytes + cluster % LAYER_SECTOR_SUMS * 4, sizeof(*sum));
	return 0;
}
