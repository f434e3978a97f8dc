/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loader of overlay files: header and map are the input.
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
#include "snapshot/overlay_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/tmp/fuzz-overlay-XXXXXX", path[64];

static void remove_dir(void)
{
	unlink(path);
	rmdir(dir);
}

static int make_file(const uint8_t *data, size_t size, const struct stat *base)
{
	union {
		struct overlay_header h;
		uint8_t bytes[OVERLAY_MAP];
	} u;
	uint8_t repair = size ? data[0] : 0;
	struct overlay_map_sector map[8];
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
		u.h.base_bytes = (uint64_t)base->st_size;
		u.h.base_mtime_s = 0;
		u.h.base_mtime_ns = 0;
		u.h.crc = (uint32_t)crc32(0, u.bytes, offsetof(struct overlay_header, crc));
	}
	for (uint32_t i = 0; (repair & 2) && i < 8; i++) {
		uLong crc = crc32(0, map[i].bits, sizeof(map[i].bits));

		map[i].reserved = 0;
		map[i].crc = (uint32_t)crc32(crc, (const Bytef *)&i, sizeof(i));
	}
	unlink(path);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || pwrite(fd, &u, sizeof(u), 0) < 0 ||
	    pwrite(fd, map, sizeof(map), OVERLAY_MAP) < 0 ||
	    ftruncate(fd, OVERLAY_DATA + (repair & 4 ? 64 << 20 : 1ll << 41)) < 0)
		abort();
	close(fd);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct stat base = {.st_size = 1 << 20};
	struct overlay_map_sector copies[4];
	struct overlay_file f;
	uint32_t sectors[4];
	uint64_t clusters;

	log_init("fuzz", LOG_ERROR, 2);
	make_file(data, size, &base);
	if (overlay_file_open(&f, path, &base, 0, NULL) < 0)
		return 0;
	if (!f.size_bytes || f.size_bytes % 512 || f.size_bytes > OVERLAY_MAX_BYTES)
		abort();
	clusters = (f.size_bytes + OVERLAY_CLUSTER - 1) / OVERLAY_CLUSTER;
	for (uint64_t i = 0; i < 64; i++) {
		overlay_file_has(&f, (clusters - 1) * i / 63);
		overlay_file_add(&f, (clusters - 1) * i / 63, 1);
	}
	overlay_file_take(&f, sectors, copies, 4);
	overlay_file_close(&f);
	return 0;
}
