/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files of an image as its layers make them, in memory.
 *
 * Names and links of an archive are looked up here and nowhere else: what is hostile about them can
 * reach no file of the host. Only what is left at the end becomes directories (ext4.h).
 */
#ifndef SERVER_OCI_TREE_H
#define SERVER_OCI_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

#define TREE_PATH_MAX	 4096
#define TREE_NAME_MAX	 255
#define TREE_DEPTH_MAX	 1024
#define TREE_LINKS_MAX	 65000	  /* of one file: what ext4 can have */
#define TREE_ENTRIES_MAX 2000000u /* at a time */
#define TREE_HOPS_MAX	 40	  /* symbolic links on the way to one file */

struct tree_xattr {
	char *name, *value; /* owned */
	size_t len;
};

/* What an inode is. */
struct tree_file {
	unsigned int links; /* nodes that name it */
	uint32_t ino;	    /* of the file system; 0: none yet, as all directories */
	uint32_t mode;	    /* type and permissions */
	uint32_t uid, gid;
	uint32_t dev_major, dev_minor;
	int64_t mtime;
	uint64_t size;
	char *target;		   /* owned; of a symbolic link */
	struct tree_xattr *xattrs; /* owned */
	size_t xattrs_n;
};

struct tree_node {
	struct tree_node *parent; /* NULL: the root */
	struct tree_node *children, *next, **prev;
	struct tree_node *chain; /* in its bucket */
	struct tree_file *file;
	unsigned int layer; /* the last one that named it */
	unsigned int depth;
	char name[];
};

struct tree {
	struct tree_node *root;
	struct tree_node **buckets; /* owned */
	size_t n_buckets, n;
	/* A file without names any more; it is freed after that. */
	void (*drop)(void *ctx, struct tree_file *f);
	void *ctx;
};

int tree_init(struct tree *t, void (*drop)(void *ctx, struct tree_file *f), void *ctx);
/* Calls no drop. */
void tree_fini(struct tree *t);

struct tree_file *tree_file_new(uint32_t mode);
/* One that is in no tree. NULL is fine. */
void tree_file_free(struct tree_file *f);

/**
 * tree_put() - Give a file a name
 * @path:	As in an archive: relative or not, it is below the root. One with ".." is refused;
 *		symbolic links on the way are followed within the tree, what is missing is made
 * @layer:	From 1, rising
 * @f:		Taken over on success; one that is in the tree already becomes a hard link
 *
 * What has the name goes, with all below it, unless both are directories: then these become one.
 *
 * Return: 0; -EINVAL, -ENOTDIR, -ELOOP, -ENAMETOOLONG, -EMLINK, -EFBIG: too many; -ENOMEM
 */
int tree_put(struct tree *t, const char *path, unsigned int layer, struct tree_file *f,
	     struct err *e);

/**
 * tree_mark() - Is it one of the names that say what is no longer there? Then do it
 *
 * ".wh.NAME": NAME of the layers below is gone; ".wh..wh..opq": all that the folder had from them;
 * others that begin with ".wh..wh." mean nothing.
 *
 * Return: 1: it was one; 0: it is the name of a file; -errno
 */
int tree_mark(struct tree *t, const char *path, unsigned int layer, struct err *e);

/* What has this name; the last part is not followed. NULL if there is nothing, or with a path that
 * tree_put() would refuse. */
struct tree_node *tree_find(struct tree *t, const char *path);
/* The same, with links followed to their end. */
struct tree_node *tree_find_end(struct tree *t, const char *path);

#endif
