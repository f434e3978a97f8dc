/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A layer file: header, map of clusters, data, checksums. Version 2.
 *
 * Theory of operation
 *
 *	0		header: struct layer_header, one sector, with a checksum
 *	4096		map: one bit per cluster of 4 KiB, in sectors of 512 bytes, each
 *			with 4032 bits, a reserved word and a checksum (of the bits and
 *			the number of the sector; a sector never written is all zero)
 *	LAYER_DATA	data: cluster c at LAYER_DATA + 4096 * c, the file is sparse
 *	sums_offset	of a sealed layer: a CRC-32 per cluster, in sectors of the same
 *			form, 126 each (layer_seal.h)
 *
 * A bit that is set says that the cluster's content is in this file (a hole reads as
 * zero: a discarded cluster); else it is that of the layers below, of the base, or
 * zero. The map's place has room for the largest disk, so that a disk can grow.
 *
 * A layer is written by one process (an exclusive lock) until another layer is put on
 * it. Then it never changes again, but that it is sealed: the checksums are added.
 * Others read it under a shared lock. One that was not sealed, because the process
 * ended before, has the content that its map in the file says: what was flushed last.
 *
 * Integers are little-endian. The map in memory has the form of the one in the
 * file; its pages are read when they are first needed (a new file has none).
 *
 * Bits are only ever set, never cleared. A sector of the map that a power failure
 * leaves old or new is right in both cases, as bits are only written after the
 * data that they speak of is durable (layers_flush.c).
 */
#ifndef SNAPSHOT_LAYER_H
#define SNAPSHOT_LAYER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "lib/err.h"

#define LAYER_MAGIC	  "DORMDISK"
#define LAYER_VERSION	  2
#define LAYER_CLUSTER	  4096u
#define LAYER_MAP	  4096ull
#define LAYER_SECTOR	  512u
#define LAYER_SECTOR_BITS 4032u		 /* 504 bytes */
#define LAYER_SECTOR_SUMS 126u		 /* 504 bytes */
#define LAYER_DATA	  (128ull << 20) /* room for the map of LAYER_MAX_BYTES */
#define LAYER_MAX_BYTES	  (2ull << 40)
#define LAYER_ID_BYTES	  16

/* Flags; all others are refused. */
#define LAYER_SEALED 1u
#define LAYER_FLAT   2u /* took the place of several: those between it and its parent are void */

/* What a raw base is known by. All zero: there is none. */
struct layer_base {
	uint64_t bytes;
	int64_t mtime_s;
	uint32_t mtime_ns;
};

struct layer_header {
	char magic[8];
	uint32_t version, header_bytes;
	uint32_t cluster_bytes, map_sector_bits;
	uint64_t map_offset, data_offset;
	uint64_t size_bytes; /* of the disk, as the guest sees it */
	uint8_t id[LAYER_ID_BYTES];
	uint8_t parent[LAYER_ID_BYTES]; /* id of the layer below; zero: this is the lowest */
	/* The base below the lowest layer; the same in all layers of a chain. */
	uint64_t base_bytes;
	int64_t base_mtime_s;
	uint32_t base_mtime_ns;
	uint32_t flags;
	/* Of a sealed layer, else zero: where the checksums are, how many clusters it has,
	 * and the CRC-32 of its map. */
	uint64_t sums_offset, clusters;
	uint32_t map_crc;
	uint32_t crc; /* CRC-32 of all before it; last */
};
_Static_assert(sizeof(struct layer_header) == 128, "the format of version 2");

/* Of the map: 4032 bits; of the checksums: 126 words. */
struct layer_sector {
	uint8_t bytes[LAYER_SECTOR_BITS / 8];
	uint32_t reserved, crc; /* crc: of the bytes and the sector's number */
};
_Static_assert(sizeof(struct layer_sector) == LAYER_SECTOR, "the format of version 2");

struct layer {
	char *path; /* owned */
	int fd;	    /* owned */
	int dir_fd; /* owned; of a file created by us until its entry is durable, else -1 */
	struct layer_header h;
	bool writable;		  /* we hold the exclusive lock */
	bool unsynced;		  /* data was written since the last round of flushing began */
	bool sync_failed;	  /* for ever: nothing written since is safe */
	uint32_t sectors;	  /* of the map */
	uint64_t map_bytes;	  /* of the mapping */
	uint8_t *loaded;	  /* a bit per sector: it is in memory; owned */
	uint8_t *dirty;		  /* a bit per sector: memory is newer than the file; owned */
	uint32_t dirty_count;	  /* bits set in dirty */
	struct layer_sector *map; /* owned mapping */
	struct layer_sector sums; /* the sector that was used last */
	uint64_t sums_number;	  /* which; UINT64_MAX: none */
};

