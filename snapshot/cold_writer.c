/* SPDX-License-Identifier: Apache-2.0 */
/* Writing cold memory images; see cold_image.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "lib/fd.h"
#include "snapshot/cold_int.h"

struct cold_writer {
	int fd, dir_fd;	  /* owned */
	char *path, *tmp; /* owned */
	bool deflating;	  /* z is initialised */
	z_stream z;
	struct cold_header header;
	struct cold_trailer trailer;
	struct cold_entry *index; /* owned */
	uint8_t *plain, *stored;  /* owned */
	uint32_t next;		  /* chunk */
	uint64_t offset;	  /* of the next bytes */
};

static void writer_free(struct cold_writer *w)
{
	if (w->deflating)
		deflateEnd(&w->z);
	fd_close(&w->fd);
	fd_close(&w->dir_fd);
	free(w->path);
	free(w->tmp);
	free(w->index);
	free(w->plain);
	free(w->stored);
	free(w);
}

void cold_writer_abort(struct cold_writer *w)
{
	if (!w)
		return;
	if (w->fd >= 0)
		unlink(w->tmp);
	writer_free(w);
}

static int write_at(struct cold_writer *w, const void *buf, size_t len, struct err *e)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n =
		    pwrite(w->fd, (const char *)buf + done, len - done, (off_t)(w->offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(e, -errno, "writing memory image %s", w->tmp);
		done += (size_t)n;
	}
	w->offset += len;
	return 0;
}

static int open_dir(struct cold_writer *w, struct err *e)
{
	const char *slash = strrchr(w->path, '/');
	cleanup_free char *dir =
	    slash ? strndup(w->path, (size_t)(slash - w->path) + 1) : strdup(".");

	if (!dir)
		return err_set(e, -ENOMEM, "out of memory");
	w->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return w->dir_fd < 0 ? err_sys(e, -errno, "memory image %s: its directory", w->path) : 0;
}

static int lock(int fd)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	if (fcntl(fd, F_OFD_SETLK, &l) == 0)
		return 0;
	return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
}

