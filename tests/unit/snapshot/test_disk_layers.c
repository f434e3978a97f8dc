/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk_kit.h"
#include "snapshot/disk_image.h"
#include "snapshot/layer.h"

static uint8_t written(uint64_t offset)
{
	return (uint8_t)(offset * 13 + 5);
}

Test(disk_layers, an_untouched_disk_is_the_base_and_then_zeros)
{
	struct disk_kit k;
	struct err e;

	kit_init(&k, KIT_BASE_BYTES);
	cr_assert_eq(kit_open(&k, KIT_SIZE_BYTES, &e), 0, "%s", e.msg);
	cr_expect_eq(k.disk->size_bytes, KIT_SIZE_BYTES);
	kit_expect(&k, 0, KIT_SIZE_BYTES, kit_base_or_zero, "whole disk");
	kit_fini(&k);
}

Test(disk_layers, a_write_of_any_alignment_changes_exactly_its_range)
{
	static const struct {
		uint64_t offset, len;
	} ranges[] = {{0, 512},
		      {512, 512},
		      {3584, 1024},
		      {4096, 4096},
		      {4096 * 3 + 512, 4096 * 2},
		      {4096 * 8, 4096 * 5},
		      {4096 * 63 + 3584, 4096 + 1024},
		      {KIT_BASE_BYTES - 512, 1024},
		      {4096 * 80, 512},
		      {KIT_SIZE_BYTES - 512, 512},
		      {KIT_SIZE_BYTES - 1024, 1024},
		      {0, KIT_SIZE_BYTES}};

	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		uint64_t from = ranges[i].offset, to = from + ranges[i].len;
		struct disk_kit k;

		kit_init(&k, KIT_BASE_BYTES);
		cr_assert_eq(kit_open(&k, KIT_SIZE_BYTES, NULL), 0);
		kit_write_bytes(&k, from, to - from, written);
		for (int again = 0; again < 2; again++) {
			kit_expect(&k, from, to - from, written, "inside");
			if (from)
				kit_expect(&k, 0, from, kit_base_or_zero, "before");
			if (to < KIT_SIZE_BYTES)
				kit_expect(&k, to, KIT_SIZE_BYTES - to, kit_base_or_zero, "after");
			/* The second time from the file. */
			kit_close(&k);
			cr_assert_eq(kit_open(&k, 0, NULL), 0);
		}
		kit_fini(&k);
	}
}

Test(disk_layers, discarded_clusters_and_zeroed_bytes_read_as_zero_also_over_the_base)
{
	struct disk_kit k;

	kit_init(&k, KIT_BASE_BYTES);
	cr_assert_eq(kit_open(&k, KIT_SIZE_BYTES, NULL), 0);
	kit_write_bytes(&k, 4096 * 20, 4096 * 4, written);
	/* From inside cluster 10 to inside cluster 22. */
	cr_assert_eq(kit_do(&k, DISK_DISCARD, 4096 * 10 + 512, 4096 * 12), 0);
	kit_expect(&k, 0, 4096 * 10 + 512, kit_base_or_zero, "before the discard");
	kit_expect(&k, 4096 * 11, 4096 * 11, kit_zero, "discarded");
	kit_expect(&k, 4096 * 22 + 512, 4096 * 2 - 512, written, "after the discard");
	cr_assert_eq(kit_do(&k, DISK_WRITE_ZEROES, 4096 * 40 + 1024, 4096 * 2), 0);
	kit_expect(&k, 4096 * 40, 1024, kit_base_or_zero, "before the zeros");
	kit_expect(&k, 4096 * 40 + 1024, 4096 * 2, kit_zero, "zeros");
	kit_expect(&k, 4096 * 42 + 1024, 4096, kit_base_or_zero, "after the zeros");
	cr_assert_eq(kit_do(&k, DISK_WRITE_ZEROES, 4096 * 50 + 512, 512), 0);
	kit_expect(&k, 4096 * 50 + 512, 512, kit_zero, "zeros inside a cluster");
	kit_expect(&k, 4096 * 50 + 1024, 3072, kit_base_or_zero, "the rest of it");
	kit_close(&k);
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	kit_expect(&k, 4096 * 11, 4096 * 11, kit_zero, "discarded, from the file");
	kit_expect(&k, 4096 * 40 + 1024, 4096 * 2, kit_zero, "zeros, from the file");
	kit_fini(&k);
}

