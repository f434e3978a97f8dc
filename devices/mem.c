/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-mem (virtio 1.2, 5.15): memory that is added to a running guest, and taken away.
 *
 * Theory of operation
 *
 * The device has a region of guest physical addresses, of which the guest plugs and unplugs blocks.
 * The host says how much it is to have (requested_size); the driver gets there by itself. How much
 * of the region is memory at all (usable_region_size) is the VMM's to know: it makes memory before
 * it asks for more. Only the map of what is plugged is here.
 *
 * A block that is unplugged is dropped from the host. A guest that uses it all the same gets what
 * it had once been given, and no more: nothing beyond the usable region is memory.
 *
 * A reset by the driver leaves plugged what is plugged (5.15.6.2): a kernel may run in it. A reset
 * of the machine unplugs all.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "devices/virtio.h"
#include "lib/log.h"

#define F_UNPLUGGED_INACCESSIBLE (1ULL << 1)

#define MAX_BLOCKS (DEVICE_MEM_MAX_BYTES / DEVICE_MEM_BLOCK)

enum { REQ_PLUG, REQ_UNPLUG, REQ_UNPLUG_ALL, REQ_STATE };
enum { RESP_ACK, RESP_NACK, RESP_BUSY, RESP_ERROR };
enum { STATE_PLUGGED, STATE_UNPLUGGED, STATE_MIXED };

struct mem_req {
	uint16_t type, pad[3];
	uint64_t addr;
	uint16_t blocks, pad2[3];
};
_Static_assert(sizeof(struct mem_req) == 24, "virtio 1.2, 5.15.6");

#define RESP_BYTES 10u /* type, padding, state */

struct mem_config {
	uint64_t block_size;
	uint16_t node_id;
	uint8_t pad[6];
	uint64_t addr, region_size, usable_region_size, plugged_size, requested_size;
};
_Static_assert(sizeof(struct mem_config) == 56, "virtio 1.2, 5.15.4");

struct mem {
	struct mem_config c; /* what config space shows */
	void (*changed)(void *opaque);
	void *opaque;			 /* borrowed */
	uint8_t plugged[MAX_BLOCKS / 8]; /* a bit for each block */
};

static bool is_plugged(const struct mem *m, uint64_t block)
{
	return m->plugged[block / 8] >> block % 8 & 1;
}

static void set_plugged(struct mem *m, uint64_t block, bool on)
{
	uint8_t bit = (uint8_t)(1u << block % 8);

	if (on)
		m->plugged[block / 8] |= bit;
	else
		m->plugged[block / 8] &= (uint8_t)~bit;
}

static uint64_t count_plugged(const struct mem *m, uint64_t first, uint64_t n)
{
	uint64_t sum = 0;

	for (uint64_t i = first; i < first + n; i++)
		sum += is_plugged(m, i);
	return sum;
}

static int mem_init(struct device *d, const struct device_config *c, struct err *e)
{
	struct mem *m;

	if (c->mem.gpa % DEVICE_MEM_BLOCK || c->mem.region_bytes % DEVICE_MEM_BLOCK ||
	    c->mem.region_bytes > DEVICE_MEM_MAX_BYTES)
		return err_set(e, -EINVAL, "an impossible region");
	m = calloc(1, sizeof(*m));
	if (!m)
		return err_set(e, -ENOMEM, "out of memory");
	d->priv = m;
	m->c.block_size = DEVICE_MEM_BLOCK;
	m->c.addr = c->mem.gpa;
	m->c.region_size = c->mem.region_bytes;
	m->changed = c->mem.changed;
	m->opaque = c->mem.opaque;
	d->features |= F_UNPLUGGED_INACCESSIBLE;
	device_config_init(d, &m->c, sizeof(m->c));
	return 0;
}

static void mem_reset(struct device *d)
{
	(void)d;
}

static void mem_power_on(struct device *d)
{
	struct mem *m = d->priv;

	memset(m->plugged, 0, sizeof(m->plugged));
	m->c.plugged_size = 0;
	device_config_init(d, &m->c, sizeof(m->c));
}

/* Nobody else is told of the new size: the driver knows it (5.15.4). */
static void set_plugged_size(struct device *d, uint64_t bytes)
{
	struct mem *m = d->priv;

	m->c.plugged_size = bytes;
	device_config_init(d, &m->c, sizeof(m->c));
	if (m->changed)
		m->changed(m->opaque);
}

/* Give back [@first, @first + @n), what of it is plugged. */
static void drop(struct device *d, uint64_t first, uint64_t n)
{
	struct mem *m = d->priv;

	for (uint64_t i = first, len; i < first + n; i += len) {
		bool on = is_plugged(m, i);
		int rc;

		for (len = 0; i + len < first + n && is_plugged(m, i + len) == on; len++)
			set_plugged(m, i + len, false);
		if (!on)
			continue;
		rc = guest_mem_discard(d->mem, m->c.addr + i * DEVICE_MEM_BLOCK,
				       len * DEVICE_MEM_BLOCK);
		if (rc < 0)
			log_guest("mem: blocks %llu + %llu not dropped: error %d",
				  (unsigned long long)i, (unsigned long long)len, -rc);
	}
}

/* Return: whether the request names blocks of the usable region */
static bool blocks_of(const struct mem *m, const struct mem_req *r, uint64_t *first)
{
	uint64_t off = r->addr - m->c.addr, usable = m->c.usable_region_size;

	if (r->addr < m->c.addr || off % DEVICE_MEM_BLOCK || !r->blocks || off > usable ||
	    r->blocks > (usable - off) / DEVICE_MEM_BLOCK)
		return false;
	*first = off / DEVICE_MEM_BLOCK;
	return true;
}

