/* SPDX-License-Identifier: Apache-2.0 */
/* Paths: making them absolute, creating and removing what they name; see files.h. */
#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "guest-kernel/agent/files.h"
#include "lib/fd.h"

int path_resolve(const char *home, const char *path, char *out)
{
	const char *parts[2] = {path[0] == '/' ? "" : home, path};
	size_t len = 0;

	for (int i = 0; i < 2; i++) {
		const char *p = parts[i];

		while (*p) {
			size_t n = strcspn(p, "/");

			if (n == 2 && !memcmp(p, "..", 2)) {
				while (len && out[--len] != '/')
					;
			} else if (n && !(n == 1 && *p == '.')) {
				if (len + n + 2 > PATH_MAX)
					return -ENAMETOOLONG;
				out[len++] = '/';
				memcpy(out + len, p, n);
				len += n;
			}
			p += n + (p[n] == '/');
		}
	}
	if (!len)
		out[len++] = '/';
	out[len] = '\0';
	return 0;
}

static bool is_below(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return n > 1 && !strncmp(path, dir, n) && path[n] == '/';
}

void path_owner(const struct user *u, const char *path, uid_t *uid, gid_t *gid)
{
	bool mine =
	    is_below(path, u->home) || is_below(path, "/tmp") || is_below(path, "/workspace");

	*uid = mine ? u->uid : geteuid();
	*gid = mine ? u->gid : getegid();
}

int path_make_dirs(const struct user *u, const char *path)
{
	char dir[PATH_MAX];
	struct stat st;
	uid_t uid;
	gid_t gid;

	if (!stat(path, &st))
		return S_ISDIR(st.st_mode) ? 0 : -EEXIST;
	if (strlen(path) >= sizeof(dir))
		return -ENAMETOOLONG;
	strcpy(dir, path);
	for (char *slash = dir;;) {
		slash = strchr(slash + 1, '/');
		if (slash)
			*slash = '\0';
		if (!mkdir(dir, 0755)) {
			path_owner(u, dir, &uid, &gid);
			if ((uid != geteuid() || gid != getegid()) && chown(dir, uid, gid) < 0)
				return -errno;
		} else if (errno != EEXIST) {
			return -errno;
		}
		if (!slash)
			break;
		*slash = '/';
	}
	if (stat(path, &st) < 0)
		return -errno;
	return S_ISDIR(st.st_mode) ? 0 : -EEXIST;
}

DIR *path_open_dir(int fd)
{
	int own = fcntl(fd, F_DUPFD_CLOEXEC, 3), why;
	DIR *dir = own < 0 ? NULL : fdopendir(own);

	if (dir) {
		rewinddir(dir);
	} else if (own >= 0) {
		why = errno;
		close(own);
		errno = why;
	}
	return dir;
}

/* ---- removal ---- */

/* Deeper trees are moved up piece by piece: descriptors and stack are not without end. */
#define REMOVE_DEPTH 64

struct removal {
	int top_fd;	   /* the directory that is being removed */
	unsigned int next; /* for names of what was moved there */
};

static bool is_mount_root(int fd)
{
	struct statx sx;

	if (statx(fd, "", AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, 0, &sx) < 0)
		return false;
	return sx.stx_attributes & sx.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT;
}

static int empty_dir(struct removal *rm, int fd, unsigned int depth);

/* To the top directory, where the outer loop finds it. */
static int move_up(struct removal *rm, int parent_fd, const char *name)
{
	char moved[48];

	for (int tries = 0; tries < 1000; tries++) {
		snprintf(moved, sizeof(moved), ".dormouse-remove-%u", rm->next++);
		if (!syscall(SYS_renameat2, parent_fd, name, rm->top_fd, moved, 1 /* NOREPLACE */))
			return 0;
		if (errno != EEXIST)
			return -errno;
	}
	return -EEXIST;
}

static int remove_dir_at(struct removal *rm, int parent_fd, const char *name, unsigned int depth)
{
	cleanup_close int fd =
	    openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int rc;

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (is_mount_root(fd))
		return -EBUSY;
	if (depth >= REMOVE_DEPTH)
		return move_up(rm, parent_fd, name);
	rc = empty_dir(rm, fd, depth);
	if (!rc && unlinkat(parent_fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		rc = -errno;
	return rc;
}

static int remove_at(struct removal *rm, int parent_fd, const char *name, unsigned int depth)
{
	int why, rc;

	if (!unlinkat(parent_fd, name, 0) || errno == ENOENT)
		return 0;
	/* EISDIR on Linux, EPERM by POSIX, which also says that the file may not be removed. */
	why = errno;
	if (why != EISDIR && why != EPERM)
		return -why;
	rc = remove_dir_at(rm, parent_fd, name, depth);
	return rc == -ENOTDIR ? -why : rc;
}

/* One pass over the entries. Takes no ownership of @fd. */
static int empty_dir_once(struct removal *rm, int fd, unsigned int depth, size_t *removed)
{
	DIR *dir = path_open_dir(fd);
	struct dirent *d;
	int rc = 0;

	*removed = 0;
	if (!dir)
		return -errno;
	while (!rc && (errno = 0, d = readdir(dir)) != NULL) {
		if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, ".."))
			continue;
		rc = remove_at(rm, fd, d->d_name, depth + 1);
		(*removed)++;
	}
	if (!rc && !d && errno)
		rc = -errno;
	closedir(dir);
	return rc;
}

/* Again until nothing is left: moved-up pieces, and what somebody adds meanwhile. */
static int empty_dir(struct removal *rm, int fd, unsigned int depth)
{
	size_t removed;
	int rc;

	do
		rc = empty_dir_once(rm, fd, depth, &removed);
	while (!rc && removed);
	return rc;
}

int path_remove(const char *path)
{
	const char *name = strrchr(path, '/') + 1;
	struct removal rm = {.top_fd = -1};
	cleanup_close int parent_fd = -1;
	cleanup_close int fd = -1;
	char parent[PATH_MAX];
	int rc;

	if (!*name)
		return -EBUSY;
	snprintf(parent, sizeof(parent), "%.*s", (int)(name - path), path);
	parent_fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (parent_fd < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
	if (!unlinkat(parent_fd, name, 0) || errno == ENOENT)
		return 0;
	rc = -errno;
	if (rc != -EISDIR && rc != -EPERM)
		return rc;
	fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOTDIR ? rc : -errno;
	if (is_mount_root(fd))
		return -EBUSY;
	rm.top_fd = fd;
	rc = empty_dir(&rm, fd, 0);
	if (!rc && unlinkat(parent_fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		rc = -errno;
	return rc;
}
