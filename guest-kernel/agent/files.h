/* SPDX-License-Identifier: Apache-2.0 */
/*
 * File requests (api.md 5.2), with the agent's own rights: root's.
 *
 * A write goes to a nameless file beside the target and gets the name when it is
 * complete: readers see the old content or the new one, and an upload that
 * breaks leaves nothing. The new file takes mode and owner of the old one;
 * what a rename cannot keep is not kept: a descriptor opened before still sees
 * the old content, extended attributes go. Where a rename would do harm (the old file has several
 * links) or cannot work (devices, /proc, /sys, mount points), the upload is
 * kept elsewhere until it is complete and then copied into the file.
 */
#ifndef AGENT_FILES_H
#define AGENT_FILES_H

#include <dirent.h>
#include <limits.h>

#include "guest-kernel/agent/agent.h"
#include "guest-kernel/agent/request.h"

/* Serve one request; on a failure @e is set for the ERROR answer. Return: 0 or -errno. */
int files_read(struct agent *a, struct peer *p, uint64_t id, const struct request *r,
	       struct err *e);
int files_write(struct agent *a, struct peer *p, uint64_t id, const struct request *r,
		struct err *e);
int files_list(struct agent *a, struct peer *p, uint64_t id, const struct request *r,
	       struct err *e);
int files_mkdir(struct agent *a, struct peer *p, uint64_t id, const struct request *r,
		struct err *e);
int files_remove(struct agent *a, struct peer *p, uint64_t id, const struct request *r,
		 struct err *e);
int files_stat(struct agent *a, struct peer *p, uint64_t id, const struct request *r,
	       struct err *e);

/**
 * path_resolve() - Make a request's path absolute, without ".", ".." and double slashes
 * @home:	What relative paths start from
 * @out:	PATH_MAX bytes
 *
 * ".." is taken lexically: `/a/link/../b` is `/a/b` wherever the link points to.
 *
 * Return: 0 or -ENAMETOOLONG
 */
int path_resolve(const char *home, const char *path, char *out);
/* Who shall own what is created at @path: the sandbox user at its places, else root. */
void path_owner(const struct user *u, const char *path, uid_t *uid, gid_t *gid);
/* mkdir -p; what is created gets owners by path_owner(). Return: 0 or -errno. */
int path_make_dirs(const struct user *u, const char *path);

/* A stream over a copy of @fd, from the directory's start; NULL and errno. */
DIR *path_open_dir(int fd);

/**
 * path_remove() - Remove a file or a tree, never through a symlink
 *
 * Return: 0 (also if it is missing), -EBUSY at a mount point or `/`, or -errno
 */
int path_remove(const char *path);

/* A final answer without content. */
void put_result(struct peer *p, uint64_t id);

#endif