static uint16_t plug(struct device *d, uint64_t first, uint64_t n)
{
	struct mem *m = d->priv;
	uint64_t bytes = n * DEVICE_MEM_BLOCK;

	if (count_plugged(m, first, n))
		return RESP_ERROR;
	if (m->c.plugged_size + bytes > m->c.requested_size)
		return RESP_NACK;
	for (uint64_t i = first; i < first + n; i++)
		set_plugged(m, i, true);
	set_plugged_size(d, m->c.plugged_size + bytes);
	return RESP_ACK;
}

static uint16_t unplug(struct device *d, uint64_t first, uint64_t n)
{
	struct mem *m = d->priv;

	if (count_plugged(m, first, n) != n)
		return RESP_ERROR;
	drop(d, first, n);
	set_plugged_size(d, m->c.plugged_size - n * DEVICE_MEM_BLOCK);
	return RESP_ACK;
}

static uint16_t handle(struct device *d, const struct mem_req *r, uint16_t *state)
{
	struct mem *m = d->priv;
	uint64_t first = 0, n;

	if (r->type == REQ_UNPLUG_ALL) {
		drop(d, 0, m->c.usable_region_size / DEVICE_MEM_BLOCK);
		set_plugged_size(d, 0);
		return RESP_ACK;
	}
	if (!blocks_of(m, r, &first))
		return RESP_ERROR;
	switch (r->type) {
	case REQ_PLUG:
		return plug(d, first, r->blocks);
	case REQ_UNPLUG:
		return unplug(d, first, r->blocks);
	case REQ_STATE:
		n = count_plugged(m, first, r->blocks);
		*state = n == r->blocks ? STATE_PLUGGED : n ? STATE_MIXED : STATE_UNPLUGGED;
		return RESP_ACK;
	default:
		return RESP_ERROR;
	}
}

/* Return: false if the chain is no request */
static bool serve(struct device *d, unsigned int queue, const struct virtq_chain *c)
{
	struct virtq *q = &d->queues[queue].q;
	uint16_t resp[RESP_BYTES / 2] = {0};
	struct mem_req r;

	if (virtq_chain_read(q, c, 0, &r, sizeof(r)) < 0 || c->in_bytes < RESP_BYTES)
		return false;
	resp[0] = handle(d, &r, &resp[RESP_BYTES / 2 - 1]);
	return virtq_chain_write(q, c, 0, resp, RESP_BYTES) == 0 &&
	       virtq_push(q, c->head, RESP_BYTES) == VIRTQ_OK;
}

static void mem_notify(struct device *d, unsigned int queue)
{
	device_serve_all(d, queue, serve);
}

static void update(struct device *d, uint64_t *field, uint64_t bytes)
{
	struct mem *m = d->priv;
	uint32_t offset = (uint32_t)((uint8_t *)field - (uint8_t *)&m->c);

	if (*field == bytes)
		return;
	*field = bytes;
	device_config_update(d, offset, field, sizeof(*field));
}

void device_mem_set_usable(struct device *d, uint64_t bytes)
{
	struct mem *m = d->priv;

	update(d, &m->c.usable_region_size, bytes);
}

void device_mem_request(struct device *d, uint64_t bytes)
{
	struct mem *m = d->priv;

	update(d, &m->c.requested_size, bytes);
}

void device_mem_get(const struct device *d, struct device_mem_info *out)
{
	const struct mem *m = d->priv;

	*out = (struct device_mem_info){
	    .region_bytes = m->c.region_size,
	    .usable_bytes = m->c.usable_region_size,
	    .requested_bytes = m->c.requested_size,
	    .plugged_bytes = m->c.plugged_size,
	    .has_driver = device_active(d),
	};
}

bool device_mem_is_plugged(const struct device *d, uint64_t offset_bytes)
{
	const struct mem *m = d->priv;

	return offset_bytes < m->c.region_size && is_plugged(m, offset_bytes / DEVICE_MEM_BLOCK);
}

static bool state_possible(const struct mem *m)
{
	return !(m->c.requested_size % DEVICE_MEM_BLOCK) &&
	       m->c.requested_size <= m->c.usable_region_size;
}

static void mem_state(struct device *d, struct state_io *io)
{
	struct mem *m = d->priv;
	uint64_t blocks = m->c.usable_region_size / DEVICE_MEM_BLOCK;
	size_t len = (size_t)(blocks + 7) / 8;

	state_expect(io, m->c.addr, "address of the region");
	state_expect(io, m->c.region_size, "bytes of the region");
	/* As much of it as the memory image has, which is there already. */
	state_expect(io, m->c.usable_region_size, "bytes of it that are memory");
	state_u64(io, &m->c.requested_size);
	state_bytes(io, m->plugged, len);
	if (!state_restoring(io))
		return;
	if (state_ok(io) &&
	    (!state_possible(m) || (blocks % 8 && m->plugged[len - 1] >> blocks % 8)))
		state_fail(io, -EINVAL, "impossible sizes");
	if (!state_ok(io)) {
		m->c.requested_size = 0;
		memset(m->plugged, 0, sizeof(m->plugged));
		blocks = 0;
	}
	m->c.plugged_size = count_plugged(m, 0, blocks) * DEVICE_MEM_BLOCK;
	device_config_init(d, &m->c, sizeof(m->c));
}

static void mem_fini(struct device *d)
{
	free(d->priv);
	d->priv = NULL;
}

const struct device_ops mem_ops = {
    .name = "mem",
    .virtio_id = 24,
    .n_queues = 1,
    .queue_max = {8},
    .init = mem_init,
    .reset = mem_reset,
    .power_on = mem_power_on,
    .queue_notify = mem_notify,
    .state = mem_state,
    .state_version = 1,
    .may_be_unsaved = true,
    .fini = mem_fini,
};
