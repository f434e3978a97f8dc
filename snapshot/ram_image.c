/* SPDX-License-Identifier: Apache-2.0 */
/* Images of guest RAM: opening, mapping, verifying; see ram_image.h. */
#include "snapshot/ram_image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "lib/fd.h"
#include "snapshot/ram_image_int.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the trailer is little-endian");

const struct ram_image_chunk *ram_image_chunks(const struct ram_image *img)
{
	return (const struct ram_image_chunk *)(const void *)(img->trailer +
							      sizeof(struct ram_image_header));
}

bool ram_image_is_zero(const uint8_t *p, size_t len_bytes)
{
	/* Equal to itself shifted by one word, and the first word is zero. */
	uint64_t first;

	memcpy(&first, p, sizeof(first));
	return !first && !memcmp(p, p + sizeof(first), len_bytes - sizeof(first));
}

/* --- opening ------------------------------------------------------------------------------ */

static int check_header(const struct ram_image *img, const struct ram_image_header *h,
			uint64_t file_bytes, struct err *e)
{
	if (memcmp(h->magic, RAM_IMAGE_MAGIC, sizeof(h->magic)))
		return err_set(e, -EINVAL,
			       "memory image %s: no trailer where one should be: truncated, never "
			       "finished, or no memory image",
			       img->path);
	/* Before anything whose meaning a version may change. */
	if (h->version != RAM_IMAGE_VERSION)
		return err_set(e, -ENOTSUP,
			       "memory image %s: format %u; this program knows format %u only",
			       img->path, h->version, RAM_IMAGE_VERSION);
	if (h->crc !=
	    (uint32_t)crc32(0, (const uint8_t *)h, offsetof(struct ram_image_header, crc)))
		return err_set(e, -EINVAL, "memory image %s: damaged: checksum of the trailer",
			       img->path);
	if (h->ram_bytes != img->ram_bytes ||
	    h->trailer_bytes != ram_image_trailer_bytes(img->ram_bytes) ||
	    file_bytes != img->ram_bytes + h->trailer_bytes)
		return err_set(e, -EINVAL,
			       "memory image %s: damaged: a file of %llu bytes for %llu bytes of "
			       "RAM and a trailer of %u",
			       img->path, (unsigned long long)file_bytes,
			       (unsigned long long)h->ram_bytes, h->trailer_bytes);
	if (h->reserved[0] || h->reserved[1])
		return err_set(e, -ENOTSUP, "memory image %s: it uses what is not known here",
			       img->path);
	return 0;
}

static int check_chunks(const struct ram_image *img, const struct ram_image_header *h,
			struct err *e)
{
	const struct ram_image_chunk *c = ram_image_chunks(img);
	size_t n = ram_image_chunks_n(img->ram_bytes);
	uint64_t pages = 0;

	if (h->chunks_crc != ram_image_chunks_crc(img->trailer, h->trailer_bytes))
		return err_set(e, -EINVAL, "memory image %s: damaged: checksum of the table",
			       img->path);
	for (size_t i = 0; i < n; i++) {
		if (c[i].pages > RAM_IMAGE_PAGES || c[i].reserved || (!c[i].pages && c[i].crc))
			return err_set(e, -EINVAL,
				       "memory image %s: damaged: entry %zu of the table",
				       img->path, i);
		pages += c[i].pages;
	}
	if (pages * RAM_IMAGE_PAGE != h->stored_bytes)
		return err_set(e, -EINVAL, "memory image %s: damaged: number of pages", img->path);
	return 0;
}

static int read_trailer(struct ram_image *img, uint64_t file_bytes, struct err *e)
{
	size_t want = ram_image_trailer_bytes(img->ram_bytes);
	uint64_t left = file_bytes - img->ram_bytes;
	struct ram_image_header h;
	ssize_t n;
	int rc;

	if (left < want)
		return err_set(e, -EINVAL,
			       "memory image %s: truncated, never finished, or no memory image: "
			       "%llu bytes",
			       img->path, (unsigned long long)file_bytes);
	img->trailer = malloc(want);
	if (!img->trailer)
		return err_set(e, -ENOMEM, "out of memory");
	n = pread(img->fd, img->trailer, want, (off_t)img->ram_bytes);
	if (n != (ssize_t)want)
		return err_sys(e, n < 0 ? -errno : -EIO, "memory image %s", img->path);
	memcpy(&h, img->trailer, sizeof(h));
	rc = check_header(img, &h, file_bytes, e);
	if (!rc)
		rc = check_chunks(img, &h, e);
	memcpy(img->id, h.id, sizeof(img->id));
	img->stored_bytes = h.stored_bytes;
	return rc;
}

