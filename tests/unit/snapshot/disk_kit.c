/* SPDX-License-Identifier: Apache-2.0 */
#include "disk_kit.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/fd.h"

uint8_t kit_base_byte(uint64_t offset)
{
	return (uint8_t)(offset / 512 * 7 + offset % 512);
}

uint8_t kit_base_or_zero(uint64_t offset)
{
	return offset < KIT_BASE_BYTES ? kit_base_byte(offset) : 0;
}

uint8_t kit_zero(uint64_t offset)
{
	(void)offset;
	return 0;
}

static void init_in(struct disk_kit *k, uint64_t base_bytes, const char *dir)
{
	uint8_t *data = malloc(base_bytes);
	int fd;

	*k = (struct disk_kit){.disk = NULL};
	snprintf(k->dir, sizeof(k->dir), "%s/disk-test-XXXXXX", dir);
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

void kit_init(struct disk_kit *k, uint64_t base_bytes)
{
	init_in(k, base_bytes, "/tmp");
}

void kit_init_in_memory(struct disk_kit *k, uint64_t base_bytes)
{
	init_in(k, base_bytes, access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
}

int kit_open(struct disk_kit *k, uint64_t size_bytes, struct err *e)
{
	const char *layers[KIT_LAYERS];
	struct disk_layers_config c = {.base_path = k->no_base ? NULL : k->base,
				       .layers = layers,
				       .layers_n = k->layers_n,
				       .overlay_path = k->overlay[0] ? k->overlay : NULL,
				       .size_bytes = size_bytes,
				       .loop = &k->loop,
				       .fault = k->fault,
				       .fault_opaque = k->fault_opaque};

	for (unsigned int i = 0; i < k->layers_n; i++)
		layers[i] = k->layers[i];
	return disk_layers_open(&k->disk, &c, e);
}

static void on_sealed(void *opaque, int result)
{
	struct disk_kit *k = opaque;

	k->seals++;
	k->sealed = result;
	loop_stop(&k->loop);
}

int kit_switch(struct disk_kit *k, struct err *e)
{
	char path[96];
	int rc;

	snprintf(path, sizeof(path), "%s/layer%u", k->dir, ++k->files_n);
	k->disk->ops->drain(k->disk);
	rc = disk_layers_switch(k->disk, path, on_sealed, k, e);
	if (rc < 0)
		return rc;
	cr_assert_lt(k->layers_n, KIT_LAYERS);
	memcpy(k->layers[k->layers_n++], k->overlay, sizeof(k->overlay));
	memcpy(k->overlay, path, sizeof(path));
	return 0;
}

int kit_wait_sealed(struct disk_kit *k)
{
	unsigned int before = k->seals;

	while (k->seals == before) {
		cr_assert_eq(loop_run(&k->loop), 0);
		k->loop.stopped = false;
	}
	return k->sealed;
}

void kit_patch(const char *path, uint64_t offset, const void *bytes, size_t len)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	cr_assert_eq(pwrite(fd, bytes, len, (off_t)offset), (ssize_t)len);
	close(fd);
}

void kit_close(struct disk_kit *k)
{
	if (k->disk)
		k->disk->ops->close(k->disk);
	k->disk = NULL;
}

void kit_fini(struct disk_kit *k)
{
	DIR *d = opendir(k->dir);
	struct dirent *entry;

	kit_close(k);
	loop_fini(&k->loop);
	while ((entry = readdir(d)))
		unlinkat(dirfd(d), entry->d_name, 0);
	closedir(d);
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

void kit_write_bytes(struct disk_kit *k, uint64_t offset, uint64_t len, kit_byte *byte)
{
	uint8_t *buf = malloc(len);

	for (uint64_t i = 0; i < len; i++)
		buf[i] = byte(offset + i);
	cr_assert_eq(kit_write(k, offset, buf, len), 0);
	free(buf);
}

void kit_expect(struct disk_kit *k, uint64_t offset, uint64_t len, kit_byte *want, const char *what)
{
	uint8_t *buf = malloc(len);
	int rc;

	memset(buf, 0xee, len);
	rc = kit_read(k, offset, buf, len);
	cr_assert_eq(rc, 0, "%s: %d", what, rc);
	for (uint64_t i = 0; i < len; i++)
		cr_assert_eq(buf[i], want(offset + i), "%s: byte %llu is %#x", what,
			     (unsigned long long)(offset + i), buf[i]);
	free(buf);
}
