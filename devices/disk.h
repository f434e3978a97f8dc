/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What virtio-blk needs of a disk; implemented in snapshot/.
 *
 * All functions are called, and all completions are delivered, under the device
 * lock. A completion may come from within submit().
 */
#ifndef DEVICES_DISK_H
#define DEVICES_DISK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

enum disk_op {
	DISK_READ,
	DISK_WRITE,
	DISK_FLUSH,	  /* all writes completed before it are durable when it is done */
	DISK_DISCARD,	  /* whole blocks of block_bytes in the range read as zero after */
	DISK_WRITE_ZEROES /* every byte of the range reads as zero after */
};

struct disk_req {
	enum disk_op op;
	uint64_t offset_bytes, len_bytes; /* multiples of 512, within size_bytes */
	struct iovec *iov;		  /* read/write: sums to len_bytes; borrowed until done */
	unsigned int iov_n;
	/* @result: 0 or -errno. The request belongs to the caller again. */
	void (*done)(struct disk_req *r, int result);

	/* The backend's, until done. */
	struct disk_req *next;
	unsigned int pending;
	int result;
};

struct disk;

struct disk_ops {
	/* Start a request; it may be kept back until kick(). Errors are reported by done(). */
	void (*submit)(struct disk *d, struct disk_req *r);
	/* Hand what submit() kept back to the kernel: once per batch. */
	void (*kick)(struct disk *d);
	/* Wait until nothing is in flight; every done() has been called on return. */
	void (*drain)(struct disk *d);
	/* drain(), make durable, release. Call it after the device that uses it is gone. */
	void (*close)(struct disk *d);
	/* As close(), but nobody wants any more what was written since the last flush. */
	void (*drop)(struct disk *d);
};

struct disk {
	const struct disk_ops *ops;
	uint64_t size_bytes;  /* what the guest sees; a multiple of 512 */
	uint32_t block_bytes; /* aligned writes of it need no read; a power of two, 512 or more */
	bool read_only;

	/*
	 * Set by the user of the disk; NULL while there is none. Called after a batch of
	 * completions that were not delivered from within submit().
	 */
	void (*batch)(void *opaque);
	void *batch_opaque; /* borrowed */
};

#endif
