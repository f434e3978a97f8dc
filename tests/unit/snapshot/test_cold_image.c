/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "lib/fd.h"
#include "snapshot/cold_image.h"

#define CHUNK  (64u << 10)
#define CHUNKS 8u
#define RAM    ((uint64_t)CHUNK * CHUNKS)

static const uint8_t id[COLD_IMAGE_ID_BYTES] = "an image's name";
static char dir[] = "/tmp/cold-test-XXXXXX", path[64], tmp[72];
static uint8_t *ram;

/* Chunk 0 text, 1 zero, 2 noise, 3 one page, 4 last page only, 5 zero, 6 text and holes, 7 zero. */
static void fill(void)
{
	uint32_t seed = 1;

	for (uint32_t i = 0; i < CHUNK; i++)
		ram[i] = (uint8_t)("hello, world. "[i % 14] + i / 4096);
	for (uint32_t i = 0; i < CHUNK; i++) {
		seed = seed * 1664525u + 1013904223u;
		ram[2 * CHUNK + i] = (uint8_t)(seed >> 24);
	}
	ram[3 * CHUNK + 5] = 1;
	ram[5 * CHUNK - 1] = 1;
	for (uint32_t i = 0; i < CHUNK; i += 3 * COLD_PAGE)
		memset(ram + 6 * CHUNK + i, (int)(i / COLD_PAGE + 1), 100);
}

