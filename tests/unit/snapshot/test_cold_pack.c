/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"
#include "snapshot/cold_image.h"
#include "snapshot/cold_pack.h"
#include "snapshot/ram_image.h"

#define RAM (6u << 20)

static char dir[] = "/tmp/pack-test-XXXXXX", raw[64], cold[64], again[64];
static uint8_t *ram, id[RAM_IMAGE_ID_BYTES];

static void setup(void)
{
	struct ram_image_writer w;

	cr_assert(mkdtemp(dir));
	snprintf(raw, sizeof(raw), "%s/raw", dir);
	snprintf(cold, sizeof(cold), "%s/cold", dir);
	snprintf(again, sizeof(again), "%s/again", dir);
	ram = calloc(1, RAM);
	/* The second of three chunks is zero, the third nearly. */
	for (uint32_t i = 0; i < 2u << 20; i += 5 * 4096)
		memset(ram + i, (int)(i >> 12) + 1, 9000);
	ram[RAM - 1] = 1;
	cr_assert_eq(ram_image_writer_open(&w, raw, RAM, NULL, id, NULL), 0);
	cr_assert_eq(ram_image_write(&w, ram), 0);
	ram_image_writer_close(&w, true);
}

static void teardown(void)
{
	unlink(raw);
	unlink(cold);
	unlink(again);
	cr_expect_eq(rmdir(dir), 0, "something is left in %s", dir);
	free(ram);
}

TestSuite(cold_pack, .init = setup, .fini = teardown);

static void flip(const char *path, off_t at)
{
	cleanup_close int fd = open(path, O_RDWR | O_CLOEXEC);
	uint8_t b;

	cr_assert_eq(pread(fd, &b, 1, at), 1);
	b ^= 1;
	cr_assert_eq(pwrite(fd, &b, 1, at), 1);
}

static bool exists(const char *path)
{
	return access(path, F_OK) == 0;
}

static bool count(void *opaque, uint64_t done, uint64_t total)
{
	int *left = opaque;

	cr_assert_eq(total, RAM);
	cr_assert_leq(done, total);
	return (*left)-- > 0;
}

/* There and back: the same file, byte for byte. */
Test(cold_pack, unpacking_gives_the_raw_image_again)
{
	char *before, *after;
	size_t len, len2;
	int left = 1000;
	struct pack_progress p = {count, &left};
	struct stat a, b;
	struct err e;

	for (uint32_t chunk = COLD_CHUNK_MIN; chunk <= COLD_CHUNK_MAX; chunk *= 2) {
		struct cold_pack_options o = {.chunk_bytes = chunk, .level = 6};

		cr_assert_eq(cold_pack(raw, cold, &o, &p, &e), 0, "%s", e.msg);
		cr_assert_eq(cold_verify(cold, &p, &e), 0, "%s", e.msg);
		cr_assert_eq(cold_unpack(cold, again, &p, &e), 0, "%s", e.msg);
		cr_assert_eq(fd_read_file(AT_FDCWD, raw, RAM * 2, &before, &len), 0);
		cr_assert_eq(fd_read_file(AT_FDCWD, again, RAM * 2, &after, &len2), 0);
		cr_assert(len == len2 && !memcmp(before, after, len), "chunks of %u", chunk);
		free(before);
		free(after);
	}
	cr_assert_lt(left, 1000);
	stat(raw, &a);
	stat(again, &b);
	cr_assert_leq(b.st_blocks, a.st_blocks, "zeros are holes");
	stat(cold, &b);
	cr_assert_lt(b.st_size, 20000);
}

Test(cold_pack, a_damaged_raw_image_is_not_packed)
{
	struct err e;

	flip(raw, 5000);
	cr_assert_eq(cold_pack(raw, cold, NULL, NULL, &e), -EIO);
	cr_assert(strstr(e.msg, "checksum of chunk 0"), "%s", e.msg);
	cr_assert_not(exists(cold));
	flip(raw, 5000);
	/* Something where the table says that there is nothing. */
	flip(raw, 3 << 20);
	cr_assert_eq(cold_pack(raw, cold, NULL, NULL, &e), -EIO);
	cr_assert(strstr(e.msg, "checksum of chunk 1"), "%s", e.msg);
	cr_assert_not(exists(cold));
	flip(raw, 3 << 20);
	cr_assert_eq(truncate(raw, RAM), 0);
	cr_assert_eq(cold_pack(raw, cold, NULL, NULL, &e), -EINVAL);
	cr_assert_not(exists(cold));
}

Test(cold_pack, a_damaged_cold_image_is_not_unpacked)
{
	struct cold_image c;
	struct err e;

	cr_assert_eq(cold_pack(raw, cold, NULL, NULL, &e), 0);
	cr_assert_eq(cold_open(&c, cold, &e), 0);
	/* More than one byte: deflate can say the same in several ways. */
	for (off_t i = 8; i < 40; i++)
		flip(cold, (off_t)c.index[0].offset + i);
	cr_assert_eq(cold_verify(cold, NULL, &e), -EIO);
	cr_assert(strstr(e.msg, "chunk 0 "), "%s", e.msg);
	cr_assert_eq(cold_unpack(cold, again, NULL, &e), -EIO);
	cr_assert(strstr(e.msg, "chunk 0 "), "%s", e.msg);
	cr_assert_not(exists(again));
	cold_close(&c);
	cr_assert_eq(cold_unpack(raw, again, NULL, &e), -EINVAL);
	cr_assert(strstr(e.msg, "not a cold image"), "%s", e.msg);
}

Test(cold_pack, what_is_canceled_leaves_nothing)
{
	struct pack_progress p = {count, NULL};
	struct err e;
	int left;

	for (int n = 0; n < 3; n++) {
		left = n;
		p.opaque = &left;
		cr_assert_eq(cold_pack(raw, cold, NULL, &p, &e), -ECANCELED);
		cr_assert_not(exists(cold));
	}
	cr_assert_eq(cold_pack(raw, cold, NULL, NULL, &e), 0);
	for (int n = 0; n < 3; n++) {
		left = n;
		cr_assert_eq(cold_unpack(cold, again, &p, &e), -ECANCELED);
		cr_assert_not(exists(again));
	}
	left = 1;
	cr_assert_eq(cold_verify(cold, &p, &e), -ECANCELED);
}

Test(cold_pack, one_unpacks_at_a_time_and_replaces_what_a_killed_one_left)
{
	char tmp[80];
	struct err e;
	int fd;

	cr_assert_eq(cold_pack(raw, cold, NULL, NULL, &e), 0);
	snprintf(tmp, sizeof(tmp), "%s.tmp", again);
	fd = open(tmp, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	cr_assert_eq(write(fd, "half", 4), 4);
	close(fd);
	fd = open(cold, O_RDONLY | O_CLOEXEC);
	cr_assert_eq(flock(fd, LOCK_EX), 0);
	cr_assert_eq(cold_unpack(cold, again, NULL, &e), -EBUSY);
	close(fd);
	cr_assert_eq(cold_unpack(cold, again, NULL, &e), 0, "%s", e.msg);
	cr_assert_not(exists(tmp));
}
