/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The archive that was given: which members it has, and their content, with its digests.
 *
 * It is a tar in a file, or a compressed one, which is unpacked into another file first: then each
 * member can be read at its place. Layers lie in it as archives, compressed or not.
 */
#ifndef SERVER_OCI_OUTER_H
#define SERVER_OCI_OUTER_H

#include <archive.h>
#include <archive_entry.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

#define OUTER_MEMBERS_MAX 20000
#define DIGEST_SIZE	  65 /* SHA-256 in hexadecimal digits */

struct member {
	char *name; /* owned; without "./" in front */
	char *link; /* owned; what it is a link to, as a name of a member; or NULL */
	int64_t at; /* in the file */
	int64_t size;
};

struct outer {
	int fd;		      /* borrowed */
	struct member *items; /* owned */
	size_t n;
};

/**
 * outer_open() - Read the list of members
 * @fd:		Of the archive; to be read from its beginning
 * @scratch_fd:	An empty file, for a compressed one; both stay the caller's
 * @max_bytes:	That one may have, unpacked
 *
 * Return: 0; -EINVAL: it is no archive, or damaged; -EFBIG
 */
int outer_open(struct outer *o, int fd, int scratch_fd, uint64_t max_bytes, struct err *e);
void outer_fini(struct outer *o);

/* Through links. NULL if there is none. */
const struct member *outer_find(const struct outer *o, const char *name);

/**
 * outer_read() - The whole of a small member
 * @digest:	That it must have; NULL or "": any
 * @text:	Owned; NUL-terminated
 */
int outer_read(const struct outer *o, const struct member *m, size_t max, const char *digest,
	       char **text, size_t *len, struct err *e);

/* A layer: its blob, and what is in it. */
struct layer_stream {
	struct archive *outer, *raw, *tar; /* each reads from the one before */
	EVP_MD_CTX *blob, *diff;	   /* of what was read */
	uint64_t bytes, max_bytes;	   /* unpacked */
	struct err err;			   /* of a callback; code 0: none */
};

/* layer_close() is due, also after a failure. @max_bytes: that it may have, unpacked */
int layer_open(struct layer_stream *s, const struct outer *o, const struct member *m,
	       uint64_t max_bytes, struct err *e);
/* What libarchive says of the failure, or what caused it. Return: -EINVAL or another -errno */
int layer_fail(const struct layer_stream *s, const char *what, struct err *e);
/* Read what is left. The digests that it must have; "": any. Return: 0; -EINVAL: others */
int layer_check(struct layer_stream *s, const char *blob, const char *diff, struct err *e);
void layer_close(struct layer_stream *s);

#endif
