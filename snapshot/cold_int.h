/* SPDX-License-Identifier: Apache-2.0 */
/* What the reader and the writer of cold memory images share; see cold_image.h. */
#ifndef SNAPSHOT_COLD_INT_H
#define SNAPSHOT_COLD_INT_H

#include "snapshot/cold_image.h"

uint32_t cold_crc(const void *p, size_t len);
bool cold_sizes_ok(uint64_t ram_bytes, uint32_t chunk_bytes);

static inline uint32_t cold_bitmap_bytes(uint32_t chunk_bytes)
{
	return chunk_bytes / COLD_PAGE / 8;
}

static inline uint64_t cold_align8(uint64_t offset)
{
	return (offset + 7) & ~7ull;
}

#endif
