/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images of guest RAM: writing; see ram_image.h.
 *
 * ram_image_write() runs in a process that was cloned from one with threads: it may
 * not take locks that one of them held, so no malloc and no stdio from there on.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "lib/fd.h"
#include "snapshot/ram_image_int.h"

/*
 * #syscalls ioctl[1&0xff00==0x9400] fallocate
 * #syscalls:child ioctl[1&0xff00==0x9400] fallocate pwrite64 pread64 fsync ftruncate
 * #syscalls:child mmap[2&4==0] munmap madvise lseek close
 */

/* --- before --------------------------------------------------------------------------- */

static int open_dir_of(const char *path, struct err *e)
{
	cleanup_free char *copy = strdup(path);
	int fd;

	if (!copy)
		return err_set(e, -ENOMEM, "out of memory");
	fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? err_sys(e, -errno, "memory image %s: its directory", path) : fd;
}

static int check_config(const struct ram_image_writer *w, struct err *e)
{
	if (!w->ram_bytes || w->ram_bytes % RAM_IMAGE_CHUNK || w->ram_bytes > RAM_IMAGE_MAX)
		return err_set(e, -EINVAL, "memory image %s: %llu bytes of RAM are not possible",
			       w->path, (unsigned long long)w->ram_bytes);
	return 0;
}

