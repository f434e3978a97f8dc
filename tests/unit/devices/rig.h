/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver to test devices with: guest memory, rings, register accesses, a loop.
 * Shared by the unit tests and, without Criterion, usable by fuzz targets.
 */
#ifndef TESTS_RIG_H
#define TESTS_RIG_H

#include "devices/virtio.h"

/* RAM: [0, 1 MiB), a hole, [2 MiB, 4 MiB). */
#define RIG_LOW_BYTES	0x100000u
#define RIG_HIGH	0x200000u
#define RIG_HIGH_BYTES	0x200000u
#define RIG_QUEUE_BYTES 0x4000u	 /* queue q has its rings at 0x10000 + q * this */
#define RIG_DATA	RIG_HIGH /* tests put their buffers from here on */

struct rig_queue {
	uint16_t size, next_desc, avail, used;
	uint64_t desc_gpa, avail_gpa, used_gpa;
};

struct rig {
	struct guest_mem mem;
	uint8_t *low, *high;
	struct loop loop;
	struct loop_source step;
	int step_fd;
	struct devices *ds;
	struct device *d;
	struct rig_queue q[DEVICE_MAX_QUEUES];
};

struct rig_buf {
	uint64_t gpa;
	uint32_t len;
	bool in;
};

/* One device in its VM, not started. */
void rig_init(struct rig *r, const struct device_config *c);
void rig_fini(struct rig *r);

uint32_t rig_get(struct rig *r, uint32_t reg);
void rig_set(struct rig *r, uint32_t reg, uint32_t value);
/* The whole way of a driver to DRIVER_OK, with rings of @size. Returns the status register. */
uint32_t rig_start(struct rig *r, uint64_t features, uint16_t size);
/* Just one queue's registers. */
void rig_set_queue(struct rig *r, unsigned int q, uint16_t size);

uint8_t *rig_ptr(struct rig *r, uint64_t gpa);
void rig_desc(struct rig *r, unsigned int q, uint16_t i, uint64_t gpa, uint32_t len, uint16_t flags,
	      uint16_t next);
void rig_avail(struct rig *r, unsigned int q, uint16_t head);
/* Add a chain of @n buffers. Returns its head. */
uint16_t rig_add(struct rig *r, unsigned int q, const struct rig_buf *bufs, unsigned int n);
/* Add and notify. */
void rig_send(struct rig *r, unsigned int q, const struct rig_buf *bufs, unsigned int n);
void rig_notify(struct rig *r, unsigned int q);
/* Handle everything that is ready, without waiting. */
void rig_step(struct rig *r);
/* The next used entry. Returns false if there is none. */
bool rig_used(struct rig *r, unsigned int q, uint32_t *id, uint32_t *len);
/* Run until there is one; returns its length. */
uint32_t rig_wait(struct rig *r, unsigned int q);
/* Interrupt edges since the last call. */
uint64_t rig_irqs(struct rig *r);

#endif
