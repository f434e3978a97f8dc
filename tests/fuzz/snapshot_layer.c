/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loader of layer files: header and map are the input.
 *
 * The first byte chooses what is repaired before opening, so that the fuzzer gets
 * past the checksums: bit 0 the header's, bit 1 those of the map.
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "lib/log.h"
#include "snapshot/chain.h"
#include "snapshot/layer_seal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/tmp/fuzz-layer-XXXXXX", path[64];

static void remove_dir(void)
{
	unlink(path);
	rmdir(dir);
}

static int make_file(const uint8_t *data, size_t size)
{
	union {
		struct layer_header h;
		uint8_t bytes[LAYER_MAP];
	} u;
	uint8_t repair = size ? data[0] : 0;
	struct layer_sector map[8];
	size_t n;
	int fd;

	if (!path[0]) {
		if (!mkdtemp(dir))
			abort();
		snprintf(path, sizeof(path), "%s/o", dir);
		atexit(remove_dir);
	}
	memset(&u, 0, sizeof(u));
	memset(map, 0, sizeof(map));
	if (size) {
		data++;
		size--;
	}
	n = size < sizeof(u.h) ? size : sizeof(u.h);
	memcpy(&u, data, n);
	memcpy(map, data + n, size - n < sizeof(map) ? size - n : sizeof(map));
	if (repair & 1) {
		if (u.h.flags & LAYER_SEALED)
			u.h.sums_offset = layer_sums_offset(u.h.size_bytes);
		u.h.crc = (uint32_t)crc32(0, u.bytes, offsetof(struct layer_header, crc));
	}
	for (uint32_t i = 0; (repair & 2) && i < 8; i++) {
		uLong crc = crc32(0, map[i].bytes, sizeof(map[i].bytes));

		map[i].reserved = 0;
		map[i].crc = (uint32_t)crc32(crc, (const Bytef *)&i, sizeof(i));
	}
	unlink(path);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || pwrite(fd, &u, sizeof(u), 0) < 0 ||
	    pwrite(fd, map, sizeof(map), LAYER_MAP) < 0 ||
	    ftruncate(fd, LAYER_DATA + (repair & 4 ? 64 << 20 : 1ll << 41)) < 0)
		abort();
	close(fd);
	return 0;
}

/* As a layer that a disk reads through. */
static void read_chain(void)
{
	uint64_t end, step;
	struct layer *l;
	struct chain c;

	chain_init(&c);
	c.any_base = true;
	if (chain_add(&c, path, NULL) == 0 && chain_layer(&c, 0, &l, NULL) == 0) {
		end = l->h.size_bytes;
		step = end / 16 / 512 * 512 + 512;
		for (uint64_t at = 0; at < end; at += step) {
			uint8_t buf[8192];

			chain_read(&c, at, buf, end - at < sizeof(buf) ? end - at : sizeof(buf));
			chain_skip(&c, at / LAYER_CLUSTER);
		}
	}
	chain_fini(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned int mode = size && (data[0] & 8) ? LAYER_READ : LAYER_WRITE | LAYER_CREATE;
	struct layer_sector copies[4];
	struct layer l;
	uint32_t sectors[4], sum;
	uint64_t clusters;

	log_init("fuzz", LOG_ERROR, 2);
	make_file(data, size);
	if (layer_open(&l, path, mode, NULL) != 0) {
		layer_close(&l);
		return 0;
	}
	if (!l.h.size_bytes || l.h.size_bytes % 512 || l.h.size_bytes > LAYER_MAX_BYTES)
		abort();
	clusters = layer_clusters(l.h.size_bytes);
	for (uint64_t i = 0; i < 64; i++) {
		layer_has(&l, (clusters - 1) * i / 63);
		layer_add(&l, (clusters - 1) * i / 63, 1);
		if (l.h.flags & LAYER_SEALED)
			layer_sum(&l, (clusters - 1) * i / 63, &sum);
	}
	layer_take(&l, sectors, copies, 4);
	layer_close(&l);
	read_chain();
	return 0;
}
