/* SPDX-License-Identifier: Apache-2.0 */
/* The last bytes of a stream; see outbuf.h. */
#include "server/manager/outbuf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int reserve(struct outbuf *b, size_t need)
{
	size_t cap = b->cap ? b->cap : 4096;
	uint8_t *grown;

	if (need <= b->cap)
		return 0;
	while (cap < need)
		cap *= 2;
	grown = realloc(b->data, cap);
	if (!grown)
		return -ENOMEM;
	b->data = grown;
	b->cap = cap;
	return 0;
}

int outbuf_append(struct outbuf *b, const void *bytes, size_t len, size_t keep)
{
	if (!len)
		return 0;
	/* Dropping moves what stays: do it in large steps. */
	if (b->len + len > keep + keep / 4) {
		size_t drop = b->len + len - keep;

		if (drop > b->len)
			drop = b->len;
		memmove(b->data, b->data + drop, b->len - drop);
		b->len -= drop;
		b->start += drop;
	}
	if (reserve(b, b->len + len))
		return -ENOMEM;
	memcpy(b->data + b->len, bytes, len);
	b->len += len;
	return 0;
}

void outbuf_trim(struct outbuf *b, uint64_t offset)
{
	size_t drop;

	if (offset <= b->start)
		return;
	drop = offset - b->start < b->len ? (size_t)(offset - b->start) : b->len;
	memmove(b->data, b->data + drop, b->len - drop);
	b->len -= drop;
	b->start += drop;
}

void outbuf_fini(struct outbuf *b)
{
	free(b->data);
	memset(b, 0, sizeof(*b));
}