static void setup(void)
{
	cr_assert(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/ram", dir);
	snprintf(tmp, sizeof(tmp), "%s.tmp", path);
	ram = calloc(1, RAM);
	fill();
}

static void teardown(void)
{
	unlink(path);
	unlink(tmp);
	cr_expect_eq(rmdir(dir), 0, "something is left in %s", dir);
	free(ram);
}

TestSuite(cold_image, .init = setup, .fini = teardown);

static void write_image(void)
{
	struct cold_writer *w;
	struct err e = {0};

	cr_assert_eq(cold_writer_open(&w, path, id, RAM, CHUNK, 6, &e), 0, "%s", e.msg);
	for (uint32_t i = 0; i < CHUNKS; i++)
		cr_assert_eq(cold_writer_add(w, i == 1 ? NULL : ram + i * CHUNK, &e), 0, "%s",
			     e.msg);
	cr_assert_eq(cold_writer_finish(w, &e), 0, "%s", e.msg);
}

/* The content of a chunk, put together again. */
static int read_chunk(const struct cold_image *c, uint32_t chunk, uint8_t *out, struct err *e)
{
	uint32_t page = 0, n, pages = c->chunk_bytes / COLD_PAGE;
	struct cold_codec *k;
	struct cold_pages p;
	const uint8_t *from;
	int rc;

	cr_assert_eq(cold_codec_create(&k, c->chunk_bytes, e), 0);
	rc = cold_read(c, chunk, k, &p, e);
	memset(out, 0, c->chunk_bytes);
	from = p.content;
	while (!rc && (n = cold_next_run(&p, &page, pages)) > 0) {
		memcpy(out + page * COLD_PAGE, from, n * COLD_PAGE);
		from += n * COLD_PAGE;
		page += n;
	}
	cold_codec_destroy(k);
	return rc;
}

static char *file_bytes(size_t *len)
{
	char *bytes;

	cr_assert_eq(fd_read_file(AT_FDCWD, path, 64 << 20, &bytes, len), 0);
	return bytes;
}

static void put_file(const void *bytes, size_t len)
{
	cleanup_close int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	cr_assert_geq(fd, 0);
	cr_assert_eq(fd_write_full(fd, bytes, len), 0);
}

/* How opening fails. */
static int open_code(struct err *e)
{
	struct cold_image c;
	int rc = cold_open(&c, path, e);

	if (!rc)
		cold_close(&c);
	return rc;
}

Test(cold_image, gives_back_what_was_written)
{
	uint8_t *out = malloc(CHUNK);
	struct cold_image c;
	struct stat st;
	struct err e;

	write_image();
	cr_assert_eq(access(tmp, F_OK), -1);
	cr_assert_eq(cold_open(&c, path, &e), 0, "%s", e.msg);
	cr_assert_eq(memcmp(c.image_id, id, sizeof(id)), 0);
	cr_assert_eq(c.ram_bytes, RAM);
	cr_assert_eq(c.chunk_bytes, CHUNK);
	cr_assert_eq(c.chunks_stored, 5);
	cr_assert_eq(c.page_count, 16 + 16 + 1 + 1 + 6);
	cr_assert_eq(c.index[2].method, COLD_STORED, "noise is not deflated");
	cr_assert_eq(c.index[0].method, COLD_DEFLATE);
	cr_assert_eq(c.index[5].method, COLD_ZERO, "zeros that were given are found");
	stat(path, &st);
	cr_assert_lt(st.st_size, CHUNK + 4096, "the noise and little else");
	for (uint32_t i = 0; i < CHUNKS; i++) {
		cr_assert_eq(read_chunk(&c, i, out, &e), 0, "%s", e.msg);
		cr_assert_eq(memcmp(out, ram + i * CHUNK, CHUNK), 0, "chunk %u", i);
	}
	cold_close(&c);
	cold_close(&c);
	free(out);
}

Test(cold_image, every_length_but_the_right_one_is_refused)
{
	size_t len;
	char *bytes;
	struct err e;

	write_image();
	bytes = file_bytes(&len);
	for (size_t n = 0; n < len; n += n < 200 || n + 1000 > len ? 1 : 997) {
		put_file(bytes, n);
		cr_assert_eq(open_code(&e), -EINVAL, "%zu of %zu bytes", n, len);
		cr_assert(strstr(e.msg, "truncated"), "%zu of %zu bytes: %s", n, len, e.msg);
	}
	bytes = realloc(bytes, len + 1);
	bytes[len] = 0;
	put_file(bytes, len + 1);
	cr_assert_eq(open_code(&e), -EINVAL);
	free(bytes);
}

/* In header, index and trailer at opening; elsewhere when its chunk is read, and no other. */
Test(cold_image, no_flipped_bit_gives_wrong_memory)
{
	uint8_t *out = malloc(CHUNK);
	struct cold_image c;
	unsigned int seen = 0;
	uint64_t index;
	size_t len;
	char *bytes;
	struct err e;

	write_image();
	cr_assert_eq(cold_open(&c, path, &e), 0);
	index = c.index[6].offset + c.index[6].stored_bytes;
	cold_close(&c);
	bytes = file_bytes(&len);
	for (size_t at = 0; at < len; at += at < 64 || at >= index ? 1 : 331) {
		bytes[at] = (char)(bytes[at] ^ 1 << at % 8);
		put_file(bytes, len);
		bytes[at] = (char)(bytes[at] ^ 1 << at % 8);
		if (at < 64 || at >= index + 7) {
			cr_assert_lt(open_code(&e), 0, "byte %zu", at);
			continue;
		}
		if (at >= index) /* what fills up to the index */
			continue;
		cr_assert_eq(cold_open(&c, path, &e), 0, "byte %zu: %s", at, e.msg);
		for (uint32_t i = 0; i < CHUNKS; i++) {
			const struct cold_entry *n = &c.index[i];
			bool hit = at >= n->offset && at < n->offset + n->stored_bytes;

			int rc = read_chunk(&c, i, out, &e);

			/* Deflate can say the same in several ways: right content is right. */
			if (rc == 0)
				cr_assert_eq(memcmp(out, ram + i * CHUNK, CHUNK), 0, "byte %zu",
					     at);
			else
				cr_assert(hit && rc == -EIO && strstr(e.msg, "damaged (checksum)"),
					  "byte %zu: %s", at, e.msg);
			seen += rc != 0;
		}
		cold_close(&c);
	}
	cr_assert_gt(seen, 150, "nearly all of the noise");
	free(bytes);
	free(out);
}

Test(cold_image, foreign_and_newer_files_are_named)
{
	struct cold_header *h;
	size_t len;
	char *bytes;
	struct err e;

	write_image();
	bytes = file_bytes(&len);
	h = (struct cold_header *)(void *)bytes;
	h->magic[0] = 'X';
	put_file(bytes, len);
	cr_assert_eq(open_code(&e), -EINVAL);
	cr_assert(strstr(e.msg, "not a cold image"), "%s", e.msg);
	h->magic[0] = 'D';
	h->version = 2;
	put_file(bytes, len);
	cr_assert_eq(open_code(&e), -ENOTSUP);
	cr_assert(strstr(e.msg, "newer"), "%s", e.msg);
	free(bytes);
	unlink(path);
	cr_assert_eq(open_code(&e), -ENOENT);
	cr_assert_eq(mkfifo(path, 0600), 0);
	cr_assert_eq(open_code(&e), -EINVAL, "a FIFO is refused, and holds nobody");
}

/* Checksums that are right say nothing about an index that somebody made up. */
Test(cold_image, an_impossible_index_is_refused)
{
	static const struct {
		uint32_t entry;
		struct cold_entry n;
	} cases[] = {
	    {0, {.offset = 64, .stored_bytes = 0, .plain_bytes = 4098, .method = COLD_DEFLATE}},
	    {0, {.offset = ~0ull, .stored_bytes = 2, .plain_bytes = 4098, .method = COLD_DEFLATE}},
	    {0, {.offset = 64, .stored_bytes = ~0u, .plain_bytes = 4098, .method = COLD_DEFLATE}},
	    {0, {.offset = 64, .stored_bytes = 9, .plain_bytes = 4097, .method = COLD_DEFLATE}},
	    {0, {.offset = 64, .stored_bytes = 9, .plain_bytes = 2, .method = COLD_DEFLATE}},
	    {0, {.offset = 64, .stored_bytes = 9, .plain_bytes = ~0u, .method = COLD_DEFLATE}},
	    {0, {.offset = 64, .stored_bytes = 9, .plain_bytes = 4098, .method = COLD_STORED}},
	    {0, {.offset = 64, .stored_bytes = 9, .plain_bytes = 4098, .method = 3}},
	    {1, {.offset = 64}},
	    {2, {0}},
	};
	struct cold_trailer *t;
	struct cold_entry *index, was;
	size_t len;
	char *bytes;
	struct err e;

	write_image();
	bytes = file_bytes(&len);
	t = (void *)(bytes + len - sizeof(*t));
	index = (void *)(bytes + t->index_offset);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		was = index[cases[i].entry];
		index[cases[i].entry] = cases[i].n;
		t->index_crc = (uint32_t)crc32(0, (void *)index, CHUNKS * sizeof(*index));
		t->crc = (uint32_t)crc32(0, (void *)t, offsetof(struct cold_trailer, crc));
		put_file(bytes, len);
		cr_assert_eq(open_code(&e), -EINVAL, "case %zu", i);
		index[cases[i].entry] = was;
	}
	t->index_crc = (uint32_t)crc32(0, (void *)index, CHUNKS * sizeof(*index));
	t->crc = (uint32_t)crc32(0, (void *)t, offsetof(struct cold_trailer, crc));
	put_file(bytes, len);
	cr_assert_eq(open_code(&e), 0, "%s", e.msg);
	free(bytes);
}

