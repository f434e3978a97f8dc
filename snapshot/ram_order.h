/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In which order a machine wanted the chunks of its memory when it was last woken, so
 * that they can be there before they are wanted.
 *
 * A small file beside the image, and only ever a hint: one that is missing,
 * damaged or of another image is as good as none.
 */
#ifndef SNAPSHOT_RAM_ORDER_H
#define SNAPSHOT_RAM_ORDER_H

#include <stdint.h>

#include "lib/err.h"
#include "snapshot/cold_image.h"

#define RAM_ORDER_MAGIC	  "DORMORDR"
#define RAM_ORDER_VERSION 1

struct ram_order_header {
	char magic[8];
	uint32_t version, chunk_bytes;
	uint8_t image_id[COLD_IMAGE_ID_BYTES];
	uint32_t n;   /* numbers of chunks that follow, 4 bytes each */
	uint32_t crc; /* CRC-32 of all before it and of what follows */
};
_Static_assert(sizeof(struct ram_order_header) == 40, "the format of version 1");

/**
 * ram_order_read() - The chunks, in their order, none twice
 * @out:	Set to a malloc'ed array; the caller frees it
 *
 * Return: how many; -ENOENT; -EINVAL with the reason; -errno
 */
int64_t ram_order_read(const char *path, const struct cold_image *c, uint32_t **out, struct err *e);

/* Durable, replacing what is there. Return: 0 or -errno. */
int ram_order_write(const char *path, const struct cold_image *c, const uint32_t *chunks,
		    uint32_t n, struct err *e);

#endif
