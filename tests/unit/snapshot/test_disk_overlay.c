/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "disk_kit.h"
#include "snapshot/overlay_file.h"

#define BASE_BYTES (64u * 4096 + 1024) /* its end is inside a cluster */
#define SIZE_BYTES (96u * 4096 + 512)

static void expect_bytes(struct disk_kit *k, uint64_t offset, uint64_t len,
			 uint8_t (*want)(uint64_t offset), const char *what)
{
	uint8_t *buf = malloc(len);

	memset(buf, 0xee, len);
	cr_assert_eq(kit_read(k, offset, buf, len), 0);
	for (uint64_t i = 0; i < len; i++)
		cr_assert_eq(buf[i], want(offset + i), "%s: byte %llu is %#x", what,
			     (unsigned long long)(offset + i), buf[i]);
	free(buf);
}

static uint8_t base_or_zero(uint64_t offset)
{
	return offset < BASE_BYTES ? kit_base_byte(offset) : 0;
}

static uint8_t zero(uint64_t offset)
{
	(void)offset;
	return 0;
}

static uint8_t written(uint64_t offset)
{
	return (uint8_t)(offset * 13 + 5);
}

static void write_pattern(struct disk_kit *k, uint64_t offset, uint64_t len)
{
	uint8_t *buf = malloc(len);

	for (uint64_t i = 0; i < len; i++)
		buf[i] = written(offset + i);
	cr_assert_eq(kit_write(k, offset, buf, len), 0);
	free(buf);
}

Test(disk_overlay, an_untouched_disk_is_the_base_and_then_zeros)
{
	struct disk_kit k;
	struct err e;

	kit_init(&k, BASE_BYTES);
	cr_assert_eq(kit_open(&k, SIZE_BYTES, &e), 0, "%s", e.msg);
	cr_expect_eq(k.disk->size_bytes, SIZE_BYTES);
	expect_bytes(&k, 0, SIZE_BYTES, base_or_zero, "whole disk");
	kit_fini(&k);
}

Test(disk_overlay, a_write_of_any_alignment_changes_exactly_its_range)
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
		      {BASE_BYTES - 512, 1024},
		      {4096 * 80, 512},
		      {SIZE_BYTES - 512, 512},
		      {SIZE_BYTES - 1024, 1024},
		      {0, SIZE_BYTES}};

	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		uint64_t from = ranges[i].offset, to = from + ranges[i].len;
		struct disk_kit k;

		kit_init(&k, BASE_BYTES);
		cr_assert_eq(kit_open(&k, SIZE_BYTES, NULL), 0);
		write_pattern(&k, from, to - from);
		for (int again = 0; again < 2; again++) {
			expect_bytes(&k, from, to - from, written, "inside");
			if (from)
				expect_bytes(&k, 0, from, base_or_zero, "before");
			if (to < SIZE_BYTES)
				expect_bytes(&k, to, SIZE_BYTES - to, base_or_zero, "after");
			/* The second time from the file. */
			kit_close(&k);
			cr_assert_eq(kit_open(&k, 0, NULL), 0);
		}
		kit_fini(&k);
	}
}

Test(disk_overlay, discarded_clusters_and_zeroed_bytes_read_as_zero_also_over_the_base)
{
	struct disk_kit k;

	kit_init(&k, BASE_BYTES);
	cr_assert_eq(kit_open(&k, SIZE_BYTES, NULL), 0);
	write_pattern(&k, 4096 * 20, 4096 * 4);
	/* From inside cluster 10 to inside cluster 22. */
	cr_assert_eq(kit_do(&k, DISK_DISCARD, 4096 * 10 + 512, 4096 * 12), 0);
	expect_bytes(&k, 0, 4096 * 10 + 512, base_or_zero, "before the discard");
	expect_bytes(&k, 4096 * 11, 4096 * 11, zero, "discarded");
	expect_bytes(&k, 4096 * 22 + 512, 4096 * 2 - 512, written, "after the discard");
	cr_assert_eq(kit_do(&k, DISK_WRITE_ZEROES, 4096 * 40 + 1024, 4096 * 2), 0);
	expect_bytes(&k, 4096 * 40, 1024, base_or_zero, "before the zeros");
	expect_bytes(&k, 4096 * 40 + 1024, 4096 * 2, zero, "zeros");
	expect_bytes(&k, 4096 * 42 + 1024, 4096, base_or_zero, "after the zeros");
	cr_assert_eq(kit_do(&k, DISK_WRITE_ZEROES, 4096 * 50 + 512, 512), 0);
	expect_bytes(&k, 4096 * 50 + 512, 512, zero, "zeros inside a cluster");
	expect_bytes(&k, 4096 * 50 + 1024, 3072, base_or_zero, "the rest of it");
	kit_close(&k);
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	expect_bytes(&k, 4096 * 11, 4096 * 11, zero, "discarded, from the file");
	expect_bytes(&k, 4096 * 40 + 1024, 4096 * 2, zero, "zeros, from the file");
	kit_fini(&k);
}

