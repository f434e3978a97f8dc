/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images of guest RAM: raw, sparse, mapped as they are.
 *
 * Theory of operation
 *
 * A page of RAM lies in the file at its offset in RAM; pages of zeros are holes. So an
 * image is restored by mapping it privately over the guest's memory, and all guests made of it
 * share its pages in the page cache. Behind the pages comes a trailer, which says what the
 * image is and has a checksum for each chunk of 2 MiB (docs/snapshot-format.md is the
 * format). It is written last, after all pages are durable: a file without a valid trailer is no
 * image, whatever stopped its writer.
 *
 * Opening reads the trailer alone, so it does not grow with what the guest uses.
 * ram_image_verify() reads everything.
 *
 * An image may have a parent, another image that most of its pages are equal to. Where the file
 * system can (FICLONERANGE) it shares the parent's blocks and only what differs is written;
 * elsewhere the image is a whole copy. It is complete by itself in both cases.
 *
 * Writing is done by a process that was forked off to hold a copy of RAM: ram_image_write() only
 * makes system calls and takes no lock of the C library; everything that does is in
 * ram_image_writer_open().
 */
#ifndef SNAPSHOT_RAM_IMAGE_H
#define SNAPSHOT_RAM_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

#define RAM_IMAGE_VERSION  1u
#define RAM_IMAGE_ID_BYTES 16u
#define RAM_IMAGE_PAGE	   4096u
#define RAM_IMAGE_CHUNK	   (2u << 20)
#define RAM_IMAGE_MAX	   (64ull << 30) /* bytes of RAM */

/* --- the trailer, as it is in the file: little-endian ----------------------------------- */

struct ram_image_header {
	char magic[8];
	uint32_t version;
	uint32_t trailer_bytes; /* header and chunks, rounded up to RAM_IMAGE_PAGE */
	uint8_t id[RAM_IMAGE_ID_BYTES];
	uint64_t ram_bytes;
	uint64_t stored_bytes; /* of pages that are not zero */
	uint32_t chunks_crc;   /* of the table and what rounds it up */
	uint32_t reserved[2];  /* 0 */
	uint32_t crc;	       /* of the bytes of the header before */
};
_Static_assert(sizeof(struct ram_image_header) == 64, "the format");

struct ram_image_chunk {
	uint32_t crc;	/* of all of its bytes; 0 if all are zero */
	uint16_t pages; /* that are not zero; 0: the chunk is a hole */
	uint16_t reserved;
};
_Static_assert(sizeof(struct ram_image_chunk) == 8, "the format");

/* --- reading ------------------------------------------------------------------------------- */

struct ram_image {
	int fd;	    /* owned; -1 while it is closed */
	char *path; /* owned, for messages */
	uint8_t id[RAM_IMAGE_ID_BYTES];
	uint64_t ram_bytes, stored_bytes;
	uint8_t *trailer; /* owned */
};

/* A struct that ram_image_close() can be called for. */
#define RAM_IMAGE_CLOSED                                                                           \
	{                                                                                          \
		.fd = -1                                                                           \
	}

/**
 * ram_image_open() - Open an image and check its trailer and its size
 * @ram_bytes:	What its RAM must measure; 0: anything
 *
 * Return: 0; -EINVAL truncated, damaged, no image at all, or of other RAM; -ENOTSUP of a newer
 *	   version; or -errno
 */
int ram_image_open(struct ram_image *img, const char *path, uint64_t ram_bytes, struct err *e);
/* Idempotent. What was mapped stays mapped. */
void ram_image_close(struct ram_image *img);

/**
 * ram_image_map() - Put the image's pages over the @img->ram_bytes of memory at @at
 *
 * @vacant:	Nothing is mapped there: then it fails if something is
 *
 * Private: writing changes nobody else's memory and no file. Whatever is mapped there is replaced
 * at once or, after a failure, left alone. The mapping outlives the image.
 */
int ram_image_map(const struct ram_image *img, void *at, bool vacant, struct err *e);

/* Read all of it and compare the checksums. Return: 0; -EIO names the chunk that is damaged. */
int ram_image_verify(const struct ram_image *img, struct err *e);

const struct ram_image_chunk *ram_image_chunks(const struct ram_image *img);
static inline size_t ram_image_chunks_n(uint64_t ram_bytes)
{
	return (size_t)(ram_bytes / RAM_IMAGE_CHUNK);
}

/* --- writing ------------------------------------------------------------------------------- */

/* What is known of a page before it is looked at. */
enum ram_page {
	RAM_PAGE_ZERO, /* nobody has touched it: it is not read */
	RAM_PAGE_SAME, /* as in the parent */
	RAM_PAGE_OWN,  /* may be anything */
};

struct ram_image_writer {
	int fd, dir_fd; /* owned */
	char *path;	/* owned */
	uint64_t ram_bytes, stored_bytes;
	size_t trailer_bytes;
	uint8_t *trailer;		/* owned */
	struct ram_image_chunk *chunks; /* within trailer */
	const struct ram_image *parent; /* borrowed; may be NULL */
	bool cloned;			/* the file has the parent's content */
	const uint8_t *compare;		/* the parent's pages, if they are to be compared */

	/* Set by the caller after ram_image_writer_open(), as far as it wants. */

	/*
	 * Say what the pages [@first, @first + @n) are, at most those of one chunk. NULL: all
	 * RAM_PAGE_OWN. Return: 0 or -errno
	 */
	int (*classify)(void *opaque, uint64_t first, unsigned int n, uint8_t *kinds);
	void *opaque; /* borrowed */
	/* Pages of RAM_PAGE_OWN may equal the parent's: compare, so that they are shared. */
	bool compare_own;
	/*
	 * For tests: called before each change of the file with its name ("write", "sync",
	 * "trailer", "dir"); a result other than 0 makes it fail with that -errno.
	 */
	int (*fault)(void *opaque, const char *point);
	void *fault_opaque;
	const char *failed; /* what ram_image_write() was doing when it failed */
};

/**
 * ram_image_writer_open() - Create the file and everything that writing needs
 * @path:	Must not exist
 * @parent:	May be NULL; of more or less RAM, too
 * @id:		Set to the new image's id
 *
 * Return: 0 or -errno; then nothing is to be released and there is no file
 */
int ram_image_writer_open(struct ram_image_writer *w, const char *path, uint64_t ram_bytes,
			  const struct ram_image *parent, uint8_t id[RAM_IMAGE_ID_BYTES],
			  struct err *e);

/**
 * ram_image_write() - Write the whole image and make it durable, its directory entry too
 * @ram:	@w->ram_bytes, which nobody changes meanwhile
 *
 * Return: 0 or -errno, with @w->failed set; then the file has no valid trailer
 */
int ram_image_write(struct ram_image_writer *w, const void *ram);

/* @keep: false removes the file. Idempotent. */
void ram_image_writer_close(struct ram_image_writer *w, bool keep);

#endif
