/* SPDX-License-Identifier: Apache-2.0 */
/* Going on in a new layer, and sealing the old one. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk_kit.h"
#include "snapshot/layer_seal.h"

static uint8_t first(uint64_t offset)
{
	return (uint8_t)(offset * 13 + 5);
}

static uint8_t second(uint64_t offset)
{
	return (uint8_t)(offset * 7 + 101);
}

static void start(struct disk_kit *k)
{
	struct err e;

	kit_init(k, KIT_BASE_BYTES);
	cr_assert_eq(kit_open(k, KIT_SIZE_BYTES, &e), 0, "%s", e.msg);
	kit_write_bytes(k, 4096 * 2, 4096 * 3, first);
}

static void new_layer(struct disk_kit *k)
{
	struct err e;

	cr_assert_eq(kit_switch(k, &e), 0, "%s", e.msg);
	cr_assert_eq(kit_wait_sealed(k), 0);
}

Test(layers_switch, a_sealed_layer_says_so_and_is_not_written_again)
{
	struct disk_kit k;
	struct layer l;
	struct err e;

	start(&k);
	cr_assert_eq(kit_do(&k, DISK_DISCARD, 4096 * 20, 4096 * 2), 0);
	new_layer(&k);
	/* The lock allows readers now. */
	cr_assert_eq(layer_open(&l, k.layers[0], LAYER_READ, &e), 0, "%s", e.msg);
	cr_expect(l.h.flags & LAYER_SEALED);
	cr_expect_eq(l.h.clusters, 5);
	cr_expect_eq(l.h.sums_offset, LAYER_DATA + 97 * 4096);
	layer_close(&l);
	kit_close(&k);
	cr_expect_eq(layer_open(&l, k.layers[0], LAYER_WRITE, &e), -EROFS);
	cr_expect(strstr(e.msg, "sealed"), "%s", e.msg);
	kit_fini(&k);
}

Test(layers_switch, one_sealing_at_a_time_and_none_without_a_writable_layer)
{
	struct disk_kit k;
	struct err e;

	start(&k);
	cr_assert_eq(kit_switch(&k, &e), 0, "%s", e.msg);
	cr_assert_eq(kit_switch(&k, &e), -EBUSY);
	cr_assert_eq(kit_wait_sealed(&k), 0);
	cr_assert_eq(kit_switch(&k, &e), 0, "%s", e.msg);
	cr_assert_eq(kit_wait_sealed(&k), 0);
	k.files_n--;
	cr_assert_eq(kit_switch(&k, &e), -EEXIST);
	kit_write_bytes(&k, 4096, 4096, second);
	kit_expect(&k, 4096 * 2, 4096 * 3, first, "after a refused switch");
	kit_close(&k);
	k.overlay[0] = '\0';
	cr_assert_eq(kit_open(&k, 0, &e), 0);
	cr_assert_eq(kit_switch(&k, &e), -EROFS);
	cr_expect_eq(k.seals, 2);
	kit_fini(&k);
}

Test(layers_switch, a_close_during_the_sealing_reports_and_leaves_a_layer_that_is_right)
{
	struct disk_kit k;
	struct err e;

	start(&k);
	cr_assert_eq(kit_switch(&k, &e), 0, "%s", e.msg);
	kit_close(&k);
	cr_expect_eq(k.seals, 1);
	cr_expect_eq(k.sealed, -ECANCELED);
	cr_assert_eq(kit_open(&k, 0, &e), 0, "%s", e.msg);
	kit_expect(&k, 4096 * 2, 4096 * 3, first, "in a layer that is not sealed");
	kit_fini(&k);
}

/* --- Damage ---------------------------------------------------------------------------- */

Test(layers_switch, a_flipped_bit_in_a_sealed_layer_fails_the_read_of_its_cluster)
{
	uint8_t buf[4096 * 3];
	struct disk_kit k;

	start(&k);
	new_layer(&k);
	kit_close(&k);
	kit_patch(k.layers[0], LAYER_DATA + 4096 * 3 + 77, "\xff", 1);
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	cr_expect_eq(kit_read(&k, 4096 * 3, buf, 4096), -EIO);
	cr_expect_eq(kit_read(&k, 4096 * 2, buf, sizeof(buf)), -EIO);
	cr_expect_eq(kit_write(&k, 4096 * 3, buf, 512), -EIO, "a copy up of it");
	kit_expect(&k, 4096 * 2, 4096, first, "before it");
	kit_expect(&k, 4096 * 4, 4096, first, "after it");
	/* A write of the whole cluster needs nothing of the old. */
	kit_write_bytes(&k, 4096 * 3, 4096, second);
	kit_expect(&k, 4096 * 3, 4096, second, "anew");
	kit_fini(&k);
}

