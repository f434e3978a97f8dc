/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reader of cold memory images.
 *
 * The first byte chooses what the input is: bit 0: not the file itself but the parts of one:
 * index entries (bits 1 and 2: 1 to 4 of them), then what is stored; header, trailer and their
 * checksums are then made to fit. Bit 3: offsets and lengths of the entries are made to
 * fit, too; bit 4: the checksums of the chunks; so the fuzzer gets to the inflating. Bit 5: a
 * record of the order of chunks (ram_order.h), whose checksum bit 0 makes fit.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "snapshot/cold_image.h"
#include "snapshot/ram_order.h"

#define CHUNK	  COLD_CHUNK_MIN
#define INPUT_MAX 65536

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/tmp/fuzz-cold-XXXXXX", path[64];

static void remove_dir(void)
{
	unlink(path);
	rmdir(dir);
}

static uint32_t crc_of(const void *p, size_t len)
{
	return (uint32_t)crc32(0, p, (uInt)len);
}

static void repair_entries(struct cold_entry *n, uint32_t chunks, const uint8_t *stored, size_t len,
			   bool crcs)
{
	uint64_t at = 0;

	for (uint32_t i = 0; i < chunks; i++) {
		size_t left = len - at;

		n[i].method %= 3;
		n[i].reserved = 0;
		if (n[i].method == COLD_ZERO || left < 5000) {
			n[i] = (struct cold_entry){0};
			continue;
		}
		n[i].plain_bytes = 2 + (n[i].plain_bytes % 16 + 1) * COLD_PAGE;
		n[i].stored_bytes %= n[i].plain_bytes;
		n[i].stored_bytes += !n[i].stored_bytes;
		if (n[i].method == COLD_STORED)
			n[i].stored_bytes = n[i].plain_bytes;
		if (n[i].stored_bytes > left)
			n[i] = (struct cold_entry){
			    .method = COLD_STORED, .plain_bytes = 4098, .stored_bytes = 4098};
		n[i].offset = sizeof(struct cold_header) + at;
		if (crcs)
			n[i].stored_crc = crc_of(stored + at, n[i].stored_bytes);
		if (crcs || n[i].method == COLD_STORED)
			n[i].plain_crc = n[i].stored_crc;
		at += n[i].stored_bytes;
	}
}

/* A file whose frame is right. Return: its length. */
static size_t frame(uint8_t *out, uint8_t how, const uint8_t *data, size_t size)
{
	uint32_t chunks = 1 + (how >> 1 & 3);
	struct cold_header h = {.magic = COLD_MAGIC, .version = 1, .header_bytes = sizeof(h)};
	struct cold_trailer t = {.magic = COLD_END_MAGIC, .version = 1, .trailer_bytes = sizeof(t)};
	struct cold_entry n[4] = {0};
	size_t index_bytes = chunks * sizeof(n[0]), at = sizeof(h), end = 0;

	memcpy(n, data, size < index_bytes ? size : index_bytes);
	data += size < index_bytes ? size : index_bytes;
	size -= size < index_bytes ? size : index_bytes;
	if (how & 8)
		repair_entries(n, chunks, data, size, how & 16);
	for (uint32_t i = 0; i < chunks; i++)
		if (n[i].method != COLD_ZERO) {
			t.chunks_stored++;
			t.page_count += (n[i].plain_bytes - 2) / COLD_PAGE;
			end += n[i].stored_bytes;
		}
	h.ram_bytes = t.ram_bytes = (uint64_t)chunks * CHUNK;
	h.chunk_bytes = t.chunk_bytes = CHUNK;
	h.crc = crc_of(&h, offsetof(struct cold_header, crc));
	memcpy(out, &h, sizeof(h));
	memcpy(out + at, data, size);
	at += how & 8 ? end : size;
	while (at % 8)
		out[at++] = 0;
	t.chunks = chunks;
	t.index_offset = at;
	t.index_crc = crc_of(n, index_bytes);
	memcpy(out + at, n, index_bytes);
	at += index_bytes;
	t.file_bytes = at + sizeof(t);
	t.crc = crc_of(&t, offsetof(struct cold_trailer, crc));
	memcpy(out + at, &t, sizeof(t));
	return at + sizeof(t);
}

static void put_file(const uint8_t *data, size_t size)
{
	int fd;

	if (!path[0]) {
		if (!mkdtemp(dir))
			abort();
		snprintf(path, sizeof(path), "%s/c", dir);
		atexit(remove_dir);
	}
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	close(fd);
}

static void read_all(const struct cold_image *c)
{
	uint32_t pages = c->chunk_bytes / COLD_PAGE;
	struct cold_codec *k;
	struct err e;

	if (cold_codec_create(&k, c->chunk_bytes, &e) < 0)
		return;
	for (uint32_t i = 0; i < c->chunks && i < 64; i++) {
		uint32_t page = 0, run, sum = 0;
		struct cold_pages p;
		volatile uint8_t sink;

		if (cold_read(c, i, k, &p, &e) < 0)
			continue;
		while ((run = cold_next_run(&p, &page, pages)) > 0) {
			sum += run;
			page += run;
			if (page > pages)
				abort();
		}
		if (sum != p.n)
			abort();
		if (sum)
			sink = p.content[(size_t)sum * COLD_PAGE - 1];
		(void)sink;
	}
	cold_codec_destroy(k);
}

static void read_order(uint8_t *file, size_t len, bool repair)
{
	struct cold_image c = {.chunks = 64, .chunk_bytes = CHUNK};
	struct ram_order_header h;
	uint64_t seen = 0;
	uint32_t *chunks;
	int64_t n;

	if (repair && len >= sizeof(h)) {
		uLong crc;

		memcpy(&h, file, sizeof(h));
		h.n = (uint32_t)((len - sizeof(h)) / 4);
		crc = crc32(0, (void *)&h, offsetof(struct ram_order_header, crc));
		h.crc = (uint32_t)crc32(crc, file + sizeof(h), h.n * 4);
		memcpy(file, &h, sizeof(h));
	}
	put_file(file, len);
	n = ram_order_read(path, &c, &chunks, NULL);
	for (int64_t i = 0; i < n; i++) {
		if (chunks[i] >= 64 || seen >> chunks[i] & 1)
			abort();
		seen |= 1ull << chunks[i];
	}
	if (n >= 0)
		free(chunks);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t file[INPUT_MAX + 4096];
	struct cold_image c;
	struct err e;
	size_t len;

	if (!size || size > INPUT_MAX)
		return 0;
	if (data[0] & 32) {
		memcpy(file, data + 1, size - 1);
		read_order(file, size - 1, data[0] & 1);
		return 0;
	}
	if (data[0] & 1) {
		len = frame(file, data[0], data + 1, size - 1);
	} else {
		len = size - 1;
		memcpy(file, data + 1, len);
	}
	put_file(file, len);
	if (cold_open(&c, path, &e) < 0)
		return 0;
	read_all(&c);
	cold_close(&c);
	return 0;
}
