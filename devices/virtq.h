/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Split virtqueues, device side (virtio 1.2, 2.7).
 *
 * Theory of operation
 *
 * The geometry (size and the three addresses) is latched by virtq_start() when the
 * driver sets DRIVER_OK; later writes of the driver to its registers change
 * nothing. virtq_pop() copies each descriptor of a chain once into a private array
 * and validates the copy: index, length of the chain (which also ends loops),
 * readable before writable, whole buffer in RAM, indirect tables. Everything after
 * works on the copy. Anything wrong makes the queue broken: it gives nothing more
 * until the device is reset, and its owner sets DEVICE_NEEDS_RESET.
 *
 * State that a snapshot needs is `last_avail`, `used_idx` and, in the device, the
 * heads of the chains in flight; the rest is in guest memory or in the geometry.
 *
 * Notifications are suppressed both ways by event indices (VIRTIO_F_EVENT_IDX,
 * 2.7.7.1 and 2.7.10) where negotiated, else by the flags.
 */
#ifndef DEVICES_VIRTQ_H
#define DEVICES_VIRTQ_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "devices/guest_mem.h"
#include "lib/state.h"

#define VIRTQ_MAX_SIZE 256
/* 126 data segments (blk seg_max), header and status. */
#define VIRTQ_MAX_CHAIN 128

/* What the driver wrote into the transport's registers. */
struct virtq_geometry {
	uint32_t size;
	uint64_t desc, avail, used;
};

struct virtq {
	const struct guest_mem *mem; /* borrowed */
	struct virtq_geometry geo;   /* latched */
	bool started, broken;
	bool event_idx, indirect; /* negotiated */
	uint16_t last_avail;	  /* next entry of the available ring to take */
	uint16_t used_idx;	  /* next entry of the used ring to write */
	uint16_t signalled_used;  /* used_idx at the last virtq_needs_interrupt() */
	uint16_t in_flight;	  /* popped and not pushed */
};

struct virtq_buf {
	uint64_t gpa;
	uint32_t len_bytes;
};

/* A private copy of a descriptor chain: first n_out device-readable buffers, then n_in writable. */
struct virtq_chain {
	uint16_t head;
	unsigned int n_out, n_in;
	uint64_t out_bytes, in_bytes;
	struct virtq_buf bufs[VIRTQ_MAX_CHAIN];
};

enum virtq_status { VIRTQ_EMPTY, VIRTQ_OK, VIRTQ_BROKEN };

/**
 * virtq_start() - Latch the geometry and begin at index 0
 * @max:	Largest size that the device offers
 *
 * Return: 0, or -EINVAL if size, alignment or placement are not allowed (2.7)
 */
int virtq_start(struct virtq *q, const struct guest_mem *mem, const struct virtq_geometry *geo,
		uint32_t max, bool event_idx, bool indirect);

/* Back to power-on: no geometry. */
void virtq_reset(struct virtq *q);

/**
 * virtq_pop() - Take the next available chain
 * @c:		Filled on VIRTQ_OK
 *
 * Return: VIRTQ_EMPTY (also for a queue that is not started), VIRTQ_OK, or
 *	   VIRTQ_BROKEN: the caller sets DEVICE_NEEDS_RESET
 */
enum virtq_status virtq_pop(struct virtq *q, struct virtq_chain *c);

/* Give back the last @n chains popped, untouched: they will be popped again. */
void virtq_unpop(struct virtq *q, uint16_t n);

/**
 * virtq_push() - Return a chain to the driver
 * @len_bytes:	Written to its writable part, from the start
 *
 * The driver sees it at once; virtq_needs_interrupt() tells whether to interrupt.
 *
 * Return: VIRTQ_OK or VIRTQ_BROKEN
 */
enum virtq_status virtq_push(struct virtq *q, uint16_t head, uint32_t len_bytes);

/**
 * virtq_fill() - Put a chain into the used ring, behind @ahead others that are not shown yet
 *
 * For what consists of several chains: the driver sees none of them before virtq_show().
 */
enum virtq_status virtq_fill(struct virtq *q, uint16_t ahead, uint16_t head, uint32_t len_bytes);
/* Show the driver @n chains that were filled in. */
enum virtq_status virtq_show(struct virtq *q, uint16_t n);

/* Chains that the driver has made available and nobody took; 0 for a queue that is broken. */
uint16_t virtq_waiting(const struct virtq *q);

/* Ask once after a batch of pushes. */
bool virtq_needs_interrupt(struct virtq *q);

/**
 * virtq_enable_notify() - Ask the driver to notify us of the next buffer
 *
 * Return: true if there is one already, that came in between: pop again
 */
bool virtq_enable_notify(struct virtq *q);
/**
 * virtq_await_more() - Ask to be notified of buffers beyond those that are there already
 *
 * Return: the index of the available ring, which the next buffer changes
 */
uint16_t virtq_await_more(struct virtq *q);
/**
 * virtq_defer_notify() - Ask to be notified of the buffer after the next one, and not of the next
 *
 * For a queue that is empty and whose notifications are enabled.
 *
 * Return: false if that cannot be asked of this driver: nothing has changed
 */
bool virtq_defer_notify(struct virtq *q);
/* We look at the ring by ourselves for now: the driver need not notify. */
void virtq_disable_notify(struct virtq *q);

/**
 * virtq_state() - Save or restore a queue that is started
 *
 * Without its geometry: to restore, virtq_start() comes first.
 */
void virtq_state(struct virtq *q, struct state_io *io);

/* Copy from the readable part of a chain. Return: 0, or -EFAULT if it is shorter. */
int virtq_chain_read(const struct virtq *q, const struct virtq_chain *c, uint64_t offset, void *dst,
		     uint32_t len_bytes);
/* Copy to the writable part of a chain. Return: 0, or -EFAULT if it is shorter. */
int virtq_chain_write(const struct virtq *q, const struct virtq_chain *c, uint64_t offset,
		      const void *src, uint32_t len_bytes);

/**
 * virtq_chain_iov() - Pointers into one part of a chain, for bulk data
 * @in:		The writable part, else the readable one
 * @iov:	Array of @max entries
 *
 * Return: number of entries, -EFAULT if the part is shorter than @offset + @len_bytes,
 *	   -E2BIG if @max does not suffice
 */
int virtq_chain_iov(const struct virtq *q, const struct virtq_chain *c, bool in, uint64_t offset,
		    uint64_t len_bytes, struct iovec *iov, unsigned int max);

#endif
