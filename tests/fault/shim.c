/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into a program: counts the calls that change files, and lets the n-th fail.
 *
 *	FAULT_COUNT	file of two 64 bit numbers, the same for all processes of a test: how many
 *calls there were; and which is to fail, from 1 (0: none), which may change at any time
 *	FAULT_UNDER	only files below this directory count (and all that goes through io_uring)
 *	FAULT_ALONE	programs that this one starts are left alone
 *	FAULT_ACTION	"kill": the process that calls is killed before the call; "kill-group": all
 *of its process group; "tear": as kill-group, after half of what a write should write; or the name
 *of an errno: this call and all after it fail with it
 *
 * Between two calls nothing durable happens, so a kill at each of them is a kill at every
 * point that matters. No locks and no memory of the C library: the caller may be a clone
 * of a process with threads.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum action { NOTHING, KILL, KILL_GROUP, TEAR, FAIL };

static struct {
	uint64_t *count; /* shared by all processes */
	uint64_t *at;	 /* likewise */
	enum action action;
	int code;
	char under[PATH_MAX];
	size_t under_len;
} shim;

static const struct {
	const char *name;
	enum action action;
	int code;
} actions[] = {
    {"kill", KILL, 0},	{"kill-group", KILL_GROUP, 0}, {"tear", TEAR, 0}, {"ENOSPC", FAIL, ENOSPC},
    {"EIO", FAIL, EIO},
};

__attribute__((constructor)) static void init(void)
{
	const char *count = getenv("FAULT_COUNT"), *under = getenv("FAULT_UNDER");
	const char *action = getenv("FAULT_ACTION");
	void *p;
	int fd;

	if (!count || !under)
		return;
	fd = open(count, O_RDWR | O_CLOEXEC);
	p = fd < 0 ? MAP_FAILED : mmap(NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED || strlen(under) >= sizeof(shim.under)) {
		fprintf(stderr, "fault shim: %s: %s\n", count, strerror(errno));
		_exit(99);
	}
	close(fd);
	if (getenv("FAULT_ALONE"))
		unsetenv("LD_PRELOAD");
	for (size_t i = 0; i < sizeof(actions) / sizeof(actions[0]); i++)
		if (action && !strcmp(action, actions[i].name)) {
			shim.action = actions[i].action;
			shim.code = actions[i].code;
		}
	strcpy(shim.under, under);
	shim.under_len = strlen(under);
	shim.count = p;
	shim.at = shim.count + 1;
}

static void die(void)
{
	kill(shim.action == KILL ? getpid() : 0, SIGKILL);
	for (;;)
		pause();
}

/* This call counts. Return: whether it is to fail; errno is set. */
static bool here(bool tears)
{
	uint64_t n, at;

	if (!shim.count)
		return false;
	n = __atomic_add_fetch(shim.count, 1, __ATOMIC_SEQ_CST);
	at = __atomic_load_n(shim.at, __ATOMIC_SEQ_CST);
	if (!at || n < at || (n > at && shim.action != FAIL))
		return false;
	if (shim.action == FAIL) {
		errno = shim.code;
		return true;
	}
	if (shim.action != TEAR || !tears)
		die();
	return true; /* the caller tears, and dies */
}

static bool is_under(const char *path)
{
	return shim.count && !strncmp(path, shim.under, shim.under_len);
}

static bool fd_counts(int fd)
{
	char link[40], path[PATH_MAX];
	ssize_t n;

	if (!shim.count)
		return false;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n < 0)
		return false;
	path[n] = '\0';
	return is_under(path);
}

static bool path_counts(int dir, const char *path)
{
	return path[0] == '/' || dir == AT_FDCWD ? is_under(path) : fd_counts(dir);
}

/* --- writes ---------------------------------------------------------------------------- */

ssize_t pwrite(int fd, const void *buf, size_t len, off_t at)
{
	if (fd_counts(fd) && here(true)) {
		if (shim.action == FAIL)
			return -1;
		syscall(SYS_pwrite64, fd, buf, len / 2, at);
		die();
	}
	return syscall(SYS_pwrite64, fd, buf, len, at);
}

ssize_t pwrite64(int fd, const void *buf, size_t len, off64_t at)
{
	return pwrite(fd, buf, len, at);
}