static int create(struct ram_image_writer *w, struct err *e)
{
	int rc = check_config(w, e);

	if (rc)
		return rc;
	w->trailer_bytes = ram_image_trailer_bytes(w->ram_bytes);
	w->trailer = calloc(1, w->trailer_bytes);
	if (!w->trailer)
		return err_set(e, -ENOMEM, "out of memory");
	w->chunks =
	    (struct ram_image_chunk *)(void *)(w->trailer + sizeof(struct ram_image_header));
	w->dir_fd = open_dir_of(w->path, e);
	if (w->dir_fd < 0)
		return w->dir_fd;
	w->fd = open(w->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	return w->fd < 0 ? err_sys(e, -errno, "memory image %s", w->path) : 0;
}

int ram_image_writer_open(struct ram_image_writer *w, const char *path, uint64_t ram_bytes,
			  const struct ram_image *parent, uint8_t id[RAM_IMAGE_ID_BYTES],
			  struct err *e)
{
	struct ram_image_header h = {.magic = RAM_IMAGE_MAGIC, .version = RAM_IMAGE_VERSION};
	int rc;

	*w = (struct ram_image_writer){
	    .fd = -1, .dir_fd = -1, .ram_bytes = ram_bytes, .parent = parent};
	w->path = strdup(path);
	if (!w->path)
		return err_set(e, -ENOMEM, "out of memory");
	rc = create(w, e);
	if (!rc && getrandom(h.id, sizeof(h.id), 0) != sizeof(h.id))
		rc = err_sys(e, -errno, "random numbers");
	if (rc) {
		/* A file that was there before is not ours to remove. */
		ram_image_writer_close(w, w->fd < 0);
		return rc;
	}
	h.ram_bytes = ram_bytes;
	h.trailer_bytes = (uint32_t)w->trailer_bytes;
	memcpy(w->trailer, &h, sizeof(h));
	memcpy(id, h.id, RAM_IMAGE_ID_BYTES);
	return 0;
}

void ram_image_writer_close(struct ram_image_writer *w, bool keep)
{
	if (!keep && w->path)
		unlink(w->path);
	fd_close(&w->fd);
	fd_close(&w->dir_fd);
	free(w->trailer);
	free(w->path);
	w->trailer = NULL;
	w->path = NULL;
}

/* --- writing: system calls only --------------------------------------------------------- */

static int fault(const struct ram_image_writer *w, const char *point)
{
	return w->fault ? w->fault(w->fault_opaque, point) : 0;
}

static int write_at(struct ram_image_writer *w, const uint8_t *data, size_t len, uint64_t offset)
{
	int rc = fault(w, "write");

	while (!rc && len) {
		ssize_t n = pwrite(w->fd, data, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		data += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return rc;
}

static int punch(struct ram_image_writer *w, uint64_t offset, uint64_t len)
{
	int rc = fault(w, "write");

	if (rc)
		return rc;
	return fallocate(w->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
			 (off_t)len) < 0
		   ? -errno
		   : 0;
}

/* How much of RAM the parent has, too: a guest may have been given more since, or less. */
static uint64_t common_bytes(const struct ram_image_writer *w)
{
	return w->parent->ram_bytes < w->ram_bytes ? w->parent->ram_bytes : w->ram_bytes;
}

/* Give the file its size, and the parent's blocks where they can be shared. */
static int begin(struct ram_image_writer *w)
{
	struct file_clone_range all = {0};

	if (w->parent)
		all.src_length = common_bytes(w);
	if (w->parent) {
		all.src_fd = w->parent->fd;
		/* Not the trailer: this file is no image before it has its own. */
		w->cloned = ioctl(w->fd, FICLONERANGE, &all) == 0;
	}
	if (w->parent && w->compare_own) {
		void *p = mmap(NULL, common_bytes(w), PROT_READ, MAP_PRIVATE, w->parent->fd, 0);

		if (p == MAP_FAILED)
			return -errno;
		w->compare = p;
	}
	return ftruncate(w->fd, (off_t)w->ram_bytes) == 0 ? 0 : -errno;
}

/*
 * Look at the pages of a chunk and make their kinds final: afterwards, zeros that the file does not
 * have already are RAM_PAGE_ZERO.
 *
 * Return: how many are not zero
 */
static uint16_t settle(const struct ram_image_writer *w, const uint8_t *ram, uint64_t offset,
		       uint8_t *kinds)
{
	uint16_t stored = 0;

	for (size_t i = 0; i < RAM_IMAGE_PAGES; i++) {
		const uint8_t *page = ram + offset + i * RAM_IMAGE_PAGE;

		if (kinds[i] == RAM_PAGE_ZERO)
			continue;
		if (kinds[i] == RAM_PAGE_OWN && w->compare && offset < w->parent->ram_bytes &&
		    !memcmp(page, w->compare + offset + i * RAM_IMAGE_PAGE, RAM_IMAGE_PAGE))
			kinds[i] = RAM_PAGE_SAME;
		if (!ram_image_is_zero(page, RAM_IMAGE_PAGE))
			stored++;
		else if (kinds[i] == RAM_PAGE_OWN || !w->cloned)
			kinds[i] = RAM_PAGE_ZERO;
	}
	return stored;
}

static uint32_t chunk_crc(const uint8_t *ram, uint64_t offset, const uint8_t *kinds)
{
	static const uint8_t zeros[RAM_IMAGE_PAGE];
	uLong crc = 0;

	for (size_t i = 0, n; i < RAM_IMAGE_PAGES; i += n) {
		bool zero = kinds[i] == RAM_PAGE_ZERO;

		n = 1;
		while (!zero && i + n < RAM_IMAGE_PAGES && kinds[i + n] != RAM_PAGE_ZERO)
			n++;
		crc = crc32(crc, zero ? zeros : ram + offset + i * RAM_IMAGE_PAGE,
			    (uInt)(n * RAM_IMAGE_PAGE));
	}
	return (uint32_t)crc;
}

/* Bring the file's chunk, which is a hole or the parent's, to what RAM has. */
static int store(struct ram_image_writer *w, const uint8_t *ram, uint64_t offset,
		 const uint8_t *kinds)
{
	int rc = 0;

	for (size_t i = 0, n; i < RAM_IMAGE_PAGES && !rc; i += n) {
		uint8_t kind = kinds[i];
		uint64_t at = offset + i * RAM_IMAGE_PAGE;

		n = 1;
		while (i + n < RAM_IMAGE_PAGES && kinds[i + n] == kind)
			n++;
		if (kind == RAM_PAGE_OWN || (kind == RAM_PAGE_SAME && !w->cloned))
			rc = write_at(w, ram + at, n * RAM_IMAGE_PAGE, at);
		else if (kind == RAM_PAGE_ZERO && w->cloned)
			rc = punch(w, at, n * RAM_IMAGE_PAGE);
	}
	return rc;
}

static bool all_are(const uint8_t *kinds, uint8_t kind)
{
	return kinds[0] == kind && !memcmp(kinds, kinds + 1, RAM_IMAGE_PAGES - 1);
}

static int write_chunk(struct ram_image_writer *w, const uint8_t *ram, size_t i)
{
	const bool has_old = w->parent && i < ram_image_chunks_n(w->parent->ram_bytes);
	const struct ram_image_chunk *old = has_old ? ram_image_chunks(w->parent) + i : NULL;
	uint64_t offset = (uint64_t)i * RAM_IMAGE_CHUNK;
	uint8_t kinds[RAM_IMAGE_PAGES];
	bool same;
	int rc;

	memset(kinds, RAM_PAGE_OWN, sizeof(kinds));
	rc = w->classify ? w->classify(w->opaque, i * RAM_IMAGE_PAGES, RAM_IMAGE_PAGES, kinds) : 0;
	if (rc)
		return rc;
	/* Where the parent has nothing, what nobody has touched is zero. */
	for (size_t k = 0; !old && k < RAM_IMAGE_PAGES; k++)
		if (kinds[k] == RAM_PAGE_SAME)
			kinds[k] = RAM_PAGE_ZERO;
	same = old && all_are(kinds, RAM_PAGE_SAME);
	/* Its checksum too: if the parent is damaged, so is this, and it shows. */
	if (same)
		w->chunks[i] = *old;
	if (!old && all_are(kinds, RAM_PAGE_ZERO))
		return 0;
	if (!same || (!w->cloned && old->pages)) {
		uint16_t stored = settle(w, ram, offset, kinds);

		if (!same)
			w->chunks[i].pages = stored;
		if (!same && stored)
			w->chunks[i].crc = chunk_crc(ram, offset, kinds);
		rc = store(w, ram, offset, kinds);
	}
	w->stored_bytes += (uint64_t)w->chunks[i].pages * RAM_IMAGE_PAGE;
	return rc;
}

static int write_trailer(struct ram_image_writer *w)
{
	struct ram_image_header h;
	int rc = fault(w, "trailer");

	if (rc)
		return rc;
	memcpy(&h, w->trailer, sizeof(h));
	h.stored_bytes = w->stored_bytes;
	h.chunks_crc = ram_image_chunks_crc(w->trailer, w->trailer_bytes);
	h.crc = (uint32_t)crc32(0, (const uint8_t *)&h, offsetof(struct ram_image_header, crc));
	memcpy(w->trailer, &h, sizeof(h));
	return write_at(w, w->trailer, w->trailer_bytes, w->ram_bytes);
}

static int sync_fd(struct ram_image_writer *w, int fd, const char *point)
{
	int rc = fault(w, point);

	if (rc)
		return rc;
	return fsync(fd) < 0 ? -errno : 0;
}

int ram_image_write(struct ram_image_writer *w, const void *ram)
{
	int rc;

	w->failed = "making the file as large as RAM";
	rc = begin(w);
	if (rc)
		return rc;
	w->failed = "writing pages";
	for (size_t i = 0; i < ram_image_chunks_n(w->ram_bytes); i++) {
		rc = write_chunk(w, ram, i);
		if (rc)
			return rc;
	}
	w->failed = "making pages durable";
	rc = sync_fd(w, w->fd, "sync");
	if (rc)
		return rc;
	w->failed = "writing the trailer";
	rc = write_trailer(w);
	if (!rc)
		rc = sync_fd(w, w->fd, "sync");
	if (rc)
		return rc;
	w->failed = "making the directory durable";
	rc = sync_fd(w, w->dir_fd, "dir");
	if (!rc)
		w->failed = NULL;
	return rc;
}
