/* SPDX-License-Identifier: Apache-2.0 */
/* Writing files so that they change all at once; see files.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest-kernel/agent/files.h"
#include "lib/fd.h"

struct upload {
	char target[PATH_MAX]; /* symlinks at its end followed */
	char name[PATH_MAX];   /* of the file that is being written, if it has one; else "" */
	int fd;
	bool exists, in_place;
	struct stat old; /* if it exists */
};

/* Where a write to @path goes: through symlinks at its end, also to what does not exist. */
static int follow(char *path)
{
	for (int links = 0; links < 40; links++) {
		char link[PATH_MAX], dir[PATH_MAX], joined[PATH_MAX];
		ssize_t n = readlink(path, link, sizeof(link) - 1);
		int rc;

		if (n < 0) /* not a symlink, or not there */
			return 0;
		link[n] = '\0';
		snprintf(dir, sizeof(dir), "%.*s", (int)(strrchr(path, '/') - path), path);
		rc = path_resolve(dir[0] ? dir : "/", link, joined);
		if (rc)
			return rc;
		strcpy(path, joined);
	}
	return -ELOOP;
}

static void parent_of(const char *path, char *parent)
{
	size_t len = (size_t)(strrchr(path, '/') - path);

	memcpy(parent, path, len ? len : 1);
	parent[len ? len : 1] = '\0';
}

/* A name beside the target that nobody has. */
static int temp_name(struct upload *u)
{
	static atomic_uint counter;
	char parent[PATH_MAX];
	int n;

	parent_of(u->target, parent);
	n = snprintf(u->name, sizeof(u->name), "%s/.dormouse-upload-%d-%u", parent, (int)getpid(),
		     atomic_fetch_add(&counter, 1));
	return n < (int)sizeof(u->name) ? 0 : -ENAMETOOLONG;
}

static int open_beside(struct upload *u)
{
	char parent[PATH_MAX];
	int rc;

	parent_of(u->target, parent);
	u->fd = open(parent, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (u->fd >= 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)
		return -errno;
	rc = temp_name(u);
	if (rc)
		return rc;
	u->fd = open(u->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (u->fd >= 0)
		return 0;
	rc = -errno;
	u->name[0] = '\0';
	return rc;
}

static int upload_open(struct upload *u, const struct user *user, const char *path)
{
	char parent[PATH_MAX];
	int rc;

	strcpy(u->target, path);
	rc = follow(u->target);
	if (rc)
		return rc;
	u->exists = stat(u->target, &u->old) == 0;
	if (!u->exists && errno != ENOENT)
		return -errno;
	if (!strcmp(u->target, "/") || (u->exists && S_ISDIR(u->old.st_mode)))
		return -EISDIR;
	parent_of(u->target, parent);
	rc = u->exists ? 0 : path_make_dirs(user, parent);
	if (rc)
		return rc == -EEXIST ? -ENOTDIR : rc;
	u->in_place = u->exists && (!S_ISREG(u->old.st_mode) || u->old.st_nlink != 1);
	if (!u->in_place) {
		rc = open_beside(u);
		/* /proc, /sys: files that can be written in folders where none can be made. */
		if (rc && u->exists && rc != -ENOSPC && rc != -EDQUOT && rc != -EROFS)
			u->in_place = true;
		else
			return rc;
	}
	u->fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	return u->fd < 0 ? -errno : 0;
}

static void upload_close(struct upload *u)
{
	fd_close(&u->fd);
	if (u->name[0])
		unlink(u->name);
}

static int write_all(int fd, const uint8_t *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

/* In as few writes as can be: files of /proc and /sys want their value in one. */
static int copy_in_place(struct upload *u)
{
	cleanup_close int to =
	    open(u->target, O_WRONLY | O_TRUNC | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	uint8_t buf[32768];
	off_t at = 0;
	int rc = 0;

	if (to < 0)
		return -errno;
	while (!rc) {
		ssize_t n = pread(u->fd, buf, sizeof(buf), at);

		if (n <= 0)
			return n < 0 ? -errno : 0;
		rc = write_all(to, buf, (size_t)n);
		at += n;
	}
	return rc;
}

static int set_owner_and_mode(struct upload *u, const struct user *user)
{
	uid_t uid = u->old.st_uid;
	gid_t gid = u->old.st_gid;

	if (!u->exists)
		path_owner(user, u->target, &uid, &gid);
	if ((uid != geteuid() || gid != getegid()) && fchown(u->fd, uid, gid) < 0)
		return -errno;
	/* After the owner: changing that clears set-user-ID. */
	if (fchmod(u->fd, u->exists ? u->old.st_mode & 07777 : 0644) < 0)
		return -errno;
	return 0;
}

static int link_as(const struct upload *u, const char *path)
{
	char self[32];

	snprintf(self, sizeof(self), "/proc/self/fd/%d", u->fd);
	return linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

static int upload_commit(struct upload *u, const struct user *user)
{
	int rc;

	if (u->in_place)
		return copy_in_place(u);
	rc = set_owner_and_mode(u, user);
	if (rc)
		return rc;
	if (!u->name[0]) {
		if (!u->exists && link_as(u, u->target) == 0)
			return 0;
		rc = temp_name(u);
		if (!rc && (rc = link_as(u, u->name)) != 0)
			u->name[0] = '\0';
		if (rc)
			return rc;
	}
	if (rename(u->name, u->target) < 0)
		/* Something is mounted there: then only its content can be replaced. */
		return errno == EBUSY ? copy_in_place(u) : -errno;
	u->name[0] = '\0';
	return 0;
}

/* Return: 1 when the file is complete, 0 if the connection ended first, or -errno. */
static int receive_data(struct peer *p, uint64_t id, struct upload *u)
{
	const uint8_t *payload;
	struct proto_header h;
	int rc;

	while (peer_wait_frame(p, &h, &payload, NULL) > 0) {
		if (proto_is_request(h.type))
			break;
		if (h.id != id)
			continue;
		if (h.type == PROTO_DATA_END)
			return 1;
		if (h.type != PROTO_DATA)
			break;
		rc = write_all(u->fd, payload, h.len);
		if (rc)
			return rc;
	}
	p->lost = true;
	return 0;
}

int files_write(struct agent *a, struct peer *p, uint64_t id, const struct request *r,
		struct err *e)
{
	struct upload *u = calloc(1, sizeof(*u));
	char path[PATH_MAX];
	struct user user;
	int rc = agent_default_user(a, &user, NULL);

	if (!u)
		return err_set(e, -ENOMEM, "out of memory");
	u->fd = -1;
	if (!rc)
		rc = path_resolve(user.home, r->path, path);
	if (!rc)
		rc = upload_open(u, &user, path);
	if (!rc)
		rc = receive_data(p, id, u);
	if (rc > 0) {
		rc = upload_commit(u, &user);
		if (!rc)
			put_result(p, id);
	}
	upload_close(u);
	free(u);
	return rc < 0 ? err_sys(e, rc, "write %s", r->path) : 0;
}
