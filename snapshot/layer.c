/* SPDX-License-Identifier: Apache-2.0 */
/* The layer file: header, opening, creation; see layer.h. The map is in layer_map.c. */
#include "snapshot/layer.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#include "lib/fd.h"
#include "snapshot/layer_seal.h"

#define LOCK_TRIES    400
#define LOCK_PAUSE_NS 5000000

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file is read and written as it is");
_Static_assert(LAYER_MAP +
		       (LAYER_MAX_BYTES / LAYER_CLUSTER / LAYER_SECTOR_BITS + 8) * LAYER_SECTOR <=
		   LAYER_DATA,
	       "the map of the largest disk fits before the data");

int layer_lock(int fd, bool exclusive)
{
	struct flock l = {.l_type = exclusive ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};

	if (fcntl(fd, F_OFD_SETLK, &l) == 0)
		return 0;
	return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
}

uint32_t layer_header_crc(const struct layer_header *h)
{
	return (uint32_t)crc32(0, (const Bytef *)h, offsetof(struct layer_header, crc));
}

struct layer_base layer_base_of(const struct layer_header *h)
{
	return (struct layer_base){h->base_bytes, h->base_mtime_s, h->base_mtime_ns};
}

bool layer_same_base(const struct layer_header *h, const struct layer_base *base)
{
	return h->base_bytes == base->bytes && h->base_mtime_s == base->mtime_s &&
	       h->base_mtime_ns == base->mtime_ns;
}

int layer_check_size(const char *path, uint64_t size, struct err *e)
{
	if (!size || size % 512 || size > LAYER_MAX_BYTES)
		return err_set(e, -EINVAL,
			       "layer %s: disk size %llu is not a multiple of 512 up to %llu", path,
			       (unsigned long long)size, (unsigned long long)LAYER_MAX_BYTES);
	return 0;
}

/* One sector in one write: old or new. Durable with the first flush. */
static int write_header(struct layer *l, struct layer_header *h, struct err *e)
{
	union {
		struct layer_header h;
		uint8_t bytes[LAYER_SECTOR];
	} u = {.bytes = {0}};
	ssize_t n;

	h->crc = layer_header_crc(h);
	u.h = *h;
	if (ftruncate(l->fd, (off_t)(LAYER_DATA + h->size_bytes)) < 0)
		return err_sys(e, -errno, "layer %s: setting its size", l->path);
	n = pwrite(l->fd, &u, sizeof(u), 0);
	if (n != sizeof(u))
		return err_sys(e, n < 0 ? -errno : -EIO, "layer %s: writing the header", l->path);
	l->h = *h;
	l->unsynced = true;
	return 0;
}

static int check_layout(const char *path, const struct layer_header *h, struct err *e)
{
	bool sealed = h->flags & LAYER_SEALED;

	if (h->version != LAYER_VERSION || h->header_bytes != sizeof(*h) ||
	    h->cluster_bytes != LAYER_CLUSTER || h->map_sector_bits != LAYER_SECTOR_BITS ||
	    h->map_offset != LAYER_MAP || h->data_offset != LAYER_DATA ||
	    (h->flags & ~(LAYER_SEALED | LAYER_FLAT)))
		return err_set(e, -EINVAL, "layer %s: layout is not that of version %d", path,
			       LAYER_VERSION);
	if (layer_check_size(path, h->size_bytes, e) < 0)
		return -EINVAL;
	if (h->sums_offset != (sealed ? layer_sums_offset(h->size_bytes) : 0))
		return err_set(e, -EINVAL, "layer %s: its checksums are not where they belong",
			       path);
	return 0;
}

static int check_header(const struct layer *l, const struct layer_header *h, const struct stat *st,
			struct err *e)
{
	uint64_t need;

	if (memcmp(h->magic, LAYER_MAGIC, sizeof(h->magic)))
		return err_set(e, -EINVAL, "layer %s: not a layer file (wrong magic)", l->path);
	/* The version decides whether the rest means anything to us: before the checksum. */
	if (h->version > LAYER_VERSION)
		return err_set(e, -ENOTSUP, "layer %s: format version %u is newer than %d", l->path,
			       h->version, LAYER_VERSION);
	if (h->version < LAYER_VERSION)
		return err_set(e, -EINVAL, "layer %s: format version %u is no longer supported",
			       l->path, h->version);
	if (h->crc != layer_header_crc(h))
		return err_set(e, -EINVAL, "layer %s: header damaged (checksum)", l->path);
	if (check_layout(l->path, h, e) < 0)
		return -EINVAL;
	need = h->flags & LAYER_SEALED ? h->sums_offset + layer_sums_bytes(h->size_bytes)
				       : LAYER_DATA + h->size_bytes;
	if ((uint64_t)st->st_size < need)
		return err_set(e, -EINVAL, "layer %s: truncated: %llu bytes, %llu expected",
			       l->path, (unsigned long long)st->st_size, (unsigned long long)need);
	if (l->writable && (h->flags & LAYER_SEALED))
		return err_set(e, -EROFS, "layer %s: sealed: it cannot be written", l->path);
	return 0;
}

