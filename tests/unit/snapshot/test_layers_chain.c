/* SPDX-License-Identifier: Apache-2.0 */
/* Disks of several layers: what is read through them, and what may lie on what. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk_kit.h"
#include "snapshot/layer.h"

static uint8_t first(uint64_t offset)
{
	return (uint8_t)(offset * 13 + 5);
}

static uint8_t second(uint64_t offset)
{
	return (uint8_t)(offset * 7 + 101);
}

static void new_layer(struct disk_kit *k)
{
	struct err e;

	cr_assert_eq(kit_switch(k, &e), 0, "%s", e.msg);
	cr_assert_eq(kit_wait_sealed(k), 0);
}

static void reopen(struct disk_kit *k)
{
	struct err e;

	kit_close(k);
	cr_assert_eq(kit_open(k, 0, &e), 0, "%s", e.msg);
}

/* What the disk should have, kept beside it, as long as it is written by mirror_write(). */
static uint8_t mirror[KIT_SIZE_BYTES];

static uint8_t in_mirror(uint64_t offset)
{
	return mirror[offset];
}

static void mirror_op(struct disk_kit *k, enum disk_op op, uint64_t from, uint64_t len,
		      uint8_t fill)
{
	uint64_t to = from + len;

	if (op == DISK_WRITE) {
		memset(mirror + from, fill, len);
		cr_assert_eq(kit_write(k, from, mirror + from, len), 0);
		return;
	}
	cr_assert_eq(kit_do(k, op, from, len), 0);
	if (op == DISK_DISCARD) {
		from = (from + 4095) / 4096 * 4096;
		to = to == KIT_SIZE_BYTES ? to : to / 4096 * 4096;
	}
	if (to > from)
		memset(mirror + from, 0, to - from);
}

static void random_op(struct disk_kit *k, uint8_t fill)
{
	static const enum disk_op ops[] = {DISK_WRITE, DISK_WRITE, DISK_WRITE, DISK_WRITE_ZEROES,
					   DISK_DISCARD};
	uint64_t from = (uint64_t)random() % (KIT_SIZE_BYTES / 512) * 512;
	uint64_t len = ((uint64_t)random() % 40 + 1) * 512;

	if (random() % 2) {
		from = from / 4096 * 4096;
		len = (len + 4095) / 4096 * 4096;
	}
	if (len > KIT_SIZE_BYTES - from)
		len = KIT_SIZE_BYTES - from;
	mirror_op(k, ops[random() % 5], from, len, fill);
}

Test(layers_chain, any_writes_and_discards_in_1_to_32_layers_read_as_they_were_written)
{
	struct disk_kit k;
	struct err e;

	srandom(20);
	kit_init(&k, KIT_BASE_BYTES);
	for (uint64_t i = 0; i < KIT_SIZE_BYTES; i++)
		mirror[i] = kit_base_or_zero(i);
	cr_assert_eq(kit_open(&k, KIT_SIZE_BYTES, &e), 0, "%s", e.msg);
	for (unsigned int layer = 1; layer <= 32; layer++) {
		struct disk_layers_info info;

		for (unsigned int i = 0; i < 4; i++)
			random_op(&k, (uint8_t)(layer * 7 + i));
		kit_expect(&k, 0, KIT_SIZE_BYTES, in_mirror, "as written");
		disk_layers_info(k.disk, &info);
		cr_assert_eq(info.layers, layer);
		if (layer % 8 == 0) {
			reopen(&k);
			kit_expect(&k, 0, KIT_SIZE_BYTES, in_mirror, "from the files");
		}
		new_layer(&k);
		kit_expect(&k, 0, KIT_SIZE_BYTES, in_mirror, "after the switch");
	}
	kit_fini(&k);
}

Test(layers_chain, a_layer_below_is_not_changed_by_writes_on_top)
{
	struct disk_kit k;

	kit_init(&k, KIT_BASE_BYTES);
	cr_assert_eq(kit_open(&k, KIT_SIZE_BYTES, NULL), 0);
	kit_write_bytes(&k, 4096 * 4, 4096 * 4, first);
	new_layer(&k);
	/* In part, as a whole, and discarded. */
	kit_write_bytes(&k, 4096 * 4 + 512, 512, second);
	kit_write_bytes(&k, 4096 * 5, 4096, second);
	cr_assert_eq(kit_do(&k, DISK_DISCARD, 4096 * 6, 4096), 0);
	kit_expect(&k, 4096 * 4, 512, first, "before the part");
	kit_expect(&k, 4096 * 4 + 512, 512, second, "the part");
	kit_expect(&k, 4096 * 4 + 1024, 3072, first, "after the part");
	kit_expect(&k, 4096 * 6, 4096, kit_zero, "discarded over a layer");
	kit_close(&k);
	/* The layer alone, read-only. */
	k.overlay[0] = '\0';
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	cr_expect(k.disk->read_only);
	cr_expect_eq(k.disk->size_bytes, KIT_SIZE_BYTES);
	kit_expect(&k, 4096 * 4, 4096 * 4, first, "as it was frozen");
	kit_fini(&k);
}

