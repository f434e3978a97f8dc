/* SPDX-License-Identifier: Apache-2.0 */
/* The changes of one layer, into the tree and the file system. */
#ifndef SERVER_OCI_LAYER_H
#define SERVER_OCI_LAYER_H

#include "server/oci/ext4.h"
#include "server/oci/outer.h"
#include "server/oci/tree.h"

/* What is being made: its files, and where their content goes. */
struct rootfs {
	struct tree tree;
	struct ext4 *fs; /* owned */
};

/* rootfs_fini() is due, also after a failure. @fd and @size_mib: as ext4_create() */
int rootfs_init(struct rootfs *r, int fd, uint64_t size_mib, struct err *e);
void rootfs_fini(struct rootfs *r);

/**
 * layer_apply() - Do what a layer says
 * @number:	1 is the lowest
 *
 * Return: 0; -errno, and the message names the entry. What was done stays: all is to be discarded
 */
int layer_apply(struct rootfs *r, struct layer_stream *s, unsigned int number, struct err *e);

/* A file of ours, over what is there, of root. Return: 0 or -errno */
int rootfs_put(struct rootfs *r, const char *path, uint32_t mode, const void *data, size_t len,
	       struct err *e);
/* A directory of root's, unless there is something. */
int rootfs_mkdir(struct rootfs *r, const char *path, uint32_t mode, struct err *e);
/* The text of a file: malloc'ed; NULL if there is none, or a large one. */
char *rootfs_read(struct rootfs *r, const char *path);

#endif
