/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cold memory images: guest RAM in compressed chunks, each of which can be read
 * alone. Version 1; docs/memory-images.md has the whole format.
 *
 * Theory of operation
 *
 *	0		struct cold_header
 *	64		what is stored of the chunks, in their order, back to back
 *	index_offset	struct cold_entry per chunk; at the next multiple of 8
 *	...		struct cold_trailer; the file ends with it
 *
 * A chunk that is all zero is not stored. Of any other, the pages that are not zero
 * are: a bitmap of them (a bit per page, from the lowest bit of the first byte on) and
 * their content form the *plain* bytes, which are deflated, or kept as they are where
 * that does not make them smaller.
 *
 * An image is made under another name and takes its own when all of it is
 * durable. Integers are little-endian. A reader checks header, trailer and the whole
 * index before it believes any of it; the content of a chunk when it is read.
 */
#ifndef SNAPSHOT_COLD_IMAGE_H
#define SNAPSHOT_COLD_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

#define COLD_MAGIC	     "DORMCOLD"
#define COLD_END_MAGIC	     "DORMCEND"
#define COLD_VERSION	     1
#define COLD_PAGE	     4096u
#define COLD_CHUNK_MIN	     (64u << 10)
#define COLD_CHUNK_MAX	     (2u << 20)
#define COLD_CHUNK_DEFAULT   (64u << 10) /* docs/memory-images.md has the figures */
#define COLD_RAM_MAX	     (1ull << 40)
#define COLD_LEVEL_DEFAULT   1
#define COLD_IMAGE_ID_BYTES  16
#define COLD_MAX_PAGES	     (COLD_CHUNK_MAX / COLD_PAGE)
#define COLD_MAX_PLAIN_BYTES (COLD_CHUNK_MAX + COLD_MAX_PAGES / 8)

struct cold_header {
	char magic[8];
	uint32_t version, header_bytes;
	uint8_t image_id[COLD_IMAGE_ID_BYTES]; /* of the raw image that it was made of */
	uint64_t ram_bytes;		       /* a multiple of chunk_bytes */
	uint32_t chunk_bytes;		       /* a power of two, COLD_CHUNK_MIN to _MAX */
	uint32_t reserved[4];		       /* 0 */
	uint32_t crc;			       /* CRC-32 of all before it */
};
_Static_assert(sizeof(struct cold_header) == 64, "the format of version 1");

enum cold_method { COLD_ZERO = 0, COLD_DEFLATE = 1, COLD_STORED = 2 };

/* All 0 for a chunk that is all zero. */
struct cold_entry {
	uint64_t offset;
	uint32_t stored_bytes, plain_bytes;
	uint32_t stored_crc, plain_crc;
	uint32_t method, reserved;
};
_Static_assert(sizeof(struct cold_entry) == 32, "the format of version 1");

struct cold_trailer {
	char magic[8];
	uint32_t version, trailer_bytes;
	uint8_t image_id[COLD_IMAGE_ID_BYTES];
	uint64_t ram_bytes, index_offset, file_bytes;
	uint64_t page_count; /* pages that are not zero */
	uint32_t chunk_bytes, chunks;
	uint32_t chunks_stored; /* that are not all zero */
	uint32_t index_crc, reserved;
	uint32_t crc; /* CRC-32 of all before it */
};
_Static_assert(sizeof(struct cold_trailer) == 88, "the format of version 1");

/* --- reading --------------------------------------------------------------------- */

struct cold_image {
	int fd;			  /* owned */
	char *path;		  /* owned; for messages */
	struct cold_entry *index; /* owned; checked */
	uint8_t image_id[COLD_IMAGE_ID_BYTES];
	uint64_t ram_bytes, file_bytes, page_count;
	uint32_t chunk_bytes, chunks, chunks_stored;
};

/**
 * cold_open() - Open an image and check everything but the content of chunks
 *
 * Any number of threads may read chunks of one image.
 *
 * Return: 0; -EINVAL: not such an image, truncated or damaged; -ENOTSUP: a newer
 *	   format; -errno. Then nothing is left to be closed
 */
int cold_open(struct cold_image *c, const char *path, struct err *e);
/* Idempotent. */
void cold_close(struct cold_image *c);

/* The pages of one chunk, in the memory of its codec. */
struct cold_pages {
	const uint8_t *bitmap;	/* a bit per page of the chunk */
	const uint8_t *content; /* of the pages whose bit is set, one after the other */
	uint32_t n;		/* of these */
};

/* What one thread needs to read chunks of images of one chunk size. */
struct cold_codec;
int cold_codec_create(struct cold_codec **out, uint32_t chunk_bytes, struct err *e);
void cold_codec_destroy(struct cold_codec *k);

/**
 * cold_read() - Read a chunk and check its content
 * @p:	Valid until the codec is used again; n is 0 for a chunk that is all zero
 *
 * Return: 0 or -EIO with the reason, which names the chunk
 */
int cold_read(const struct cold_image *c, uint32_t chunk, struct cold_codec *k,
	      struct cold_pages *p, struct err *e);
/* As cold_read(), of stored bytes that the caller has read: entry.stored_bytes of them. */
int cold_decode(const struct cold_image *c, uint32_t chunk, const void *stored,
		struct cold_codec *k, struct cold_pages *p, struct err *e);

/**
 * cold_next_run() - The next run of pages that are in a chunk
 * @page:	Where to look from; set to the first page of the run
 * @pages:	How many pages the chunk has
 *
 * Return: length of the run, 0 when there is none
 */
uint32_t cold_next_run(const struct cold_pages *p, uint32_t *page, uint32_t pages);

/* --- writing --------------------------------------------------------------------- */

struct cold_writer;

/**
 * cold_writer_open() - Begin an image
 * @path:	What it will be called; until then PATH.tmp, which is replaced
 * @level:	zlib's, 1 to 9
 *
 * Return: 0, -EINVAL for sizes that the format does not have, -EBUSY while another
 *	   process writes the same image, or -errno
 */
int cold_writer_open(struct cold_writer **out, const char *path,
		     const uint8_t image_id[COLD_IMAGE_ID_BYTES], uint64_t ram_bytes,
		     uint32_t chunk_bytes, int level, struct err *e);
/* The next chunk; NULL: it is all zero. Nothing is durable yet. */
int cold_writer_add(struct cold_writer *w, const void *chunk, struct err *e);
/* After the last chunk: the image is durable under its name. Releases the writer. */
int cold_writer_finish(struct cold_writer *w, struct err *e);
/* Removes what was written; NULL is fine. */
void cold_writer_abort(struct cold_writer *w);

#endif
