/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtio-mmio transport, version 2 (virtio 1.2, 4.2).
 *
 * Theory of operation
 *
 * The register page is the truth for everything that a driver can read: a store to
 * a register that changes what another one reads updates the page at once, so
 * that the page itself can be mapped into the guest and loads need no exit
 * (device.h, "Exits").
 *
 * Stores are accepted only where the state of the device allows them: features
 * before FEATURES_OK, queues between FEATURES_OK and DRIVER_OK. At DRIVER_OK the
 * geometry of the queues is latched and checked. What a driver writes out of
 * turn is ignored; a queue that cannot work sets DEVICE_NEEDS_RESET.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "devices/virtio.h"
#include "lib/log.h"

enum {
	REG_MAGIC = 0x000,
	REG_VERSION = 0x004,
	REG_DEVICE_ID = 0x008,
	REG_VENDOR_ID = 0x00c,
	REG_DEVICE_FEATURES = 0x010,
	REG_DEVICE_FEATURES_SEL = 0x014,
	REG_DRIVER_FEATURES = 0x020,
	REG_DRIVER_FEATURES_SEL = 0x024,
	REG_QUEUE_SEL = 0x030,
	REG_QUEUE_NUM_MAX = 0x034,
	REG_QUEUE_NUM = 0x038,
	REG_QUEUE_READY = 0x044,
	REG_QUEUE_NOTIFY = DEVICE_MMIO_NOTIFY,
	REG_INT_STATUS = 0x060,
	REG_INT_ACK = DEVICE_MMIO_ACK,
	REG_STATUS = 0x070,
	REG_QUEUE_DESC_LOW = 0x080,
	REG_QUEUE_DESC_HIGH = 0x084,
	REG_QUEUE_AVAIL_LOW = 0x090,
	REG_QUEUE_AVAIL_HIGH = 0x094,
	REG_QUEUE_USED_LOW = 0x0a0,
	REG_QUEUE_USED_HIGH = 0x0a4,
	REG_SHM_LEN_LOW = 0x0b0, /* and the three after it: no regions */
	REG_SHM_BASE_HIGH = 0x0bc,
	REG_CONFIG_GENERATION = 0x0fc,
	REG_CONFIG = 0x100
};

#define MAGIC	  0x74726976u /* "virt" */
#define VENDOR_ID 0x4d524f44u /* "DORM" */

static uint32_t reg_get(const struct device *d, uint32_t reg)
{
	return __atomic_load_n((const uint32_t *)(const void *)(d->regs + reg), __ATOMIC_RELAXED);
}

/* Release: the guest may read the page while we write it. */
static void reg_set(struct device *d, uint32_t reg, uint32_t value)
{
	__atomic_store_n((uint32_t *)(void *)(d->regs + reg), value, __ATOMIC_RELEASE);
}

static void interrupt(struct device *d, uint32_t bits)
{
	uint64_t one = 1;

	reg_set(d, REG_INT_STATUS, reg_get(d, REG_INT_STATUS) | bits);
	d->stats.interrupts++;
	/* Non-blocking; a counter that is full has an edge pending. */
	if (write(d->irq_fd, &one, sizeof(one)) < 0)
		return;
}

bool device_active(const struct device *d)
{
	const uint32_t bad = VIRTIO_STATUS_NEEDS_RESET | VIRTIO_STATUS_FAILED;

	return (d->status & (VIRTIO_STATUS_DRIVER_OK | bad)) == VIRTIO_STATUS_DRIVER_OK;
}

bool device_signal_used(struct device *d, unsigned int q)
{
	if (!virtq_needs_interrupt(&d->queues[q].q))
		return false;
	interrupt(d, VIRTIO_INT_USED);
	return true;
}

static void set_status(struct device *d, uint32_t status)
{
	d->status = status;
	reg_set(d, REG_STATUS, status);
}

void device_break(struct device *d, const char *why)
{
	if (d->status & VIRTIO_STATUS_NEEDS_RESET)
		return;
	log_guest("%s: needs reset: %s", d->ops->name, why);
	d->stats.broken++;
	set_status(d, d->status | VIRTIO_STATUS_NEEDS_RESET);
	if (d->status & VIRTIO_STATUS_DRIVER_OK)
		interrupt(d, VIRTIO_INT_CONFIG);
}

