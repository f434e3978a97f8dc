/* SPDX-License-Identifier: Apache-2.0 */
/* Stream windows; see ring.h. */
#include "guest-kernel/agent/ring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "lib/proto.h"

#define RING_SMALL 4096u
#define READ_MAX   (64u << 10) /* at a time, where old bytes make room for it */

void ring_fini(struct ring *r)
{
	free(r->data);
	*r = (struct ring){0};
}

size_t ring_room(const struct ring *r)
{
	return PROTO_WINDOW - (size_t)(r->end - r->acked);
}

/* The memory of [from, from + len) as at most two pieces. */
static int pieces(const struct ring *r, uint64_t from, size_t len, struct iovec iov[2])
{
	size_t at = r->cap ? (size_t)(from % r->cap) : 0, first = r->cap - at;

	if (first > len)
		first = len;
	iov[0] = (struct iovec){.iov_base = r->data + at, .iov_len = first};
	iov[1] = (struct iovec){.iov_base = r->data, .iov_len = len - first};
	return len > first ? 2 : 1;
}

void ring_copy(const struct ring *r, uint64_t from, void *dst, size_t len)
{
	struct iovec iov[2];

	if (!len)
		return;
	pieces(r, from, len, iov);
	memcpy(dst, iov[0].iov_base, iov[0].iov_len);
	memcpy((uint8_t *)dst + iov[0].iov_len, iov[1].iov_base, iov[1].iov_len);
}

static int resize(struct ring *r, size_t cap)
{
	struct ring bigger = *r;
	struct iovec iov[2];
	size_t held = (size_t)(r->end - r->start);

	bigger.cap = cap;
	bigger.data = malloc(cap);
	if (!bigger.data)
		return -ENOMEM;
	if (held) {
		int n = pieces(&bigger, r->start, held, iov);

		for (int i = 0; i < n; i++)
			ring_copy(r, i ? r->start + iov[0].iov_len : r->start, iov[i].iov_base,
				  iov[i].iov_len);
	}
	free(r->data);
	*r = bigger;
	return 0;
}

/*
 * Have memory for @len more bytes, at most ring_room(). Where the ring has its full size
 * already, acknowledged ones make room: there are enough of them, for the full size
 * has room for what is kept and for a window.
 */
static int reserve(struct ring *r, size_t len)
{
	size_t held = (size_t)(r->end - r->start), full = r->keep + PROTO_WINDOW, cap = RING_SMALL;

	if (r->cap && r->cap - held >= len)
		return 0;
	if (r->cap == full) {
		r->start = r->end + len - full;
		return 0;
	}
	if (held + len > RING_SMALL)
		cap = held + len <= PROTO_WINDOW ? PROTO_WINDOW : full;
	if (held + len > full) {
		r->start = r->end + len - full;
		cap = full;
	}
	return resize(r, cap);
}

int ring_put(struct ring *r, const void *src, size_t len)
{
	struct iovec iov[2];
	int rc = reserve(r, len);

	if (rc || !len)
		return rc;
	pieces(r, r->end, len, iov);
	memcpy(iov[0].iov_base, src, iov[0].iov_len);
	memcpy(iov[1].iov_base, (const uint8_t *)src + iov[0].iov_len, iov[1].iov_len);
	r->end += len;
	return 0;
}

ssize_t ring_read_from(struct ring *r, int fd)
{
	struct iovec iov[2];
	size_t room = ring_room(r), held = (size_t)(r->end - r->start), space;
	ssize_t n;
	int rc;

	if (!room)
		return -ENOBUFS;
	/* Full and not yet at its full size: the stream is one of the long ones. */
	rc = reserve(r, !r->cap || held < r->cap ? 1 : room < READ_MAX ? room : READ_MAX);
	if (rc)
		return rc;
	held = (size_t)(r->end - r->start);
	space = r->cap - held < room ? r->cap - held : room;
	n = readv(fd, iov, pieces(r, r->end, space, iov));
	if (n < 0)
		return -errno;
	r->end += (uint64_t)n;
	return n;
}

ssize_t ring_write_to(const struct ring *r, uint64_t from, int fd)
{
	struct iovec iov[2];
	ssize_t n;

	if (from == r->end)
		return 0;
	n = writev(fd, iov, pieces(r, from, (size_t)(r->end - from), iov));
	return n < 0 ? -errno : n;
}

void ring_trim(struct ring *r, uint64_t to)
{
	if (to > r->acked)
		r->acked = to;
	if (r->acked > r->keep && r->acked - r->keep > r->start)
		r->start = r->acked - r->keep;
	/* A stream that has gone silent keeps no big buffer. */
	if (r->start == r->end && r->cap > RING_SMALL) {
		free(r->data);
		r->data = NULL;
		r->cap = 0;
	}
}
