/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory images: what is written is what is mapped, zeros are not stored, and a file that is not
 * a whole image is refused with its reason.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "snapshot/ram_image.h"

#define CHUNKS	  4u
#define RAM_BYTES ((uint64_t)CHUNKS * RAM_IMAGE_CHUNK)
#define PAGES	  (RAM_IMAGE_CHUNK / RAM_IMAGE_PAGE)

static char dir[64], path[96], second[96];
static uint8_t *ram;

static void names(const char *d)
{
	snprintf(path, sizeof(path), "%s/ram", d);
	snprintf(second, sizeof(second), "%s/ram2", d);
}

static void setup(void)
{
	strcpy(dir, "/tmp/dormouse-ram-XXXXXX");
	cr_assert(mkdtemp(dir));
	names(dir);
	ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(ram, MAP_FAILED);
}

static void teardown(void)
{
	unlink(path);
	unlink(second);
	rmdir(dir);
	munmap(ram, RAM_BYTES);
}

TestSuite(ram_image, .init = setup, .fini = teardown);

/* Page @n of RAM gets content that no other page and no other @seed has. */
static void fill(unsigned int n, unsigned int seed)
{
	for (unsigned int i = 0; i < RAM_IMAGE_PAGE; i += 4) {
		uint32_t v = (seed * 1000003u + n) * 2654435761u + i;

		memcpy(ram + (size_t)n * RAM_IMAGE_PAGE + i, &v, 4);
	}
}

/* The first and last pages, a lonely one, one whose only byte is its last; chunk 2 stays zero. */
static void some_content(void)
{
	fill(0, 1);
	fill(1, 1);
	fill(PAGES / 2, 1);
	ram[(PAGES + 7) * RAM_IMAGE_PAGE - 1] = 1;
	fill(CHUNKS * PAGES - 1, 1);
}
#define SOME_PAGES 5u

static int write_with(struct ram_image_writer *w, bool keep)
{
	int rc = ram_image_write(w, ram);

	cr_expect_eq(rc == 0, !w->failed);
	ram_image_writer_close(w, keep && !rc);
	return rc;
}

static void write_image(const char *p, const struct ram_image *parent)
{
	struct ram_image_writer w;
	uint8_t id[RAM_IMAGE_ID_BYTES];
	struct err e = {0};

	cr_assert_eq(ram_image_writer_open(&w, p, RAM_BYTES, parent, id, &e), 0, "%s", e.msg);
	w.compare_own = parent;
	cr_assert_eq(write_with(&w, true), 0);
}

static void write_image_of(const char *p, uint64_t bytes)
{
	struct ram_image_writer w;
	uint8_t id[RAM_IMAGE_ID_BYTES];
	struct err e;

	cr_assert_eq(ram_image_writer_open(&w, p, bytes, NULL, id, &e), 0, "%s", e.msg);
	cr_assert_eq(write_with(&w, true), 0);
}

static struct ram_image opened(const char *p)
{
	struct ram_image img;
	struct err e = {0};

	cr_assert_eq(ram_image_open(&img, p, RAM_BYTES, &e), 0, "%s", e.msg);
	return img;
}

static void expect_content(const struct ram_image *img)
{
	uint8_t *at =
	    mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct err e = {0};

	at[5] = 5;
	cr_assert_eq(ram_image_map(img, at, false, &e), 0, "%s", e.msg);
	cr_expect_eq(memcmp(at, ram, RAM_BYTES), 0);
	cr_expect_eq(ram_image_verify(img, &e), 0, "%s", e.msg);
	/* Writing changes this mapping alone. */
	at[5] ^= 5;
	cr_expect_eq(ram_image_verify(img, &e), 0, "%s", e.msg);
	munmap(at, RAM_BYTES);
}

