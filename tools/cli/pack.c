/* SPDX-License-Identifier: Apache-2.0 */
/* OCI image layouts as tars; see pack.h. */
#include "tools/cli/pack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"

#define BLOCK	  512
#define NAME_SIZE 100
#define FILES_MAX 20000

static int64_t padded(int64_t size)
{
	return (size + BLOCK - 1) / BLOCK * BLOCK;
}

/* --- what there is --------------------------------------------------------------------------- */

static int add_file(struct pack *p, const char *dir, const char *name, struct err *e)
{
	struct pack_file *grown = realloc(p->files, (p->n + 1) * sizeof(*grown)), *f;
	struct stat st;

	if (!grown)
		return err_set(e, -ENOMEM, "out of memory");
	p->files = grown;
	f = &grown[p->n];
	f->name = strdup(name);
	if (asprintf(&f->path, "%s%s%s", dir, *dir ? "/" : "", name) < 0)
		f->path = NULL;
	p->n++;
	if (!f->name || !f->path)
		return err_set(e, -ENOMEM, "out of memory");
	if (stat(f->path, &st))
		return err_sys(e, -errno, "%.200s", f->path);
	f->size = S_ISREG(st.st_mode) ? st.st_size : -1;
	if (!p->raw && (f->size < 0 || strlen(name) >= NAME_SIZE || p->n > FILES_MAX))
		return err_set(e, -EINVAL, "%.200s does not belong to an image", f->path);
	return 0;
}

/* The blobs of one algorithm. */
static int add_blobs(struct pack *p, const char *dir, const char *algorithm, struct err *e)
{
	cleanup_free char *path = NULL;
	struct dirent *entry;
	int rc = 0;
	DIR *d;

	if (asprintf(&path, "%s/blobs/%s", dir, algorithm) < 0) {
		path = NULL;
		return err_set(e, -ENOMEM, "out of memory");
	}
	d = opendir(path);
	if (!d)
		return err_sys(e, -errno, "%.200s", path);
	while (!rc && (entry = readdir(d))) {
		cleanup_free char *name = NULL;

		if (entry->d_name[0] == '.')
			continue;
		if (asprintf(&name, "blobs/%s/%s", algorithm, entry->d_name) < 0) {
			name = NULL;
			rc = err_set(e, -ENOMEM, "out of memory");
		} else {
			rc = add_file(p, dir, name, e);
		}
	}
	closedir(d);
	return rc;
}

static int add_layout(struct pack *p, const char *dir, struct err *e)
{
	int rc = add_file(p, dir, "oci-layout", e);

	if (rc == -ENOENT)
		return err_set(e, -EINVAL,
			       "%.200s has no file oci-layout: it is no OCI image layout", dir);
	if (!rc)
		rc = add_file(p, dir, "index.json", e);
	if (!rc)
		rc = add_blobs(p, dir, "sha256", e);
	if (rc)
		return rc;
	p->total = (int64_t)2 * BLOCK;
	for (size_t i = 0; i < p->n; i++)
		p->total += BLOCK + padded(p->files[i].size);
	return 0;
}

int pack_open(struct pack *p, const char *path, struct err *e)
{
	struct stat st;
	int rc;

	*p = (struct pack){.fd = -1, .total = -1};
	if (!strcmp(path, "-"))
		path = "/dev/stdin";
	if (stat(path, &st))
		return err_sys(e, -errno, "%.200s", path);
	if (S_ISDIR(st.st_mode))
		return add_layout(p, path, e);
	p->raw = true;
	rc = add_file(p, "", path, e);
	if (rc)
		return rc;
	p->total = p->files[0].size;
	p->fd = open(path, O_RDONLY | O_CLOEXEC);
	return p->fd < 0 ? err_sys(e, -errno, "%.200s", path) : 0;
}

void pack_close(struct pack *p)
{
	for (size_t i = 0; i < p->n; i++) {
		free(p->files[i].path);
		free(p->files[i].name);
	}
	free(p->files);
	fd_close(&p->fd);
	p->files = NULL;
	p->n = 0;
}

