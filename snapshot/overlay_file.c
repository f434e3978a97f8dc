/* SPDX-License-Identifier: Apache-2.0 */
/* The overlay file; see overlay_file.h. */
#include "snapshot/overlay_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include "lib/fd.h"
#include "lib/log.h"

#define SECTORS_PER_LOAD (4096u / OVERLAY_SECTOR)

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file is read and written as it is");
_Static_assert(OVERLAY_MAP + (OVERLAY_MAX_BYTES / OVERLAY_CLUSTER / OVERLAY_SECTOR_BITS + 1) *
				 OVERLAY_SECTOR <=
		   OVERLAY_DATA,
	       "the map of the largest disk fits before the data");

int overlay_lock(int fd, bool exclusive)
{
	struct flock l = {.l_type = exclusive ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};

	if (fcntl(fd, F_OFD_SETLK, &l) == 0)
		return 0;
	return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
}

static bool bit_get(const uint8_t *bits, uint64_t i)
{
	return bits[i / 8] >> (i % 8) & 1;
}

static void bit_set(uint8_t *bits, uint64_t i)
{
	bits[i / 8] = (uint8_t)(bits[i / 8] | 1u << (i % 8));
}

static void bit_clear(uint8_t *bits, uint64_t i)
{
	bits[i / 8] = (uint8_t)(bits[i / 8] & ~(1u << (i % 8)));
}

static uint32_t header_crc(const struct overlay_header *h)
{
	return (uint32_t)crc32(0, (const Bytef *)h, offsetof(struct overlay_header, crc));
}

static uint32_t map_crc(const struct overlay_map_sector *s, uint32_t sector)
{
	uLong crc = crc32(0, s->bits, sizeof(s->bits));

	return (uint32_t)crc32(crc, (const Bytef *)&sector, sizeof(sector));
}

/* One sector in one write: old or new. Durable with the first flush. */
static int write_header(const struct overlay_file *f, const struct stat *base, struct err *e)
{
	union {
		struct overlay_header h;
		uint8_t bytes[OVERLAY_SECTOR];
	} u = {.bytes = {0}};
	ssize_t n;

	memcpy(u.h.magic, OVERLAY_MAGIC, sizeof(u.h.magic));
	u.h.version = OVERLAY_VERSION;
	u.h.header_bytes = sizeof(u.h);
	u.h.cluster_bytes = OVERLAY_CLUSTER;
	u.h.map_sector_bits = OVERLAY_SECTOR_BITS;
	u.h.map_offset = OVERLAY_MAP;
	u.h.data_offset = OVERLAY_DATA;
	u.h.size_bytes = f->size_bytes;
	u.h.base_bytes = (uint64_t)base->st_size;
	u.h.base_mtime_s = base->st_mtim.tv_sec;
	u.h.base_mtime_ns = (uint32_t)base->st_mtim.tv_nsec;
	u.h.crc = header_crc(&u.h);
	if (ftruncate(f->fd, (off_t)(OVERLAY_DATA + f->size_bytes)) < 0)
		return err_sys(e, -errno, "overlay %s: setting its size", f->path);
	n = pwrite(f->fd, &u, sizeof(u), 0);
	if (n != sizeof(u))
		return err_sys(e, n < 0 ? -errno : -EIO, "overlay %s: writing the header", f->path);
	return 0;
}

static int check_size(const char *path, uint64_t size, struct err *e)
{
	if (!size || size % 512 || size > OVERLAY_MAX_BYTES)
		return err_set(
		    e, -EINVAL, "overlay %s: disk size %llu is not a multiple of 512 up to %llu",
		    path, (unsigned long long)size, (unsigned long long)OVERLAY_MAX_BYTES);
	return 0;
}

static int check_header(const struct overlay_file *f, const struct overlay_header *h,
			const struct stat *base, const struct stat *st, struct err *e)
{
	if (memcmp(h->magic, OVERLAY_MAGIC, sizeof(h->magic)))
		return err_set(e, -EINVAL, "overlay %s: not an overlay file (wrong magic)",
			       f->path);
	/* The version decides whether the rest means anything to us: before the checksum. */
	if (h->version > OVERLAY_VERSION)
		return err_set(e, -ENOTSUP, "overlay %s: format version %u is newer than %d",
			       f->path, h->version, OVERLAY_VERSION);
	if (h->crc != header_crc(h))
		return err_set(e, -EINVAL, "overlay %s: header damaged (checksum)", f->path);
	if (h->version != OVERLAY_VERSION || h->header_bytes != sizeof(*h) ||
	    h->cluster_bytes != OVERLAY_CLUSTER || h->map_sector_bits != OVERLAY_SECTOR_BITS ||
	    h->map_offset != OVERLAY_MAP || h->data_offset != OVERLAY_DATA)
		return err_set(e, -EINVAL, "overlay %s: layout is not that of version %d", f->path,
			       OVERLAY_VERSION);
	if (check_size(f->path, h->size_bytes, e) < 0)
		return -EINVAL;
	if ((uint64_t)st->st_size < OVERLAY_DATA + h->size_bytes)
		return err_set(e, -EINVAL, "overlay %s: truncated: %llu bytes, %llu expected",
			       f->path, (unsigned long long)st->st_size,
			       (unsigned long long)(OVERLAY_DATA + h->size_bytes));
	if (h->base_bytes != (uint64_t)base->st_size || h->base_mtime_s != base->st_mtim.tv_sec ||
	    h->base_mtime_ns != (uint32_t)base->st_mtim.tv_nsec)
		return err_set(e, -EINVAL,
			       "overlay %s: made on another base, or the base has changed "
			       "(size or modification time)",
			       f->path);
	return 0;
}

