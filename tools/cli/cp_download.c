/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dormouse cp ID:PATH DST.
 *
 * The names and the shape of the tree are the guest's, which may be hostile:
 * names are single components, directories are opened without following links,
 * and files get their name by a rename, which replaces a link and never writes
 * through it. A copy that fails half-way leaves no half file.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"
#include "tools/cli/cp.h"

#define PART_SUFFIX ".dormouse-part"

struct download {
	int fd;
	uint64_t bytes;
	int error;
};

static int write_some(void *ctx, const void *data, size_t len)
{
	struct download *d = ctx;

	d->error = fd_write_full(d->fd, data, len);
	d->bytes += len;
	return d->error;
}

int cp_download_fd(struct cp *x, const char *from, int fd, uint64_t *got, struct err *e)
{
	cleanup_free char *url = cp_url(x, "files", from);
	struct download d = {.fd = fd};
	struct http_request r = {.method = "GET", .path = url, .sink = write_some, .sink_ctx = &d};
	struct http_answer a;
	int rc;

	if (!url)
		return err_set(e, -ENOMEM, "out of memory");
	rc = http_call(&x->h, &r, &a, e);
	http_answer_fini(&a);
	*got = d.bytes;
	if (d.error)
		return err_sys(e, d.error, "writing what %s:%.100s holds", x->id, from);
	if (rc == 0)
		x->files++;
	return rc < 0 ? err_wrap(e, rc, "%s:%.100s", x->id, from) : 0;
}

/* Return: true if @path, which read as an empty file, is a directory behind a link. */
static bool is_linked_dir(struct cp *x, const char *path)
{
	json_t *list = NULL;
	struct err e;
	bool dir = cp_list(x, path, &list, &e) == 0;

	json_decref(list);
	return dir;
}

/* @size_hint: from the listing; a link has the length of its target's name. */
static int download_file(struct cp *x, const char *from, int dir_fd, const char *name,
			 int64_t size_hint, struct err *e)
{
	cleanup_free char *part = NULL;
	cleanup_close int fd = -1;
	uint64_t got = 0;
	int rc;

	if (asprintf(&part, "%s" PART_SUFFIX, name) < 0)
		return err_set(e, -ENOMEM, "out of memory");
	unlinkat(dir_fd, part, 0);
	fd = openat(dir_fd, part, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
	if (fd < 0)
		return err_sys(e, -errno, "%.150s", name);
	rc = cp_download_fd(x, from, fd, &got, e);
	if (rc == 0 && got == 0 && size_hint > 0 && is_linked_dir(x, from)) {
		x->files--;
		cp_skip(x, from, "a symbolic link to a directory");
		unlinkat(dir_fd, part, 0);
		return 0;
	}
	if (rc == 0 && renameat(dir_fd, part, dir_fd, name) < 0)
		rc = err_sys(e, -errno, "%.150s", name);
	if (rc < 0)
		unlinkat(dir_fd, part, 0);
	else
		x->bytes += got;
	return rc;
}

/* Make, or find, a directory. Return: a descriptor or -errno. */
static int enter_dir(int dir_fd, const char *name, bool follow, struct err *e)
{
	int fd;

	if (mkdirat(dir_fd, name, 0777) < 0 && errno != EEXIST)
		return err_sys(e, -errno, "%.150s", name);
	fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW));
	return fd < 0 ? err_sys(e, -errno, "%.150s", name) : fd;
}

static bool name_is_safe(const char *name)
{
	return name && *name && strlen(name) <= 255 && !strchr(name, '/') && strcmp(name, ".") &&
	       strcmp(name, "..");
}

static int download_dir(struct cp *x, const char *from, json_t *list, int dir_fd,
			unsigned int depth, struct err *e);

static int download_entry(struct cp *x, const char *from, json_t *entry, int dir_fd,
			  unsigned int depth, struct err *e)
{
	const char *name = json_string_value(json_object_get(entry, "name"));
	cleanup_free char *path = NULL;
	cleanup_close int fd = -1;
	json_t *list = NULL;
	int rc;

	if (!name_is_safe(name))
		return err_set(e, -EPROTO, "%.100s lists an impossible name", from);
	path = cp_join(from, name);
	if (!path)
		return err_set(e, -ENOMEM, "out of memory");
	if (!json_is_true(json_object_get(entry, "isDir")))
		return download_file(x, path, dir_fd, name,
				     json_integer_value(json_object_get(entry, "size")), e);
	rc = cp_list(x, path, &list, e);
	if (rc < 0)
		return err_wrap(e, rc, "%.100s", path);
	fd = enter_dir(dir_fd, name, false, e);
	rc = fd < 0 ? fd : download_dir(x, path, list, fd, depth + 1, e);
	json_decref(list);
	return rc;
}

static int download_dir(struct cp *x, const char *from, json_t *list, int dir_fd,
			unsigned int depth, struct err *e)
{
	json_t *entry;
	size_t i;

	if (depth > CP_MAX_DEPTH)
		return err_set(e, -ELOOP, "directories are nested too deep");
	x->directories++;
	json_array_foreach(list, i, entry)
	{
		int rc = download_entry(x, from, entry, dir_fd, depth, e);

		if (rc < 0)
			return rc;
	}
	return 0;
}

/* Into a directory that exists, else to that name. */
static int choose_target(const char *from, const char *to, char **out, struct err *e)
{
	struct stat st;
	char name[256];
	bool exists = stat(to, &st) == 0 && S_ISDIR(st.st_mode);

	if (!exists && to[strlen(to) - 1] == '/')
		return err_set(e, -ENOENT, "%.150s: there is no such directory", to);
	if (exists && cp_base_name(from, name, sizeof(name)) == 0)
		*out = cp_join(to, name);
	else
		*out = strdup(to);
	return *out ? 0 : err_set(e, -ENOMEM, "out of memory");
}

int cp_download(struct cp *x, const char *from, const char *to, struct err *e)
{
	cleanup_free char *target = NULL;
	cleanup_close int fd = -1;
	json_t *list = NULL;
	struct stat st;
	int rc, list_rc;

	if (!*to)
		return err_set(e, -EINVAL, "the destination is empty");
	rc = choose_target(from, to, &target, e);
	if (rc < 0)
		return rc;
	list_rc = cp_list(x, from, &list, e);
	if (list_rc < 0 && list_rc != -ENOTDIR)
		return list_rc;
	if (list_rc < 0) {
		if (stat(target, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
			return err_set(e, -EEXIST,
				       "%.150s exists and is not a file; use - for a pipe", target);
		return download_file(x, from, AT_FDCWD, target, 0, e);
	}
	fd = enter_dir(AT_FDCWD, target, true, e);
	rc = fd < 0 ? fd : download_dir(x, from, list, fd, 0, e);
	json_decref(list);
	return rc;
}