/* --- the tar --------------------------------------------------------------------------------- */

/* POSIX ustar; sizes that have no room in octal digits as GNU has them. */
static void write_header(const struct pack_file *f, unsigned char h[BLOCK])
{
	unsigned int sum = 0;

	memset(h, 0, BLOCK);
	memcpy(h, f->name, strlen(f->name));
	memcpy(h + 100, "0000644", 8);
	memcpy(h + 108, "0000000", 8);
	memcpy(h + 116, "0000000", 8);
	if (f->size < 1LL << 33) {
		snprintf((char *)h + 124, 12, "%011llo", (unsigned long long)f->size);
	} else {
		h[124] = 0x80;
		for (int i = 0; i < 8; i++)
			h[135 - i] = (unsigned char)(f->size >> 8 * i);
	}
	memcpy(h + 136, "00000000000", 12);
	h[156] = '0';
	snprintf((char *)h, NAME_SIZE, "%s", f->name);
	memset(h + 148, ' ', 8);
	for (int i = 0; i < BLOCK; i++)
		sum += h[i];
	snprintf((char *)h + 148, 8, "%06o", sum & 0777777);
}

static ssize_t copy_from(const unsigned char *block, int64_t at, int64_t end, void *buf, size_t len)
{
	size_t n = (size_t)(end - at) < len ? (size_t)(end - at) : len;

	memcpy(buf, block + at, n);
	return (ssize_t)n;
}

static ssize_t read_content(struct pack *p, const struct pack_file *f, void *buf, size_t len)
{
	int64_t left = BLOCK + f->size - p->pos;
	ssize_t n;

	if (p->fd < 0)
		p->fd = open(f->path, O_RDONLY | O_CLOEXEC);
	do {
		n = p->fd < 0 ? -1 : read(p->fd, buf, (size_t)left < len ? (size_t)left : len);
	} while (n < 0 && p->fd >= 0 && errno == EINTR);
	if (n < 0)
		return err_sys(&p->err, -errno, "%.200s", f->path);
	if (!n)
		return err_set(&p->err, -EIO, "%.200s has become shorter", f->path);
	return n;
}

/* Of header, content and padding of a file what comes next. 0: nothing is left. */
static ssize_t read_member(struct pack *p, void *buf, size_t len)
{
	static const unsigned char zeros[BLOCK];
	const struct pack_file *f = &p->files[p->at];
	int64_t end = BLOCK + f->size, whole = BLOCK + padded(f->size);
	unsigned char header[BLOCK];
	ssize_t n;

	if (p->pos < BLOCK) {
		write_header(f, header);
		n = copy_from(header, p->pos, BLOCK, buf, len);
	} else if (p->pos < end) {
		n = read_content(p, f, buf, len);
	} else {
		n = copy_from(zeros, 0, whole - p->pos, buf, len);
	}
	if (n > 0)
		p->pos += n;
	return n;
}

static ssize_t read_tar(struct pack *p, void *buf, size_t len)
{
	static const unsigned char zeros[2 * BLOCK];
	ssize_t n;

	while (p->at < p->n) {
		n = read_member(p, buf, len);
		if (n)
			return n;
		fd_close(&p->fd);
		p->pos = 0;
		p->at++;
	}
	n = copy_from(zeros, p->pos, (int64_t)sizeof(zeros), buf, len);
	p->pos += n;
	return n;
}

ssize_t pack_read(void *ctx, void *buf, size_t len)
{
	struct pack *p = ctx;
	ssize_t n;

	if (p->raw) {
		do {
			n = read(p->fd, buf, len);
		} while (n < 0 && errno == EINTR);
		if (n < 0)
			n = err_sys(&p->err, -errno, "%.200s", p->files[0].path);
	} else {
		n = read_tar(p, buf, len);
	}
	if (n > 0)
		p->sent += n;
	return n;
}
