/* SPDX-License-Identifier: Apache-2.0 */
/* What the reader and the writer of memory images share. */
#ifndef SNAPSHOT_RAM_IMAGE_INT_H
#define SNAPSHOT_RAM_IMAGE_INT_H

#include <zlib.h>

#include "snapshot/ram_image.h"

#define RAM_IMAGE_MAGIC "DORMRAM" /* with its NUL */
#define RAM_IMAGE_PAGES (RAM_IMAGE_CHUNK / RAM_IMAGE_PAGE)

/* Less than a chunk for each allowed size. */
static inline size_t ram_image_trailer_bytes(uint64_t ram_bytes)
{
	size_t n = sizeof(struct ram_image_header) +
		   ram_image_chunks_n(ram_bytes) * sizeof(struct ram_image_chunk);

	return (n + RAM_IMAGE_PAGE - 1) / RAM_IMAGE_PAGE * RAM_IMAGE_PAGE;
}

/* Everything behind the header. */
static inline uint32_t ram_image_chunks_crc(const uint8_t *trailer, size_t trailer_bytes)
{
	return (uint32_t)crc32(0, trailer + sizeof(struct ram_image_header),
			       (uInt)(trailer_bytes - sizeof(struct ram_image_header)));
}

/* @len_bytes: 8 or more */
bool ram_image_is_zero(const uint8_t *p, size_t len_bytes);

#endif
