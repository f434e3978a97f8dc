/* SPDX-License-Identifier: Apache-2.0 */
/* Converting and checking memory images; see cold_pack.h. */
#include "snapshot/cold_pack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/fd.h"
#include "snapshot/cold_int.h"
#include "snapshot/ram_image_int.h"

_Static_assert(sizeof(((struct ram_image *)0)->id) == sizeof(((struct cold_image *)0)->image_id),
	       "one id for both");

static int report(const struct pack_progress *p, uint64_t done, uint64_t total, struct err *e)
{
	if (p && !p->step(p->opaque, done, total))
		return err_set(e, -ECANCELED, "memory image: canceled");
	return 0;
}

/* --- packing ------------------------------------------------------------------------ */

static int read_at(int fd, uint8_t *buf, size_t len, uint64_t offset)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(fd, buf + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		done += (size_t)n;
	}
	return 0;
}

/* Also what counts as zeros is read, unless it is a hole: the table could be wrong. */
static int read_raw(const struct ram_image *raw, size_t i, uint8_t *buf, bool *zero, struct err *e)
{
	const struct ram_image_chunk *c = &ram_image_chunks(raw)[i];
	uint64_t at = (uint64_t)i * RAM_IMAGE_CHUNK;
	off_t data = c->pages ? (off_t)at : lseek(raw->fd, (off_t)at, SEEK_DATA);
	int rc;

	*zero = !c->pages;
	if (!c->pages && (data < 0 ? errno == ENXIO : (uint64_t)data >= at + RAM_IMAGE_CHUNK))
		return 0;
	rc = read_at(raw->fd, buf, RAM_IMAGE_CHUNK, at);
	if (rc)
		return err_sys(e, rc, "memory image %s: reading chunk %zu", raw->path, i);
	if (c->pages ? cold_crc(buf, RAM_IMAGE_CHUNK) != c->crc
		     : !ram_image_is_zero(buf, RAM_IMAGE_CHUNK))
		return err_set(e, -EIO, "memory image %s: damaged: checksum of chunk %zu",
			       raw->path, i);
	return 0;
}

static int pack_all(const struct ram_image *raw, struct cold_writer *w, uint32_t chunk_bytes,
		    const struct pack_progress *progress, struct err *e)
{
	size_t n = ram_image_chunks_n(raw->ram_bytes);
	cleanup_free uint8_t *buf = malloc(RAM_IMAGE_CHUNK);
	int rc = buf ? 0 : err_set(e, -ENOMEM, "out of memory");

	for (size_t i = 0; !rc && i < n; i++) {
		bool zero;

		rc = read_raw(raw, i, buf, &zero, e);
		for (uint32_t at = 0; !rc && at < RAM_IMAGE_CHUNK; at += chunk_bytes)
			rc = cold_writer_add(w, zero ? NULL : buf + at, e);
		if (!rc)
			rc = report(progress, (i + 1) * (uint64_t)RAM_IMAGE_CHUNK, raw->ram_bytes,
				    e);
	}
	return rc;
}

int cold_pack(const char *raw_path, const char *cold_path, const struct cold_pack_options *o,
	      const struct pack_progress *progress, struct err *e)
{
	uint32_t chunk_bytes = o && o->chunk_bytes ? o->chunk_bytes : COLD_CHUNK_DEFAULT;
	int rc, level = o && o->level ? o->level : COLD_LEVEL_DEFAULT;
	struct cold_writer *w;
	struct ram_image raw;

	rc = ram_image_open(&raw, raw_path, 0, e);
	if (rc)
		return rc;
	rc = cold_writer_open(&w, cold_path, raw.id, raw.ram_bytes, chunk_bytes, level, e);
	if (!rc) {
		rc = pack_all(&raw, w, chunk_bytes, progress, e);
		if (rc)
			cold_writer_abort(w);
		else
			rc = cold_writer_finish(w, e);
	}
	ram_image_close(&raw);
	return rc;
}

/* --- unpacking ---------------------------------------------------------------------- */

struct unpack {
	struct cold_image cold;
	struct cold_codec *codec;
	uint8_t *ram; /* of which at most one raw chunk is in memory */
	const struct pack_progress *progress;
	struct err *e;
};

/* One chunk into u->ram; says in @kinds which of its pages are there. */
static int unpack_chunk(struct unpack *u, uint32_t chunk, uint8_t *kinds)
{
	uint32_t page = 0, n, pages = u->cold.chunk_bytes / COLD_PAGE;
	uint8_t *to = u->ram + (uint64_t)chunk * u->cold.chunk_bytes;
	struct cold_pages p;
	const uint8_t *from;
	int rc = cold_read(&u->cold, chunk, u->codec, &p, u->e);

	if (rc)
		return rc;
	from = p.content;
	while ((n = cold_next_run(&p, &page, pages)) > 0) {
		memcpy(to + (size_t)page * COLD_PAGE, from, (size_t)n * COLD_PAGE);
		memset(kinds + page, RAM_PAGE_OWN, n);
		from += (size_t)n * COLD_PAGE;
		page += n;
	}
	return 0;
}

/*
 * The writer of raw images asks, chunk after chunk, what the pages are, and then reads
 * them: the moment to bring them in, and to drop those before.
 */
