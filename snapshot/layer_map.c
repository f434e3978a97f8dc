/* SPDX-License-Identifier: Apache-2.0 */
/* The map of a layer file: which clusters it has; see layer.h. */
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "lib/log.h"
#include "snapshot/layer.h"

#define SECTORS_PER_LOAD (4096u / LAYER_SECTOR)

static bool bit_get(const uint8_t *bits, uint64_t i)
{
	return bits[i / 8] >> (i % 8) & 1;
}

static void bit_set(uint8_t *bits, uint64_t i)
{
	bits[i / 8] = (uint8_t)(bits[i / 8] | 1u << (i % 8));
}

static void bit_clear(uint8_t *bits, uint64_t i)
{
	bits[i / 8] = (uint8_t)(bits[i / 8] & ~(1u << (i % 8)));
}

uint32_t layer_sector_crc(const struct layer_sector *s, uint64_t number)
{
	uLong crc = crc32(0, s->bytes, sizeof(s->bytes));
	uint32_t low = (uint32_t)number;

	return (uint32_t)crc32(crc, (const Bytef *)&low, sizeof(low));
}

bool layer_sector_never(const struct layer_sector *s)
{
	static const struct layer_sector never;

	return !memcmp(s, &never, sizeof(never));
}

bool layer_sector_ok(const struct layer_sector *s, uint64_t number)
{
	return layer_sector_never(s) || (!s->reserved && s->crc == layer_sector_crc(s, number));
}

/* Bring the sector, and those that share its 4 KiB of the file, into memory. */
static int load(struct layer *l, uint32_t sector)
{
	uint32_t first = sector / SECTORS_PER_LOAD * SECTORS_PER_LOAD;
	struct layer_sector buf[SECTORS_PER_LOAD];
	ssize_t n;

	if (bit_get(l->loaded, sector))
		return 0;
	n = pread(l->fd, buf, sizeof(buf), (off_t)layer_map_offset(first));
	if (n != sizeof(buf)) {
		log_guest("layer %s: map sector %u cannot be read", l->path, sector);
		return -EIO;
	}
	for (uint32_t i = 0; i < SECTORS_PER_LOAD; i++) {
		if (bit_get(l->loaded, first + i) || !layer_sector_ok(&buf[i], first + i))
			continue;
		if (!layer_sector_never(&buf[i]))
			l->map[first + i] = buf[i];
		bit_set(l->loaded, first + i);
	}
	if (!bit_get(l->loaded, sector)) {
		log_guest("layer %s: map sector %u is damaged (checksum)", l->path, sector);
		return -EIO;
	}
	return 0;
}

int layer_has(struct layer *l, uint64_t cluster)
{
	uint32_t sector = (uint32_t)(cluster / LAYER_SECTOR_BITS);
	int rc;

	/* Of a smaller layer below. */
	if (cluster >= layer_clusters(l->h.size_bytes))
		return 0;
	rc = load(l, sector);
	if (rc < 0)
		return rc;
	return bit_get(l->map[sector].bytes, cluster % LAYER_SECTOR_BITS);
}

int64_t layer_skip(struct layer *l, uint64_t cluster)
{
	uint32_t sector = (uint32_t)(cluster / LAYER_SECTOR_BITS);
	int rc;

	if (cluster >= layer_clusters(l->h.size_bytes))
		return INT64_MAX;
	rc = load(l, sector);
	if (rc < 0)
		return rc;
	return layer_sector_never(&l->map[sector]) ? (sector + 1ll) * LAYER_SECTOR_BITS
						   : (int64_t)cluster;
}

int layer_add(struct layer *l, uint64_t cluster, uint64_t n)
{
	for (; n; n--, cluster++) {
		uint32_t sector = (uint32_t)(cluster / LAYER_SECTOR_BITS);
		uint8_t *bits;
		int rc = load(l, sector);

		if (rc < 0)
			return rc;
		bits = l->map[sector].bytes;
		if (bit_get(bits, cluster % LAYER_SECTOR_BITS))
			continue;
		bit_set(bits, cluster % LAYER_SECTOR_BITS);
		if (!bit_get(l->dirty, sector)) {
			bit_set(l->dirty, sector);
			l->dirty_count++;
		}
	}
	return 0;
}

uint32_t layer_take(struct layer *l, uint32_t *sectors, struct layer_sector *copies, uint32_t max)
{
	uint32_t n = 0;

	for (uint32_t s = 0; s < l->sectors && l->dirty_count && n < max; s++) {
		if (!bit_get(l->dirty, s))
			continue;
		l->map[s].crc = layer_sector_crc(&l->map[s], s);
		sectors[n] = s;
		copies[n++] = l->map[s];
		bit_clear(l->dirty, s);
		l->dirty_count--;
	}
	return n;
}

void layer_put_back(struct layer *l, const uint32_t *sectors, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		if (bit_get(l->dirty, sectors[i]))
			continue;
		bit_set(l->dirty, sectors[i]);
		l->dirty_count++;
	}
}
