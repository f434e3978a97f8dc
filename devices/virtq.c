/* SPDX-License-Identifier: Apache-2.0 */
/* Split virtqueues, device side; see virtq.h. */
#include "devices/virtq.h"

#include <errno.h>
#include <string.h>

#define DESC_NEXT     1u
#define DESC_WRITE    2u
#define DESC_INDIRECT 4u

#define AVAIL_NO_INTERRUPT 1u
#define USED_NO_NOTIFY	   1u

struct vring_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};
_Static_assert(sizeof(struct vring_desc) == 16, "virtio 1.2, 2.7.5");

struct vring_used_elem {
	uint32_t id, len;
};
_Static_assert(sizeof(struct vring_used_elem) == 8, "virtio 1.2, 2.7.8");

/* Where the parts of the rings are (2.7.6, 2.7.8). */
static uint64_t avail_idx(const struct virtq *q)
{
	return q->geo.avail + 2;
}

static uint64_t avail_ring(const struct virtq *q, uint16_t i)
{
	return q->geo.avail + 4 + 2ULL * (i & (q->geo.size - 1));
}

static uint64_t avail_used_event(const struct virtq *q)
{
	return q->geo.avail + 4 + 2ULL * q->geo.size;
}

static uint64_t used_idx(const struct virtq *q)
{
	return q->geo.used + 2;
}

static uint64_t used_ring(const struct virtq *q, uint16_t i)
{
	return q->geo.used + 4 + 8ULL * (i & (q->geo.size - 1));
}

static uint64_t used_avail_event(const struct virtq *q)
{
	return q->geo.used + 4 + 8ULL * q->geo.size;
}

static bool in_ram(const struct guest_mem *mem, uint64_t gpa, uint64_t len)
{
	struct iovec iov[GUEST_MEM_MAX_REGIONS];

	return guest_mem_iov(mem, gpa, len, iov, GUEST_MEM_MAX_REGIONS) >= 0;
}

int virtq_start(struct virtq *q, const struct guest_mem *mem, const struct virtq_geometry *geo,
		uint32_t max, bool event_idx, bool indirect)
{
	uint32_t n = geo->size;

	virtq_reset(q);
	if (!n || n > max || n > VIRTQ_MAX_SIZE || (n & (n - 1)))
		return -EINVAL;
	if (geo->desc % 16 || geo->avail % 2 || geo->used % 4)
		return -EINVAL;
	/* With the event index behind each ring, whether negotiated or not. */
	if (!in_ram(mem, geo->desc, 16ULL * n) || !in_ram(mem, geo->avail, 6 + 2ULL * n) ||
	    !in_ram(mem, geo->used, 6 + 8ULL * n))
		return -EINVAL;
	q->mem = mem;
	q->geo = *geo;
	q->event_idx = event_idx;
	q->indirect = indirect;
	q->started = true;
	return 0;
}

void virtq_reset(struct virtq *q)
{
	memset(q, 0, sizeof(*q));
}

static enum virtq_status broken(struct virtq *q)
{
	q->broken = true;
	return VIRTQ_BROKEN;
}

/* Put one descriptor of the chain, already a copy, into @c. */
static bool add_buf(const struct virtq *q, struct virtq_chain *c, const struct vring_desc *d)
{
	if (c->n_out + c->n_in == VIRTQ_MAX_CHAIN || !in_ram(q->mem, d->addr, d->len))
		return false;
	if (d->flags & DESC_WRITE) {
		c->n_in++;
		c->in_bytes += d->len;
	} else {
		/* 2.7.4.2: readable buffers come before writable ones. */
		if (c->n_in)
			return false;
		c->n_out++;
		c->out_bytes += d->len;
	}
	c->bufs[c->n_out + c->n_in - 1] = (struct virtq_buf){d->addr, d->len};
	return true;
}

/**
 * walk() - Copy the descriptors from @i on, in a table of @n at @table
 * @indirect:	The table is an indirect one: no further level (2.7.5.3.1)
 *
 * A chain has at most @n descriptors, else it has a loop.
 */
