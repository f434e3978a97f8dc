/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The trailer of memory images is the input: its first byte is how many chunks of RAM precede it
 * and, in bit 7, whether its checksums are made right, so that the fuzzer gets past them.
 * What is opened must be mapped and read without a fault.
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include "snapshot/ram_image.h"

#define MAX_TRAILER (16u << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char path[] = "/tmp/fuzz-ram-XXXXXX";
static int fd = -1;

static void remove_file(void)
{
	unlink(path);
}

static void repair(uint8_t *trailer, size_t len, uint64_t ram_bytes)
{
	struct ram_image_header h;

	if (len < sizeof(h))
		return;
	memcpy(&h, trailer, sizeof(h));
	h.ram_bytes = ram_bytes;
	h.trailer_bytes = (uint32_t)len;
	h.chunks_crc = (uint32_t)crc32(0, trailer + sizeof(h), (uInt)(len - sizeof(h)));
	h.crc = (uint32_t)crc32(0, (uint8_t *)&h, offsetof(struct ram_image_header, crc));
	memcpy(trailer, &h, sizeof(h));
}

static void use(struct ram_image *img)
{
	uint8_t *at = mmap(NULL, img->ram_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED || ram_image_map(img, at, false, NULL))
		abort();
	if (at[0] || at[img->ram_bytes - 1])
		abort();
	munmap(at, img->ram_bytes);
	ram_image_verify(img, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t trailer[MAX_TRAILER];
	struct ram_image img;
	uint64_t ram_bytes;

	if (fd < 0) {
		fd = mkstemp(path);
		atexit(remove_file);
	}
	if (!size || size - 1 > MAX_TRAILER || fd < 0)
		return 0;
	ram_bytes = (uint64_t)(data[0] & 0x3) * RAM_IMAGE_CHUNK;
	memcpy(trailer, data + 1, size - 1);
	if (data[0] & 0x80)
		repair(trailer, size - 1, ram_bytes);
	if (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)ram_bytes) < 0 ||
	    pwrite(fd, trailer, size - 1, (off_t)ram_bytes) != (ssize_t)(size - 1))
		abort();
	if (!ram_image_open(&img, path, 0, NULL)) {
		if (img.ram_bytes != ram_bytes)
			abort();
		use(&img);
	}
	ram_image_close(&img);
	return 0;
}