Test(layers_switch, lost_data_of_a_sealed_layer_are_not_zeros)
{
	uint8_t buf[4096], zeros[4096] = {0};
	struct disk_kit k;

	start(&k);
	new_layer(&k);
	kit_close(&k);
	kit_patch(k.layers[0], LAYER_DATA + 4096 * 4, zeros, 4096);
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	cr_expect_eq(kit_read(&k, 4096 * 4, buf, 4096), -EIO);
	kit_close(&k);
	/* And a table that was lost is not a table of good sums. */
	kit_patch(k.layers[0], layer_sums_offset(KIT_SIZE_BYTES), zeros, 512);
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	cr_expect_eq(kit_read(&k, 4096 * 2, buf, 4096), -EIO);
	kit_close(&k);
	kit_patch(k.layers[0], layer_sums_offset(KIT_SIZE_BYTES), "x", 1);
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	cr_expect_eq(kit_read(&k, 4096 * 2, buf, 4096), -EIO);
	kit_fini(&k);
}

Test(layers_switch, the_short_last_cluster_of_a_sealed_layer_is_verified_too)
{
	uint8_t buf[512];
	struct disk_kit k;

	start(&k);
	kit_write_bytes(&k, KIT_SIZE_BYTES - 512, 512, first);
	new_layer(&k);
	kit_expect(&k, KIT_SIZE_BYTES - 512, 512, first, "the end");
	kit_close(&k);
	kit_patch(k.layers[0], LAYER_DATA + KIT_SIZE_BYTES - 1, "\xaa", 1);
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	cr_expect_eq(kit_read(&k, KIT_SIZE_BYTES - 512, buf, 512), -EIO);
	kit_fini(&k);
}

/* --- FLUSH across a switch ---------------------------------------------------------------- */

/* The points that were passed, the first letters of their names: s(ync), m(ap), d(ir), ... */
struct trace {
	char seen[256];
	size_t n;
	unsigned int fail_sync; /* the sync with this number fails */
	unsigned int syncs;
};

static int trace_point(void *opaque, const char *point)
{
	struct trace *t = opaque;

	/* What a FLUSH does. */
	if (strcmp(point, "sync") && strcmp(point, "map") && strcmp(point, "dir"))
		return 0;
	t->seen[t->n++ % (sizeof(t->seen) - 1)] = point[0];
	return !strcmp(point, "sync") && ++t->syncs == t->fail_sync ? -EIO : 0;
}

Test(layers_switch, a_flush_after_the_switch_makes_the_old_layer_durable_first)
{
	struct trace t = {.n = 0};
	struct disk_kit k;
	struct err e;

	kit_init(&k, KIT_BASE_BYTES);
	k.fault = trace_point;
	k.fault_opaque = &t;
	cr_assert_eq(kit_open(&k, KIT_SIZE_BYTES, NULL), 0);
	cr_assert_eq(kit_do(&k, DISK_FLUSH, 0, 0), 0);
	kit_write_bytes(&k, 4096 * 2, 4096, first);
	t = (struct trace){.n = 0};
	cr_assert_eq(kit_switch(&k, &e), 0, "%s", e.msg);
	kit_write_bytes(&k, 4096 * 3, 4096, second);
	cr_assert_eq(kit_do(&k, DISK_FLUSH, 0, 0), 0);
	/* The old one: data, map, map; then the new one the same, and its directory entry,
	 * which may be in two rounds, as the sealing has one of its own. */
	cr_assert(!strncmp(t.seen, "smss", 4), "%s", t.seen);
	cr_assert(strchr(t.seen + 3, 'm') && strchr(t.seen + 3, 'd'), "%s", t.seen);
	if (!k.seals)
		cr_assert_eq(kit_wait_sealed(&k), 0);
	/* Now the old one has no part in it. */
	kit_write_bytes(&k, 4096 * 3, 4096, first);
	t = (struct trace){.n = 0};
	cr_assert_eq(kit_do(&k, DISK_FLUSH, 0, 0), 0);
	cr_assert_str_eq(t.seen, "s");
	kit_fini(&k);
}