void device_serve_all(struct device *d, unsigned int queue,
		      bool (*serve)(struct device *d, unsigned int queue,
				    const struct virtq_chain *c))
{
	struct virtq *q = &d->queues[queue].q;
	struct virtq_chain c;
	enum virtq_status s;

	do {
		while ((s = virtq_pop(q, &c)) == VIRTQ_OK) {
			if (!serve(d, queue, &c)) {
				device_break(d, "a malformed request");
				return;
			}
			d->stats.requests++;
		}
	} while (s == VIRTQ_EMPTY && virtq_enable_notify(q));
	if (s == VIRTQ_BROKEN)
		device_break(d, "a malformed descriptor chain");
	device_signal_used(d, queue);
}

void device_config_init(struct device *d, const void *config, uint32_t len_bytes)
{
	d->config_bytes = len_bytes;
	memcpy(d->regs + REG_CONFIG, config, len_bytes);
}

void device_config_update(struct device *d, uint32_t offset, const void *data, uint32_t len_bytes)
{
	/* Odd while it changes: a driver that reads across it sees two generations. */
	reg_set(d, REG_CONFIG_GENERATION, ++d->config_generation);
	if (len_bytes == 4 && offset % 4 == 0) {
		uint32_t v;

		memcpy(&v, data, sizeof(v));
		reg_set(d, REG_CONFIG + offset, v);
	} else {
		memcpy(d->regs + REG_CONFIG + offset, data, len_bytes);
	}
	reg_set(d, REG_CONFIG_GENERATION, ++d->config_generation);
	if (d->status & VIRTIO_STATUS_DRIVER_OK)
		interrupt(d, VIRTIO_INT_CONFIG);
}

void device_config_get(const struct device *d, uint32_t offset, void *data, uint32_t len_bytes)
{
	memcpy(data, d->regs + REG_CONFIG + offset, len_bytes);
}

/* What the selectors choose. */
static void show_features(struct device *d)
{
	uint64_t f = d->features;

	reg_set(d, REG_DEVICE_FEATURES,
		d->device_sel == 0   ? (uint32_t)f
		: d->device_sel == 1 ? (uint32_t)(f >> 32)
				     : 0);
}

static struct device_queue *selected(struct device *d)
{
	return d->queue_sel < d->ops->n_queues ? &d->queues[d->queue_sel] : NULL;
}

static void show_queue(struct device *d)
{
	struct device_queue *q = selected(d);

	reg_set(d, REG_QUEUE_NUM_MAX, q ? d->ops->queue_max[d->queue_sel] : 0);
	reg_set(d, REG_QUEUE_READY, q ? q->ready : 0);
}

void virtio_mmio_init(struct device *d)
{
	reg_set(d, REG_MAGIC, MAGIC);
	reg_set(d, REG_VERSION, 2);
	reg_set(d, REG_DEVICE_ID, d->ops->virtio_id);
	reg_set(d, REG_VENDOR_ID, VENDOR_ID);
	for (uint32_t r = REG_SHM_LEN_LOW; r <= REG_SHM_BASE_HIGH; r += 4)
		reg_set(d, r, UINT32_MAX);
	virtio_mmio_reset(d);
}

void virtio_mmio_reset(struct device *d)
{
	for (unsigned int i = 0; i < d->ops->n_queues; i++) {
		virtq_reset(&d->queues[i].q);
		memset(&d->queues[i].geo, 0, sizeof(d->queues[i].geo));
		d->queues[i].ready = false;
	}
	d->driver_features = 0;
	d->device_sel = d->driver_sel = d->queue_sel = 0;
	reg_set(d, REG_INT_STATUS, 0);
	set_status(d, 0);
	show_features(d);
	show_queue(d);
}

static void queue_state(struct device *d, unsigned int i, struct state_io *io)
{
	struct device_queue *q = &d->queues[i];
	bool started = q->q.started;

	state_bool(io, &q->ready);
	state_u32(io, &q->geo.size);
	state_u64(io, &q->geo.desc);
	state_u64(io, &q->geo.avail);
	state_u64(io, &q->geo.used);
	state_bool(io, &started);
	if (!state_ok(io))
		return;
	if ((started && (!q->ready || !(d->status & VIRTIO_STATUS_DRIVER_OK))) ||
	    (device_active(d) && started != q->ready)) {
		state_fail(io, -EINVAL, "queue %u is %sstarted at status %#x", i,
			   started ? "" : "not ", d->status);
		return;
	}
	if (!started)
		return;
	if (state_restoring(io) && virtq_start(&q->q, d->mem, &q->geo, d->ops->queue_max[i],
					       device_has(d, VIRTIO_F_EVENT_IDX),
					       device_has(d, VIRTIO_F_INDIRECT_DESC)) < 0) {
		state_fail(io, -EINVAL, "the size or an address of queue %u is not allowed", i);
		return;
	}
	virtq_state(&q->q, io);
	/* Who saves has waited for all requests. A broken device never returns some. */
	if (device_active(d) && q->q.in_flight)
		state_fail(io, state_restoring(io) ? -EINVAL : -EBUSY,
			   "queue %u has %u requests in flight", i, q->q.in_flight);
}

