/* SPDX-License-Identifier: Apache-2.0 */
#include "rig.h"

#include <criterion/criterion.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

static void step_event(struct loop_source *s, uint32_t events)
{
	(void)events;
	loop_stop(&container_of(s, struct rig, step)->loop);
}

void rig_init(struct rig *r, const struct device_config *c)
{
	struct devices_env env = {.mem = &r->mem, .loop = &r->loop};
	struct err e;

	memset(r, 0, sizeof(*r));
	r->low =
	    mmap(NULL, RIG_LOW_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	r->high =
	    mmap(NULL, RIG_HIGH_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cr_assert_eq(guest_mem_add(&r->mem, 0, r->low, RIG_LOW_BYTES), 0);
	cr_assert_eq(guest_mem_add(&r->mem, RIG_HIGH, r->high, RIG_HIGH_BYTES), 0);
	cr_assert_eq(loop_init(&r->loop, NULL), 0);
	/* Always ready: a run of the loop ends after one round. */
	r->step_fd = eventfd(1, EFD_CLOEXEC);
	cr_assert_eq(loop_add(&r->loop, &r->step, r->step_fd, EPOLLIN, step_event), 0);
	if (!c)
		return;
	cr_assert_eq(devices_create(&r->ds, &env, c, 1, &e), 0, "%s", e.msg);
	r->d = devices_get(r->ds, 0);
}

void rig_fini(struct rig *r)
{
	devices_destroy(r->ds);
	loop_remove(&r->loop, &r->step);
	loop_fini(&r->loop);
	close(r->step_fd);
	munmap(r->low, RIG_LOW_BYTES);
	munmap(r->high, RIG_HIGH_BYTES);
}

uint32_t rig_get(struct rig *r, uint32_t reg)
{
	uint32_t v;

	device_mmio_read(r->d, reg, &v, sizeof(v));
	return v;
}

void rig_set(struct rig *r, uint32_t reg, uint32_t value)
{
	device_mmio_write(r->d, reg, &value, sizeof(value));
}

void rig_set_queue(struct rig *r, unsigned int q, uint16_t size)
{
	struct rig_queue *rq = &r->q[q];

	memset(rq, 0, sizeof(*rq));
	rq->size = size;
	rq->desc_gpa = 0x10000 + q * RIG_QUEUE_BYTES;
	rq->avail_gpa = rq->desc_gpa + 0x1000;
	rq->used_gpa = rq->desc_gpa + 0x2000;
	memset(rig_ptr(r, rq->desc_gpa), 0, RIG_QUEUE_BYTES);
	rig_set(r, 0x30, q);
	rig_set(r, 0x38, size);
	rig_set(r, 0x80, (uint32_t)rq->desc_gpa);
	rig_set(r, 0x84, 0);
	rig_set(r, 0x90, (uint32_t)rq->avail_gpa);
	rig_set(r, 0x94, 0);
	rig_set(r, 0xa0, (uint32_t)rq->used_gpa);
	rig_set(r, 0xa4, 0);
	rig_set(r, 0x44, 1);
}

uint32_t rig_start(struct rig *r, uint64_t features, uint16_t size)
{
	rig_set(r, 0x70, 0);
	rig_set(r, 0x70, 1);
	rig_set(r, 0x70, 3);
	rig_set(r, 0x24, 0);
	rig_set(r, 0x20, (uint32_t)features);
	rig_set(r, 0x24, 1);
	rig_set(r, 0x20, (uint32_t)(features >> 32));
	rig_set(r, 0x70, 11);
	for (unsigned int q = 0; q < device_queue_count(r->d); q++) {
		uint16_t max;

		rig_set(r, 0x30, q);
		max = (uint16_t)rig_get(r, 0x34);
		rig_set_queue(r, q, size < max ? size : max);
	}
	rig_set(r, 0x70, 15);
	return rig_get(r, 0x70);
}

uint8_t *rig_ptr(struct rig *r, uint64_t gpa)
{
	return gpa < RIG_LOW_BYTES ? r->low + gpa : r->high + (gpa - RIG_HIGH);
}

void rig_desc(struct rig *r, unsigned int q, uint16_t i, uint64_t gpa, uint32_t len, uint16_t flags,
	      uint16_t next)
{
	uint8_t *d = rig_ptr(r, r->q[q].desc_gpa + 16ULL * i);

	memcpy(d, &gpa, 8);
	memcpy(d + 8, &len, 4);
	memcpy(d + 12, &flags, 2);
	memcpy(d + 14, &next, 2);
}

void rig_avail(struct rig *r, unsigned int q, uint16_t head)
{
	struct rig_queue *rq = &r->q[q];
	uint8_t *a = rig_ptr(r, rq->avail_gpa);

	memcpy(a + 4 + 2 * (rq->avail % rq->size), &head, 2);
	rq->avail++;
	memcpy(a + 2, &rq->avail, 2);
}

uint16_t rig_add(struct rig *r, unsigned int q, const struct rig_buf *bufs, unsigned int n)
{
	struct rig_queue *rq = &r->q[q];
	uint16_t head = rq->next_desc;

	for (unsigned int i = 0; i < n; i++) {
		uint16_t at = rq->next_desc, next = (uint16_t)((at + 1) % rq->size);

		rig_desc(r, q, at, bufs[i].gpa, bufs[i].len,
			 (uint16_t)((i + 1 < n ? 1 : 0) | (bufs[i].in ? 2 : 0)), next);
		rq->next_desc = next;
	}
	rig_avail(r, q, head);
	return head;
}

void rig_notify(struct rig *r, unsigned int q)
{
	uint64_t one = 1;

	cr_assert_eq(write(device_notify_fd(r->d, q), &one, sizeof(one)), 8);
	rig_step(r);
}

void rig_send(struct rig *r, unsigned int q, const struct rig_buf *bufs, unsigned int n)
{
	rig_add(r, q, bufs, n);
	rig_notify(r, q);
}

void rig_step(struct rig *r)
{
	cr_assert_eq(loop_run(&r->loop), 0);
	r->loop.stopped = false;
}

bool rig_used(struct rig *r, unsigned int q, uint32_t *id, uint32_t *len)
{
	struct rig_queue *rq = &r->q[q];
	uint8_t *u = rig_ptr(r, rq->used_gpa);
	uint16_t idx;

	memcpy(&idx, u + 2, 2);
	if (idx == rq->used)
		return false;
	memcpy(id, u + 4 + 8 * (rq->used % rq->size), 4);
	memcpy(len, u + 8 + 8 * (rq->used % rq->size), 4);
	rq->used++;
	return true;
}

uint32_t rig_wait(struct rig *r, unsigned int q)
{
	uint32_t id, len;

	while (!rig_used(r, q, &id, &len))
		rig_step(r);
	return len;
}

uint64_t rig_irqs(struct rig *r)
{
	uint64_t n = 0;

	return read(device_irq_fd(r->d), &n, sizeof(n)) < 0 ? 0 : n;
}