/**
 * load_header() - Check an existing file
 *
 * Return: 0, 1 if it is empty: a creation that did not get far, to be done again
 */
static int load_header(struct overlay_file *f, const struct stat *base, struct err *e)
{
	struct overlay_header h;
	struct stat st;
	ssize_t n;

	if (fstat(f->fd, &st) < 0)
		return err_sys(e, -errno, "overlay %s", f->path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "overlay %s: not a regular file", f->path);
	if (st.st_size == 0 || (lseek(f->fd, 0, SEEK_DATA) < 0 && errno == ENXIO))
		return 1;
	n = pread(f->fd, &h, sizeof(h), 0);
	if (n < 0)
		return err_sys(e, -errno, "overlay %s: reading the header", f->path);
	if (n != sizeof(h))
		return err_set(e, -EINVAL, "overlay %s: truncated: %zd bytes", f->path, n);
	if (check_header(f, &h, base, &st, e) < 0)
		return h.version > OVERLAY_VERSION && !memcmp(h.magic, OVERLAY_MAGIC, 8) ? -ENOTSUP
											 : -EINVAL;
	f->size_bytes = h.size_bytes;
	return 0;
}

static int make_map(struct overlay_file *f, bool empty, struct err *e)
{
	uint64_t clusters = (f->size_bytes + OVERLAY_CLUSTER - 1) / OVERLAY_CLUSTER;
	uint32_t n = (uint32_t)((clusters + OVERLAY_SECTOR_BITS - 1) / OVERLAY_SECTOR_BITS);

	/* Whole loads: the last one may go past the last sector. */
	n = (n + SECTORS_PER_LOAD - 1) / SECTORS_PER_LOAD * SECTORS_PER_LOAD;
	f->sectors = n;
	f->map_bytes = (uint64_t)n * OVERLAY_SECTOR;
	f->loaded = calloc(1, n / 8 + 1);
	f->dirty = calloc(1, n / 8 + 1);
	/* Pages that nobody touches cost nothing. */
	f->map = mmap(NULL, f->map_bytes, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (f->map == MAP_FAILED)
		f->map = NULL;
	if (!f->loaded || !f->dirty || !f->map)
		return err_set(e, -ENOMEM, "overlay %s: out of memory", f->path);
	if (empty)
		memset(f->loaded, 0xff, n / 8 + 1);
	return 0;
}

static int open_locked(struct overlay_file *f, const char *path, struct err *e)
{
	int rc;

	f->path = strdup(path);
	if (!f->path)
		return err_set(e, -ENOMEM, "out of memory");
	f->fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (f->fd < 0 && errno == ENOENT) {
		f->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	}
	if (f->fd < 0)
		return err_sys(e, -errno, "overlay %s", path);
	rc = overlay_lock(f->fd, true);
	if (rc == -EBUSY)
		return err_set(e, rc, "overlay %s: in use by another process", path);
	if (rc < 0)
		return err_sys(e, rc, "overlay %s: lock", path);
	return 0;
}

/* For the first flush: a file is only durable when its directory entry is. */
static int open_dir(struct overlay_file *f, struct err *e)
{
	char dir[PATH_MAX], *slash;

	if (snprintf(dir, sizeof(dir), "%s", f->path) >= (int)sizeof(dir))
		return err_set(e, -ENAMETOOLONG, "overlay: path is too long");
	slash = strrchr(dir, '/');
	if (slash)
		slash[slash == dir] = '\0';
	f->dir_fd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return f->dir_fd < 0 ? err_sys(e, -errno, "overlay %s: its directory", f->path) : 0;
}

int overlay_file_open(struct overlay_file *f, const char *path, const struct stat *base,
		      uint64_t size_bytes, struct err *e)
{
	uint64_t base_bytes = (uint64_t)base->st_size;
	bool empty;
	int rc;

	memset(f, 0, sizeof(*f));
	f->fd = f->dir_fd = -1;
	rc = open_locked(f, path, e);
	if (rc < 0)
		goto fail;
	rc = load_header(f, base, e);
	if (rc < 0)
		goto fail;
	empty = rc == 1;
	if (empty) {
		rc = open_dir(f, e);
		if (rc < 0)
			goto fail;
		f->size_bytes = base_bytes;
	}
	if (!size_bytes)
		size_bytes = f->size_bytes;
	rc = check_size(path, size_bytes, e);
	if (rc < 0)
		goto fail;
	if (size_bytes < f->size_bytes) {
		rc = err_set(e, -EINVAL, "overlay %s: a disk of %llu bytes cannot shrink to %llu",
			     path, (unsigned long long)f->size_bytes,
			     (unsigned long long)size_bytes);
		goto fail;
	}
	if (empty || size_bytes != f->size_bytes) {
		f->size_bytes = size_bytes;
		rc = write_header(f, base, e);
		if (rc < 0)
			goto fail;
	}
	rc = make_map(f, empty, e);
	if (rc < 0)
		goto fail;
	return 0;
fail:
	overlay_file_close(f);
	return rc;
}

void overlay_file_close(struct overlay_file *f)
{
	fd_close(&f->fd);
	fd_close(&f->dir_fd);
	free(f->path);
	free(f->loaded);
	free(f->dirty);
	if (f->map)
		munmap(f->map, f->map_bytes);
	f->path = NULL;
	f->loaded = f->dirty = NULL;
	f->map = NULL;
}

/* Is what was read a sector of the map that we wrote, or one never written? */
static bool sector_ok(const struct overlay_map_sector *s, uint32_t sector)
{
	static const struct overlay_map_sector never;

	return !memcmp(s, &never, sizeof(never)) || (!s->reserved && s->crc == map_crc(s, sector));
}

/* Bring the sector, and those that share its 4 KiB of the file, into memory. */
static int load(struct overlay_file *f, uint32_t sector)
{
	uint32_t first = sector / SECTORS_PER_LOAD * SECTORS_PER_LOAD;
	struct overlay_map_sector buf[SECTORS_PER_LOAD];
	ssize_t n;

	if (bit_get(f->loaded, sector))
		return 0;
	n = pread(f->fd, buf, sizeof(buf), (off_t)overlay_map_offset(first));
	if (n != sizeof(buf)) {
		log_guest("overlay %s: map sector %u cannot be read", f->path, sector);
		return -EIO;
	}
	for (uint32_t i = 0; i < SECTORS_PER_LOAD; i++) {
		static const struct overlay_map_sector never;

		if (bit_get(f->loaded, first + i) || !sector_ok(&buf[i], first + i))
			continue;
		if (memcmp(&buf[i], &never, sizeof(never)))
			f->map[first + i] = buf[i];
		bit_set(f->loaded, first + i);
	}
	if (!bit_get(f->loaded, sector)) {
		log_guest("overlay %s: map sector %u is damaged (checksum)", f->path, sector);
		return -EIO;
	}
	return 0;
}

int overlay_file_has(struct overlay_file *f, uint64_t cluster)
{
	uint32_t sector = (uint32_t)(cluster / OVERLAY_SECTOR_BITS);
	int rc = load(f, sector);

	if (rc < 0)
		return rc;
	return bit_get(f->map[sector].bits, cluster % OVERLAY_SECTOR_BITS);
}

int overlay_file_add(struct overlay_file *f, uint64_t cluster, uint64_t n)
{
	for (; n; n--, cluster++) {
		uint32_t sector = (uint32_t)(cluster / OVERLAY_SECTOR_BITS);
		uint8_t *bits;
		int rc = load(f, sector);

		if (rc < 0)
			return rc;
		bits = f->map[sector].bits;
		if (bit_get(bits, cluster % OVERLAY_SECTOR_BITS))
			continue;
		bit_set(bits, cluster % OVERLAY_SECTOR_BITS);
		if (!bit_get(f->dirty, sector)) {
			bit_set(f->dirty, sector);
			f->dirty_count++;
		}
	}
	return 0;
}

uint32_t overlay_file_take(struct overlay_file *f, uint32_t *sectors,
			   struct overlay_map_sector *copies, uint32_t max)
{
	uint32_t n = 0;

	for (uint32_t s = 0; s < f->sectors && f->dirty_count && n < max; s++) {
		if (!bit_get(f->dirty, s))
			continue;
		f->map[s].crc = map_crc(&f->map[s], s);
		sectors[n] = s;
		copies[n++] = f->map[s];
		bit_clear(f->dirty, s);
		f->dirty_count--;
	}
	return n;
}

void overlay_file_put_back(struct overlay_file *f, const uint32_t *sectors, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		if (bit_get(f->dirty, sectors[i]))
			continue;
		bit_set(f->dirty, sectors[i]);
		f->dirty_count++;
	}
}