/* Is this a status that stores of a driver, and our own bit, can lead to? */
static bool status_possible(const struct device *d)
{
	const uint32_t driver = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER;
	const uint32_t all = driver | VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK |
			     VIRTIO_STATUS_NEEDS_RESET | VIRTIO_STATUS_FAILED;

	if (d->status & ~all)
		return false;
	if (!(d->status & VIRTIO_STATUS_FEATURES_OK))
		return !(d->status & VIRTIO_STATUS_DRIVER_OK);
	return (d->status & driver) == driver && device_has(d, VIRTIO_F_VERSION_1);
}

/**
 * virtio_mmio_state() - Save or restore registers and queues
 *
 * To restore, the device is at power-on; after a failure it must be reset.
 */
void virtio_mmio_state(struct device *d, struct state_io *io)
{
	uint32_t int_status = reg_get(d, REG_INT_STATUS);
	uint64_t offered = d->features | d->features_once;

	state_expect(io, d->ops->virtio_id, "kind of the device");
	state_expect(io, d->ops->n_queues, "queues of the device");
	state_u64(io, &d->driver_features);
	state_u32(io, &d->device_sel);
	state_u32(io, &d->driver_sel);
	state_u32(io, &d->queue_sel);
	state_u32(io, &d->status);
	state_u32(io, &int_status);
	state_u32(io, &d->config_generation);
	if (!state_ok(io))
		return;
	/* Until FEATURES_OK a driver may write any. */
	if ((d->status & VIRTIO_STATUS_FEATURES_OK) && (d->driver_features & ~offered))
		state_fail(io, -ENOTSUP, "the driver uses features %#llx, which are not offered",
			   (unsigned long long)(d->driver_features & ~offered));
	if (!status_possible(d) || int_status & ~(VIRTIO_INT_USED | VIRTIO_INT_CONFIG))
		state_fail(io, -EINVAL, "impossible status %#x, interrupt status %#x", d->status,
			   int_status);
	for (unsigned int i = 0; i < d->ops->n_queues && state_ok(io); i++)
		queue_state(d, i, io);
	if (!state_ok(io) || !state_restoring(io))
		return;
	reg_set(d, REG_INT_STATUS, int_status);
	reg_set(d, REG_CONFIG_GENERATION, d->config_generation);
	set_status(d, d->status);
	show_features(d);
	show_queue(d);
}

/**
 * virtio_mmio_post_restore() - What was on its way when the state was saved happens again
 *
 * Notifications may have waited for the loop, and interrupts for a kernel thread. A driver looks
 * at its rings at an interrupt, and we at ours: one too many does no harm.
 */
void virtio_mmio_post_restore(struct device *d)
{
	if (!(d->status & VIRTIO_STATUS_DRIVER_OK))
		return;
	if (reg_get(d, REG_INT_STATUS))
		interrupt(d, 0);
	for (unsigned int i = 0; i < d->ops->n_queues; i++)
		if (d->queues[i].q.started)
			device_again(d, i);
}

/* Latch the queues and go. */
static void start(struct device *d)
{
	bool event_idx = device_has(d, VIRTIO_F_EVENT_IDX);
	bool indirect = device_has(d, VIRTIO_F_INDIRECT_DESC);

	for (unsigned int i = 0; i < d->ops->n_queues; i++) {
		struct device_queue *q = &d->queues[i];

		if (q->ready && virtq_start(&q->q, d->mem, &q->geo, d->ops->queue_max[i], event_idx,
					    indirect) < 0) {
			device_break(d, "a queue's size or address is not allowed");
			return;
		}
	}
	if (d->ops->activate)
		d->ops->activate(d);
}

static void write_status(struct device *d, uint32_t value)
{
	uint32_t fresh = value & ~d->status & 0xff;
	const uint32_t driver = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER;

	if (value == 0) {
		d->ops->reset(d);
		virtio_mmio_reset(d);
		return;
	}
	/* NEEDS_RESET is ours; a driver cannot clear bits but by a reset (2.1.1). */
	fresh &=
	    driver | VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_FAILED;
	if ((fresh & VIRTIO_STATUS_FEATURES_OK) &&
	    (((d->status | fresh) & driver) != driver || (d->driver_features & ~d->features) ||
	     !device_has(d, VIRTIO_F_VERSION_1)))
		fresh &= ~VIRTIO_STATUS_FEATURES_OK;
	if (!((d->status | fresh) & VIRTIO_STATUS_FEATURES_OK))
		fresh &= ~VIRTIO_STATUS_DRIVER_OK;
	set_status(d, d->status | fresh);
	if ((fresh & VIRTIO_STATUS_DRIVER_OK) && device_active(d))
		start(d);
}

