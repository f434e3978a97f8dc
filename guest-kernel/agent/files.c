/* SPDX-License-Identifier: Apache-2.0 */
/* Reading, listing and describing files; see files.h. */
#include "guest-kernel/agent/files.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"

/* Names of one directory that are sorted in memory; millions of files fit. */
#define LIST_BYTES_MAX (128u << 20)

void put_result(struct peer *p, uint64_t id)
{
	proto_begin(&p->out, PROTO_RESULT, id);
	proto_end(&p->out);
}

static int request_path(struct agent *a, const struct request *r, char *path, struct err *e)
{
	struct user u;
	int rc = agent_default_user(a, &u, NULL);

	if (!rc)
		rc = path_resolve(u.home, r->path, path);
	return rc ? err_sys(e, rc, "%s", r->path) : 0;
}

static uint64_t mtime_ns(const struct stat *st)
{
	return (uint64_t)st->st_mtim.tv_sec * 1000000000ULL + (uint64_t)st->st_mtim.tv_nsec;
}

static void put_stat(struct peer *p, const struct stat *st)
{
	proto_put_tlv_u32(&p->out, PROTO_TAG_MODE, 0, st->st_mode);
	proto_put_tlv_u32(&p->out, PROTO_TAG_UID, 0, st->st_uid);
	proto_put_tlv_u32(&p->out, PROTO_TAG_GID, 0, st->st_gid);
	proto_put_tlv_u64(&p->out, PROTO_TAG_SIZE, 0, (uint64_t)st->st_size);
	proto_put_tlv_u64(&p->out, PROTO_TAG_MTIME, 0, mtime_ns(st));
}

int files_stat(struct agent *a, struct peer *p, uint64_t id, const struct request *r, struct err *e)
{
	char path[PATH_MAX];
	struct stat st;
	int rc = request_path(a, r, path, e);

	if (rc)
		return rc;
	if (stat(path, &st) < 0)
		return err_sys(e, -errno, "%s", path);
	proto_begin(&p->out, PROTO_RESULT, id);
	put_stat(p, &st);
	proto_end(&p->out);
	return 0;
}

int files_mkdir(struct agent *a, struct peer *p, uint64_t id, const struct request *r,
		struct err *e)
{
	char path[PATH_MAX];
	struct user u;
	int rc = request_path(a, r, path, e);

	if (rc)
		return rc;
	rc = agent_default_user(a, &u, NULL);
	if (!rc)
		rc = path_make_dirs(&u, path);
	if (rc)
		return err_sys(e, rc, "create directory %s", path);
	put_result(p, id);
	return 0;
}

int files_remove(struct agent *a, struct peer *p, uint64_t id, const struct request *r,
		 struct err *e)
{
	char path[PATH_MAX];
	int rc = request_path(a, r, path, e);

	if (rc)
		return rc;
	rc = path_remove(path);
	if (rc)
		return err_sys(e, rc, "remove %s", path);
	put_result(p, id);
	return 0;
}

/* ---- reading ---- */

/* One CHUNK with what a read gives. Return: bytes, 0 at the end, or -errno. */
static ssize_t put_chunk(struct peer *p, uint64_t id, int fd)
{
	static const size_t max = PROTO_FRAME_MAX;
	size_t start = p->out.len;
	uint8_t *space;
	ssize_t n;

	proto_begin(&p->out, PROTO_CHUNK, id);
	space = proto_put_space(&p->out, max);
	if (!space)
		return proto_end(&p->out);
	do {
		struct pollfd pfd[2] = {{.fd = fd, .events = POLLIN},
					{.fd = p->fd, .events = POLLRDHUP}};

		n = read(fd, space, max);
		/* A FIFO or a terminal: wait for it, unless the client goes away. */
		if (n < 0 && errno == EAGAIN && poll(pfd, 2, -1) > 0 && pfd[1].revents) {
			errno = ECONNRESET;
			break;
		}
	} while (n < 0 && (errno == EINTR || errno == EAGAIN));
	if (n <= 0) {
		n = n < 0 ? -errno : 0;
		p->out.len = start;
		return n;
	}
	p->out.len -= max - (size_t)n;
	proto_end(&p->out);
	return n;
}

/* Batches what fits into one write: a small file is one write with its info and its end. */
static int stream_file(struct peer *p, uint64_t id, int fd)
{
	ssize_t n;
	int rc = 0;

	while ((n = put_chunk(p, id, fd)) > 0)
		if (p->out.len >= PROTO_FRAME_MAX && (rc = peer_flush(p)))
			return rc;
	return (int)n;
}

