/* SPDX-License-Identifier: Apache-2.0 */
/* Reading cold memory images; see cold_image.h. */
#include "snapshot/cold_image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "lib/fd.h"
#include "snapshot/cold_int.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file is read and written as it is");

struct cold_codec {
	z_stream z;
	uint32_t chunk_bytes;
	uint8_t *stored, *plain; /* each as large as the plain bytes of a full chunk */
};

uint32_t cold_crc(const void *p, size_t len)
{
	return (uint32_t)crc32_z(0, p, len);
}

bool cold_sizes_ok(uint64_t ram_bytes, uint32_t chunk_bytes)
{
	return chunk_bytes >= COLD_CHUNK_MIN && chunk_bytes <= COLD_CHUNK_MAX &&
	       !(chunk_bytes & (chunk_bytes - 1)) && ram_bytes && ram_bytes <= COLD_RAM_MAX &&
	       ram_bytes % chunk_bytes == 0;
}

static int read_at(const struct cold_image *c, void *buf, size_t len, uint64_t offset)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(c->fd, (char *)buf + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ENODATA;
		done += (size_t)n;
	}
	return 0;
}

static int read_header(const struct cold_image *c, struct cold_header *h, struct err *e)
{
	int rc;

	if (c->file_bytes < sizeof(*h))
		return err_set(e, -EINVAL, "memory image %s: truncated: %llu bytes", c->path,
			       (unsigned long long)c->file_bytes);
	rc = read_at(c, h, sizeof(*h), 0);
	if (rc)
		return err_sys(e, rc, "memory image %s: reading the header", c->path);
	if (memcmp(h->magic, COLD_MAGIC, sizeof(h->magic)) != 0)
		return err_set(e, -EINVAL, "memory image %s: not a cold image (wrong magic)",
			       c->path);
	/* The version decides whether the rest means anything to us: before the checksum. */
	if (h->version > COLD_VERSION)
		return err_set(e, -ENOTSUP, "memory image %s: format version %u is newer than %d",
			       c->path, h->version, COLD_VERSION);
	if (h->crc != cold_crc(h, offsetof(struct cold_header, crc)))
		return err_set(e, -EINVAL, "memory image %s: header damaged (checksum)", c->path);
	if (h->version != COLD_VERSION || h->header_bytes != sizeof(*h) ||
	    !cold_sizes_ok(h->ram_bytes, h->chunk_bytes))
		return err_set(e, -EINVAL, "memory image %s: header is not that of version %d",
			       c->path, COLD_VERSION);
	return 0;
}

static int read_trailer(const struct cold_image *c, const struct cold_header *h,
			struct cold_trailer *t, struct err *e)
{
	uint64_t index_bytes;
	int rc;

	if (c->file_bytes < sizeof(*h) + sizeof(*t))
		return err_set(e, -EINVAL, "memory image %s: truncated: %llu bytes", c->path,
			       (unsigned long long)c->file_bytes);
	rc = read_at(c, t, sizeof(*t), c->file_bytes - sizeof(*t));
	if (rc)
		return err_sys(e, rc, "memory image %s: reading the trailer", c->path);
	if (memcmp(t->magic, COLD_END_MAGIC, sizeof(t->magic)) != 0)
		return err_set(e, -EINVAL, "memory image %s: truncated: no trailer at its end",
			       c->path);
	if (t->crc != cold_crc(t, offsetof(struct cold_trailer, crc)))
		return err_set(e, -EINVAL, "memory image %s: trailer damaged (checksum)", c->path);
	if (memcmp(t->image_id, h->image_id, sizeof(t->image_id)) != 0 ||
	    t->ram_bytes != h->ram_bytes || t->chunk_bytes != h->chunk_bytes)
		return err_set(e, -EINVAL,
			       "memory image %s: header and trailer are not of one image", c->path);
	index_bytes = h->ram_bytes / h->chunk_bytes * sizeof(struct cold_entry);
	if (t->version != COLD_VERSION || t->trailer_bytes != sizeof(*t) ||
	    t->chunks != h->ram_bytes / h->chunk_bytes || t->file_bytes != c->file_bytes ||
	    t->index_offset < sizeof(*h) || t->index_offset > c->file_bytes ||
	    c->file_bytes - t->index_offset != index_bytes + sizeof(*t))
		return err_set(e, -EINVAL, "memory image %s: trailer and file do not fit together",
			       c->path);
	return 0;
}