static uint64_t disk_bytes(const char *p)
{
	struct stat st;

	cr_assert_eq(stat(p, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

Test(ram_image, what_is_written_is_what_is_mapped)
{
	struct ram_image img;

	some_content();
	write_image(path, NULL);
	img = opened(path);
	cr_expect_eq(img.ram_bytes, RAM_BYTES);
	cr_expect_eq(img.stored_bytes, SOME_PAGES * RAM_IMAGE_PAGE);
	expect_content(&img);
	ram_image_close(&img);
	ram_image_close(&img);
}

Test(ram_image, zero_pages_are_not_stored)
{
	struct ram_image img;

	some_content();
	memset(ram + 2 * RAM_IMAGE_CHUNK, 0, RAM_IMAGE_CHUNK); /* touched, and zero */
	write_image(path, NULL);
	img = opened(path);
	cr_expect_eq(ram_image_chunks(&img)[0].pages, 3);
	cr_expect_eq(ram_image_chunks(&img)[2].pages, 0);
	cr_expect_eq(lseek(img.fd, 3 * RAM_IMAGE_PAGE, SEEK_DATA), PAGES / 2 * RAM_IMAGE_PAGE);
	/* Some file systems have blocks larger than a page. */
	cr_expect_lt(disk_bytes(path), RAM_BYTES / 4);
	ram_image_close(&img);
}

Test(ram_image, memory_that_nobody_touched_makes_an_image_of_holes)
{
	struct ram_image img;

	write_image(path, NULL);
	img = opened(path);
	cr_expect_eq(img.stored_bytes, 0);
	expect_content(&img);
	ram_image_close(&img);
}

Test(ram_image, ids_differ)
{
	struct ram_image a, b;

	write_image(path, NULL);
	write_image(second, NULL);
	a = opened(path);
	b = opened(second);
	cr_expect_neq(memcmp(a.id, b.id, sizeof(a.id)), 0);
	ram_image_close(&a);
	ram_image_close(&b);
}

Test(ram_image, a_file_that_exists_is_not_overwritten)
{
	struct ram_image_writer w;
	uint8_t id[RAM_IMAGE_ID_BYTES];
	struct ram_image img;
	struct err e;

	some_content();
	write_image(path, NULL);
	cr_expect_eq(ram_image_writer_open(&w, path, RAM_BYTES, NULL, id, &e), -EEXIST);
	img = opened(path);
	expect_content(&img);
	ram_image_close(&img);
}

/* --- parents ----------------------------------------------------------------------------- */

static unsigned int asked;

/* Page 0 is new, page 1 was cleared, the others are the parent's. */
static int two_differ(void *opaque, uint64_t first, unsigned int n, uint8_t *kinds)
{
	(void)opaque;
	asked++;
	memset(kinds, RAM_PAGE_SAME, n);
	if (first == 0)
		kinds[0] = kinds[1] = RAM_PAGE_OWN;
	return 0;
}

static void child_of(const struct ram_image *parent)
{
	struct ram_image_writer w;
	uint8_t id[RAM_IMAGE_ID_BYTES];
	struct ram_image img;
	struct err e = {0};

	fill(0, 2);
	memset(ram + RAM_IMAGE_PAGE, 0, RAM_IMAGE_PAGE);
	cr_assert_eq(ram_image_writer_open(&w, second, RAM_BYTES, parent, id, &e), 0, "%s", e.msg);
	w.classify = two_differ;
	cr_assert_eq(ram_image_write(&w, ram), 0);
	cr_expect_eq(asked, CHUNKS);
	printf("%s the parent's blocks\n", w.cloned ? "shares" : "copies");
	ram_image_writer_close(&w, true);
	img = opened(second);
	cr_expect_eq(memcmp(img.id, id, sizeof(id)), 0);
	cr_expect_eq(img.stored_bytes, (SOME_PAGES - 1) * RAM_IMAGE_PAGE);
	expect_content(&img);
	ram_image_close(&img);
}

Test(ram_image, a_child_has_the_parents_pages_and_its_own)
{
	struct ram_image parent;

	some_content();
	write_image(path, NULL);
	parent = opened(path);
	child_of(&parent);
	fill(0, 1);
	fill(1, 1);
	expect_content(&parent);
	ram_image_close(&parent);
}

Test(ram_image, pages_are_compared_with_a_parent_of_which_nothing_is_known)
{
	struct ram_image parent, img;

	some_content();
	write_image(path, NULL);
	parent = opened(path);
	fill(PAGES + 1, 3);
	fill(0, 3);
	memset(ram + RAM_BYTES - RAM_IMAGE_PAGE, 0, RAM_IMAGE_PAGE);
	write_image(second, &parent);
	img = opened(second);
	expect_content(&img);
	ram_image_close(&img);
	ram_image_close(&parent);
}

/* A damaged parent must not become a child that looks sound. */
Test(ram_image, damage_of_the_parent_shows_in_the_child)
{
	struct ram_image parent, img;
	struct ram_image_writer w;
	uint8_t id[RAM_IMAGE_ID_BYTES];
	struct err e = {0};
	int fd;

	some_content();
	write_image(path, NULL);
	fd = open(path, O_RDWR | O_CLOEXEC);
	cr_assert_eq(pwrite(fd, "x", 1, RAM_BYTES - 9), 1);
	close(fd);
	parent = opened(path);
	cr_assert_eq(ram_image_map(&parent, ram, false, &e), 0);
	cr_assert_eq(ram_image_writer_open(&w, second, RAM_BYTES, &parent, id, &e), 0);
	w.classify = two_differ;
	cr_assert_eq(write_with(&w, true), 0);
	img = opened(second);
	cr_expect_eq(ram_image_verify(&img, &e), -EIO);
	ram_image_close(&img);
	ram_image_close(&parent);
}

/* Of RAM that is larger than the parent's nobody has touched what is behind it. */
static int all_same(void *opaque, uint64_t first, unsigned int n, uint8_t *kinds)
{
	(void)opaque;
	(void)first;
	memset(kinds, RAM_PAGE_SAME, n);
	return 0;
}

/* A child of @bytes of RAM, as its parent or as the same pages by comparison. */
static void child_of_size(const struct ram_image *parent, uint64_t bytes, bool compare)
{
	struct ram_image_writer w;
	uint8_t id[RAM_IMAGE_ID_BYTES];
	struct ram_image img;
	struct err e;

	cr_assert_eq(ram_image_writer_open(&w, second, bytes, parent, id, &e), 0, "%s", e.msg);
	w.compare_own = compare;
	w.classify = compare ? NULL : all_same;
	cr_assert_eq(write_with(&w, true), 0);
	cr_assert_eq(ram_image_open(&img, second, bytes, &e), 0, "%s", e.msg);
	cr_expect_eq(ram_image_verify(&img, &e), 0, "%s", e.msg);
	for (uint64_t at = 0; at < bytes; at += RAM_IMAGE_PAGE) {
		uint8_t page[RAM_IMAGE_PAGE];

		cr_assert_eq(pread(img.fd, page, sizeof(page), (off_t)at), (ssize_t)sizeof(page));
		cr_assert_arr_eq(page, ram + at, sizeof(page), "page at %#llx",
				 (unsigned long long)at);
	}
	ram_image_close(&img);
	cr_assert_eq(unlink(second), 0);
}

Test(ram_image, a_parent_may_have_less_ram_or_more)
{
	struct ram_image less, more;
	struct err e;

	some_content();
	write_image(path, NULL);
	more = opened(path);
	child_of_size(&more, RAM_BYTES - 2 * RAM_IMAGE_CHUNK, true);
	child_of_size(&more, RAM_BYTES - RAM_IMAGE_CHUNK, false);
	ram_image_close(&more);
	/* The last chunk is not in the smaller parent: zero, as nobody has touched it. */
	memset(ram + RAM_BYTES - RAM_IMAGE_CHUNK, 0, RAM_IMAGE_CHUNK);
	cr_assert_eq(unlink(path), 0);
	write_image_of(path, RAM_BYTES - RAM_IMAGE_CHUNK);
	cr_assert_eq(ram_image_open(&less, path, 0, &e), 0, "%s", e.msg);
	child_of_size(&less, RAM_BYTES, false);
	fill(CHUNKS * PAGES - 1, 3);
	child_of_size(&less, RAM_BYTES, true);
	ram_image_close(&less);
}

/* A file system that shares blocks, in a file, in a mount namespace of this test. */
static bool mount_sharing(const char *at, const char *file)
{
	char command[512];
	int fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0 || ftruncate(fd, 320 << 20) < 0 || close(fd) < 0 || mkdir(at, 0700) < 0 ||
	    unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return false;
	snprintf(
	    command, sizeof(command),
	    "mkfs.xfs -q -m reflink=1 '%s' >/dev/null 2>&1 && mount -o loop '%s' '%s' 2>/dev/null",
	    file, file, at);
	return system(command) == 0;
}

Test(ram_image, blocks_are_shared_where_the_file_system_can)
{
	char file[96], at[96];
	struct ram_image parent;
	uint64_t before;
	struct err e;
	bool mounted;

	snprintf(file, sizeof(file), "%s/xfs", dir);
	snprintf(at, sizeof(at), "%s/mnt", dir);
	mounted = mount_sharing(at, file);
	if (mounted) {
		struct ram_image_writer w;
		uint8_t id[RAM_IMAGE_ID_BYTES];

		names(at);
		some_content();
		for (unsigned int i = 0; i < PAGES; i++)
			fill(3 * PAGES + i, 9);
		write_image(path, NULL);
		parent = opened(path);
		before = disk_bytes(path);
		cr_assert_geq(before, RAM_IMAGE_CHUNK);
		fill(0, 2);
		memset(ram + RAM_IMAGE_PAGE, 0, RAM_IMAGE_PAGE);
		cr_assert_eq(ram_image_writer_open(&w, second, RAM_BYTES, &parent, id, &e), 0);
		w.classify = two_differ;
		cr_assert_eq(ram_image_write(&w, ram), 0);
		cr_expect(w.cloned, "XFS shares blocks");
		ram_image_writer_close(&w, true);
		ram_image_close(&parent);
		parent = opened(second);
		/* Before it is read: XFS takes a page of its cache for data. */
		cr_expect_eq(lseek(parent.fd, RAM_IMAGE_PAGE, SEEK_DATA),
			     PAGES / 2 * RAM_IMAGE_PAGE, "the page that is zero now is a hole");
		expect_content(&parent);
		ram_image_close(&parent);
		umount2(at, MNT_DETACH);
	}
	unlink(file);
	rmdir(at);
	if (!mounted)
		cr_skip_test("no XFS can be made and mounted here");
}

/* --- refusals ----------------------------------------------------------------------------- */

static void expect_refused(int code, const char *reason)
{
	struct ram_image img;
	struct err e = {0};

	cr_expect_eq(ram_image_open(&img, path, RAM_BYTES, &e), code, "%s: %s", reason, e.msg);
	cr_expect(strstr(e.msg, reason), "\"%s\" does not say \"%s\"", e.msg, reason);
	cr_expect_eq(img.fd, -1);
}

static struct ram_image_header header(void)
{
	struct ram_image_header h;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	cr_assert_eq(pread(fd, &h, sizeof(h), RAM_BYTES), sizeof(h));
	close(fd);
	return h;
}

static void put(const void *data, size_t len, uint64_t offset)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	cr_assert_eq(pwrite(fd, data, len, (off_t)offset), (ssize_t)len);
	close(fd);
}

static void put_header(struct ram_image_header h)
{
	h.crc = (uint32_t)crc32(0, (uint8_t *)&h, offsetof(struct ram_image_header, crc));
	put(&h, sizeof(h), RAM_BYTES);
}

Test(ram_image, a_truncated_image_is_refused_wherever_it_ends)
{
	uint64_t full = RAM_BYTES + RAM_IMAGE_PAGE;

	some_content();
	write_image(path, NULL);
	for (uint64_t len = 0; len < full; len += len % RAM_IMAGE_CHUNK ? 1021 * 1024 : 4095) {
		cr_assert_eq(truncate(path, (off_t)(full - 1 - len)), 0);
		expect_refused(-EINVAL, "truncated");
	}
	cr_assert_eq(truncate(path, 0), 0);
	expect_refused(-EINVAL, "truncated");
}

Test(ram_image, each_flipped_bit_of_the_trailer_is_noticed)
{
	struct ram_image img;
	uint8_t trailer[RAM_IMAGE_PAGE];
	struct err e;
	int fd;

	some_content();
	write_image(path, NULL);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	cr_assert_eq(pread(fd, trailer, sizeof(trailer), RAM_BYTES), (ssize_t)sizeof(trailer));
	close(fd);
	for (size_t bit = 0; bit < sizeof(trailer) * 8; bit += bit < 1024 ? 1 : 97) {
		uint8_t flipped = trailer[bit / 8] ^ (uint8_t)(1 << bit % 8);

		put(&flipped, 1, RAM_BYTES + bit / 8);
		cr_expect_lt(ram_image_open(&img, path, RAM_BYTES, &e), 0, "bit %zu", bit);
		ram_image_close(&img);
		put(trailer, sizeof(trailer), RAM_BYTES);
	}
	img = opened(path);
	ram_image_close(&img);
}

Test(ram_image, reasons_are_told)
{
	struct ram_image_header h, good;
	struct ram_image img;
	struct err e;

	some_content();
	write_image(path, NULL);
	good = h = header();
	h.version = 2;
	put_header(h);
	expect_refused(-ENOTSUP, "format 2; this program knows format 1 only");
	h = good;
	h.magic[0] = 'X';
	put_header(h);
	expect_refused(-EINVAL, "no memory image");
	h = good;
	h.id[3] ^= 1;
	put(&h, sizeof(h), RAM_BYTES);
	expect_refused(-EINVAL, "damaged: checksum of the trailer");
	h = good;
	h.ram_bytes *= 2;
	put_header(h);
	expect_refused(-EINVAL, "damaged: a file of");
	h = good;
	h.stored_bytes += RAM_IMAGE_PAGE;
	put_header(h);
	expect_refused(-EINVAL, "damaged: number of pages");
	h = good;
	h.reserved[1] = 1;
	put_header(h);
	expect_refused(-ENOTSUP, "not known here");
	put_header(good);
	put("x", 1, RAM_BYTES + sizeof(h) + 1);
	expect_refused(-EINVAL, "damaged: checksum of the table");
	cr_expect_eq(ram_image_open(&img, path, 2 * RAM_BYTES, &e), -EINVAL);
	cr_expect_eq(ram_image_open(&img, dir, RAM_BYTES, &e), -EINVAL);
	cr_expect(strstr(e.msg, "not a regular file"), "%s", e.msg);
	cr_expect_eq(ram_image_open(&img, "/nonexistent", RAM_BYTES, &e), -ENOENT);
}

Test(ram_image, an_image_of_other_ram_is_refused_with_both_sizes)
{
	struct ram_image img;
	struct err e;

	write_image(path, NULL);
	cr_expect_eq(ram_image_open(&img, path, RAM_BYTES / 2, &e), -EINVAL);
	cr_expect(strstr(e.msg, "of 8 MiB of RAM; here are 4"), "%s", e.msg);
	cr_expect_eq(ram_image_open(&img, path, 0, &e), 0);
	ram_image_close(&img);
}

Test(ram_image, a_flipped_bit_of_a_page_is_found_by_verify_alone)
{
	static const uint64_t places[] = {17, 2 * RAM_IMAGE_CHUNK + 5, RAM_BYTES - 1};

	some_content();
	write_image(path, NULL);
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		struct ram_image img;
		struct err e = {0};
		uint8_t byte, flipped;
		char named[32];

		img = opened(path);
		cr_assert_eq(pread(img.fd, &byte, 1, (off_t)places[i]), 1);
		flipped = byte ^ 0x10;
		put(&flipped, 1, places[i]);
		cr_expect_eq(ram_image_verify(&img, &e), -EIO);
		snprintf(named, sizeof(named), "chunk %llu ",
			 (unsigned long long)(places[i] / RAM_IMAGE_CHUNK));
		cr_expect(strstr(e.msg, named), "%s", e.msg);
		put(&byte, 1, places[i]);
		cr_expect_eq(ram_image_verify(&img, &e), 0);
		ram_image_close(&img);
	}
}

/* --- failures ------------------------------------------------------------------------------- */

struct countdown {
	int left, syncs;
	const char *hit;
};

static int fail_later(void *opaque, const char *point)
{
	struct countdown *c = opaque;

	c->syncs += !strcmp(point, "sync");
	if (c->left--)
		return 0;
	c->hit = point;
	return -ENOSPC;
}

/* Whichever step fails, there is no image; until enough steps are allowed. */
Test(ram_image, a_failure_at_any_step_leaves_no_image)
{
	int n = 0, rc;

	some_content();
	do {
		struct countdown c = {.left = n++};
		struct ram_image_writer w;
		uint8_t id[RAM_IMAGE_ID_BYTES];
		struct ram_image img;
		struct err e = {0};

		cr_assert_eq(ram_image_writer_open(&w, path, RAM_BYTES, NULL, id, &e), 0);
		w.fault = fail_later;
		w.fault_opaque = &c;
		rc = ram_image_write(&w, ram);
		if (rc) {
			cr_expect_eq(rc, -ENOSPC);
			cr_expect(w.failed, "%s", c.hit);
			/* As if its writer had been killed here: the trailer is there or not. */
			cr_expect_eq(ram_image_open(&img, path, RAM_BYTES, &e),
				     c.syncs < 2 ? -EINVAL : 0, "%d %s", n, c.hit);
			ram_image_close(&img);
		}
		ram_image_writer_close(&w, !rc);
		cr_expect_eq(access(path, F_OK) == 0, !rc, "a failure removes the file");
	} while (rc && n < 100);
	/* 4 runs of pages, sync, trailer and its write, sync, directory. */
	cr_expect_eq(n, 10);
}