Test(layers_switch, a_flush_fails_when_the_old_layer_cannot_be_made_durable)
{
	struct trace t = {.fail_sync = 1};
	struct disk_kit k;
	struct err e;

	kit_init(&k, KIT_BASE_BYTES);
	k.fault = trace_point;
	k.fault_opaque = &t;
	cr_assert_eq(kit_open(&k, KIT_SIZE_BYTES, NULL), 0);
	kit_write_bytes(&k, 4096 * 2, 4096, first);
	cr_assert_eq(kit_switch(&k, &e), 0, "%s", e.msg);
	cr_expect_eq(kit_wait_sealed(&k), -EIO);
	/* It works on, and promises nothing more. */
	kit_write_bytes(&k, 4096 * 3, 4096, second);
	kit_expect(&k, 4096 * 2, 4096, first, "below");
	kit_expect(&k, 4096 * 3, 4096, second, "above");
	cr_expect_eq(kit_do(&k, DISK_FLUSH, 0, 0), -EIO);
	cr_assert_eq(kit_switch(&k, &e), 0, "%s", e.msg);
	cr_expect_eq(kit_wait_sealed(&k), -EIO);
	cr_expect_eq(kit_do(&k, DISK_FLUSH, 0, 0), -EIO);
	kit_fini(&k);
}

/* --- Under load ----------------------------------------------------------------------------- */

#define LOAD 64

struct load {
	struct disk_req r;
	struct iovec iov;
	uint8_t data[4096];
	unsigned int *over;
	int result;
};

static void load_done(struct disk_req *r, int result)
{
	struct load *l = container_of(r, struct load, r);

	l->result = result;
	++*l->over;
}

static void submit_load(struct disk_kit *k, struct load *loads, unsigned int *over, uint8_t round)
{
	for (unsigned int i = 0; i < LOAD; i++) {
		struct load *l = &loads[i];

		memset(l->data, round + (int)i, sizeof(l->data));
		l->over = over;
		l->iov = (struct iovec){l->data, sizeof(l->data)};
		/* Every eighth is a FLUSH; every fifth not aligned. */
		l->r = (struct disk_req){.op = i % 8 == 7 ? DISK_FLUSH : DISK_WRITE,
					 .offset_bytes = i * 8192ull + (i % 5 == 4 ? 512 : 0),
					 .len_bytes = sizeof(l->data),
					 .iov = &l->iov,
					 .iov_n = 1,
					 .done = load_done};
		k->disk->ops->submit(k->disk, &l->r);
	}
	k->disk->ops->kick(k->disk);
}

Test(layers_switch, writes_and_flushes_in_flight_before_and_after_are_all_there)
{
	static struct load loads[2][LOAD];
	struct disk_kit k;
	struct err e;

	kit_init(&k, KIT_BASE_BYTES);
	cr_assert_eq(kit_open(&k, LOAD * 8192 + 4096, &e), 0, "%s", e.msg);
	for (unsigned int round = 0; round < 20; round++) {
		unsigned int before = 0, after = 0, seals = k.seals;

		submit_load(&k, loads[0], &before, (uint8_t)round);
		/* Drains. */
		cr_assert_eq(kit_switch(&k, &e), 0, "%s", e.msg);
		cr_assert_eq(before, LOAD);
		submit_load(&k, loads[1], &after, (uint8_t)(round + 100));
		if (k.seals == seals)
			cr_assert_eq(kit_wait_sealed(&k), 0);
		k.disk->ops->drain(k.disk);
		cr_assert_eq(after, LOAD);
		for (unsigned int i = 0; i < LOAD; i++) {
			uint8_t buf[4096];

			cr_assert_eq(loads[0][i].result, 0);
			cr_assert_eq(loads[1][i].result, 0);
			if (i % 8 == 7)
				continue;
			cr_assert_eq(kit_read(&k, loads[1][i].r.offset_bytes, buf, 4096), 0);
			cr_assert_arr_eq(buf, loads[1][i].data, 4096);
		}
	}
	kit_fini(&k);
}

Test(layers_switch, a_switch_with_writes_in_flight_is_refused)
{
	static struct load loads[LOAD];
	unsigned int over = 0;
	struct disk_kit k;
	struct err e;
	char path[128];

	kit_init(&k, KIT_BASE_BYTES);
	cr_assert_eq(kit_open(&k, LOAD * 8192 + 4096, NULL), 0);
	submit_load(&k, loads, &over, 1);
	snprintf(path, sizeof(path), "%s/next", k.dir);
	cr_assert_eq(disk_layers_switch(k.disk, path, NULL, NULL, &e), -EBUSY);
	cr_expect(access(path, F_OK) < 0);
	k.disk->ops->drain(k.disk);
	kit_fini(&k);
}

