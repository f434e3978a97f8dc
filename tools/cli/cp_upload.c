/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse cp SRC ID:PATH. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"
#include "tools/cli/cp.h"

struct upload {
	struct cp *x;
	int fd;
	int64_t left; /* of the length that was announced; -1: until the end */
	int error;
};

static ssize_t read_some(void *ctx, void *buf, size_t len)
{
	struct upload *u = ctx;
	ssize_t n;

	if (u->left >= 0 && (uint64_t)u->left < len)
		len = (size_t)u->left;
	if (len == 0)
		return 0;
	do {
		n = read(u->fd, buf, len);
	} while (n < 0 && errno == EINTR && !(u->x->h.stop && *u->x->h.stop));
	if (n < 0)
		return u->error = -errno;
	/* The server would wait for the rest for ever. */
	if (n == 0 && u->left > 0)
		return u->error = -EIO;
	if (u->left > 0)
		u->left -= n;
	u->x->bytes += (uint64_t)n;
	return n;
}

int cp_upload_fd(struct cp *x, int fd, int64_t len, const char *to, struct err *e)
{
	cleanup_free char *url = cp_url(x, "files", to);
	struct upload u = {.x = x, .fd = fd, .left = len};
	struct http_request r = {
	    .method = "PUT", .path = url, .source = read_some, .source_ctx = &u, .source_len = len};
	struct http_answer a;
	int rc;

	if (!url)
		return err_set(e, -ENOMEM, "out of memory");
	rc = http_call(&x->h, &r, &a, e);
	http_answer_fini(&a);
	if (u.error == -EINTR)
		return -EINTR;
	if (u.error == -EIO)
		return err_set(e, -EIO, "the file became shorter while it was read");
	if (u.error)
		return err_sys(e, u.error, "reading");
	if (rc == 0)
		x->files++;
	return rc < 0 ? err_wrap(e, rc, "%s:%.100s", x->id, to) : 0;
}

static int make_dir(struct cp *x, const char *path, struct err *e)
{
	cleanup_free char *url = cp_url(x, "files/mkdir", path);
	struct http_request r = {.method = "POST", .path = url};
	struct http_answer a;
	int rc;

	if (!url)
		return err_set(e, -ENOMEM, "out of memory");
	rc = http_call(&x->h, &r, &a, e);
	http_answer_fini(&a);
	if (rc == 0)
		x->directories++;
	return rc < 0 ? err_wrap(e, rc, "%s:%.100s", x->id, path) : 0;
}

static int upload_file(struct cp *x, int dir_fd, const char *name, const char *to, struct err *e)
{
	/* O_NONBLOCK: a FIFO that took the file's place must not stop us. */
	cleanup_close int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(e, -errno, "%.150s", name);
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "%.150s: not a file any more", name);
	/* Files of /proc and the like have a length of 0 and content. */
	return cp_upload_fd(x, fd, st.st_size ? st.st_size : -1, to, e);
}

static int upload_dir(struct cp *x, int dir_fd, const char *to, unsigned int depth, struct err *e);

static int upload_entry(struct cp *x, int dir_fd, const char *name, const char *to,
			unsigned int depth, struct err *e)
{
	cleanup_free char *place = cp_join(to, name);
	struct stat st, target;
	int fd;

	if (!place)
		return err_set(e, -ENOMEM, "out of memory");
	if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(e, -errno, "%.150s", name);
	if (S_ISLNK(st.st_mode) &&
	    (fstatat(dir_fd, name, &target, 0) < 0 || !S_ISREG(target.st_mode))) {
		cp_skip(x, place, "a symbolic link that is not to a file");
		return 0;
	}
	if (S_ISDIR(st.st_mode)) {
		fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			return err_sys(e, -errno, "%.150s", name);
		return upload_dir(x, fd, place, depth + 1, e);
	}
	if (!S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode)) {
		cp_skip(x, place, "neither a file nor a directory");
		return 0;
	}
	return upload_file(x, dir_fd, name, place, e);
}

/* Takes @dir_fd. */
static int upload_dir(struct cp *x, int dir_fd, const char *to, unsigned int depth, struct err *e)
{
	DIR *d = fdopendir(dir_fd);
	struct dirent *entry;
	int rc;

	if (!d) {
		rc = err_sys(e, -errno, "reading a directory");
		close(dir_fd);
		return rc;
	}
	rc = depth > CP_MAX_DEPTH ? err_set(e, -ELOOP, "directories are nested too deep")
				  : make_dir(x, to, e);
	while (rc == 0) {
		errno = 0;
		entry = readdir(d);
		if (!entry) {
			rc = errno ? err_sys(e, -errno, "reading a directory") : 0;
			break;
		}
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			rc = upload_entry(x, dirfd(d), entry->d_name, to, depth, e);
	}
	closedir(d);
	return rc;
}

/* Like cp: into a directory that exists, or that a trailing slash announces. */
static int choose_target(struct cp *x, const char *from, const char *to, char **out, struct err *e)
{
	char name[256];
	json_t *list = NULL;
	int rc = cp_list(x, to, &list, e);
	bool into = rc == 0 || to[strlen(to) - 1] == '/';

	json_decref(list);
	if (rc < 0 && rc != -ENOTDIR)
		return rc;
	if (into && cp_base_name(from, name, sizeof(name)) == 0)
		*out = cp_join(to, name);
	else
		*out = strdup(to);
	return *out ? 0 : err_set(e, -ENOMEM, "out of memory");
}

int cp_upload(struct cp *x, const char *from, const char *to, struct err *e)
{
	cleanup_free char *target = NULL;
	struct stat st;
	int rc, fd;

	if (stat(from, &st) < 0)
		return err_sys(e, -errno, "%.150s", from);
	if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		return err_set(e, -EINVAL, "%.150s: neither a file nor a directory", from);
	rc = choose_target(x, from, to, &target, e);
	if (rc < 0)
		return rc;
	if (S_ISREG(st.st_mode))
		return upload_file(x, AT_FDCWD, from, target, e);
	fd = open(from, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(e, -errno, "%.150s", from);
	return upload_dir(x, fd, target, 0, e);
}