ssize_t write(int fd, const void *buf, size_t len)
{
	if (fd_counts(fd) && here(true)) {
		if (shim.action == FAIL)
			return -1;
		syscall(SYS_write, fd, buf, len / 2);
		die();
	}
	return syscall(SYS_write, fd, buf, len);
}

ssize_t writev(int fd, const struct iovec *iov, int n)
{
	if (fd_counts(fd) && here(false))
		return -1;
	return syscall(SYS_writev, fd, iov, n);
}

ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t at)
{
	if (fd_counts(fd) && here(false))
		return -1;
	return syscall(SYS_pwritev, fd, iov, (long)n, at, 0L);
}

int ftruncate(int fd, off_t len)
{
	if (fd_counts(fd) && here(false))
		return -1;
	return (int)syscall(SYS_ftruncate, fd, len);
}

int ftruncate64(int fd, off64_t len)
{
	return ftruncate(fd, len);
}

int fallocate(int fd, int mode, off_t at, off_t len)
{
	if (fd_counts(fd) && here(false))
		return -1;
	return (int)syscall(SYS_fallocate, fd, mode, at, len);
}

int fallocate64(int fd, int mode, off64_t at, off64_t len)
{
	return fallocate(fd, mode, at, len);
}

int fsync(int fd)
{
	if (fd_counts(fd) && here(false))
		return -1;
	return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
	if (fd_counts(fd) && here(false))
		return -1;
	return (int)syscall(SYS_fdatasync, fd);
}

/* What is queued is not known to be a write: reads count as well, which does no harm. */
int io_uring_submit(struct io_uring *ring)
{
	static int (*next)(struct io_uring *);

	if (!next)
		next = (int (*)(struct io_uring *))dlsym(RTLD_NEXT, "io_uring_submit");
	/* An errno here is not what a full disk looks like: those are for the calls above. */
	if (shim.count && shim.action != FAIL)
		here(false);
	return next(ring);
}

/* --- names ----------------------------------------------------------------------------- */

/* What gives space back works on a full disk. */
static bool removal_fails(void)
{
	return here(false) && shim.code != ENOSPC;
}

int rename(const char *from, const char *to)
{
	if (path_counts(AT_FDCWD, to) && here(false))
		return -1;
	return (int)syscall(SYS_rename, from, to);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
	if (path_counts(to_dir, to) && here(false))
		return -1;
	return (int)syscall(SYS_renameat, from_dir, from, to_dir, to);
}

int link(const char *from, const char *to)
{
	if (path_counts(AT_FDCWD, to) && here(false))
		return -1;
	return (int)syscall(SYS_link, from, to);
}

int unlink(const char *path)
{
	if (path_counts(AT_FDCWD, path) && removal_fails())
		return -1;
	return (int)syscall(SYS_unlink, path);
}

int unlinkat(int dir, const char *path, int flags)
{
	if (path_counts(dir, path) && removal_fails())
		return -1;
	return (int)syscall(SYS_unlinkat, dir, path, flags);
}

int rmdir(const char *path)
{
	if (path_counts(AT_FDCWD, path) && removal_fails())
		return -1;
	return (int)syscall(SYS_rmdir, path);
}

int mkdir(const char *path, mode_t mode)
{
	if (path_counts(AT_FDCWD, path) && here(false))
		return -1;
	return (int)syscall(SYS_mkdir, path, mode);
}

int mkdirat(int dir, const char *path, mode_t mode)
{
	if (path_counts(dir, path) && here(false))
		return -1;
	return (int)syscall(SYS_mkdirat, dir, path, mode);
}

static int open_at(int dir, const char *path, int flags, mode_t mode)
{
	bool makes = (flags & O_CREAT) && faccessat(dir, path, F_OK, 0) < 0;

	if ((makes || (flags & O_TRUNC)) && path_counts(dir, path) && here(false))
		return -1;
	return (int)syscall(SYS_openat, dir, path, flags, mode);
}

static mode_t mode_of(int flags, va_list ap)
{
	return flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;
}

int openat(int dir, const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = mode_of(flags, ap);
	va_end(ap);
	return open_at(dir, path, flags, mode);
}

int open(const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = mode_of(flags, ap);
	va_end(ap);
	return open_at(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = mode_of(flags, ap);
	va_end(ap);
	return open_at(AT_FDCWD, path, flags, mode);
}