Test(cold_image, sizes_that_the_format_does_not_have)
{
	struct cold_writer *w;
	struct err e;

	cr_assert_eq(cold_writer_open(&w, path, id, RAM, CHUNK + 4096, 1, &e), -EINVAL);
	cr_assert_eq(cold_writer_open(&w, path, id, RAM, CHUNK / 2, 1, &e), -EINVAL);
	cr_assert_eq(cold_writer_open(&w, path, id, RAM, 4 << 20, 1, &e), -EINVAL);
	cr_assert_eq(cold_writer_open(&w, path, id, RAM + 4096, CHUNK, 1, &e), -EINVAL);
	cr_assert_eq(cold_writer_open(&w, path, id, 0, CHUNK, 1, &e), -EINVAL);
	cr_assert_eq(cold_writer_open(&w, path, id, COLD_RAM_MAX * 2, CHUNK, 1, &e), -EINVAL);
	cr_assert_eq(cold_writer_open(&w, path, id, RAM, CHUNK, 0, &e), -EINVAL);
}

/* Until the new image is whole the old one is there. */
Test(cold_image, the_old_image_stays_until_the_new_one_is_whole)
{
	struct cold_writer *w, *second;
	size_t len, now;
	char *bytes, *after;
	struct err e;

	write_image();
	bytes = file_bytes(&len);
	memset(ram, 1, CHUNK);
	cr_assert_eq(cold_writer_open(&w, path, id, RAM, CHUNK, 1, &e), 0);
	cr_assert_eq(cold_writer_add(w, ram, &e), 0);
	cr_assert_eq(cold_writer_open(&second, path, id, RAM, CHUNK, 1, &e), -EBUSY);
	cold_writer_abort(w);
	cr_assert_eq(access(tmp, F_OK), -1);
	after = file_bytes(&now);
	cr_assert(len == now && !memcmp(bytes, after, len));
	free(after);

	/* What a killed writer left does not matter. */
	cr_assert_eq(cold_writer_open(&w, path, id, RAM, CHUNK, 1, &e), 0);
	cr_assert_eq(cold_writer_add(w, ram, &e), 0);
	cr_assert_eq(cold_writer_finish(w, &e), -EINVAL, "chunks are missing");
	cr_assert_eq(rename(path, tmp), 0);
	write_image();
	cr_assert_eq(open_code(&e), 0);
	free(bytes);
}

/* The file system says no at every place. */
Test(cold_image, a_full_disk_leaves_nothing)
{
	struct rlimit old, r;
	size_t len;
	struct err e;

	write_image();
	free(file_bytes(&len));
	unlink(path);
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	for (size_t max = 0; max < len; max += 1009) {
		struct cold_writer *w = NULL;
		int rc;

		r = (struct rlimit){max, old.rlim_max};
		setrlimit(RLIMIT_FSIZE, &r);
		rc = cold_writer_open(&w, path, id, RAM, CHUNK, 6, &e);
		for (uint32_t i = 0; !rc && i < CHUNKS; i++)
			rc = cold_writer_add(w, ram + i * CHUNK, &e);
		if (rc)
			cold_writer_abort(w);
		else
			rc = cold_writer_finish(w, &e);
		setrlimit(RLIMIT_FSIZE, &old);
		cr_assert_eq(rc, -EFBIG, "limit %zu: %d", max, rc);
		cr_assert_eq(access(tmp, F_OK), -1);
		cr_assert_eq(access(path, F_OK), -1);
	}
}