/*
 * A creation that did not get far: without data; or, after a power failure, data but
 * neither header nor map: both precede the first completed flush, so nothing of
 * it was promised to anybody.
 */
static bool never_flushed(const struct layer *l, const struct stat *st)
{
	static const uint8_t zeros[LAYER_SECTOR];
	uint8_t sector[LAYER_SECTOR];
	off_t data;

	if (st->st_size == 0)
		return true;
	data = lseek(l->fd, 0, SEEK_DATA);
	if (data < 0)
		return errno == ENXIO;
	if (pread(l->fd, sector, sizeof(sector), 0) != sizeof(sector) ||
	    memcmp(sector, zeros, sizeof(zeros)))
		return false;
	data = lseek(l->fd, (off_t)LAYER_MAP, SEEK_DATA);
	return data < 0 ? errno == ENXIO : data >= (off_t)LAYER_DATA;
}

/* Return: 0, or 1 if it is to be made anew. */
static int load_header(struct layer *l, unsigned int mode, struct err *e)
{
	struct layer_header h;
	struct stat st;
	ssize_t n;
	int rc;

	if (fstat(l->fd, &st) < 0)
		return err_sys(e, -errno, "layer %s", l->path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "layer %s: not a regular file", l->path);
	if (never_flushed(l, &st)) {
		if (mode & (LAYER_CREATE | LAYER_NEW))
			return 1;
		return err_set(e, -EINVAL, "layer %s: has no content", l->path);
	}
	n = pread(l->fd, &h, sizeof(h), 0);
	if (n < 0)
		return err_sys(e, -errno, "layer %s: reading the header", l->path);
	if (n != sizeof(h))
		return err_set(e, -EINVAL, "layer %s: truncated: %zd bytes", l->path, n);
	rc = check_header(l, &h, &st, e);
	if (rc < 0)
		return rc;
	/* Checksums of a sealing that was interrupted. */
	if (l->writable && (uint64_t)st.st_size > LAYER_DATA + h.size_bytes &&
	    ftruncate(l->fd, (off_t)(LAYER_DATA + h.size_bytes)) < 0)
		return err_sys(e, -errno, "layer %s: setting its size", l->path);
	l->h = h;
	return 0;
}

static int open_locked(struct layer *l, const char *path, unsigned int mode, struct err *e)
{
	const int common = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
	int rc;

	l->path = strdup(path);
	if (!l->path)
		return err_set(e, -ENOMEM, "out of memory");
	if (!(mode & LAYER_NEW))
		l->fd = open(path, (mode & LAYER_WRITE ? O_RDWR : O_RDONLY) | common);
	if ((mode & LAYER_NEW) || (l->fd < 0 && errno == ENOENT && (mode & LAYER_CREATE)))
		l->fd = open(path, O_RDWR | O_CREAT | O_EXCL | common, 0600);
	if (l->fd < 0)
		return err_sys(e, -errno, "layer %s", path);
	rc = layer_lock(l->fd, mode & LAYER_WRITE);
	for (int i = 0; i < LOCK_TRIES && rc == -EBUSY && !(mode & LAYER_NO_WAIT); i++) {
		nanosleep(&(struct timespec){.tv_nsec = LOCK_PAUSE_NS}, NULL);
		rc = layer_lock(l->fd, mode & LAYER_WRITE);
	}
	if (rc == -EBUSY)
		return err_set(e, rc, "layer %s: in use by another process", path);
	if (rc < 0)
		return err_sys(e, rc, "layer %s: lock", path);
	l->writable = mode & LAYER_WRITE;
	return 0;
}

/* For the first flush: a file is only durable when its directory entry is. */
static int open_dir(struct layer *l, struct err *e)
{
	char dir[PATH_MAX], *slash;

	if (snprintf(dir, sizeof(dir), "%s", l->path) >= (int)sizeof(dir))
		return err_set(e, -ENAMETOOLONG, "layer: path is too long");
	slash = strrchr(dir, '/');
	if (slash)
		slash[slash == dir] = '\0';
	l->dir_fd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return l->dir_fd < 0 ? err_sys(e, -errno, "layer %s: its directory", l->path) : 0;
}