Test(disk_layers, a_discard_gives_the_space_back)
{
	struct disk_layers_info info;
	struct disk_kit k;
	uint64_t full;

	kit_init(&k, KIT_BASE_BYTES);
	cr_assert_eq(kit_open(&k, 8 << 20, NULL), 0);
	kit_write_bytes(&k, 0, 8 << 20, written);
	cr_assert_eq(kit_do(&k, DISK_FLUSH, 0, 0), 0);
	disk_layers_info(k.disk, &info);
	full = info.used_bytes;
	cr_assert_geq(full, 8 << 20);
	cr_assert_eq(kit_do(&k, DISK_DISCARD, 0, 8 << 20), 0);
	disk_layers_info(k.disk, &info);
	cr_assert_leq(info.used_bytes, full - (7 << 20));
	kit_fini(&k);
}

Test(disk_layers, a_second_opener_is_told_that_the_layer_is_in_use)
{
	struct disk_kit k;
	struct disk *second;
	struct err e;

	kit_init(&k, KIT_BASE_BYTES);
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	struct disk_layers_config c = {
	    .base_path = k.base, .overlay_path = k.overlay, .loop = &k.loop};

	cr_assert_eq(disk_layers_open(&second, &c, &e), -EBUSY);
	cr_expect(strstr(e.msg, "in use"), "%s", e.msg);
	kit_fini(&k);
}

struct late {
	pthread_t thread;
	int fd;
};

static void *unlock_late(void *opaque)
{
	struct late *late = opaque;

	usleep(100000);
	close(late->fd);
	return NULL;
}

static void late_start(struct late *late, const char *path)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	late->fd = open(path, O_RDWR | O_CLOEXEC);
	cr_assert_eq(fcntl(late->fd, F_OFD_SETLK, &l), 0);
	cr_assert_eq(pthread_create(&late->thread, NULL, unlock_late, late), 0);
}

/* The kernel ends the I/O of a killed process after its parent has seen the end. */
Test(disk_layers, a_lock_that_ends_late_is_waited_for)
{
	struct disk_image_env env = {0};
	struct disk_image_info info;
	struct disk_kit k;
	struct late late;

	kit_init(&k, KIT_BASE_BYTES);
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	kit_close(&k);
	late_start(&late, k.overlay);
	cr_expect_eq(disk_layers_describe(k.overlay, &info, NULL), 0);
	pthread_join(late.thread, NULL);
	late_start(&late, k.overlay);
	cr_expect_eq(disk_layers_seal(k.overlay, &env, NULL), 0);
	pthread_join(late.thread, NULL);
	kit_fini(&k);
}

Test(disk_layers, a_base_that_is_being_written_is_refused)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	struct disk_kit k;
	struct err e;
	int fd;

	kit_init(&k, KIT_BASE_BYTES);
	fd = open(k.base, O_RDWR | O_CLOEXEC);
	cr_assert_eq(fcntl(fd, F_OFD_SETLK, &l), 0);
	cr_assert_eq(kit_open(&k, 0, &e), -EBUSY);
	close(fd);
	kit_fini(&k);
}

Test(disk_layers, a_base_of_odd_size_or_none_is_refused)
{
	struct disk_kit k;
	struct err e;

	kit_init(&k, KIT_BASE_BYTES);
	cr_assert_eq(truncate(k.base, 1000), 0);
	cr_assert_eq(kit_open(&k, 0, &e), -EINVAL);
	cr_expect(strstr(e.msg, "multiple of 512"), "%s", e.msg);
	cr_assert_eq(truncate(k.base, 0), 0);
	cr_assert_eq(kit_open(&k, 0, &e), -EINVAL);
	unlink(k.base);
	cr_assert_eq(kit_open(&k, 0, &e), -ENOENT);
	kit_fini(&k);
}

/* Damage one thing of a good layer and say what opening it must answer. */
static void expect_refused(void (*damage)(struct disk_kit *k), int code, const char *word)
{
	struct disk_kit k;
	struct err e;

	kit_init(&k, KIT_BASE_BYTES);
	cr_assert_eq(kit_open(&k, KIT_SIZE_BYTES, NULL), 0);
	kit_write_bytes(&k, 0, 4096, written);
	kit_close(&k);
	damage(&k);
	cr_assert_eq(kit_open(&k, 0, &e), code, "wanted %d for %s", code, word);
	cr_expect(strstr(e.msg, word), "'%s' does not say '%s'", e.msg, word);
	kit_fini(&k);
}

static void wrong_magic(struct disk_kit *k)
{
	kit_patch(k->overlay, 0, "QFI\xfb", 4);
}

