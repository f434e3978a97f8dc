/* SPDX-License-Identifier: Apache-2.0 */
/* The last bytes of a stream, with absolute offsets. */
#ifndef SERVER_MANAGER_OUTBUF_H
#define SERVER_MANAGER_OUTBUF_H

#include <stddef.h>
#include <stdint.h>

struct outbuf {
	uint8_t *data; /* owned */
	size_t len, cap;
	uint64_t start; /* offset of data[0] in the stream */
};

/**
 * outbuf_append() - Add bytes; keeps at least the last @keep, at most a quarter more
 *
 * Return: 0 or -ENOMEM (nothing was added)
 */
int outbuf_append(struct outbuf *b, const void *bytes, size_t len, size_t keep);
/* Drop all below @offset. */
void outbuf_trim(struct outbuf *b, uint64_t offset);
void outbuf_fini(struct outbuf *b);

static inline uint64_t outbuf_end(const struct outbuf *b)
{
	return b->start + b->len;
}

#endif
