/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A window onto a byte stream with absolute offsets: bytes [start, end) are held. At most
 * PROTO_WINDOW of them are ahead of `acked`; below that, up to `keep` are kept for whoever may
 * ask again. Starts small, because most commands say little.
 */
#ifndef AGENT_RING_H
#define AGENT_RING_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct ring {
	uint8_t *data; /* owned; byte of offset o is at o % cap */
	size_t cap, keep;
	uint64_t start, acked, end; /* in this order */
};

void ring_fini(struct ring *r);
/* How many more bytes fit. */
size_t ring_room(const struct ring *r);
/* Append; @len at most ring_room(). Return: 0 or -ENOMEM. */
int ring_put(struct ring *r, const void *src, size_t len);
/* Append what one read gives. Return: bytes, 0 at the end, -ENOBUFS without room, or -errno. */
ssize_t ring_read_from(struct ring *r, int fd);
/* Write from @from on, once, without removing. Return: bytes or -errno. */
ssize_t ring_write_to(const struct ring *r, uint64_t from, int fd);
/* Copy @len bytes from offset @from; they must be held. */
void ring_copy(const struct ring *r, uint64_t from, void *dst, size_t len);
/* Bytes below @to (at most end) need not be held any more; the last `keep` of them stay. */
void ring_trim(struct ring *r, uint64_t to);

#endif
