/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "snapshot/ram_order.h"
#include "snapshot/ram_pager.h"
#include "snapshot/uffd.h"

#define CHUNK  (64u << 10)
#define CHUNKS 256u
#define RAM    ((uint64_t)CHUNK * CHUNKS)

static const uint8_t id[COLD_IMAGE_ID_BYTES] = "the right image";
static char dir[] = "/tmp/pager-test-XXXXXX", path[64], order[72];
static uint8_t *wanted, *ram;
static int overs, failures;

/* Chunks 0 to 99: some are zero, some have holes, one is noise; then a large hole, then more. */
static void fill(void)
{
	for (uint32_t i = 0; i < CHUNKS; i++) {
		if (i % 7 == 3 || (i >= 100 && i < 180))
			continue;
		for (uint32_t p = 0; p < CHUNK / COLD_PAGE; p++)
			if (i % 5 || p % 3)
				memset(wanted + i * CHUNK + p * COLD_PAGE, (int)(i + p + 1),
				       COLD_PAGE - 7);
	}
	for (uint32_t i = 0, seed = 1; i < CHUNK; i++) {
		seed = seed * 1664525u + 1013904223u;
		wanted[8 * CHUNK + i] = (uint8_t)(seed >> 24);
	}
}

static void write_image(void)
{
	struct cold_writer *w;

	cr_assert_eq(cold_writer_open(&w, path, id, RAM, CHUNK, 1, NULL), 0);
	for (uint32_t i = 0; i < CHUNKS; i++)
		cr_assert_eq(cold_writer_add(w, wanted + i * CHUNK, NULL), 0);
	cr_assert_eq(cold_writer_finish(w, NULL), 0);
}