/* What the checksums cannot say: an index that nobody of us has written. */
static bool entry_ok(const struct cold_image *c, const struct cold_entry *n, uint64_t offset)
{
	static const struct cold_entry zero;
	uint32_t bitmap_bytes = cold_bitmap_bytes(c->chunk_bytes);

	if (n->method == COLD_ZERO)
		return !memcmp(n, &zero, sizeof(zero));
	if (n->reserved || n->offset != offset || !n->stored_bytes ||
	    n->plain_bytes < bitmap_bytes + COLD_PAGE ||
	    n->plain_bytes > bitmap_bytes + c->chunk_bytes ||
	    (n->plain_bytes - bitmap_bytes) % COLD_PAGE)
		return false;
	return n->method == COLD_STORED
		   ? n->stored_bytes == n->plain_bytes && n->stored_crc == n->plain_crc
		   : n->method == COLD_DEFLATE && n->stored_bytes < n->plain_bytes;
}

static int check_index(const struct cold_image *c, const struct cold_trailer *t, struct err *e)
{
	uint64_t offset = sizeof(struct cold_header), pages = 0;
	uint32_t stored = 0;

	for (uint32_t i = 0; i < c->chunks; i++) {
		const struct cold_entry *n = &c->index[i];

		/* At most 64 GiB and a bit per step: the sum cannot wrap before it is refused. */
		if (!entry_ok(c, n, offset) || offset + n->stored_bytes > t->index_offset)
			return err_set(e, -EINVAL, "memory image %s: index entry %u is impossible",
				       c->path, i);
		offset += n->stored_bytes;
		if (n->method == COLD_ZERO)
			continue;
		stored++;
		pages += (n->plain_bytes - cold_bitmap_bytes(c->chunk_bytes)) / COLD_PAGE;
	}
	if (t->index_offset != cold_align8(offset) || stored != t->chunks_stored ||
	    pages != t->page_count)
		return err_set(e, -EINVAL, "memory image %s: index and trailer do not fit together",
			       c->path);
	return 0;
}

static int read_index(struct cold_image *c, const struct cold_trailer *t, struct err *e)
{
	size_t len = c->chunks * sizeof(*c->index);
	int rc;

	/* As long as that part of the file, which exists. */
	c->index = malloc(len);
	if (!c->index)
		return err_set(e, -ENOMEM, "memory image %s: out of memory", c->path);
	rc = read_at(c, c->index, len, t->index_offset);
	if (rc)
		return err_sys(e, rc, "memory image %s: reading the index", c->path);
	if (t->index_crc != cold_crc(c->index, len))
		return err_set(e, -EINVAL, "memory image %s: index damaged (checksum)", c->path);
	return check_index(c, t, e);
}

static int open_checked(struct cold_image *c, struct err *e)
{
	struct cold_header h;
	struct cold_trailer t;
	struct stat st;
	int rc;

	if (fstat(c->fd, &st) < 0)
		return err_sys(e, -errno, "memory image %s", c->path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "memory image %s: not a regular file", c->path);
	c->file_bytes = (uint64_t)st.st_size;
	rc = read_header(c, &h, e);
	if (!rc)
		rc = read_trailer(c, &h, &t, e);
	if (rc)
		return rc;
	memcpy(c->image_id, h.image_id, sizeof(c->image_id));
	c->ram_bytes = h.ram_bytes;
	c->chunk_bytes = h.chunk_bytes;
	c->chunks = t.chunks;
	c->chunks_stored = t.chunks_stored;
	c->page_count = t.page_count;
	return read_index(c, &t, e);
}

int cold_open(struct cold_image *c, const char *path, struct err *e)
{
	int rc;

	*c = (struct cold_image){.fd = -1};
	c->path = strdup(path);
	if (!c->path)
		return err_set(e, -ENOMEM, "out of memory");
	/* O_NONBLOCK: a FIFO put there must not hold us. */
	c->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (c->fd < 0)
		rc = err_sys(e, -errno, "memory image %s", path);
	else
		rc = open_checked(c, e);
	if (rc)
		cold_close(c);
	return rc;
}