int files_read(struct agent *a, struct peer *p, uint64_t id, const struct request *r, struct err *e)
{
	cleanup_close int fd = -1;
	char path[PATH_MAX];
	struct stat st;
	int rc = request_path(a, r, path, e);

	if (rc)
		return rc;
	/* Opening a FIFO would wait for a writer. */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(e, -errno, "%s", path);
	proto_begin(&p->out, PROTO_FILE_INFO, id);
	put_stat(p, &st);
	proto_end(&p->out);
	if (!S_ISDIR(st.st_mode)) {
		rc = stream_file(p, id, fd);
		if (rc && !p->lost)
			return err_sys(e, rc, "read %s", path);
	}
	if (!p->lost) {
		proto_begin(&p->out, PROTO_END, id);
		proto_end(&p->out);
	}
	return 0;
}

/* ---- listing ---- */

struct names {
	char *bytes; /* owned; NUL-terminated names */
	size_t len, cap;
	size_t *at; /* owned; where each name starts */
	size_t count, at_cap;
};

static int grow(void **p, size_t *cap, size_t need, size_t size)
{
	size_t bigger = *cap ? *cap : 256;
	void *q;

	if (need <= *cap)
		return 0;
	while (bigger < need)
		bigger *= 2;
	if (bigger > LIST_BYTES_MAX / size)
		return -EOVERFLOW;
	q = reallocarray(*p, bigger, size);
	if (!q)
		return -ENOMEM;
	*p = q;
	*cap = bigger;
	return 0;
}

static int names_add(struct names *n, const char *name)
{
	size_t len = strlen(name) + 1;
	int rc = grow((void **)&n->bytes, &n->cap, n->len + len, 1);

	if (!rc)
		rc = grow((void **)&n->at, &n->at_cap, n->count + 1, sizeof(*n->at));
	if (rc)
		return rc;
	memcpy(n->bytes + n->len, name, len);
	n->at[n->count++] = n->len;
	n->len += len;
	return 0;
}

static int compare_names(const void *a, const void *b, void *bytes)
{
	return strcmp((char *)bytes + *(const size_t *)a, (char *)bytes + *(const size_t *)b);
}

static int names_read(struct names *n, int fd)
{
	DIR *dir = path_open_dir(fd);
	struct dirent *d;
	int rc = 0;

	if (!dir)
		return -errno;
	while (!rc && (errno = 0, d = readdir(dir)) != NULL)
		if (strcmp(d->d_name, ".") && strcmp(d->d_name, ".."))
			rc = names_add(n, d->d_name);
	if (!rc && errno)
		rc = -errno;
	closedir(dir);
	if (!rc && n->count)
		qsort_r(n->at, n->count, sizeof(*n->at), compare_names, n->bytes);
	return rc;
}

static void put_entry(struct peer *p, const char *name, const struct stat *st)
{
	uint8_t value[PROTO_ENTRY_LEN + NAME_MAX];
	struct writer w = writer_of(value, sizeof(value));

	write_u32(&w, st->st_mode);
	write_u64(&w, (uint64_t)st->st_size);
	write_u64(&w, mtime_ns(st));
	write_bytes(&w, name, strlen(name));
	if (!w.failed)
		proto_put_tlv(&p->out, PROTO_TAG_ENTRY, 0, value, w.pos);
}

static int put_entries(struct peer *p, uint64_t id, int dir_fd, const struct names *n)
{
	static const size_t largest = PROTO_TLV_LEN + PROTO_ENTRY_LEN + NAME_MAX;
	size_t i = 0;

	while (i < n->count) {
		size_t start = p->out.len;
		int rc;

		proto_begin(&p->out, PROTO_ENTRIES, id);
		for (; i < n->count && p->out.len - start < PROTO_FRAME_MAX - largest; i++) {
			const char *name = n->bytes + n->at[i];
			struct stat st;

			/* Removed meanwhile: as if it had been before. */
			if (!fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW))
				put_entry(p, name, &st);
		}
		rc = proto_end(&p->out);
		if (!rc && i < n->count)
			rc = peer_flush(p);
		if (rc)
			return rc;
	}
	return 0;
}

int files_list(struct agent *a, struct peer *p, uint64_t id, const struct request *r, struct err *e)
{
	cleanup_close int fd = -1;
	struct names names = {0};
	char path[PATH_MAX];
	int rc = request_path(a, r, path, e);

	if (rc)
		return rc;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	rc = fd < 0 ? -errno : names_read(&names, fd);
	if (!rc)
		rc = put_entries(p, id, fd, &names);
	free(names.bytes);
	free(names.at);
	if (rc)
		return err_sys(e, rc, "list %s", path);
	proto_begin(&p->out, PROTO_END, id);
	proto_end(&p->out);
	return 0;
}