static int make_map(struct layer *l, bool empty, struct err *e)
{
	uint64_t clusters = layer_clusters(l->h.size_bytes);
	uint32_t n = (uint32_t)((clusters + LAYER_SECTOR_BITS - 1) / LAYER_SECTOR_BITS);

	/* Whole pages: they are loaded together, the last ones may be past the last sector. */
	n = (n + 7) / 8 * 8;
	l->sectors = n;
	l->map_bytes = (uint64_t)n * LAYER_SECTOR;
	l->loaded = calloc(1, n / 8 + 1);
	l->dirty = calloc(1, n / 8 + 1);
	/* Pages that nobody touches cost nothing. */
	l->map = mmap(NULL, l->map_bytes, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (l->map == MAP_FAILED)
		l->map = NULL;
	if (!l->loaded || !l->dirty || !l->map)
		return err_set(e, -ENOMEM, "layer %s: out of memory", l->path);
	if (empty)
		memset(l->loaded, 0xff, n / 8 + 1);
	return 0;
}

static void free_map(struct layer *l)
{
	free(l->loaded);
	free(l->dirty);
	if (l->map)
		munmap(l->map, l->map_bytes);
	l->loaded = l->dirty = NULL;
	l->map = NULL;
}

int layer_open(struct layer *l, const char *path, unsigned int mode, struct err *e)
{
	int rc;

	memset(l, 0, sizeof(*l));
	l->fd = l->dir_fd = -1;
	l->sums_number = UINT64_MAX;
	rc = open_locked(l, path, mode, e);
	if (rc == 0)
		rc = load_header(l, mode, e);
	if (rc == 0)
		rc = make_map(l, false, e);
	if (rc < 0)
		layer_close(l);
	return rc;
}

void layer_close(struct layer *l)
{
	fd_close(&l->fd);
	fd_close(&l->dir_fd);
	free(l->path);
	l->path = NULL;
	free_map(l);
}

/*
 * Remove what a creation left that did not get far. A file that is empty is left alone: to truncate
 * it costs a transaction of the file system's journal, in the pause of a checkpoint.
 */
static int make_empty(struct layer *l, struct err *e)
{
	struct stat st;

	if (fstat(l->fd, &st) < 0 || (st.st_size > 0 && ftruncate(l->fd, 0) < 0))
		return err_sys(e, -errno, "layer %s: setting its size", l->path);
	return 0;
}

int layer_init(struct layer *l, uint64_t size_bytes, const struct layer *parent,
	       const struct layer_base *base, struct err *e)
{
	struct layer_header h = {.version = LAYER_VERSION,
				 .header_bytes = sizeof(h),
				 .cluster_bytes = LAYER_CLUSTER,
				 .map_sector_bits = LAYER_SECTOR_BITS,
				 .map_offset = LAYER_MAP,
				 .data_offset = LAYER_DATA,
				 .size_bytes = size_bytes,
				 .base_bytes = base->bytes,
				 .base_mtime_s = base->mtime_s,
				 .base_mtime_ns = base->mtime_ns};
	int rc = layer_check_size(l->path, size_bytes, e);

	memcpy(h.magic, LAYER_MAGIC, sizeof(h.magic));
	if (parent)
		memcpy(h.parent, parent->h.id, sizeof(h.parent));
	if (rc == 0 && getrandom(h.id, sizeof(h.id), 0) != sizeof(h.id))
		rc = err_set(e, -EIO, "layer %s: no random numbers for its id", l->path);
	if (rc == 0)
		rc = open_dir(l, e);
	if (rc == 0)
		rc = make_empty(l, e);
	if (rc == 0)
		rc = write_header(l, &h, e);
	return rc ? rc : make_map(l, true, e);
}

int layer_stand_for(struct layer *l, const struct layer *top, const struct layer *lowest,
		    struct err *e)
{
	struct layer_header h = l->h;

	memcpy(h.id, top->h.id, sizeof(h.id));
	memcpy(h.parent, lowest->h.parent, sizeof(h.parent));
	h.flags |= LAYER_FLAT;
	return write_header(l, &h, e);
}

int layer_grow(struct layer *l, uint64_t size_bytes, struct err *e)
{
	struct layer_header h = l->h;
	int rc = layer_check_size(l->path, size_bytes, e);

	if (rc)
		return rc;
	if (size_bytes < h.size_bytes)
		return err_set(e, -EINVAL, "layer %s: a disk of %llu bytes cannot shrink to %llu",
			       l->path, (unsigned long long)h.size_bytes,
			       (unsigned long long)size_bytes);
	if (size_bytes == h.size_bytes)
		return 0;
	h.size_bytes = size_bytes;
	rc = write_header(l, &h, e);
	if (rc)
		return rc;
	free_map(l);
	return make_map(l, false, e);
}
