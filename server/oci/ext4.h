/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An ext4 file system in a file, written without mounting it: owners, modes and devices are bytes
 * in it, and need no rights. As guest-kernel/image/build makes them, so that it grows online.
 */
#ifndef SERVER_OCI_EXT4_H
#define SERVER_OCI_EXT4_H

#include <stdint.h>

#include "server/oci/tree.h"

struct ext4;

/**
 * ext4_create() - Make a file system
 * @fd:		An empty file, opened for reading and writing; stays the caller's. It is opened anew
 *		here, and nothing after that
 * @size_mib:	What it becomes; what is not used is a hole
 */
int ext4_create(int fd, uint64_t size_mib, struct ext4 **out, struct err *e);
/* Without ext4_finish(): what was written is of no use. NULL is fine. */
void ext4_destroy(struct ext4 *x);

/**
 * ext4_add() - Give a file that is no directory its inode, with extended attributes
 *
 * A symbolic link is complete then. @f->size bytes must fit.
 *
 * Return: 0; -ENOSPC; -E2BIG: its extended attributes do not fit; -EIO
 */
int ext4_add(struct ext4 *x, struct tree_file *f, struct err *e);

/* The content of the last one that was added: in order, what is left out is a hole. */
int ext4_write(struct ext4 *x, uint64_t offset, const void *data, size_t len, struct err *e);
int ext4_write_end(struct ext4 *x, struct err *e);

/* Content of an earlier one. Return: malloc'ed and NUL-terminated; NULL, also beyond @max bytes */
char *ext4_read(struct ext4 *x, const struct tree_file *f, size_t max);

/* A file that nothing names any more: its place is free. A failure is one of ext4_finish(). */
void ext4_drop(struct ext4 *x, struct tree_file *f);

/* Write directories and journal, and all to the disk. */
int ext4_finish(struct ext4 *x, struct tree *t, struct err *e);

#endif