static int open_checked(struct ram_image *img, uint64_t ram_bytes, struct err *e)
{
	struct stat st;
	int rc;

	img->fd = open(img->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (img->fd < 0 || fstat(img->fd, &st) < 0)
		return err_sys(e, -errno, "memory image %s", img->path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "memory image %s: not a regular file", img->path);
	/* A trailer is shorter than a chunk, so the size of the file says where it begins. */
	img->ram_bytes = (uint64_t)st.st_size / RAM_IMAGE_CHUNK * RAM_IMAGE_CHUNK;
	if (!img->ram_bytes || img->ram_bytes > RAM_IMAGE_MAX)
		return err_set(e, -EINVAL,
			       "memory image %s: truncated, or no memory image: %lld bytes",
			       img->path, (long long)st.st_size);
	/* Before sizes are compared: a truncated image is not one of less RAM. */
	rc = read_trailer(img, (uint64_t)st.st_size, e);
	if (rc)
		return rc;
	if (ram_bytes && img->ram_bytes != ram_bytes)
		return err_set(e, -EINVAL, "memory image %s: of %llu MiB of RAM; here are %llu",
			       img->path, (unsigned long long)img->ram_bytes >> 20,
			       (unsigned long long)ram_bytes >> 20);
	return 0;
}

int ram_image_open(struct ram_image *img, const char *path, uint64_t ram_bytes, struct err *e)
{
	int rc;

	*img = (struct ram_image)RAM_IMAGE_CLOSED;
	img->path = strdup(path);
	if (!img->path)
		return err_set(e, -ENOMEM, "out of memory");
	rc = open_checked(img, ram_bytes, e);
	if (rc)
		ram_image_close(img);
	return rc;
}

void ram_image_close(struct ram_image *img)
{
	fd_close(&img->fd);
	free(img->trailer);
	free(img->path);
	img->trailer = NULL;
	img->path = NULL;
}

int ram_image_map(const struct ram_image *img, void *at, bool vacant, struct err *e)
{
	int fixed = vacant ? MAP_FIXED_NOREPLACE : MAP_FIXED;
	void *p = mmap(at, img->ram_bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_NORESERVE | fixed, img->fd, 0);

	return p == MAP_FAILED ? err_sys(e, -errno, "mapping memory image %s", img->path) : 0;
}

/* --- verifying ---------------------------------------------------------------------------- */

static int read_chunk(const struct ram_image *img, size_t chunk, uint8_t *buf)
{
	size_t have = 0;

	while (have < RAM_IMAGE_CHUNK) {
		ssize_t n = pread(img->fd, buf + have, RAM_IMAGE_CHUNK - have,
				  (off_t)(chunk * RAM_IMAGE_CHUNK + have));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		have += (size_t)n;
	}
	return 0;
}

/* Nothing but a hole: then it need not be read. */
static bool is_hole(const struct ram_image *img, size_t chunk)
{
	off_t at = (off_t)chunk * RAM_IMAGE_CHUNK, data = lseek(img->fd, at, SEEK_DATA);

	return data >= at + (off_t)RAM_IMAGE_CHUNK || (data < 0 && errno == ENXIO);
}

static int verify_chunk(const struct ram_image *img, size_t i, uint8_t *buf, struct err *e)
{
	const struct ram_image_chunk *c = &ram_image_chunks(img)[i];
	uint32_t crc;
	int rc;

	if (!c->pages && is_hole(img, i))
		return 0;
	rc = read_chunk(img, i, buf);
	if (rc)
		return err_sys(e, rc, "memory image %s: reading chunk %zu", img->path, i);
	crc = (uint32_t)crc32(0, buf, RAM_IMAGE_CHUNK);
	if (c->pages ? crc == c->crc : ram_image_is_zero(buf, RAM_IMAGE_CHUNK))
		return 0;
	return err_set(e, -EIO, "memory image %s: damaged: checksum of chunk %zu (at %llu MiB)",
		       img->path, i, (unsigned long long)i * (RAM_IMAGE_CHUNK >> 20));
}

int ram_image_verify(const struct ram_image *img, struct err *e)
{
	uint8_t *buf = malloc(RAM_IMAGE_CHUNK);
	int rc = buf ? 0 : err_set(e, -ENOMEM, "out of memory");

	for (size_t i = 0; !rc && i < ram_image_chunks_n(img->ram_bytes); i++)
		rc = verify_chunk(img, i, buf, e);
	free(buf);
	return rc;
}
