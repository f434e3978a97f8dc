/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sealing a layer: a checksum for each of its clusters, then the flag in its header.
 *
 * The table of checksums follows the data, at a multiple of 4096 bytes. An entry is
 * the CRC-32 of the cluster's 4096 bytes (beyond the disk's end: zeros), exclusive-or
 * that of 4096 zeros: so entries of holes and of clusters that the layer does not have
 * are 0, and the table is sparse where the layer is.
 */
#ifndef SNAPSHOT_LAYER_SEAL_H
#define SNAPSHOT_LAYER_SEAL_H

#include "snapshot/layer.h"

struct layer_seal_env {
	/* As in struct disk_layers_config; may be NULL. Points: "sums", "sums-sync", "seal",
	 * "seal-sync". */
	int (*fault)(void *opaque, const char *point);
	void *fault_opaque;
	const bool *cancel; /* read atomically: then -ECANCELED; may be NULL */
};

/**
 * layer_seal() - Compute and write the checksums, mark as sealed; durable on return
 * @fd:		Of the layer; its map in the file is durable and complete
 * @h:		Its header; on success changed to what is in the file
 * @path:	For messages
 *
 * Works on the file alone, not on a struct layer, so that a thread of its own can
 * do it. A failure, or a death at any point, leaves an unsealed layer as it was.
 *
 * Return: 0, -ECANCELED, -EIO for a damaged map, or -errno
 */
int layer_seal(int fd, struct layer_header *h, const char *path, const struct layer_seal_env *env,
	       struct err *e);

/**
 * layer_sum() - What the table of a sealed layer says of a cluster
 *
 * Return: 0 or -EIO
 */
int layer_sum(struct layer *l, uint64_t cluster, uint32_t *sum);

/* The entry for a cluster with these bytes; fewer than 4096 are followed by zeros. */
uint32_t layer_sum_of(const void *bytes, uint32_t len);
/* The same in pieces: begin with 0, add in order, end with the number of all bytes. */
uint32_t layer_sum_add(uint32_t crc, const void *bytes, uint32_t len);
uint32_t layer_sum_end(uint32_t crc, uint32_t len);

static inline uint64_t layer_sums_offset(uint64_t size_bytes)
{
	return LAYER_DATA + layer_clusters(size_bytes) * LAYER_CLUSTER;
}

static inline uint64_t layer_sums_bytes(uint64_t size_bytes)
{
	return (layer_clusters(size_bytes) + LAYER_SECTOR_SUMS - 1) / LAYER_SECTOR_SUMS *
	       LAYER_SECTOR;
}

#endif