static int try_prepare(struct disk_kit *k, const char *name, char path[128])
{
	struct err e;

	snprintf(path, 128, "%s/%s", k->dir, name);
	return disk_layers_prepare(k->disk, path, &e);
}

Test(layers_switch, a_layer_may_be_made_before_the_switch)
{
	char next[128], other[128], data[4096], back[4096];
	struct disk_kit k;

	kit_init(&k, KIT_BASE_BYTES);
	cr_assert_eq(kit_open(&k, KIT_BASE_BYTES, NULL), 0);
	cr_assert_eq(try_prepare(&k, "layer1", next), 0);
	cr_expect_eq(access(next, F_OK), 0);
	/* What is written until the switch belongs to the layer that is frozen. */
	memset(data, 'x', sizeof(data));
	cr_assert_eq(kit_write(&k, 8192, data, sizeof(data)), 0);
	cr_assert_eq(kit_switch(&k, NULL), 0);
	cr_assert_str_eq(k.overlay, next);
	cr_assert_eq(kit_wait_sealed(&k), 0);
	cr_assert_eq(kit_read(&k, 8192, back, sizeof(back)), 0);
	cr_assert_arr_eq(back, data, sizeof(data));
	/* Given up: by request, for another one, by close. */
	cr_assert_eq(try_prepare(&k, "given-up", next), 0);
	disk_layers_unprepare(k.disk);
	cr_expect(access(next, F_OK) < 0);
	cr_assert_eq(try_prepare(&k, "given-up", next), 0);
	cr_assert_eq(try_prepare(&k, "other", other), 0);
	cr_expect(access(next, F_OK) < 0);
	cr_expect_eq(access(other, F_OK), 0);
	cr_assert_eq(try_prepare(&k, "layer1", next), -EEXIST);
	cr_expect_eq(access(next, F_OK), 0, "a file that was there is left alone");
	cr_assert_eq(try_prepare(&k, "other", other), 0);
	kit_close(&k);
	cr_expect(access(other, F_OK) < 0);
	cr_assert_eq(kit_open(&k, KIT_BASE_BYTES, NULL), 0);
	cr_assert_eq(kit_read(&k, 8192, back, sizeof(back)), 0);
	cr_assert_arr_eq(back, data, sizeof(data));
	kit_fini(&k);
}

Test(layers_switch, a_disk_may_be_opened_before_its_files)
{
	struct disk_kit k;
	struct err e;
	char data[4096], back[4096];
	struct disk_layers_config c = {.size_bytes = KIT_BASE_BYTES, .later = true};

	kit_init(&k, KIT_BASE_BYTES);
	c.base_path = k.base;
	c.overlay_path = k.overlay;
	c.loop = &k.loop;
	cr_assert_eq(disk_layers_open(&k.disk, &c, &e), 0, "%s", e.msg);
	cr_expect_eq(k.disk->size_bytes, KIT_BASE_BYTES);
	cr_expect(access(k.overlay, F_OK) < 0);
	cr_expect_eq(kit_read(&k, 0, back, sizeof(back)), -EIO);
	cr_assert_eq(disk_layers_finish(k.disk, &e), 0, "%s", e.msg);
	cr_expect_eq(access(k.overlay, F_OK), 0);
	memset(data, 'x', sizeof(data));
	cr_assert_eq(kit_write(&k, 8192, data, sizeof(data)), 0);
	cr_assert_eq(disk_layers_finish(k.disk, &e), 0, "again, for nothing");
	cr_assert_eq(kit_read(&k, 8192, back, sizeof(back)), 0);
	cr_assert_arr_eq(back, data, sizeof(data));
	kit_close(&k);
	/* What is wrong with the files comes out then; and the disk can be closed. */
	c.size_bytes = KIT_BASE_BYTES / 2;
	cr_assert_eq(disk_layers_open(&k.disk, &c, &e), 0, "%s", e.msg);
	cr_expect_eq(disk_layers_finish(k.disk, &e), -EINVAL);
	cr_expect(strstr(e.msg, "cannot shrink"), "%s", e.msg);
	kit_close(&k);
	c.base_path = "/nonexistent/base";
	cr_assert_eq(disk_layers_open(&k.disk, &c, &e), 0, "%s", e.msg);
	cr_expect_eq(disk_layers_finish(k.disk, &e), -ENOENT);
	kit_close(&k);
	c.size_bytes = 100;
	cr_expect_eq(disk_layers_open(&k.disk, &c, &e), -EINVAL);
	k.disk = NULL;
	kit_fini(&k);
}