Test(layers_chain, a_disk_may_be_larger_than_the_layer_below)
{
	struct disk_kit k;
	struct err e;

	kit_init(&k, KIT_BASE_BYTES);
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	kit_write_bytes(&k, KIT_BASE_BYTES - 512, 512, first);
	new_layer(&k);
	kit_close(&k);
	cr_assert_eq(kit_open(&k, KIT_SIZE_BYTES, &e), 0, "%s", e.msg);
	kit_expect(&k, 0, KIT_BASE_BYTES - 512, kit_base_or_zero, "the base");
	kit_expect(&k, KIT_BASE_BYTES - 512, 512, first, "the layer's last sector");
	kit_expect(&k, KIT_BASE_BYTES, KIT_SIZE_BYTES - KIT_BASE_BYTES, kit_zero, "what came");
	/* Copy the short last cluster up, and look at all of it. */
	kit_write_bytes(&k, KIT_BASE_BYTES + 1024, 512, second);
	kit_expect(&k, KIT_BASE_BYTES - 512, 512, first, "copied up");
	kit_expect(&k, KIT_BASE_BYTES, 1024, kit_zero, "between");
	kit_expect(&k, KIT_BASE_BYTES + 1024, 512, second, "written");
	/* A new one on a smaller one. */
	kit_close(&k);
	unlink(k.overlay);
	cr_assert_eq(kit_open(&k, KIT_SIZE_BYTES, &e), 0, "%s", e.msg);
	kit_expect(&k, KIT_BASE_BYTES - 512, 512, first, "through a new layer");
	kit_close(&k);
	unlink(k.overlay);
	cr_assert_eq(kit_open(&k, 4096, &e), -EINVAL);
	cr_expect(strstr(e.msg, "shrink"), "%s", e.msg);
	kit_fini(&k);
}

Test(layers_chain, a_disk_needs_no_base)
{
	struct disk_kit k;
	struct err e;

	kit_init(&k, KIT_BASE_BYTES);
	k.no_base = true;
	cr_assert_eq(kit_open(&k, 0, &e), -EINVAL);
	cr_assert_eq(kit_open(&k, KIT_SIZE_BYTES, &e), 0, "%s", e.msg);
	kit_expect(&k, 0, KIT_SIZE_BYTES, kit_zero, "empty");
	kit_write_bytes(&k, 512, 512, first);
	new_layer(&k);
	kit_expect(&k, 512, 512, first, "one layer down");
	kit_expect(&k, 1024, KIT_SIZE_BYTES - 1024, kit_zero, "the rest");
	kit_close(&k);
	k.no_base = false;
	cr_assert_eq(kit_open(&k, 0, &e), -EINVAL);
	cr_expect(strstr(e.msg, "base"), "%s", e.msg);
	kit_fini(&k);
}

/* Three layers: cluster 1 is in the lowest, 2 in the middle, 3 on top. Closed. */
static void make_three(struct disk_kit *k)
{
	kit_init(k, KIT_BASE_BYTES);
	cr_assert_eq(kit_open(k, KIT_SIZE_BYTES, NULL), 0);
	kit_write_bytes(k, 4096, 4096, first);
	new_layer(k);
	kit_write_bytes(k, 8192, 4096, first);
	new_layer(k);
	kit_write_bytes(k, 4096 * 3, 4096, first);
	kit_close(k);
}

static void lose_lowest(struct disk_kit *k)
{
	unlink(k->layers[0]);
}

static void cut_lowest(struct disk_kit *k)
{
	cr_assert_eq(truncate(k->layers[0], 4 << 20), 0);
}

static void flip_lowest(struct disk_kit *k)
{
	kit_patch(k->layers[0], offsetof(struct layer_header, id), "\1\2\3\4", 4);
}

static void swap(struct disk_kit *k)
{
	char keep[sizeof(k->layers[0])];

	memcpy(keep, k->layers[0], sizeof(keep));
	memcpy(k->layers[0], k->layers[1], sizeof(keep));
	memcpy(k->layers[1], keep, sizeof(keep));
}

static void forget_lowest(struct disk_kit *k)
{
	memcpy(k->layers[0], k->layers[1], sizeof(k->layers[0]));
	k->layers_n = 1;
}