/* The file under its other name, ours alone and empty. */
static int open_tmp(struct cold_writer *w, struct err *e)
{
	struct stat here, there;
	int rc = open_dir(w, e);

	if (rc)
		return rc;
	w->fd = open(w->tmp, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (w->fd < 0)
		return err_sys(e, -errno, "memory image %s", w->tmp);
	rc = lock(w->fd);
	/* Another writer may have finished and given the file its name in between. */
	if (!rc && (fstat(w->fd, &here) < 0 || lstat(w->tmp, &there) < 0 ||
		    here.st_ino != there.st_ino || here.st_dev != there.st_dev))
		rc = -EBUSY;
	if (rc) {
		fd_close(&w->fd);
		return err_sys(e, rc, "memory image %s: another process writes it", w->tmp);
	}
	if (ftruncate(w->fd, 0) < 0)
		return err_sys(e, -errno, "memory image %s", w->tmp);
	return 0;
}

static int writer_init(struct cold_writer *w, const char *path, int level, struct err *e)
{
	uint32_t chunk = w->header.chunk_bytes, len = chunk + cold_bitmap_bytes(chunk);
	int rc;

	w->path = strdup(path);
	if (asprintf(&w->tmp, "%s.tmp", path) < 0)
		w->tmp = NULL;
	w->index = calloc(w->header.ram_bytes / chunk, sizeof(*w->index));
	w->plain = malloc(len);
	w->stored = malloc(len);
	w->deflating = deflateInit2(&w->z, level, Z_DEFLATED, -15, 9, Z_DEFAULT_STRATEGY) == Z_OK;
	if (!w->path || !w->tmp || !w->index || !w->plain || !w->stored || !w->deflating)
		return err_set(e, -ENOMEM, "memory image: out of memory");
	rc = open_tmp(w, e);
	if (rc)
		return rc;
	return write_at(w, &w->header, sizeof(w->header), e);
}

int cold_writer_open(struct cold_writer **out, const char *path,
		     const uint8_t image_id[COLD_IMAGE_ID_BYTES], uint64_t ram_bytes,
		     uint32_t chunk_bytes, int level, struct err *e)
{
	struct cold_writer *w;
	int rc;

	*out = NULL;
	if (!cold_sizes_ok(ram_bytes, chunk_bytes) || level < 1 || level > 9)
		return err_set(e, -EINVAL, "memory image %s: %llu bytes in chunks of %u, level %d",
			       path, (unsigned long long)ram_bytes, chunk_bytes, level);
	w = calloc(1, sizeof(*w));
	if (!w)
		return err_set(e, -ENOMEM, "memory image: out of memory");
	w->fd = w->dir_fd = -1;
	memcpy(w->header.magic, COLD_MAGIC, sizeof(w->header.magic));
	w->header.version = COLD_VERSION;
	w->header.header_bytes = sizeof(w->header);
	memcpy(w->header.image_id, image_id, sizeof(w->header.image_id));
	w->header.ram_bytes = ram_bytes;
	w->header.chunk_bytes = chunk_bytes;
	w->header.crc = cold_crc(&w->header, offsetof(struct cold_header, crc));
	rc = writer_init(w, path, level, e);
	if (rc) {
		cold_writer_abort(w);
		return rc;
	}
	*out = w;
	return 0;
}

static bool is_zero(const uint8_t *page)
{
	const uint64_t *p = (const void *)page;
	uint64_t all = 0;

	/* Most pages show in their first bytes that they are not. */
	for (unsigned int i = 0; i < COLD_PAGE / 8; i += 8) {
		for (unsigned int j = 0; j < 8; j++)
			all |= p[i + j];
		if (all)
			return false;
	}
	return true;
}

/* Bitmap and pages into w->plain. Return: how many pages. */
static uint32_t gather(struct cold_writer *w, const uint8_t *chunk)
{
	uint32_t pages = w->header.chunk_bytes / COLD_PAGE, n = 0;
	uint8_t *to = w->plain + cold_bitmap_bytes(w->header.chunk_bytes);

	memset(w->plain, 0, cold_bitmap_bytes(w->header.chunk_bytes));
	for (uint32_t i = 0; i < pages; i++) {
		const uint8_t *page = chunk + (size_t)i * COLD_PAGE;

		if (is_zero(page))
			continue;
		w->plain[i / 8] = (uint8_t)(w->plain[i / 8] | 1u << (i % 8));
		memcpy(to, page, COLD_PAGE);
		to += COLD_PAGE;
		n++;
	}
	return n;
}

/* Return: bytes in w->stored, 0 if they would not be fewer than the plain ones. */
static uint32_t deflated(struct cold_writer *w, uint32_t plain_bytes)
{
	if (deflateReset(&w->z) != Z_OK)
		return 0;
	w->z.next_in = w->plain;
	w->z.avail_in = plain_bytes;
	w->z.next_out = w->stored;
	w->z.avail_out = plain_bytes - 1;
	if (deflate(&w->z, Z_FINISH) != Z_STREAM_END)
		return 0;
	return plain_bytes - 1 - w->z.avail_out;
}

int cold_writer_add(struct cold_writer *w, const void *chunk, struct err *e)
{
	struct cold_entry *n = &w->index[w->next];
	uint32_t pages, len;
	const uint8_t *stored;

	if (w->next == w->header.ram_bytes / w->header.chunk_bytes)
		return err_set(e, -ENOSPC, "memory image %s: more chunks than memory", w->path);
	w->next++;
	pages = chunk ? gather(w, chunk) : 0;
	if (!pages)
		return 0;
	n->plain_bytes = cold_bitmap_bytes(w->header.chunk_bytes) + pages * COLD_PAGE;
	n->plain_crc = cold_crc(w->plain, n->plain_bytes);
	len = deflated(w, n->plain_bytes);
	stored = len ? w->stored : w->plain;
	n->method = len ? COLD_DEFLATE : COLD_STORED;
	n->stored_bytes = len ? len : n->plain_bytes;
	n->stored_crc = cold_crc(stored, n->stored_bytes);
	n->offset = w->offset;
	w->trailer.chunks_stored++;
	w->trailer.page_count += pages;
	return write_at(w, stored, n->stored_bytes, e);
}

static int write_end(struct cold_writer *w, struct err *e)
{
	struct cold_trailer *t = &w->trailer;
	size_t index_bytes;
	int rc;

	memcpy(t->magic, COLD_END_MAGIC, sizeof(t->magic));
	t->version = COLD_VERSION;
	t->trailer_bytes = sizeof(*t);
	memcpy(t->image_id, w->header.image_id, sizeof(t->image_id));
	t->ram_bytes = w->header.ram_bytes;
	t->chunk_bytes = w->header.chunk_bytes;
	t->chunks = w->next;
	w->offset = cold_align8(w->offset);
	t->index_offset = w->offset;
	index_bytes = w->next * sizeof(*w->index);
	t->index_crc = cold_crc(w->index, index_bytes);
	t->file_bytes = t->index_offset + index_bytes + sizeof(*t);
	t->crc = cold_crc(t, offsetof(struct cold_trailer, crc));
	rc = write_at(w, w->index, index_bytes, e);
	return rc ? rc : write_at(w, t, sizeof(*t), e);
}

int cold_writer_finish(struct cold_writer *w, struct err *e)
{
	int rc = 0;

	if (w->next != w->header.ram_bytes / w->header.chunk_bytes)
		rc = err_set(e, -EINVAL, "memory image %s: %u chunks are missing", w->path,
			     (uint32_t)(w->header.ram_bytes / w->header.chunk_bytes) - w->next);
	if (!rc)
		rc = write_end(w, e);
	if (!rc && fsync(w->fd) < 0)
		rc = err_sys(e, -errno, "making memory image %s durable", w->tmp);
	if (!rc && rename(w->tmp, w->path) < 0)
		rc = err_sys(e, -errno, "renaming memory image %s", w->tmp);
	if (rc) {
		cold_writer_abort(w);
		return rc;
	}
	if (fsync(w->dir_fd) < 0)
		rc = err_sys(e, -errno, "making the directory of memory image %s durable", w->path);
	writer_free(w);
	return rc;
}
