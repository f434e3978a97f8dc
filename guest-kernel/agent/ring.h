/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A window onto a byte stream with absolute offsets: bytes [start, end) are held,
 * at most PROTO_WINDOW of them. Starts small, because most commands say little.
 */
#ifndef AGENT_RING_H
#define AGENT_RING_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct ring {
	uint8_t *data; /* owned; byte of offset o is at o % cap; cap is 0 or a power of two */
	size_t cap;
	uint64_t start, end;
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
/* Forget bytes below @to (at most end). */
void ring_trim(struct ring *r, uint64_t to);

#endif