static void write_driver_features(struct device *d, uint32_t value)
{
	if (d->status & VIRTIO_STATUS_FEATURES_OK)
		return;
	if (d->driver_sel == 0)
		d->driver_features = (d->driver_features & ~0xffffffffULL) | value;
	else if (d->driver_sel == 1)
		d->driver_features = (uint32_t)d->driver_features | (uint64_t)value << 32;
}

static void set_half(uint64_t *addr, bool high, uint32_t value)
{
	if (high)
		*addr = (uint32_t)*addr | (uint64_t)value << 32;
	else
		*addr = (*addr & ~0xffffffffULL) | value;
}

static void write_queue(struct device *d, uint64_t offset, uint32_t value)
{
	struct device_queue *q = selected(d);
	const uint32_t phase = VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK;

	if (!q || (d->status & phase) != VIRTIO_STATUS_FEATURES_OK)
		return;
	if (offset == REG_QUEUE_READY) {
		q->ready = value & 1;
		show_queue(d);
		return;
	}
	if (q->ready)
		return;
	switch (offset) {
	case REG_QUEUE_NUM:
		q->geo.size = value;
		break;
	case REG_QUEUE_DESC_LOW:
	case REG_QUEUE_DESC_HIGH:
		set_half(&q->geo.desc, offset == REG_QUEUE_DESC_HIGH, value);
		break;
	case REG_QUEUE_AVAIL_LOW:
	case REG_QUEUE_AVAIL_HIGH:
		set_half(&q->geo.avail, offset == REG_QUEUE_AVAIL_HIGH, value);
		break;
	case REG_QUEUE_USED_LOW:
	case REG_QUEUE_USED_HIGH:
		set_half(&q->geo.used, offset == REG_QUEUE_USED_HIGH, value);
		break;
	default:
		break;
	}
}

static void write_config(struct device *d, uint64_t offset, const void *data, unsigned int len)
{
	uint64_t end = offset + len;

	if (offset < d->config_writable_from || end > d->config_writable_to)
		return;
	memcpy(d->regs + REG_CONFIG + offset, data, len);
	if (d->ops->config_written)
		d->ops->config_written(d, (uint32_t)offset, len);
}

static void write_reg(struct device *d, uint64_t offset, uint32_t value)
{
	switch (offset) {
	case REG_DEVICE_FEATURES_SEL:
		d->device_sel = value;
		show_features(d);
		break;
	case REG_DRIVER_FEATURES:
		write_driver_features(d, value);
		break;
	case REG_DRIVER_FEATURES_SEL:
		d->driver_sel = value;
		break;
	case REG_QUEUE_SEL:
		d->queue_sel = value;
		show_queue(d);
		break;
	case REG_QUEUE_NOTIFY:
		if (value < d->ops->n_queues && device_active(d)) {
			d->stats.notifies++;
			d->ops->queue_notify(d, value);
		}
		break;
	case REG_INT_ACK:
		/* VIRTIO_INT_USED stays: see "Exits" in device.h. */
		reg_set(d, REG_INT_STATUS,
			reg_get(d, REG_INT_STATUS) & ~(value & VIRTIO_INT_CONFIG));
		break;
	case REG_STATUS:
		write_status(d, value);
		break;
	default:
		write_queue(d, offset, value);
		break;
	}
}

void device_mmio_read(struct device *d, uint64_t offset, void *data, unsigned int len_bytes)
{
	memset(data, 0, len_bytes);
	if (offset >= DEVICE_MMIO_BYTES)
		return;
	if (len_bytes > DEVICE_MMIO_BYTES - offset)
		len_bytes = (unsigned int)(DEVICE_MMIO_BYTES - offset);
	memcpy(data, d->regs + offset, len_bytes);
}

void device_mmio_write(struct device *d, uint64_t offset, const void *data, unsigned int len_bytes)
{
	uint32_t value;

	if (offset >= DEVICE_MMIO_BYTES || len_bytes > DEVICE_MMIO_BYTES - offset)
		return;
	if (offset >= REG_CONFIG) {
		write_config(d, offset - REG_CONFIG, data, len_bytes);
		return;
	}
	/* 4.2.2.2: registers are 32 bits wide and accessed so. */
	if (len_bytes != sizeof(value) || offset % sizeof(value))
		return;
	memcpy(&value, data, sizeof(value));
	write_reg(d, offset, value);
}