enum {
	LAYER_READ = 0,
	LAYER_WRITE = 1,  /* exclusively locked; a sealed layer is refused */
	LAYER_CREATE = 2, /* if it is not there; with LAYER_WRITE */
	LAYER_NEW = 4,	  /* it may not be there; with LAYER_WRITE */
	LAYER_NO_WAIT = 8 /* for the lock, see layer_open() */
};

/**
 * layer_open() - Open, lock, check
 * @l:		Need not be initialised. Release with layer_close(), also after a failure
 *
 * Waits two seconds for the lock: a process that was killed keeps it until the kernel
 * has come to the end of its I/O, which may be after it was waited for.
 *
 * Return: 0; 1 if it has no content and is to be made with layer_init() (only with
 *	   LAYER_CREATE or LAYER_NEW); -EBUSY if another process has it; -EINVAL for a
 *	   file that is not what it should be, with the exact reason in @e; -ENOTSUP for a
 *	   newer format; -EROFS for a sealed layer with LAYER_WRITE; or -errno
 */
int layer_open(struct layer *l, const char *path, unsigned int mode, struct err *e);
/* Writes nothing; idempotent. */
void layer_close(struct layer *l);

/**
 * layer_init() - Write the first header of a file that layer_open() found empty
 * @parent:	NULL: this is the lowest layer
 *
 * Not durable before the first flush. The id is random.
 */
int layer_init(struct layer *l, uint64_t size_bytes, const struct layer *parent,
	       const struct layer_base *base, struct err *e);

/**
 * layer_stand_for() - Take the identity of a run of layers: what @l gets their content for
 * @top:	The newest of them: its id
 * @lowest:	The oldest of them: its parent
 */
int layer_stand_for(struct layer *l, const struct layer *top, const struct layer *lowest,
		    struct err *e);

/* Make the disk larger, in one write of the header. */
int layer_grow(struct layer *l, uint64_t size_bytes, struct err *e);

/* Is it a size that a disk can have? Return: 0 or -EINVAL. */
int layer_check_size(const char *path, uint64_t size, struct err *e);

/**
 * layer_has() - Is a cluster in this layer?
 *
 * Return: 1, 0, -EIO if this part of the map cannot be read or is damaged
 */
int layer_has(struct layer *l, uint64_t cluster);

/**
 * layer_skip() - Pass over a part of the disk of which the layer has nothing
 *
 * Return: a cluster, @cluster or a later one, before which there is nothing from
 *	   @cluster on; or -EIO as layer_has()
 */
int64_t layer_skip(struct layer *l, uint64_t cluster);

/**
 * layer_add() - Say that clusters are in the layer
 * @n:		Number of clusters from @cluster on
 *
 * In memory only, until layer_take() and a write of what it gave.
 *
 * Return: 0 or -EIO as layer_has()
 */
int layer_add(struct layer *l, uint64_t cluster, uint64_t n);

/* Where a sector of the map is in the file. */
static inline uint64_t layer_map_offset(uint32_t sector)
{
	return LAYER_MAP + (uint64_t)sector * LAYER_SECTOR;
}

static inline uint64_t layer_clusters(uint64_t size_bytes)
{
	return (size_bytes + LAYER_CLUSTER - 1) / LAYER_CLUSTER;
}

/**
 * layer_take() - Take the changed sectors of the map, to be written
 * @sectors:	Array of @max: their numbers, ascending
 * @copies:	Array of @max: their contents, with checksum
 *
 * They count as clean after; layer_put_back() if writing them fails.
 *
 * Return: how many
 */
uint32_t layer_take(struct layer *l, uint32_t *sectors, struct layer_sector *copies, uint32_t max);
void layer_put_back(struct layer *l, const uint32_t *sectors, uint32_t n);

uint32_t layer_header_crc(const struct layer_header *h);
uint32_t layer_sector_crc(const struct layer_sector *s, uint64_t number);
/* Is what was read a sector that we wrote, or one never written? */
bool layer_sector_ok(const struct layer_sector *s, uint64_t number);
bool layer_sector_never(const struct layer_sector *s);

struct layer_base layer_base_of(const struct layer_header *h);
bool layer_same_base(const struct layer_header *h, const struct layer_base *base);

/* Lock a whole file without waiting, until close. Return: 0, -EBUSY or -errno. */
int layer_lock(int fd, bool exclusive);

#endif