Test(disk_overlay, a_discard_gives_the_space_back)
{
	struct disk_kit k;
	uint64_t full;

	kit_init(&k, BASE_BYTES);
	cr_assert_eq(kit_open(&k, 8 << 20, NULL), 0);
	write_pattern(&k, 0, 8 << 20);
	cr_assert_eq(kit_do(&k, DISK_FLUSH, 0, 0), 0);
	full = disk_overlay_used(k.disk);
	cr_assert_geq(full, 8 << 20);
	cr_assert_eq(kit_do(&k, DISK_DISCARD, 0, 8 << 20), 0);
	cr_assert_leq(disk_overlay_used(k.disk), full - (7 << 20));
	kit_fini(&k);
}

Test(disk_overlay, a_second_opener_is_told_that_the_overlay_is_in_use)
{
	struct disk_kit k;
	struct disk *second;
	struct err e;

	kit_init(&k, BASE_BYTES);
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	struct disk_overlay_config c = {
	    .base_path = k.base, .overlay_path = k.overlay, .loop = &k.loop};

	cr_assert_eq(disk_overlay_open(&second, &c, &e), -EBUSY);
	cr_expect(strstr(e.msg, "in use"), "%s", e.msg);
	kit_fini(&k);
}

Test(disk_overlay, a_base_that_is_being_written_is_refused)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	struct disk_kit k;
	struct err e;
	int fd;

	kit_init(&k, BASE_BYTES);
	fd = open(k.base, O_RDWR | O_CLOEXEC);
	cr_assert_eq(fcntl(fd, F_OFD_SETLK, &l), 0);
	cr_assert_eq(kit_open(&k, 0, &e), -EBUSY);
	close(fd);
	kit_fini(&k);
}

Test(disk_overlay, a_base_of_odd_size_or_none_is_refused)
{
	struct disk_kit k;
	struct err e;

	kit_init(&k, BASE_BYTES);
	cr_assert_eq(truncate(k.base, 1000), 0);
	cr_assert_eq(kit_open(&k, 0, &e), -EINVAL);
	cr_expect(strstr(e.msg, "multiple of 512"), "%s", e.msg);
	cr_assert_eq(truncate(k.base, 0), 0);
	cr_assert_eq(kit_open(&k, 0, &e), -EINVAL);
	unlink(k.base);
	cr_assert_eq(kit_open(&k, 0, &e), -ENOENT);
	kit_fini(&k);
}

/* Damage one thing of a good overlay and say what opening it must answer. */
static void patch(const char *path, uint64_t offset, const void *bytes, size_t len)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	cr_assert_eq(pwrite(fd, bytes, len, (off_t)offset), (ssize_t)len);
	close(fd);
}

static void expect_refused(void (*damage)(struct disk_kit *k), int code, const char *word)
{
	struct disk_kit k;
	struct err e;

	kit_init(&k, BASE_BYTES);
	cr_assert_eq(kit_open(&k, SIZE_BYTES, NULL), 0);
	write_pattern(&k, 0, 4096);
	kit_close(&k);
	damage(&k);
	cr_assert_eq(kit_open(&k, 0, &e), code, "wanted %d for %s", code, word);
	cr_expect(strstr(e.msg, word), "'%s' does not say '%s'", e.msg, word);
	kit_fini(&k);
}

static void wrong_magic(struct disk_kit *k)
{
	patch(k->overlay, 0, "QFI\xfb", 4);
}

static void newer(struct disk_kit *k)
{
	uint32_t v = 2;

	patch(k->overlay, offsetof(struct overlay_header, version), &v, sizeof(v));
}

