/* SPDX-License-Identifier: Apache-2.0 */
#include "disk_kit.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "lib/fd.h"

uint8_t kit_base_byte(uint64_t offset)
{
	return (uint8_t)(offset / 512 * 7 + offset % 512);
}

void kit_init(struct disk_kit *k, uint64_t base_bytes)
{
	uint8_t *data = malloc(base_bytes);
	int fd;

	*k = (struct disk_kit){.dir = "/tmp/disk-test-XXXXXX"};
	cr_assert(mkdtemp(k->dir));
	snprintf(k->base, sizeof(k->base), "%s/base", k->dir);
	snprintf(k->overlay, sizeof(k->overlay), "%s/overlay", k->dir);
	for (uint64_t i = 0; i < base_bytes; i++)
		data[i] = kit_base_byte(i);
	fd = open(k->base, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	cr_assert_geq(fd, 0);
	cr_assert_eq(fd_write_full(fd, data, base_bytes), 0);
	close(fd);
	free(data);
	cr_assert_eq(loop_init(&k->loop, NULL), 0);
}

int kit_open(struct disk_kit *k, uint64_t size_bytes, struct err *e)
{
	struct disk_overlay_config c = {.base_path = k->base,
					.overlay_path = k->overlay,
					.size_bytes = size_bytes,
					.loop = &k->loop,
					.fault = k->fault,
					.fault_opaque = k->fault_opaque};

	return disk_overlay_open(&k->disk, &c, e);
}

void kit_close(struct disk_kit *k)
{
	if (k->disk)
		k->disk->ops->close(k->disk);
	k->disk = NULL;
}

void kit_fini(struct disk_kit *k)
{
	kit_close(k);
	loop_fini(&k->loop);
	unlink(k->overlay);
	unlink(k->base);
	rmdir(k->dir);
}

struct waiting {
	struct disk_req r;
	struct loop *loop;
	bool over;
	int result;
};

static void over(struct disk_req *r, int result)
{
	struct waiting *w = container_of(r, struct waiting, r);

	w->over = true;
	w->result = result;
	loop_stop(w->loop);
}

static int run(struct disk_kit *k, struct waiting *w)
{
	w->loop = &k->loop;
	w->r.done = over;
	k->disk->ops->submit(k->disk, &w->r);
	k->disk->ops->kick(k->disk);
	while (!w->over) {
		cr_assert_eq(loop_run(&k->loop), 0);
		k->loop.stopped = false;
	}
	k->loop.stopped = false;
	return w->result;
}

int kit_read(struct disk_kit *k, uint64_t offset, void *buf, uint64_t len)
{
	/* In odd pieces, as guests do. */
	uint64_t a = len > 700 ? 700 : len;
	struct iovec iov[2] = {{buf, a}, {(char *)buf + a, len - a}};
	struct waiting w = {.r = {.op = DISK_READ, .offset_bytes = offset, .len_bytes = len}};

	w.r.iov = iov;
	w.r.iov_n = len > a ? 2 : 1;
	return run(k, &w);
}

int kit_write(struct disk_kit *k, uint64_t offset, const void *buf, uint64_t len)
{
	struct iovec iov = {(void *)(uintptr_t)buf, len};
	struct waiting w = {.r = {.op = DISK_WRITE, .offset_bytes = offset, .len_bytes = len}};

	w.r.iov = &iov;
	w.r.iov_n = 1;
	return run(k, &w);
}

int kit_do(struct disk_kit *k, enum disk_op op, uint64_t offset, uint64_t len)
{
	struct waiting w = {.r = {.op = op, .offset_bytes = offset, .len_bytes = len}};

	return run(k, &w);
}