void cold_close(struct cold_image *c)
{
	fd_close(&c->fd);
	free(c->path);
	free(c->index);
	c->path = NULL;
	c->index = NULL;
}

int cold_codec_create(struct cold_codec **out, uint32_t chunk_bytes, struct err *e)
{
	uint32_t len = cold_bitmap_bytes(chunk_bytes) + chunk_bytes;
	struct cold_codec *k = calloc(1, sizeof(*k));

	*out = NULL;
	if (!k)
		return err_set(e, -ENOMEM, "memory image: out of memory");
	k->chunk_bytes = chunk_bytes;
	k->stored = malloc(len);
	k->plain = malloc(len);
	if (!k->stored || !k->plain || inflateInit2(&k->z, -15) != Z_OK) {
		cold_codec_destroy(k);
		return err_set(e, -ENOMEM, "memory image: out of memory");
	}
	*out = k;
	return 0;
}

void cold_codec_destroy(struct cold_codec *k)
{
	if (!k)
		return;
	inflateEnd(&k->z);
	free(k->stored);
	free(k->plain);
	free(k);
}

/* The plain bytes, or NULL. */
static const uint8_t *inflated(struct cold_codec *k, const struct cold_entry *n, const void *stored)
{
	if (n->method == COLD_STORED)
		return stored;
	if (inflateReset(&k->z) != Z_OK)
		return NULL;
	k->z.next_in = (Bytef *)(uintptr_t)stored;
	k->z.avail_in = n->stored_bytes;
	k->z.next_out = k->plain;
	k->z.avail_out = n->plain_bytes;
	if (inflate(&k->z, Z_FINISH) != Z_STREAM_END || k->z.avail_in || k->z.avail_out)
		return NULL;
	return k->plain;
}

static int damaged(const struct cold_image *c, uint32_t chunk, const void *stored, struct err *e)
{
	const struct cold_entry *n = &c->index[chunk];
	bool on_disk = cold_crc(stored, n->stored_bytes) != n->stored_crc;

	return err_set(e, -EIO, "memory image %s: chunk %u (%u bytes at %llu) is damaged (%s)",
		       c->path, chunk, n->stored_bytes, (unsigned long long)n->offset,
		       on_disk ? "checksum" : "content");
}

int cold_decode(const struct cold_image *c, uint32_t chunk, const void *stored,
		struct cold_codec *k, struct cold_pages *p, struct err *e)
{
	const struct cold_entry *n = &c->index[chunk];
	uint32_t bitmap_bytes = cold_bitmap_bytes(c->chunk_bytes), pages = 0;
	const uint8_t *plain;

	*p = (struct cold_pages){0};
	if (n->method == COLD_ZERO)
		return 0;
	plain = inflated(k, n, stored);
	if (!plain || cold_crc(plain, n->plain_bytes) != n->plain_crc)
		return damaged(c, chunk, stored, e);
	for (uint32_t i = 0; i < bitmap_bytes; i++)
		pages += (uint32_t)__builtin_popcount(plain[i]);
	if (pages != (n->plain_bytes - bitmap_bytes) / COLD_PAGE)
		return damaged(c, chunk, stored, e);
	*p = (struct cold_pages){plain, plain + bitmap_bytes, pages};
	return 0;
}

int cold_read(const struct cold_image *c, uint32_t chunk, struct cold_codec *k,
	      struct cold_pages *p, struct err *e)
{
	const struct cold_entry *n = &c->index[chunk];
	int rc = 0;

	if (n->method != COLD_ZERO)
		rc = read_at(c, k->stored, n->stored_bytes, n->offset);
	if (rc) {
		err_sys(e, rc, "memory image %s: reading chunk %u", c->path, chunk);
		return -EIO;
	}
	return cold_decode(c, chunk, k->stored, k, p, e);
}

static bool page_in(const struct cold_pages *p, uint32_t page)
{
	return p->bitmap[page / 8] >> (page % 8) & 1;
}

uint32_t cold_next_run(const struct cold_pages *p, uint32_t *page, uint32_t pages)
{
	uint32_t first = *page, end;

	if (!p->n)
		return 0;
	while (first < pages && !page_in(p, first))
		first++;
	for (end = first; end < pages && page_in(p, end);)
		end++;
	*page = first;
	return end - first;
}