static bool walk(const struct virtq *q, struct virtq_chain *c, uint64_t table, uint32_t n,
		 uint16_t i, bool indirect)
{
	struct vring_desc d;

	for (uint32_t steps = 0; steps < n; steps++) {
		if (i >= n || guest_mem_read(q->mem, table + 16ULL * i, &d, sizeof(d)) < 0)
			return false;
		if (d.flags & DESC_INDIRECT) {
			if (indirect || !q->indirect || (d.flags & DESC_NEXT) || !d.len ||
			    d.len % 16 || d.len / 16 > VIRTQ_MAX_CHAIN ||
			    !in_ram(q->mem, d.addr, d.len))
				return false;
			return walk(q, c, d.addr, d.len / 16, 0, true);
		}
		if (!add_buf(q, c, &d))
			return false;
		if (!(d.flags & DESC_NEXT))
			return true;
		i = d.next;
	}
	return false;
}

enum virtq_status virtq_pop(struct virtq *q, struct virtq_chain *c)
{
	uint16_t idx, head;

	if (!q->started)
		return VIRTQ_EMPTY;
	if (q->broken)
		return VIRTQ_BROKEN;
	/* Acquire: what the driver wrote before the index is seen after it. */
	if (guest_mem_load16(q->mem, avail_idx(q), &idx) < 0)
		return broken(q);
	if (idx == q->last_avail)
		return VIRTQ_EMPTY;
	/* More available than there are descriptors, or than are not in our hands. */
	if ((uint16_t)(idx - q->last_avail) > q->geo.size || q->in_flight >= q->geo.size)
		return broken(q);
	if (guest_mem_load16(q->mem, avail_ring(q, q->last_avail), &head) < 0)
		return broken(q);
	c->head = head;
	c->n_out = c->n_in = 0;
	c->out_bytes = c->in_bytes = 0;
	if (!walk(q, c, q->geo.desc, q->geo.size, head, false))
		return broken(q);
	q->last_avail++;
	q->in_flight++;
	return VIRTQ_OK;
}

void virtq_unpop(struct virtq *q, uint16_t n)
{
	q->last_avail = (uint16_t)(q->last_avail - n);
	q->in_flight = (uint16_t)(q->in_flight - n);
}

enum virtq_status virtq_fill(struct virtq *q, uint16_t ahead, uint16_t head, uint32_t len_bytes)
{
	struct vring_used_elem elem = {.id = head, .len = len_bytes};

	if (!q->started || q->broken)
		return VIRTQ_BROKEN;
	if (guest_mem_write(q->mem, used_ring(q, (uint16_t)(q->used_idx + ahead)), &elem,
			    sizeof(elem)) < 0)
		return broken(q);
	return VIRTQ_OK;
}

enum virtq_status virtq_show(struct virtq *q, uint16_t n)
{
	if (!q->started || q->broken)
		return VIRTQ_BROKEN;
	q->used_idx = (uint16_t)(q->used_idx + n);
	q->in_flight = (uint16_t)(q->in_flight - n);
	/* Release: the entries, and the data, are seen before the index. */
	if (guest_mem_store16(q->mem, used_idx(q), q->used_idx) < 0)
		return broken(q);
	return VIRTQ_OK;
}

enum virtq_status virtq_push(struct virtq *q, uint16_t head, uint32_t len_bytes)
{
	enum virtq_status s = virtq_fill(q, 0, head, len_bytes);

	return s == VIRTQ_OK ? virtq_show(q, 1) : s;
}

uint16_t virtq_waiting(const struct virtq *q)
{
	uint16_t idx;

	if (!q->started || q->broken || guest_mem_load16(q->mem, avail_idx(q), &idx) < 0)
		return 0;
	return (uint16_t)(idx - q->last_avail);
}

bool virtq_needs_interrupt(struct virtq *q)
{
	uint16_t old = q->signalled_used, now = q->used_idx, value;

	if (!q->started || q->broken || old == now)
		return false;
	/* Our index must be visible before we look at what the driver asks for (2.7.10). */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	q->signalled_used = now;
	if (!q->event_idx) {
		if (guest_mem_load16(q->mem, q->geo.avail, &value) < 0)
			return false;
		return !(value & AVAIL_NO_INTERRUPT);
	}
	if (guest_mem_load16(q->mem, avail_used_event(q), &value) < 0)
		return false;
	return (uint16_t)(now - value - 1) < (uint16_t)(now - old);
}

bool virtq_enable_notify(struct virtq *q)
{
	uint16_t idx;

	if (!q->started || q->broken)
		return false;
	if (q->event_idx)
		guest_mem_store16(q->mem, used_avail_event(q), q->last_avail);
	else
		guest_mem_store16(q->mem, q->geo.used, 0);
	/* The driver must see the request before we conclude that the ring is empty. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (guest_mem_load16(q->mem, avail_idx(q), &idx) < 0)
		return false;
	return idx != q->last_avail;
}

bool virtq_defer_notify(struct virtq *q)
{
	/* No look at the ring: a driver that does not see this yet notifies us of the next buffer,
	 * as it was asked to, and one that sees it of the buffer after that. */
	if (!q->started || q->broken || !q->event_idx)
		return false;
	guest_mem_store16(q->mem, used_avail_event(q), (uint16_t)(q->last_avail + 1));
	return true;
}

