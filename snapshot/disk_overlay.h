/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk made of a raw base image that nobody writes and a private overlay file.
 *
 * The format, its write ordering and what survives which crash are described in
 * disk_overlay.c.
 */
#ifndef SNAPSHOT_DISK_OVERLAY_H
#define SNAPSHOT_DISK_OVERLAY_H

#include <stdbool.h>
#include <stdint.h>

#include "devices/disk.h"
#include "lib/err.h"
#include "lib/loop.h"

struct disk_overlay_config {
	const char *base_path;	  /* raw image, never probed; a multiple of 512 bytes */
	const char *overlay_path; /* created if absent, else opened; NULL: read-only disk */
	/*
	 * Size that the guest sees: 0 takes the overlay's, or the base's for a new one.
	 * May exceed the base (reads zero beyond); an existing overlay grows, never shrinks.
	 */
	uint64_t size_bytes;
	struct loop *loop; /* borrowed; completions are delivered in it, under its lock */
	/*
	 * For tests: called before each change of the files with its name ("header",
	 * "copy-up", "write", "punch", "sync", "map", "dir"); a result other than 0 makes
	 * it fail with that -errno. NULL otherwise.
	 */
	int (*fault)(void *opaque, const char *point);
	void *fault_opaque; /* borrowed */
};

/**
 * disk_overlay_open() - Open or create
 * @out:	Release with (*out)->ops->close(*out)
 *
 * Takes an exclusive lock on the overlay and a shared one on the base, until close.
 * Creates no io_uring: that happens at the first request that needs one.
 *
 * Return: 0; -EBUSY if another process has the overlay; -EINVAL for a file that
 *	   is not what it should be (size, magic, checksum, other base), with the
 *	   exact reason in @e; -ENOTSUP for a newer format; or -errno
 */
int disk_overlay_open(struct disk **out, const struct disk_overlay_config *c, struct err *e);

/* Bytes of the overlay file that hold data (st_blocks), for `info`. */
uint64_t disk_overlay_used(struct disk *d);

#endif