static void setup(void)
{
	log_init("test", LOG_ERROR, 2);
	cr_assert(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/ram", dir);
	snprintf(order, sizeof(order), "%s.order", path);
	wanted = calloc(1, RAM);
	fill();
	write_image();
	ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(ram, MAP_FAILED);
}

static void teardown(void)
{
	unlink(path);
	unlink(order);
	cr_expect_eq(rmdir(dir), 0);
	munmap(ram, RAM);
	free(wanted);
}

TestSuite(ram_pager, .init = setup, .fini = teardown, .timeout = 60);

/* One that needs no privilege: only this process's own accesses fault. */
static int user_uffd(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

	cr_assert_geq(fd, 0, "userfaultfd: %s", strerror(errno));
	cr_assert_eq(ioctl(fd, UFFDIO_API, &api), 0);
	return fd;
}

static void over(void *opaque, bool failed)
{
	failures += failed;
	__atomic_add_fetch((int *)opaque, 1, __ATOMIC_SEQ_CST);
}

static struct ram_pager_config config(void)
{
	return (struct ram_pager_config){.path = path,
					 .image_id = id,
					 .ram = ram,
					 .ram_bytes = RAM,
					 .uffd = user_uffd(),
					 .over = over,
					 .opaque = &overs};
}

/* Without a record nothing is streamed before the machine is calm: here, before the finish. */
static void hold_stream(struct ram_pager_config *c)
{
	c->order_path = order;
	c->calm_ms = 3600 * 1000;
}

static struct ram_pager *start(const struct ram_pager_config *c)
{
	struct ram_pager *p;
	struct err e = {0};

	cr_assert_eq(ram_pager_start(&p, c, &e), 0, "%s", e.msg);
	return p;
}

static struct ram_pager_progress progress(struct ram_pager *p)
{
	struct ram_pager_progress now;

	ram_pager_progress(p, &now);
	return now;
}

/* More than one byte of a chunk: deflate can say the same in several ways. */
static void damage(uint32_t chunk)
{
	cleanup_close int fd = open(path, O_RDWR | O_CLOEXEC);
	struct cold_image c;
	uint8_t b[16];

	cr_assert_eq(cold_open(&c, path, NULL), 0);
	cr_assert_eq(pread(fd, b, sizeof(b), (off_t)c.index[chunk].offset + 4), sizeof(b));
	for (size_t i = 0; i < sizeof(b); i++)
		b[i] ^= 0x5a;
	cr_assert_eq(pwrite(fd, b, sizeof(b), (off_t)c.index[chunk].offset + 4), sizeof(b));
	cold_close(&c);
}

struct toucher {
	pthread_t thread;
	unsigned int seed;
	bool write;
};

/* Pages here and there, each compared as it is first seen. */
static void *touch(void *arg)
{
	struct toucher *t = arg;

	for (int i = 0; i < 3000; i++) {
		uint64_t at = (uint64_t)rand_r(&t->seed) % (RAM / COLD_PAGE) * COLD_PAGE;

		if (memcmp(ram + at, wanted + at, COLD_PAGE) != 0)
			return (void *)(uintptr_t)(at + 1);
		/* Writing what is there already: still a fault that wants to write. */
		if (t->write)
			*(volatile uint8_t *)(ram + at) = wanted[at];
	}
	return NULL;
}

static void touch_by_all(void)
{
	struct toucher t[4];

	for (unsigned int i = 0; i < 4; i++) {
		t[i] = (struct toucher){.seed = i + 1, .write = i & 1};
		cr_assert_eq(pthread_create(&t[i].thread, NULL, touch, &t[i]), 0);
	}
	for (unsigned int i = 0; i < 4; i++) {
		void *wrong;

		pthread_join(t[i].thread, &wrong);
		cr_expect_null(wrong, "wrong memory at %p", wrong);
	}
}

Test(ram_pager, all_memory_is_right_while_it_comes_in)
{
	struct ram_pager_config c = config();
	struct ram_pager *p = start(&c);
	struct ram_pager_progress now;
	struct err e;

	touch_by_all();
	cr_assert_eq(ram_pager_finish(p, &e), 0);
	now = progress(p);
	cr_assert_eq(now.state, RAM_PAGER_DONE);
	cr_assert(now.on_fault);
	cr_assert_eq(now.loaded, now.chunks);
	cr_assert_eq(now.loaded_bytes, now.total_bytes);
	cr_assert_gt(now.total_bytes, 0);
	ram_pager_stop(p);
	cr_assert_eq(overs, 1);
	cr_assert_eq(memcmp(ram, wanted, RAM), 0);
}

Test(ram_pager, without_io_uring)
{
	struct ram_pager_config c = config();
	struct ram_pager *p;
	struct err e;

	c.no_uring = true;
	p = start(&c);
	touch_by_all();
	cr_assert_eq(ram_pager_finish(p, &e), 0);
	ram_pager_stop(p);
	cr_assert_eq(memcmp(ram, wanted, RAM), 0);
}

Test(ram_pager, everything_first)
{
	struct ram_pager_config c = config();
	struct cold_image image;
	struct ram_pager *p;

	c.mode = RAM_PAGER_EAGER;
	c.path = NULL;
	c.image = &image;
	cr_assert_eq(cold_open(&image, path, NULL), 0);
	p = start(&c);
	cr_assert_eq(image.fd, -1, "taken over");
	cr_assert_eq(progress(p).state, RAM_PAGER_DONE);
	cr_assert_not(progress(p).on_fault);
	ram_pager_stop(p);
	cr_assert_eq(memcmp(ram, wanted, RAM), 0);
}

/* The record of the first wake is what was touched, in that order; the second wake uses it. */
Test(ram_pager, the_order_of_faults_is_recorded_and_used)
{
	static const uint32_t touched[] = {200, 6, 8, 99, 0};
	struct ram_pager_config c = config();
	struct cold_image image;
	struct ram_pager *p;
	uint32_t *chunks;
	struct err e;
	int fd;

	hold_stream(&c);
	p = start(&c);
	for (int i = 0; i < 5; i++) {
		uint64_t at = touched[i] * CHUNK + 5 * COLD_PAGE;

		cr_assert_eq(memcmp(ram + at, wanted + at, COLD_PAGE), 0);
	}
	cr_assert_eq(progress(p).recorded, 0);
	cr_assert_eq(ram_pager_finish(p, &e), 0);
	ram_pager_stop(p);
	cr_assert_eq(cold_open(&image, path, &e), 0);
	cr_assert_geq(ram_order_read(order, &image, &chunks, &e), 5, "%s", e.msg);
	cr_assert_eq(memcmp(chunks, touched, sizeof(touched)), 0);
	free(chunks);

	cr_assert_eq(madvise(ram, RAM, MADV_DONTNEED), 0);
	c.uffd = user_uffd();
	p = start(&c);
	cr_assert_geq(progress(p).recorded, 5);
	cr_assert_eq(ram_pager_finish(p, &e), 0);
	ram_pager_stop(p);
	cr_assert_eq(memcmp(ram, wanted, RAM), 0);

	/* Damaged: as if there were none. */
	fd = open(order, O_WRONLY | O_CLOEXEC);
	cr_assert_eq(pwrite(fd, "\xff", 1, 41), 1);
	close(fd);
	cr_assert_eq(ram_order_read(order, &image, &chunks, &e), -EINVAL);
	cr_assert_eq(madvise(ram, RAM, MADV_DONTNEED), 0);
	c.uffd = user_uffd();
	p = start(&c);
	cr_assert_eq(progress(p).recorded, 0);
	cr_assert_eq(ram_pager_finish(p, &e), 0);
	ram_pager_stop(p);
	cr_assert_eq(memcmp(ram, wanted, RAM), 0);
	cold_close(&image);
}

Test(ram_pager, a_record_of_another_image_is_refused)
{
	uint32_t some[] = {1, 2, 1}, *chunks;
	struct cold_image image;
	struct err e;

	cr_assert_eq(cold_open(&image, path, &e), 0);
	cr_assert_eq(ram_order_write(order, &image, some, 2, &e), 0);
	cr_assert_eq(ram_order_read(order, &image, &chunks, &e), 2);
	free(chunks);
	image.image_id[0]++;
	cr_assert_eq(ram_order_read(order, &image, &chunks, &e), -EINVAL);
	cr_assert(strstr(e.msg, "another image"), "%s", e.msg);
	cr_assert_eq(ram_order_write(order, &image, some, 3, &e), 0);
	cr_assert_eq(ram_order_read(order, &image, &chunks, &e), -EINVAL, "a chunk twice");
	some[0] = CHUNKS;
	cr_assert_eq(ram_order_write(order, &image, some, 2, &e), 0);
	cr_assert_eq(ram_order_read(order, &image, &chunks, &e), -EINVAL, "no such chunk");
	cold_close(&image);
}

/* Nobody gets to see what is not there; the rest is still served. */
Test(ram_pager, a_damaged_chunk_fails_and_is_never_seen)
{
	struct ram_pager_config c = config();
	struct ram_pager_progress now;
	struct ram_pager *p;
	struct err e;

	damage(8);
	hold_stream(&c);
	p = start(&c);
	cr_assert_eq(ram_pager_need(p, ram + 8 * CHUNK + 100, 4), -EIO);
	now = progress(p);
	cr_assert_eq(now.state, RAM_PAGER_FAILED);
	cr_assert(strstr(now.error.msg, "chunk 8 "), "%s", now.error.msg);
	cr_assert(strstr(now.error.msg, "damaged (checksum)"), "%s", now.error.msg);
	cr_assert_eq(overs, 1);
	cr_assert_eq(ram_pager_need(p, ram + 8 * CHUNK - 1, 2), -EIO);
	cr_assert_eq(ram_pager_need(p, ram + 8 * CHUNK - 1, 1), 0);
	cr_assert_eq(memcmp(ram + 9 * CHUNK, wanted + 9 * CHUNK, CHUNK), 0);
	cr_assert_eq(ram_pager_finish(p, &e), -EIO);
	cr_assert(strstr(e.msg, "chunk 8 "), "%s", e.msg);
	ram_pager_stop(p);
	cr_assert_eq(overs, 1);
	cr_assert_eq(failures, 1);
	cr_assert_eq(access(order, F_OK), -1);
	/* The memory can be used for something else. */
	cr_assert_eq(madvise(ram, RAM, MADV_DONTNEED), 0);
	ram[8 * CHUNK] = 1;
}

Test(ram_pager, the_prefetcher_finds_damage_too)
{
	struct ram_pager_config c = config();
	struct ram_pager *p;
	struct err e;

	damage(190);
	p = start(&c);
	cr_assert_eq(ram_pager_finish(p, &e), -EIO);
	ram_pager_stop(p);
	cr_assert_eq(overs, 1);
	c.mode = RAM_PAGER_EAGER;
	c.uffd = -1;
	cr_assert_eq(ram_pager_start(&p, &c, &e), -EIO);
	cr_assert(strstr(e.msg, "chunk 190 "), "%s", e.msg);
}

/* KVM and reads into guest memory fault in the kernel. */
Test(ram_pager, system_calls_fault_and_fail_on_damage)
{
	struct ram_pager_config c = config();
	struct ram_pager *p;
	uint8_t buf[64];
	int fds[2];
	struct err e;

	close(c.uffd);
	c.uffd = uffd_open(&e);
	if (c.uffd == -EPERM)
		cr_skip_test("%s", e.msg);
	damage(8);
	hold_stream(&c);
	p = start(&c);
	cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
	cr_assert_eq(write(fds[1], ram + 6 * CHUNK + COLD_PAGE, sizeof(buf)), sizeof(buf));
	cr_assert_eq(read(fds[0], buf, sizeof(buf)), sizeof(buf));
	cr_assert_eq(memcmp(buf, wanted + 6 * CHUNK + COLD_PAGE, sizeof(buf)), 0);
	cr_assert_eq(write(fds[1], ram + 8 * CHUNK, sizeof(buf)), -1);
	cr_assert_eq(errno, EFAULT);
	cr_assert_eq(progress(p).state, RAM_PAGER_FAILED);
	close(fds[0]);
	close(fds[1]);
	ram_pager_stop(p);
}

Test(ram_pager, another_image_or_size_is_refused)
{
	static const uint8_t other[COLD_IMAGE_ID_BYTES] = "another image";
	struct ram_pager_config c = config();
	struct ram_pager *p;
	struct err e;

	c.image_id = other;
	cr_assert_eq(ram_pager_start(&p, &c, &e), -EINVAL);
	cr_assert(strstr(e.msg, "belongs"), "%s", e.msg);
	c.image_id = NULL;
	c.uffd = -1;
	c.ram_bytes = RAM / 2;
	cr_assert_eq(ram_pager_start(&p, &c, &e), -EINVAL);
	c.ram_bytes = RAM;
	unlink(path);
	cr_assert_eq(ram_pager_start(&p, &c, &e), -ENOENT);
}

/* The balloon gives pages back: zeros, whatever the image has there. */
Test(ram_pager, pages_given_back_are_zero)
{
	struct ram_pager_config c = config();
	uint8_t *at = ram + 6 * CHUNK;
	struct ram_pager *p;
	struct err e;

	hold_stream(&c);
	p = start(&c);
	cr_assert_eq(*(volatile uint8_t *)at, wanted[6 * CHUNK]);
	cr_assert_neq(*at, 0);
	cr_assert_eq(madvise(at, CHUNK, MADV_DONTNEED), 0);
	cr_assert_eq(*(volatile uint8_t *)at, 0);
	at[COLD_PAGE] = 9;
	cr_assert_eq(ram_pager_finish(p, &e), 0);
	cr_assert_eq(*at, 0);
	cr_assert_eq(at[COLD_PAGE], 9);
	ram_pager_stop(p);
}

/* The machine ends while it is being loaded. */
Test(ram_pager, stops_in_the_middle)
{
	for (unsigned int i = 0; i < 30; i++) {
		struct ram_pager_config c = config();
		struct ram_pager *p;

		c.no_uring = i % 3 == 2;
		p = start(&c);
		if (i)
			cr_assert_eq(ram[i * CHUNK], wanted[i * CHUNK]);
		ram_pager_stop(p);
		cr_assert_eq(madvise(ram, RAM, MADV_DONTNEED), 0);
		cr_assert_eq(ram[i * CHUNK], 0);
	}
	ram_pager_stop(NULL);
}
