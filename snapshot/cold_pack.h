/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From raw memory images to cold ones and back, and checking all of one.
 *
 * All of it takes seconds: for a background process. The source is never changed, and the
 * result appears under its name when it is whole and durable, with the source's image id.
 */
#ifndef SNAPSHOT_COLD_PACK_H
#define SNAPSHOT_COLD_PACK_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/err.h"

struct ram_image;

/* Told every few megabytes; NULL for nobody. */
struct pack_progress {
	/* Of RAM, zeros too. Return: false to cancel */
	bool (*step)(void *opaque, uint64_t done_bytes, uint64_t total_bytes);
	void *opaque; /* borrowed */
};

struct cold_pack_options {
	uint32_t chunk_bytes; /* 0: the default */
	int level;	      /* zlib's; 0: the default */
};

/**
 * cold_pack() - Make a cold image of a raw one
 * @o:	May be NULL
 *
 * The raw image is checked as it is read: no cold image is made of a damaged one.
 *
 * Return: 0; as ram_image_open() and cold_writer_open(); -EIO: it is damaged; -ECANCELED
 */
int cold_pack(const char *raw_path, const char *cold_path, const struct cold_pack_options *o,
	      const struct pack_progress *progress, struct err *e);

/**
 * cold_unpack() - Make a raw image of a cold one; needs little memory
 * @raw_path:	Replaced if it exists
 *
 * Return: 0; as cold_open(); -EIO: it is damaged; -EBUSY: another process unpacks it;
 *	   -ECANCELED; or -errno
 */
int cold_unpack(const char *cold_path, const char *raw_path, const struct pack_progress *progress,
		struct err *e);

/* Read and check all of an image. Return: 0; as cold_open(); -EIO: damaged; -ECANCELED. */
int cold_verify(const char *cold_path, const struct pack_progress *progress, struct err *e);

#endif
