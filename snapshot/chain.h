/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A chain: raw base, layers on it, oldest first; where each byte of a disk is.
 *
 * Layers below the last are opened when a read first needs them, so that opening a
 * disk does not depend on their number; what is wrong with one (absent, damaged, not
 * the parent of the one above) is then told by the read. A layer that could not be
 * opened is tried again by the next read.
 *
 * Not thread-safe; everything under the caller's lock.
 */
#ifndef SNAPSHOT_CHAIN_H
#define SNAPSHOT_CHAIN_H

#include <sys/uio.h>

#include "snapshot/layer.h"

#define CHAIN_MAX 1024 /* layers */

struct chain_link {
	char *path;	     /* owned */
	struct layer *layer; /* owned; NULL: not opened yet */
	bool busy;	     /* another process has it: waiting was in vain once */
	bool skipped;	     /* its content is in a flattened layer above */
};

struct chain {
	int base_fd; /* owned; -1: no base */
	char *base_path;
	struct layer_base base;
	bool any_base; /* the layers are a part of a chain: what is below is not at hand */
	struct chain_link *links; /* owned */
	unsigned int n;
	unsigned int low; /* the links from this one on have been looked at */
};

/* Nothing in it; chain_fini() is possible from here on, and idempotent. */
void chain_init(struct chain *c);
void chain_fini(struct chain *c);

/* A raw image, opened for reading, with a shared lock. Its size is a multiple of 512. */
int chain_set_base(struct chain *c, const char *path, struct err *e);
/* Put a layer on top, to be opened later. */
int chain_add(struct chain *c, const char *path, struct err *e);
/* The same for an open one: the chain owns it on success. */
int chain_add_open(struct chain *c, struct layer *l, struct err *e);

/* Take the last one off again; it is the caller's. */
void chain_drop(struct chain *c);

/**
 * chain_layer() - A layer of the chain, opened now if it was not
 * @i:		Index; all layers above it are opened first
 * @out:	NULL, without an error, if the layer is void: a flattened one above has its place
 *
 * Return: 0; -EINVAL if it is not the parent of the layer above, or not on this base;
 *	   or as layer_open()
 */
int chain_layer(struct chain *c, unsigned int i, struct layer **out, struct err *e);

/* Was @l made on this base? Return: 0 or -EINVAL. */
int chain_check_base(const struct chain *c, const struct layer *l, struct err *e);
/**
 * chain_check_link() - May @child lie on what the chain has below it?
 * @parent:	NULL: @child is the lowest
 */
int chain_check_link(const struct chain *c, const struct layer *child, const struct layer *parent,
		     struct err *e);

/* The layer that a cluster is in, from the top. Return: 1, 0 if none has it, -EIO (logged). */
int chain_owner(struct chain *c, uint64_t cluster, struct layer **owner);

/**
 * chain_skip() - layer_skip() for all layers of a chain
 */
int64_t chain_skip(struct chain *c, uint64_t cluster);

/* A piece of the disk that comes from one place. */
struct chain_run {
	struct layer *layer; /* NULL: not from a layer */
	int fd;		     /* borrowed; -1: zeros */
	uint64_t file_offset;
	uint64_t len_bytes;
};

/**
 * chain_find() - Where the bytes from @offset on are
 * @end:	The run ends there at the latest
 *
 * Return: 0; -EIO if a layer that must be asked cannot be (logged)
 */
int chain_find(struct chain *c, uint64_t offset, uint64_t end, struct chain_run *run);

/**
 * chain_verify() - Compare what was read with the checksums
 * @offset:	Of the disk, where the run was
 * @iov:	Vector that has the run's bytes at @skip; only its whole clusters are looked at
 *
 * Return: 0 or -EIO (logged)
 */
int chain_verify(const struct chain_run *run, uint64_t offset, const struct iovec *iov,
		 unsigned int iov_n, uint64_t skip);

/**
 * chain_read() - Read at once, verified
 * @len:	Beyond the end of every layer and of the base there are zeros
 *
 * Return: 0 or -EIO (logged)
 */
int chain_read(struct chain *c, uint64_t offset, void *buf, uint64_t len);

#endif
