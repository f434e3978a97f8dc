/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hostile driver for the fuzz targets of devices/: the input is a program of
 * register accesses, writes to guest memory, descriptors and notifications.
 *
 * One step is an opcode byte and its operands:
 *	0 reg16 value32		store to a register
 *	1 gpa16 len8 bytes	write guest memory
 *	2 queue8		notify
 *	3 features32 size8	the whole way to DRIVER_OK
 *	4 q8 i8 gpa16 len16 flags8 next8	a descriptor
 *	5 q8 head8		make a chain available
 *	6 reg16 len8		load, of any size; then store it back
 *	7 ...			the target's own
 */
#ifndef TESTS_DEVICE_FUZZ_H
#define TESTS_DEVICE_FUZZ_H

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "devices/virtio.h"
#include "lib/cursor.h"
#include "lib/log.h"

#define FUZZ_RAM_BYTES 0x20000u
/* Rings of queue q; the data area is below. */
#define FUZZ_RINGS(q) (0x10000u + (q)*0x4000u)
#define FUZZ_STEPS    256

struct fuzz {
	struct guest_mem mem;
	struct loop loop;
	struct loop_source step;
	int step_fd;
	struct devices *ds;
	struct device *d;
	uint16_t avail[DEVICE_MAX_QUEUES];
	uint16_t size[DEVICE_MAX_QUEUES];
	void (*own)(struct fuzz *f, struct reader *r);
};

static _Alignas(4096) uint8_t fuzz_ram[FUZZ_RAM_BYTES];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_step_event(struct loop_source *s, uint32_t events)
{
	(void)events;
	loop_stop(&container_of(s, struct fuzz, step)->loop);
}

static void fuzz_turn(struct fuzz *f)
{
	if (loop_run(&f->loop) < 0)
		abort();
	f->loop.stopped = false;
}

static void fuzz_set(struct fuzz *f, uint32_t reg, uint32_t v)
{
	device_mmio_write(f->d, reg, &v, sizeof(v));
}

static void fuzz_start(struct fuzz *f, uint32_t features, uint8_t size)
{
	uint16_t n = (uint16_t)(1u << (size % 9));

	fuzz_set(f, 0x70, 0);
	fuzz_set(f, 0x70, 3);
	fuzz_set(f, 0x20, features & (uint32_t)f->d->features);
	fuzz_set(f, 0x24, 1);
	fuzz_set(f, 0x20, 1);
	fuzz_set(f, 0x70, 11);
	for (unsigned int q = 0; q < f->d->ops->n_queues; q++) {
		uint16_t s = n < f->d->ops->queue_max[q] ? n : f->d->ops->queue_max[q];

		f->size[q] = s;
		f->avail[q] = 0;
		memset(fuzz_ram + FUZZ_RINGS(q), 0, 0x4000);
		fuzz_set(f, 0x30, q);
		fuzz_set(f, 0x38, s);
		fuzz_set(f, 0x80, FUZZ_RINGS(q));
		fuzz_set(f, 0x90, FUZZ_RINGS(q) + 0x1000);
		fuzz_set(f, 0xa0, FUZZ_RINGS(q) + 0x2000);
		fuzz_set(f, 0x44, 1);
	}
	fuzz_set(f, 0x70, 15);
}

static void fuzz_desc(struct fuzz *f, struct reader *r)
{
	unsigned int q = read_u8(r) % f->d->ops->n_queues, i = read_u8(r);
	uint64_t gpa = read_u16(r);
	uint32_t len = read_u16(r);
	uint16_t flags = read_u8(r), next = read_u8(r);
	uint8_t *d = fuzz_ram + FUZZ_RINGS(q) + 16 * i;

	/* Rarely outside RAM: deeper code is reached from inside. */
	if (flags & 0x80)
		gpa = ~gpa;
	flags &= 7;
	memcpy(d, &gpa, 8);
	memcpy(d + 8, &len, 4);
	memcpy(d + 12, &flags, 2);
	memcpy(d + 14, &next, 2);
}

static void fuzz_avail(struct fuzz *f, struct reader *r)
{
	unsigned int q = read_u8(r) % f->d->ops->n_queues;
	uint16_t head = read_u8(r);
	uint8_t *a = fuzz_ram + FUZZ_RINGS(q) + 0x1000;

	if (!f->size[q])
		return;
	memcpy(a + 4 + 2 * (f->avail[q] % f->size[q]), &head, 2);
	f->avail[q]++;
	memcpy(a + 2, &f->avail[q], 2);
}

static void fuzz_memory(struct reader *r)
{
	uint32_t gpa = read_u16(r);
	size_t len = read_u8(r);
	const uint8_t *p;

	if (len > reader_left(r))
		len = reader_left(r);
	p = read_bytes(r, len);
	if (p)
		memcpy(fuzz_ram + gpa, p, len);
}

static void fuzz_odd_access(struct fuzz *f, struct reader *r)
{
	uint16_t reg = read_u16(r);
	unsigned int len = read_u8(r) % 17;
	uint8_t buf[16];

	device_mmio_read(f->d, reg, buf, len);
	device_mmio_write(f->d, reg, buf, len);
}

static void fuzz_one(struct fuzz *f, struct reader *r)
{
	switch (read_u8(r) & 7) {
	case 0: {
		uint16_t reg = read_u16(r);

		fuzz_set(f, reg & 0x1fff, read_u32(r));
		break;
	}
	case 1:
		fuzz_memory(r);
		break;
	case 2:
		fuzz_set(f, 0x50, read_u8(r) % DEVICE_MAX_QUEUES);
		break;
	case 3: {
		uint32_t features = read_u32(r);

		fuzz_start(f, features, read_u8(r));
		break;
	}
	case 4:
		fuzz_desc(f, r);
		break;
	case 5:
		fuzz_avail(f, r);
		break;
	case 6:
		fuzz_odd_access(f, r);
		break;
	default:
		if (f->own)
			f->own(f, r);
		fuzz_turn(f);
		break;
	}
}

/* Make the device, run the program, take it down. */
static void fuzz_run(struct fuzz *f, const struct device_config *c, const uint8_t *data,
		     size_t size)
{
	struct devices_env env = {.mem = &f->mem, .loop = &f->loop};
	struct reader r = reader_of(data, size);

	log_init("fuzz", LOG_ERROR, 2);
	memset(fuzz_ram, 0, sizeof(fuzz_ram));
	if (guest_mem_add(&f->mem, 0, fuzz_ram, sizeof(fuzz_ram)) < 0 ||
	    loop_init(&f->loop, NULL) < 0)
		abort();
	f->step_fd = eventfd(1, EFD_CLOEXEC);
	if (loop_add(&f->loop, &f->step, f->step_fd, EPOLLIN, fuzz_step_event) < 0 ||
	    devices_create(&f->ds, &env, c, 1, NULL) < 0)
		abort();
	f->d = devices_get(f->ds, 0);
	for (int i = 0; i < FUZZ_STEPS && reader_left(&r); i++)
		fuzz_one(f, &r);
	fuzz_turn(f);
	devices_quiesce(f->ds);
	devices_reset(f->ds);
	devices_destroy(f->ds);
	loop_remove(&f->loop, &f->step);
	close(f->step_fd);
	loop_fini(&f->loop);
}

#endif