static void flipped(struct disk_kit *k)
{
	patch(k->overlay, offsetof(struct overlay_header, size_bytes), "\x55", 1);
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

Test(disk_overlay, a_damaged_or_foreign_overlay_is_refused_with_the_reason)
{
	expect_refused(wrong_magic, -EINVAL, "magic");
	expect_refused(newer, -ENOTSUP, "newer");
	expect_refused(flipped, -EINVAL, "checksum");
	expect_refused(cut, -EINVAL, "truncated");
	expect_refused(cut_short, -EINVAL, "truncated");
	expect_refused(other_base, -EINVAL, "base");
}

Test(disk_overlay, a_damaged_map_sector_fails_the_reads_it_answers_for_and_no_others)
{
	const uint64_t per_sector = (uint64_t)OVERLAY_SECTOR_BITS * OVERLAY_CLUSTER;
	uint8_t buf[512];
	struct disk_kit k;

	kit_init(&k, BASE_BYTES);
	cr_assert_eq(kit_open(&k, per_sector * 3, NULL), 0);
	write_pattern(&k, 0, 4096);
	write_pattern(&k, per_sector, 4096);
	kit_close(&k);
	patch(k.overlay, OVERLAY_MAP + OVERLAY_SECTOR + 9, "\x01", 1);
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	expect_bytes(&k, 0, 4096, written, "another sector of the map");
	cr_expect_eq(kit_read(&k, per_sector + 4096, buf, 512), -EIO);
	cr_expect_eq(kit_write(&k, per_sector + 512, buf, 512), -EIO);
	cr_expect_eq(kit_read(&k, per_sector * 2, buf, 512), 0);
	kit_fini(&k);
}

Test(disk_overlay, a_disk_grows_and_never_shrinks)
{
	struct disk_kit k;
	struct err e;

	kit_init(&k, BASE_BYTES);
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	cr_expect_eq(k.disk->size_bytes, BASE_BYTES);
	write_pattern(&k, BASE_BYTES - 512, 512);
	kit_close(&k);
	cr_assert_eq(kit_open(&k, SIZE_BYTES, NULL), 0);
	expect_bytes(&k, BASE_BYTES - 512, 512, written, "what was there");
	expect_bytes(&k, BASE_BYTES, SIZE_BYTES - BASE_BYTES, zero, "what came");
	write_pattern(&k, SIZE_BYTES - 4096, 4096);
	kit_close(&k);
	cr_assert_eq(kit_open(&k, BASE_BYTES, &e), -EINVAL);
	cr_expect(strstr(e.msg, "shrink"), "%s", e.msg);
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	cr_expect_eq(k.disk->size_bytes, SIZE_BYTES);
	expect_bytes(&k, SIZE_BYTES - 4096, 4096, written, "the new end");
	kit_fini(&k);
}

Test(disk_overlay, without_an_overlay_it_reads_and_refuses_writes)
{
	struct disk_kit k;
	uint8_t buf[512] = {0};

	kit_init(&k, BASE_BYTES);
	struct disk_overlay_config c = {.base_path = k.base, .loop = &k.loop};

	cr_assert_eq(disk_overlay_open(&k.disk, &c, NULL), 0);
	cr_assert(k.disk->read_only);
	expect_bytes(&k, 0, BASE_BYTES, base_or_zero, "base");
	cr_expect_eq(kit_write(&k, 0, buf, 512), -EROFS);
	cr_expect_eq(kit_do(&k, DISK_FLUSH, 0, 0), 0);
	kit_fini(&k);
}

/* --- Failures of the host, and of us ------------------------------------------ */

struct faults {
	unsigned int *seen; /* shared with the child; counts the points passed */
	unsigned int at;    /* which one */
	int error;	    /* what happens there: -errno, or 0 for SIGKILL */
};

static int fault_at(void *opaque, const char *point)
{
	struct faults *f = opaque;

	(void)point;
	if (++*f->seen != f->at)
		return 0;
	if (!f->error)
		raise(SIGKILL);
	return f->error;
}

Test(disk_overlay, a_full_host_fails_the_request_and_keeps_the_old_bytes)
{
	unsigned int seen = 0;
	struct faults f = {&seen, 2, -ENOSPC};
	uint8_t buf[4096] = {0};
	struct disk_kit k;

	kit_init(&k, BASE_BYTES);
	k.fault = fault_at;
	k.fault_opaque = &f;
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	cr_assert_eq(kit_write(&k, 8192, buf, 4096), -ENOSPC);
	expect_bytes(&k, 8192, 4096, base_or_zero, "after the failure");
	write_pattern(&k, 8192, 4096);
	expect_bytes(&k, 8192, 4096, written, "when there is room again");
	kit_fini(&k);
}

Test(disk_overlay, a_map_that_cannot_be_written_fails_the_flush_and_the_next_one_writes_it)
{
	unsigned int seen = 0;
	/* 1 header, 2 write, 3 sync, 4 map */
	struct faults f = {&seen, 4, -ENOSPC};
	struct disk_kit k;

	kit_init(&k, BASE_BYTES);
	k.fault = fault_at;
	k.fault_opaque = &f;
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	write_pattern(&k, 8192, 4096);
	cr_assert_eq(kit_do(&k, DISK_FLUSH, 0, 0), -ENOSPC);
	cr_assert_eq(kit_do(&k, DISK_FLUSH, 0, 0), 0);
	kit_close(&k);
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	expect_bytes(&k, 8192, 4096, written, "flushed at the second try");
	kit_fini(&k);
}

Test(disk_overlay, after_a_failed_sync_no_flush_succeeds)
{
	unsigned int seen = 0;
	struct faults f = {&seen, 3, -EIO};
	struct disk_kit k;

	kit_init(&k, BASE_BYTES);
	k.fault = fault_at;
	k.fault_opaque = &f;
	cr_assert_eq(kit_open(&k, 0, NULL), 0);
	write_pattern(&k, 8192, 4096);
	cr_assert_eq(kit_do(&k, DISK_FLUSH, 0, 0), -EIO);
	cr_assert_eq(kit_do(&k, DISK_FLUSH, 0, 0), -EIO);
	kit_fini(&k);
}

/*
 * The workload of the kill test: round i fills a few places with byte i and flushes.
 * What the child has flushed it notes in shared memory, after the flush's answer.
 */
#define ROUNDS 12

static const struct place {
	uint64_t offset, len;
} places[] = {
    {4096, 4096}, {4096 * 9 + 512, 1024}, {4096 * 30, 4096 * 6}, {BASE_BYTES - 512, 4096}};
#define PLACES (sizeof(places) / sizeof(places[0]))

static void workload(struct disk_kit *k, unsigned int *flushed)
{
	for (unsigned int i = 1; i <= ROUNDS; i++) {
		for (size_t p = 0; p < PLACES; p++) {
			uint8_t *buf = malloc(places[p].len);

			memset(buf, (int)i, places[p].len);
			if (kit_write(k, places[p].offset, buf, places[p].len) < 0)
				_exit(1);
			free(buf);
		}
		/* And a cluster that the map did not have. */
		if (kit_write(k, 4096 * (70 + i), (uint8_t[512]){(uint8_t)i}, 512) < 0)
			_exit(1);
		if (i == 5 && kit_do(k, DISK_DISCARD, 4096 * 50, 4096) < 0)
			_exit(1);
		if (kit_do(k, DISK_FLUSH, 0, 0) < 0)
			_exit(1);
		__atomic_store_n(flushed, i, __ATOMIC_SEQ_CST);
	}
}

/* Every sector holds the round that was flushed, or the one that ran when the child died. */
static void verify(struct disk_kit *k, unsigned int flushed)
{
	for (size_t p = 0; p < PLACES; p++) {
		for (uint64_t s = 0; s < places[p].len; s += 512) {
			uint64_t at = places[p].offset + s;
			uint8_t buf[512];

			cr_assert_eq(kit_read(k, at, buf, sizeof(buf)), 0);
			if (flushed == 0 && !memcmp(buf, (uint8_t[]){base_or_zero(at)}, 1)) {
				for (uint64_t i = 0; i < sizeof(buf); i++)
					cr_assert_eq(buf[i], base_or_zero(at + i), "torn base");
				continue;
			}
			for (uint64_t i = 0; i < sizeof(buf); i++)
				cr_assert(buf[i] == buf[0], "torn sector at %llu",
					  (unsigned long long)at);
			cr_assert(buf[0] == flushed || buf[0] == flushed + 1,
				  "round %u was flushed, sector %llu has %u", flushed,
				  (unsigned long long)at, buf[0]);
		}
	}
	for (unsigned int i = 1; i <= flushed; i++) {
		uint8_t buf[512];

		cr_assert_eq(kit_read(k, 4096 * (70 + i), buf, sizeof(buf)), 0);
		cr_assert(buf[0] == i && !buf[1], "the cluster of round %u is lost", i);
	}
	if (flushed >= 5)
		expect_bytes(k, 4096 * 50, 4096, zero, "discarded and flushed");
	expect_bytes(k, 4096 * 60, 4096, base_or_zero, "what nobody touched");
}

/* Return: false when the workload ended before the @at-th point. */
static bool kill_at(unsigned int at)
{
	unsigned int *shared =
	    mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct faults f = {&shared[0], at, 0};
	struct disk_kit k;
	int status;
	pid_t pid;

	kit_init(&k, BASE_BYTES);
	pid = fork();
	cr_assert_geq(pid, 0);
	if (!pid) {
		k.fault = fault_at;
		k.fault_opaque = &f;
		if (kit_open(&k, SIZE_BYTES, NULL) < 0)
			_exit(1);
		workload(&k, &shared[1]);
		_exit(0);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFSIGNALED(status) || WEXITSTATUS(status) == 0, "point %u: the child failed",
		  at);
	cr_assert_eq(kit_open(&k, SIZE_BYTES, NULL), 0, "point %u", at);
	verify(&k, shared[1]);
	kit_fini(&k);
	munmap(shared, 4096);
	return WIFSIGNALED(status);
}

Test(disk_overlay, what_was_flushed_survives_kill_9_at_every_write_point)
{
	unsigned int at = 1;

	while (kill_at(at))
		at++;
	cr_expect_gt(at, ROUNDS * 8, "only %u points were passed", at);
}