static void newer(struct disk_kit *k)
{
	uint32_t v = 3;

	kit_patch(k->overlay, offsetof(struct layer_header, version), &v, sizeof(v));
}

static void older(struct disk_kit *k)
{
	uint32_t v = 1;

	kit_patch(k->overlay, offsetof(struct layer_header, version), &v, sizeof(v));
}

static void flipped(struct disk_kit *k)
{
	kit_patch(k->overlay, offsetof(struct layer_header, size_bytes), "\x55", 1);
}

static void cut(struct disk_kit *k)
{
	cr_assert_eq(truncate(k->overlay, 1 << 20), 0);
}

static void cut_short(struct disk_kit *k)
{
	cr_assert_eq(truncate(k->overlay, 40), 0);
}

static void other_base(struct disk_kit *k)
{
	struct timespec t[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1}};

	cr_assert_eq(utimensat(AT_FDCWD, k->base, t, 0), 0);
}

Test(disk_layers, a_damaged_or_foreign_layer_is_refused_with_the_reason)
{
	expect_refused(wrong_magic, -EINVAL, "magic");
	expect_refused(newer, -ENOTSUP, "newer");
	expect_refused(older, -EINVAL, "no longer");
	expect_refused(flipped, -EINVAL, "checksum");
	expect_refused(cut, -EINVAL, "truncated");
	expect_refused(cut_short, -EINVAL, "truncated");
	expect_refused(other_base, -EINVAL, "base");
}

Test(disk_layers, a_damaged_map_sector_fails_the_reads_it_answers_for_and_no_others)
{
	const uint64_t per_sector = (uint64_t)LAYER_SECTOR_BITS * LAYER_CLUSTER;
	uint8_t buf[512];
	struct disk_kit k;

	kit_init(&k, KIT_BASE_BYTES);
	cr_assert_eq(kit_open(&k, per_sector * 3, NULL), 0);
	kit_write_bytes(&k, 0, 4096, written);
	kit_write_bytes(&k, per_sector, 4096, written);
	kit_close(&k);
	kit_patch(k.overlay, LAYER_MAP + LAYER_SECTOR + 9, "\x01", 1);
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	kit_expect(&k, 0, 4096, written, "another sector of the map");
	cr_expect_eq(kit_read(&k, per_sector + 4096, buf, 512), -EIO);
	cr_expect_eq(kit_write(&k, per_sector + 512, buf, 512), -EIO);
	cr_expect_eq(kit_read(&k, per_sector * 2, buf, 512), 0);
	kit_fini(&k);
}

Test(disk_layers, a_disk_grows_and_never_shrinks)
{
	struct disk_kit k;
	struct err e;

	kit_init(&k, KIT_BASE_BYTES);
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	cr_expect_eq(k.disk->size_bytes, KIT_BASE_BYTES);
	kit_write_bytes(&k, KIT_BASE_BYTES - 512, 512, written);
	kit_close(&k);
	cr_assert_eq(kit_open(&k, KIT_SIZE_BYTES, NULL), 0);
	kit_expect(&k, KIT_BASE_BYTES - 512, 512, written, "what was there");
	kit_expect(&k, KIT_BASE_BYTES, KIT_SIZE_BYTES - KIT_BASE_BYTES, kit_zero, "what came");
	kit_write_bytes(&k, KIT_SIZE_BYTES - 4096, 4096, written);
	kit_close(&k);
	cr_assert_eq(kit_open(&k, KIT_BASE_BYTES, &e), -EINVAL);
	cr_expect(strstr(e.msg, "shrink"), "%s", e.msg);
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	cr_expect_eq(k.disk->size_bytes, KIT_SIZE_BYTES);
	kit_expect(&k, KIT_SIZE_BYTES - 4096, 4096, written, "the new end");
	kit_fini(&k);
}

Test(disk_layers, without_an_overlay_it_reads_and_refuses_writes)
{
	struct disk_kit k;
	uint8_t buf[512] = {0};

	kit_init(&k, KIT_BASE_BYTES);
	struct disk_layers_config c = {.base_path = k.base, .loop = &k.loop};

	cr_assert_eq(disk_layers_open(&k.disk, &c, NULL), 0);
	cr_assert(k.disk->read_only);
	kit_expect(&k, 0, KIT_BASE_BYTES, kit_base_or_zero, "base");
	cr_expect_eq(kit_write(&k, 0, buf, 512), -EROFS);
	cr_expect_eq(kit_do(&k, DISK_FLUSH, 0, 0), 0);
	kit_fini(&k);
}