uint16_t virtq_await_more(struct virtq *q)
{
	uint16_t idx = q->last_avail;

	if (!q->started || q->broken || guest_mem_load16(q->mem, avail_idx(q), &idx) < 0)
		return idx;
	if (q->event_idx)
		guest_mem_store16(q->mem, used_avail_event(q), idx);
	else
		guest_mem_store16(q->mem, q->geo.used, 0);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return idx;
}

void virtq_state(struct virtq *q, struct state_io *io)
{
	state_bool(io, &q->broken);
	state_u16(io, &q->last_avail);
	state_u16(io, &q->used_idx);
	state_u16(io, &q->signalled_used);
	state_u16(io, &q->in_flight);
	/* What was taken and not returned is in flight: the rest relies on it. */
	if (state_ok(io) &&
	    ((uint16_t)(q->last_avail - q->used_idx) != q->in_flight || q->in_flight > q->geo.size))
		state_fail(io, -EINVAL, "a queue with %u taken, %u returned, %u in flight",
			   q->last_avail, q->used_idx, q->in_flight);
}

void virtq_disable_notify(struct virtq *q)
{
	/* With event indices a stale one suppresses by itself. */
	if (q->started && !q->broken && !q->event_idx)
		guest_mem_store16(q->mem, q->geo.used, USED_NO_NOTIFY);
}

/* The buffers of one part of a chain. */
static const struct virtq_buf *part(const struct virtq_chain *c, bool in, unsigned int *n)
{
	*n = in ? c->n_in : c->n_out;
	return in ? c->bufs + c->n_out : c->bufs;
}

static int copy(const struct virtq *q, const struct virtq_chain *c, bool in, uint64_t offset,
		uint8_t *data, uint32_t len)
{
	unsigned int n;
	const struct virtq_buf *b = part(c, in, &n);

	for (; n && len; b++, n--) {
		uint32_t take = b->len_bytes;
		int rc;

		if (offset >= take) {
			offset -= take;
			continue;
		}
		take -= (uint32_t)offset;
		if (take > len)
			take = len;
		if (in)
			rc = guest_mem_write(q->mem, b->gpa + offset, data, take);
		else
			rc = guest_mem_read(q->mem, b->gpa + offset, data, take);
		if (rc < 0)
			return rc;
		offset = 0;
		data += take;
		len -= take;
	}
	return len ? -EFAULT : 0;
}

int virtq_chain_read(const struct virtq *q, const struct virtq_chain *c, uint64_t offset, void *dst,
		     uint32_t len_bytes)
{
	return copy(q, c, false, offset, dst, len_bytes);
}

int virtq_chain_write(const struct virtq *q, const struct virtq_chain *c, uint64_t offset,
		      const void *src, uint32_t len_bytes)
{
	/* copy() only reads from it when it writes to the guest. */
	return copy(q, c, true, offset, (uint8_t *)(uintptr_t)src, len_bytes);
}

int virtq_chain_iov(const struct virtq *q, const struct virtq_chain *c, bool in, uint64_t offset,
		    uint64_t len_bytes, struct iovec *iov, unsigned int max)
{
	unsigned int n, used = 0;
	const struct virtq_buf *b = part(c, in, &n);

	for (; n && len_bytes; b++, n--) {
		uint64_t take = b->len_bytes;
		int rc;

		if (offset >= take) {
			offset -= take;
			continue;
		}
		take -= offset;
		if (take > len_bytes)
			take = len_bytes;
		rc = guest_mem_iov(q->mem, b->gpa + offset, take, iov + used, max - used);
		if (rc < 0)
			return rc;
		/* Neighbours become one: drivers often describe a buffer page by page. */
		if (used && rc == 1 &&
		    (char *)iov[used - 1].iov_base + iov[used - 1].iov_len == iov[used].iov_base) {
			iov[used - 1].iov_len += iov[used].iov_len;
			rc = 0;
		}
		used += (unsigned int)rc;
		offset = 0;
		len_bytes -= take;
	}
	return len_bytes ? -EFAULT : (int)used;
}