static void copy_of_another(struct disk_kit *k)
{
	struct layer l;

	/* Right in all but its id. */
	unlink(k->layers[0]);
	cr_assert_eq(layer_open(&l, k->layers[0], LAYER_WRITE | LAYER_NEW, NULL), 1);
	cr_assert_eq(layer_init(&l, KIT_SIZE_BYTES, NULL, &(struct layer_base){0}, NULL), 0);
	layer_close(&l);
}

Test(layers_chain, what_is_wrong_with_a_layer_below_fails_the_reads_that_need_it)
{
	static void (*const damages[])(struct disk_kit * k) = {
	    lose_lowest, cut_lowest, flip_lowest, swap, forget_lowest, copy_of_another};

	for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
		uint8_t buf[4096];
		struct disk_kit k;
		struct err e;

		make_three(&k);
		damages[i](&k);
		/* It opens: nothing below the top has been looked at. */
		cr_assert_eq(kit_open(&k, 0, &e), 0, "%zu: %s", i, e.msg);
		kit_expect(&k, 4096 * 3, 4096, first, "the top's");
		cr_expect_eq(kit_read(&k, 4096, buf, 4096), -EIO, "damage %zu", i);
		cr_expect_eq(kit_read(&k, 4096 * 50, buf, 4096), -EIO, "damage %zu", i);
		cr_expect_eq(kit_write(&k, 4096 * 50, buf, 512), -EIO, "a copy up, damage %zu", i);
		cr_expect_eq(kit_write(&k, 4096 * 51, buf, 4096), 0, "damage %zu", i);
		kit_fini(&k);
	}
}

Test(layers_chain, a_missing_layer_that_comes_back_is_read)
{
	char away[128];
	uint8_t buf[512];
	struct disk_kit k;

	make_three(&k);
	snprintf(away, sizeof(away), "%s/away", k.dir);
	cr_assert_eq(rename(k.layers[0], away), 0);
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	cr_assert_eq(kit_read(&k, 4096, buf, 512), -EIO);
	cr_assert_eq(rename(away, k.layers[0]), 0);
	kit_expect(&k, 4096, 4096, first, "the lowest");
	kit_fini(&k);
}

Test(layers_chain, a_new_layer_is_refused_on_what_cannot_be_opened)
{
	struct disk_kit k;
	struct err e;

	make_three(&k);
	unlink(k.overlay);
	kit_patch(k.layers[1], 0, "x", 1);
	cr_assert_eq(kit_open(&k, 0, &e), -EINVAL);
	cr_expect(strstr(e.msg, "magic"), "%s", e.msg);
	cr_expect(access(k.overlay, F_OK) != 0 || kit_open(&k, 0, &e) == -EINVAL);
	unlink(k.layers[1]);
	cr_assert_eq(kit_open(&k, 0, &e), -ENOENT);
	kit_fini(&k);
}

/* Its header would be right for the base of now: only the layer below tells that it is another. */
Test(layers_chain, a_new_layer_is_refused_on_layers_of_another_base)
{
	const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1000}};
	struct disk_kit k;
	struct err e;

	make_three(&k);
	unlink(k.overlay);
	cr_assert_eq(utimensat(AT_FDCWD, k.base, times, 0), 0);
	cr_assert_eq(kit_open(&k, 0, &e), -EINVAL);
	cr_expect(strstr(e.msg, "base has changed"), "%s", e.msg);
	cr_expect(strstr(e.msg, " then, 263168 of 1000.000000000 now"), "%s", e.msg);
	k.overlay[0] = '\0';
	cr_expect_eq(kit_open(&k, 0, &e), -EINVAL, "nor is it read");
	kit_fini(&k);
}

Test(layers_chain, a_top_with_a_parent_is_refused_without_it)
{
	struct disk_kit k;
	struct err e;

	make_three(&k);
	k.layers_n = 0;
	cr_assert_eq(kit_open(&k, 0, &e), -EINVAL);
	cr_expect(strstr(e.msg, "parent"), "%s", e.msg);
	kit_fini(&k);
}

Test(layers_chain, several_disks_share_the_layers_below)
{
	struct disk_kit k, other;
	struct err e;

	make_three(&k);
	other = k;
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	snprintf(other.overlay, sizeof(other.overlay), "%s/fork", k.dir);
	cr_assert_eq(loop_init(&other.loop, NULL), 0);
	cr_assert_eq(kit_open(&other, 0, &e), 0, "%s", e.msg);
	kit_write_bytes(&other, 4096, 512, second);
	kit_expect(&k, 4096, 4096, first, "not changed by the fork");
	kit_expect(&other, 4096, 512, second, "of the fork");
	kit_expect(&other, 4096 + 512, 4096 * 2 - 512, first, "shared");
	kit_close(&other);
	loop_fini(&other.loop);
	kit_fini(&k);
}
