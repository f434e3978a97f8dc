/* SPDX-License-Identifier: Apache-2.0 */
/* File descriptor helpers; see fd.h. */
#include "lib/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

void fd_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

int fd_read_full(int fd, void *buf, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = read(fd, (char *)buf + done, len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return done ? -EIO : -EPIPE;
		done += (size_t)n;
	}
	return 0;
}

int fd_write_full(int fd, const void *buf, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = send(fd, (const char *)buf + done, len - done, MSG_NOSIGNAL);

		if (n < 0 && errno == ENOTSOCK)
			n = write(fd, (const char *)buf + done, len - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			struct pollfd p = {.fd = fd, .events = POLLOUT};

			poll(&p, 1, -1);
			continue;
		}
		if (n < 0)
			return -errno;
		done += (size_t)n;
	}
	return 0;
}

int fd_set_nonblock(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	return 0;
}

/* More than most files that are read whole have; what is not used is not touched. */
#define READ_FIRST (16u << 10)

int fd_read_file(int dir_fd, const char *path, size_t max, char **out, size_t *len)
{
	cleanup_close int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
	cleanup_free char *buf = NULL;
	size_t used = 0, cap = 0;

	if (fd < 0)
		return -errno;
	for (;;) {
		ssize_t n;

		/* Sizes of /proc files are not known before: grow as it comes. */
		if (used + 1 >= cap) {
			char *grown = realloc(buf, cap = cap ? cap * 2 : READ_FIRST);

			if (!grown)
				return -ENOMEM;
			buf = grown;
		}
		n = read(fd, buf + used, cap - used - 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		used += (size_t)n;
		if (used > max)
			return -EFBIG;
	}
	buf[used] = '\0';
	if (len)
		*len = used;
	*out = buf;
	buf = NULL;
	return 0;
}

static int fsync_parent(int dir_fd, const char *path)
{
	const char *slash = strrchr(path, '/');
	cleanup_free char *parent = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	cleanup_close int fd = -1;

	if (!parent)
		return -ENOMEM;
	fd = openat(dir_fd, parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		return -errno;
	return 0;
}

int fd_write_file_atomic(int dir_fd, const char *path, const void *buf, size_t len, mode_t mode)
{
	cleanup_free char *tmp = NULL;
	cleanup_close int fd = -1;
	int rc;

	if (asprintf(&tmp, "%s.tmp", path) < 0)
		return -ENOMEM;
	fd = openat(dir_fd, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
	if (fd < 0)
		return -errno;
	rc = fd_write_full(fd, buf, len);
	if (!rc && fsync(fd) < 0)
		rc = -errno;
	if (!rc && renameat(dir_fd, tmp, dir_fd, path) < 0)
		rc = -errno;
	if (rc) {
		unlinkat(dir_fd, tmp, 0);
		return rc;
	}
	return fsync_parent(dir_fd, path);
}

int fd_open_beneath(int dir_fd, const char *path, int flags, mode_t mode)
{
	struct open_how how = {
	    .flags = (uint64_t)(flags | O_CLOEXEC),
	    .mode = flags & (O_CREAT | __O_TMPFILE) ? mode : 0,
	    .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
	};
	long fd = syscall(SYS_openat2, dir_fd, path, &how, sizeof(how));

	return fd < 0 ? -errno : (int)fd;
}

static int unix_address(const char *path, struct sockaddr_un *sa, struct err *e)
{
	if (strlen(path) >= sizeof(sa->sun_path))
		return err_set(e, -ENAMETOOLONG, "socket path %s: longer than %zu bytes", path,
			       sizeof(sa->sun_path) - 1);
	memset(sa, 0, sizeof(*sa));
	sa->sun_family = AF_UNIX;
	memcpy(sa->sun_path, path, strlen(path) + 1);
	return 0;
}

int fd_unix_connect(const char *path, struct err *e)
{
	cleanup_close int fd = -1;
	struct sockaddr_un sa;
	int rc = unix_address(path, &sa, e);

	if (rc)
		return rc;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_sys(e, -errno, "socket");
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return err_sys(e, -errno, "connect to %s", path);
	return fd_steal(&fd);
}

/*
 * The file that bind() makes has the socket's mode, less the umask. To change it afterwards takes a
 * call by name, which a jailed process may not make on any file, and need not.
 */
static int bind_with_mode(int fd, const struct sockaddr_un *sa, mode_t mode)
{
	struct stat st;

	if (fchmod(fd, mode) < 0 || bind(fd, (const struct sockaddr *)sa, sizeof(*sa)) < 0 ||
	    lstat(sa->sun_path, &st) < 0)
		return -errno;
	if ((st.st_mode & 07777) != mode && chmod(sa->sun_path, mode) < 0)
		return -errno;
	return 0;
}

DIR *fd_opendir(int dir_fd, const char *path)
{
	int fd = openat(dir_fd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), why;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	if (!d && fd >= 0) {
		why = errno;
		close(fd);
		errno = why;
	}
	return d;
}

/*
 * Sockets are local and streams: with datagrams one could speak to others without connecting.
 *
 * #syscalls socket[0==1][1&0xff==1] bind listen fchmod[1&0xfffffe00==0] connect=EACCES
 */
int fd_unix_listen(const char *path, mode_t mode, struct err *e)
{
	cleanup_close int fd = -1;
	struct sockaddr_un sa;
	struct stat st;
	int rc = unix_address(path, &sa, e);

	if (rc)
		return rc;
	if (!lstat(path, &st)) {
		cleanup_close int probe = -1;

		if (!S_ISSOCK(st.st_mode))
			return err_set(e, -EEXIST, "%s exists and is not a socket", path);
		probe = fd_unix_connect(path, NULL);
		/* If it cannot be told, somebody may. */
		if (probe >= 0 || probe == -EACCES)
			return err_set(e, -EADDRINUSE, "%s: another process is listening", path);
		unlink(path);
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_sys(e, -errno, "socket");
	rc = bind_with_mode(fd, &sa, mode);
	if (rc)
		return err_sys(e, rc, "bind %s", path);
	if (listen(fd, 128) < 0)
		return err_sys(e, -errno, "listen on %s", path);
	return fd_steal(&fd);
}
