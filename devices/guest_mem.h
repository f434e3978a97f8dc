/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The only way to the memory of the guest.
 *
 * Theory of operation
 *
 * Guest RAM is a table of regions with holes between them. An address that a
 * guest gave is never turned into a pointer by arithmetic: it goes through
 * guest_mem_read() and guest_mem_write(), which copy, or through
 * guest_mem_iov(), which hands out checked pointers for bulk data alone.
 * Whatever is validated is copied first and validated on the copy, as another
 * vCPU may change the original at any time.
 *
 * The table is filled before the first vCPU runs; all functions may then be called
 * from any thread. What guest_mem_set() changes later it changes under the device lock, which
 * those who look at the table hold.
 */
#ifndef DEVICES_GUEST_MEM_H
#define DEVICES_GUEST_MEM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define GUEST_MEM_MAX_REGIONS 8

struct guest_region {
	uint64_t gpa, len_bytes;
	uint8_t *hva; /* borrowed from the VM, outlives us */
};

/* Zero-initialise it; there is nothing to release. */
struct guest_mem {
	struct guest_region regions[GUEST_MEM_MAX_REGIONS];
	unsigned int n;
	int (*load)(void *opaque, const void *at, uint64_t len_bytes);
	void *load_opaque; /* borrowed */
	uint8_t *dropped;  /* borrowed; see guest_mem_note_drops() */
	const uint8_t *dropped_base;
};

/**
 * guest_mem_add() - Add a region of RAM
 * @gpa:	Guest physical address
 * @hva:	Its @len_bytes of host memory; borrowed
 *
 * Return: 0, -EINVAL if it is empty or wraps, -EEXIST if it overlaps another,
 *	   -ENOSPC if the table is full
 */
int guest_mem_add(struct guest_mem *m, uint64_t gpa, void *hva, uint64_t len_bytes);

/**
 * guest_mem_set() - Make the region at @gpa as long as @len_bytes; 0: there is none
 * @hva:	Where it is, also if it is there already
 *
 * Under the device lock. Return: as guest_mem_add()
 */
int guest_mem_set(struct guest_mem *m, uint64_t gpa, void *hva, uint64_t len_bytes);

/**
 * guest_mem_note_drops() - Note what guest_mem_discard() drops
 * @map:	A bit for each page of all regions, from @base on; it is set. Borrowed; NULL: do not
 *
 * Until the guest writes to such a page, its content is nobody's: a private mapping of a file shows
 * the file's there again.
 */
void guest_mem_note_drops(struct guest_mem *m, uint8_t *map, const void *base);

/**
 * guest_mem_set_loader() - RAM is being loaded while the guest runs
 * @load:	Called before each access of the functions below that goes to memory itself; NULL:
 *		everything is there. A result other than 0 makes the access fail with -EFAULT
 *
 * Nobody else may be in a function below. The pointers of guest_mem_iov() are not loaded: the
 * system call that they are for faults, and fails with EFAULT where nothing can be loaded.
 */
void guest_mem_set_loader(struct guest_mem *m,
			  int (*load)(void *opaque, const void *at, uint64_t len_bytes),
			  void *opaque);

/**
 * guest_mem_read() - Copy from the guest
 *
 * The range may span regions that touch. Nothing of it may lie in a hole: then
 * no byte is copied.
 *
 * Return: 0 or -EFAULT
 */
int guest_mem_read(const struct guest_mem *m, uint64_t gpa, void *dst, size_t len_bytes);

/* Copy to the guest; as guest_mem_read(). */
int guest_mem_write(const struct guest_mem *m, uint64_t gpa, const void *src, size_t len_bytes);

/**
 * guest_mem_iov() - Checked pointers to a range, for bulk data only
 * @iov:	Array of @max entries
 *
 * What lies behind the pointers changes under our hands: pass them to readv()
 * and the like, and never parse it.
 *
 * Return: number of entries used (0 for an empty range), -EFAULT if part of the
 *	   range is not RAM, -E2BIG if @max does not suffice
 */
int guest_mem_iov(const struct guest_mem *m, uint64_t gpa, uint64_t len_bytes, struct iovec *iov,
		  unsigned int max);

/*
 * Single aligned 16-bit accesses, for the indices of a ring: a load with acquire
 * and a store with release ordering. Return: 0 or -EFAULT (also if misaligned).
 */
int guest_mem_load16(const struct guest_mem *m, uint64_t gpa, uint16_t *value);
int guest_mem_store16(const struct guest_mem *m, uint64_t gpa, uint16_t value);

/**
 * guest_mem_discard() - Give whole pages back to the host; anonymous ones read as zero after
 *
 * Works on private anonymous and on shared mappings: private pages are dropped,
 * those of a shared mapping are removed from the file behind it.
 *
 * Return: 0, -EFAULT, -EINVAL if not made of whole host pages, or -errno
 */
int guest_mem_discard(const struct guest_mem *m, uint64_t gpa, uint64_t len_bytes);

/* Sum of all regions. */
uint64_t guest_mem_total(const struct guest_mem *m);

#endif
