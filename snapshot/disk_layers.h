/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk made of a raw base image that nobody writes, immutable layers on it, and one
 * writable layer on top.
 *
 * The format is described in layer.h, its write ordering and what survives which crash
 * in layers_flush.c. All functions are called under the device lock.
 */
#ifndef SNAPSHOT_DISK_LAYERS_H
#define SNAPSHOT_DISK_LAYERS_H

#include <stdbool.h>
#include <stdint.h>

#include "devices/disk.h"
#include "lib/err.h"
#include "lib/loop.h"

struct disk_layers_config {
	const char *base_path; /* raw image, never probed; a multiple of 512 bytes; NULL: none */
	/* Immutable layers, oldest first; opened when a read first needs them. */
	const char *const *layers;
	unsigned int layers_n;
	const char *overlay_path; /* created if absent, else opened; NULL: read-only disk */
	/*
	 * Size that the guest sees: 0 takes the top layer's, or the base's if there is none.
	 * May exceed the base (reads zero beyond); a layer grows, never shrinks.
	 */
	uint64_t size_bytes;
	/* Leave opening to disk_layers_finish(), if size_bytes is given and the disk is writable.
	 */
	bool later;
	struct loop *loop; /* borrowed; completions are delivered in it, under its lock */
	/*
	 * For tests: called before each change of the files with its name ("header",
	 * "copy-up", "write", "punch", "sync", "map", "dir", "switch", and those of
	 * layer_seal.h, from a thread of their own); a result other than 0 makes it fail
	 * with that -errno. NULL otherwise.
	 */
	int (*fault)(void *opaque, const char *point);
	void *fault_opaque; /* borrowed */
};

/**
 * disk_layers_open() - Open a chain, create its writable layer if it is absent
 * @out:	Release with (*out)->ops->close(*out)
 *
 * Takes an exclusive lock on the writable layer and shared ones on what is below, until
 * close. Creates no io_uring: that happens at the first request that needs one.
 *
 * Return: 0; -EBUSY if another process has the layer; -EINVAL for a file that
 *	   is not what it should be (size, magic, checksum, other base or parent), with the
 *	   exact reason in @e; -EROFS for a writable layer that is sealed; -ENOTSUP for
 *	   a newer format; or -errno
 */
int disk_layers_open(struct disk **out, const struct disk_layers_config *c, struct err *e);

/**
 * disk_layers_finish() - Open the files of a disk that was opened with `later`
 *
 * Until then every request fails, but the disk can be shown to a device. Nothing to do for others.
 *
 * Return: as disk_layers_open(); after a failure the disk can only be closed
 */
int disk_layers_finish(struct disk *d, struct err *e);

/**
 * disk_layers_prepare() - Make the file of the next layer, while the disk works
 * @new_path:	May not exist
 *
 * A disk_layers_switch() to it then makes no file. disk_layers_unprepare() removes it again; so
 * do another disk_layers_prepare(), a switch to another path, and close.
 *
 * Return: as disk_layers_switch()
 */
int disk_layers_prepare(struct disk *d, const char *new_path, struct err *e);
/* Idempotent. */
void disk_layers_unprepare(struct disk *d);

/**
 * disk_layers_switch() - Freeze the disk's content of now, go on in a new layer
 * @new_path:	May not exist, but if it was prepared
 * @sealed:	Called once, from the loop (or from within close): 0 when the content of
 *		now is durable, with its checksums, and its layers can be opened by others;
 *		-ECANCELED if the disk was closed before; or -errno
 *
 * Called drained. Costs the creation of one file, whatever the disk has. On failure
 * nothing has changed. When @sealed reports a failure, the disk works on, on its new
 * layer; FLUSHes fail as long as what is below cannot be made durable, and the next
 * switch tries to seal the old layer, too.
 *
 * Return: 0; -EBUSY while the layer of the last switch is being sealed; -EROFS for a
 *	   disk without a writable layer; -EEXIST; or -errno
 */
int disk_layers_switch(struct disk *d, const char *new_path,
		       void (*sealed)(void *opaque, int result), void *opaque, struct err *e);

struct disk_layers_info {
	unsigned int layers; /* with the writable one */
	uint64_t size_bytes;
	uint64_t used_bytes;   /* of the file system, by the writable layer */
	uint64_t frozen_bytes; /* by the newest layer below it; 0 if there is none */
	bool sealing;
};

/* For `info` and for the report of a checkpoint. */
void disk_layers_info(struct disk *d, struct disk_layers_info *info);

#endif