static int bring_in(void *opaque, uint64_t first, unsigned int n, uint8_t *kinds)
{
	struct unpack *u = opaque;
	uint64_t offset = first * COLD_PAGE;
	uint32_t chunk = (uint32_t)(offset / u->cold.chunk_bytes);
	int rc = report(u->progress, offset, u->cold.ram_bytes, u->e);

	if (offset)
		madvise(u->ram + offset - RAM_IMAGE_CHUNK, RAM_IMAGE_CHUNK, MADV_DONTNEED);
	memset(kinds, RAM_PAGE_ZERO, n);
	for (unsigned int i = 0; !rc && i < n; i += u->cold.chunk_bytes / COLD_PAGE)
		rc = unpack_chunk(u, chunk++, kinds + i);
	return rc;
}

static int write_raw(struct unpack *u, const char *raw_path, const char *tmp)
{
	struct ram_image_writer w;
	uint8_t id[RAM_IMAGE_ID_BYTES];
	int rc;

	rc = ram_image_writer_open(&w, tmp, u->cold.ram_bytes, NULL, id, u->e);
	if (rc)
		return rc;
	/* It is the image that the cold one was made of, again. */
	memcpy(((struct ram_image_header *)(void *)w.trailer)->id, u->cold.image_id, sizeof(id));
	w.classify = bring_in;
	w.opaque = u;
	u->e->code = 0;
	rc = ram_image_write(&w, u->ram);
	if (rc && !u->e->code)
		err_sys(u->e, rc, "memory image %s: %s", tmp, w.failed);
	if (!rc && rename(tmp, raw_path) < 0)
		rc = err_sys(u->e, -errno, "renaming memory image %s", tmp);
	if (!rc && fsync(w.dir_fd) < 0)
		rc = err_sys(u->e, -errno, "making the directory of %s durable", raw_path);
	ram_image_writer_close(&w, !rc);
	return rc;
}

static int unpack_locked(struct unpack *u, const char *raw_path)
{
	cleanup_free char *tmp = NULL;
	int rc;

	if (asprintf(&tmp, "%s.tmp", raw_path) < 0) {
		tmp = NULL;
		return err_set(u->e, -ENOMEM, "out of memory");
	}
	rc = cold_codec_create(&u->codec, u->cold.chunk_bytes, u->e);
	if (rc)
		return rc;
	u->ram = mmap(NULL, u->cold.ram_bytes, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (u->ram == MAP_FAILED)
		return err_sys(u->e, -errno, "memory image %s: memory", raw_path);
	/* A killed unpacker's. Nobody else is at it: the cold image is locked. */
	unlink(tmp);
	rc = write_raw(u, raw_path, tmp);
	munmap(u->ram, u->cold.ram_bytes);
	return rc;
}

int cold_unpack(const char *cold_path, const char *raw_path, const struct pack_progress *progress,
		struct err *e)
{
	struct err local;
	struct unpack u = {.progress = progress, .e = e ? e : &local};
	int rc = cold_open(&u.cold, cold_path, u.e);

	if (rc)
		return rc;
	if (flock(u.cold.fd, LOCK_EX | LOCK_NB) < 0)
		rc = err_sys(u.e, errno == EWOULDBLOCK ? -EBUSY : -errno,
			     "memory image %s: another process unpacks it", cold_path);
	else
		rc = unpack_locked(&u, raw_path);
	cold_codec_destroy(u.codec);
	cold_close(&u.cold);
	return rc;
}

/* --- checking ----------------------------------------------------------------------- */

static int verify_chunk(const struct cold_image *c, uint32_t chunk, struct cold_codec *k,
			uint8_t *stored, struct err *e)
{
	const struct cold_entry *n = &c->index[chunk];
	struct cold_pages p;
	int rc;

	if (n->method == COLD_ZERO)
		return 0;
	rc = read_at(c->fd, stored, n->stored_bytes, n->offset);
	if (rc)
		return err_sys(e, rc, "memory image %s: reading chunk %u", c->path, chunk);
	/* Content that can be read although the bytes of the file have changed is damage, too. */
	if (cold_crc(stored, n->stored_bytes) != n->stored_crc)
		return err_set(e, -EIO,
			       "memory image %s: chunk %u (%u bytes at %llu) is damaged (checksum)",
			       c->path, chunk, n->stored_bytes, (unsigned long long)n->offset);
	return cold_decode(c, chunk, stored, k, &p, e);
}

int cold_verify(const char *cold_path, const struct pack_progress *progress, struct err *e)
{
	cleanup_free uint8_t *stored = malloc(COLD_MAX_PLAIN_BYTES);
	struct cold_codec *k = NULL;
	struct cold_image c;
	int rc = cold_open(&c, cold_path, e);

	if (rc)
		return rc;
	if (!stored)
		rc = err_set(e, -ENOMEM, "out of memory");
	if (!rc)
		rc = cold_codec_create(&k, c.chunk_bytes, e);
	for (uint32_t i = 0; !rc && i < c.chunks; i++) {
		rc = verify_chunk(&c, i, k, stored, e);
		if (!rc)
			rc = report(progress, (i + 1) * (uint64_t)c.chunk_bytes, c.ram_bytes, e);
	}
	cold_codec_destroy(k);
	cold_close(&c);
	return rc;
}
