/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The overlay file: header, map of clusters, data. Version 1.
 *
 * Theory of operation
 *
 *	0		header: struct overlay_header, one sector, with a checksum
 *	4096		map: one bit per cluster of 4 KiB, in sectors of 512 bytes, each
 *			with 4032 bits, a reserved word and a checksum (of the bits and
 *			the number of the sector; a sector never written is all zero)
 *	OVERLAY_DATA	data: cluster c at OVERLAY_DATA + 4096 * c, the file is sparse
 *
 * A bit that is set says that the cluster's content is in this file (a hole reads as
 * zero: a discarded cluster); else it is the base's, or zero beyond its end. The
 * map's place has room for the largest disk, so that a disk can grow.
 *
 * Integers are little-endian. The map in memory has the form of the one in the
 * file; its pages are read when they are first needed (a new file has none).
 *
 * Bits are only ever set, never cleared. A sector of the map that a power failure
 * leaves old or new is right in both cases, as bits are only written after the
 * data that they speak of is durable (disk_overlay.c).
 */
#ifndef SNAPSHOT_OVERLAY_FILE_H
#define SNAPSHOT_OVERLAY_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "lib/err.h"

#define OVERLAY_MAGIC	    "DORMDISK"
#define OVERLAY_VERSION	    1
#define OVERLAY_CLUSTER	    4096u
#define OVERLAY_MAP	    4096ull
#define OVERLAY_SECTOR	    512u
#define OVERLAY_SECTOR_BITS 4032u	   /* 504 bytes */
#define OVERLAY_DATA	    (128ull << 20) /* room for the map of OVERLAY_MAX_BYTES */
#define OVERLAY_MAX_BYTES   (2ull << 40)

struct overlay_header {
	char magic[8];
	uint32_t version, header_bytes;
	uint32_t cluster_bytes, map_sector_bits;
	uint64_t map_offset, data_offset;
	uint64_t size_bytes; /* what the guest sees */
	/* The base that it was made on: bytes that are not in the overlay are from it. */
	uint64_t base_bytes;
	int64_t base_mtime_s;
	uint32_t base_mtime_ns;
	uint32_t crc; /* CRC-32 of all before it; last */
};
_Static_assert(sizeof(struct overlay_header) == 72, "the format of version 1");

struct overlay_map_sector {
	uint8_t bits[OVERLAY_SECTOR_BITS / 8];
	uint32_t reserved, crc;
};
_Static_assert(sizeof(struct overlay_map_sector) == OVERLAY_SECTOR, "the format of version 1");

struct overlay_file {
	int fd;		     /* owned */
	uint64_t size_bytes; /* what the guest sees */
	int dir_fd;	    /* owned; of a file created by us until its entry is durable, else -1 */
	char *path;	    /* owned */
	uint32_t sectors;   /* of the map */
	uint64_t map_bytes; /* of the mapping */
	uint8_t *loaded;    /* a bit per sector: it is in memory; owned */
	uint8_t *dirty;	    /* a bit per sector: memory is newer than the file; owned */
	uint32_t dirty_count;		/* bits set in dirty */
	struct overlay_map_sector *map; /* owned mapping */
};

/**
 * overlay_file_open() - Open or create, lock, check
 * @base:	The base as it is now
 * @size_bytes:	As in struct disk_overlay_config
 *
 * Return: 0 or as disk_overlay_open()
 */
int overlay_file_open(struct overlay_file *f, const char *path, const struct stat *base,
		      uint64_t size_bytes, struct err *e);
/* Writes nothing; idempotent. */
void overlay_file_close(struct overlay_file *f);

/**
 * overlay_file_has() - Is a cluster in the overlay?
 *
 * Return: 1, 0, -EIO if this part of the map cannot be read or is damaged
 */
int overlay_file_has(struct overlay_file *f, uint64_t cluster);

/**
 * overlay_file_add() - Say that clusters are in the overlay
 * @n:		Number of clusters from @cluster on
 *
 * In memory only, until overlay_file_take() and a write of what it gave.
 *
 * Return: 0 or -EIO as overlay_file_has()
 */
int overlay_file_add(struct overlay_file *f, uint64_t cluster, uint64_t n);

/* Where a sector of the map is in the file. */
static inline uint64_t overlay_map_offset(uint32_t sector)
{
	return OVERLAY_MAP + (uint64_t)sector * OVERLAY_SECTOR;
}

/**
 * overlay_file_take() - Take the changed sectors of the map, to be written
 * @sectors:	Array of @max: their numbers, ascending
 * @copies:	Array of @max: their contents, with checksum
 *
 * They count as clean after; overlay_file_put_back() if writing them fails.
 *
 * Return: how many
 */
uint32_t overlay_file_take(struct overlay_file *f, uint32_t *sectors,
			   struct overlay_map_sector *copies, uint32_t max);
void overlay_file_put_back(struct overlay_file *f, const uint32_t *sectors, uint32_t n);

/* Lock a whole file without waiting, until close. Return: 0, -EBUSY or -errno. */
int overlay_lock(int fd, bool exclusive);

#endif
