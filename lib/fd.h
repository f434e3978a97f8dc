/* SPDX-License-Identifier: Apache-2.0 */
/*
 * File descriptors: release by scope, complete reads and writes, paths beneath
 * a directory, Unix sockets. All descriptors made here are close-on-exec.
 */
#ifndef LIB_FD_H
#define LIB_FD_H

#include <dirent.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

#include "lib/err.h"

static inline void cleanup_closep(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void cleanup_freep(void *p)
{
	free(*(void **)p);
}

#define cleanup_close __attribute__((cleanup(cleanup_closep)))
#define cleanup_free  __attribute__((cleanup(cleanup_freep)))

/* Close if open and set to -1; idempotent. */
void fd_close(int *fd);

/* Give the descriptor away: the variable becomes -1 and its scope closes nothing. */
static inline int fd_steal(int *fd)
{
	int v = *fd;

	*fd = -1;
	return v;
}

/**
 * fd_read_full() - Read exactly @len bytes, through EINTR and short reads
 *
 * Return: 0, -EPIPE if the peer ended before the first byte, -EIO if it ended
 *	   in the middle, or -errno
 */
int fd_read_full(int fd, void *buf, size_t len);

/**
 * fd_write_full() - Write all of @len bytes; a closed socket is -EPIPE, never SIGPIPE
 *
 * Return: 0 or -errno
 */
int fd_write_full(int fd, const void *buf, size_t len);

int fd_set_nonblock(int fd);

/**
 * fd_read_file() - Read a whole small file
 * @dir_fd:	Directory that @path is relative to, or AT_FDCWD
 * @max:	Larger files are refused with -EFBIG
 * @out:	Set to a malloc'ed, NUL-terminated buffer; the caller frees it
 * @len:	Set to its length without the NUL; may be NULL
 *
 * Return: 0 or -errno
 */
int fd_read_file(int dir_fd, const char *path, size_t max, char **out, size_t *len);

/**
 * fd_write_file_atomic() - Replace a file so that a crash leaves the old or the new one
 *
 * Writes PATH.tmp beside it, fsyncs it, renames it, fsyncs the directory.
 *
 * Return: 0 or -errno
 */
int fd_write_file_atomic(int dir_fd, const char *path, const void *buf, size_t len, mode_t mode);

/**
 * fd_open_beneath() - Open a path that may not leave @dir_fd (openat2 RESOLVE_BENEATH)
 *
 * Return: a descriptor or -errno
 */
int fd_open_beneath(int dir_fd, const char *path, int flags, mode_t mode);

/**
 * fd_opendir() - Read a directory of its own, from its beginning
 * @path:	Beneath @dir_fd, "." for itself. A symbolic link is not followed
 *
 * Return: to be released by closedir(), or NULL with errno
 */
DIR *fd_opendir(int dir_fd, const char *path);

/**
 * fd_unix_listen() - A listening Unix stream socket
 * @path:	Where. A dead socket file there is replaced; a live one is -EADDRINUSE
 *
 * Return: a non-blocking descriptor or -errno
 */
int fd_unix_listen(const char *path, mode_t mode, struct err *e);

/* Return: a blocking connected descriptor or -errno. */
int fd_unix_connect(const char *path, struct err *e);

#endif
