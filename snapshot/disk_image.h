/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chains of layers outside of a machine: flatten, import, export, check, seal.
 *
 * All of it is synchronous and for a process of its own (dormouse-img). What is read is
 * locked as by a reader: so sealed layers may be in use by running machines meanwhile.
 * What is written has the name PATH.part until it is complete and durable.
 */
#ifndef SNAPSHOT_DISK_IMAGE_H
#define SNAPSHOT_DISK_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/err.h"

struct disk_image_source {
	const char *base_path;	   /* raw; NULL: none, or not at hand (flatten, check) */
	const char *const *layers; /* oldest first */
	unsigned int layers_n;
};

struct disk_image_env {
	bool replace; /* an existing file of the result's name; else -EEXIST */
	/* Now and then, with bytes of the disk; may be NULL. */
	void (*progress)(void *opaque, uint64_t done_bytes, uint64_t total_bytes);
	void *progress_opaque;
	/* As in struct disk_layers_config. Points: "create", "data", "map", "rename", "dir",
	 * and those of layer_seal.h. */
	int (*fault)(void *opaque, const char *point);
	void *fault_opaque;
};

/**
 * disk_layers_flatten() - One layer with the content of several
 *
 * The layers are a chain or a part of one. The result has the id of the newest and the
 * parent of the oldest, is sealed, and takes the place of all of them in any chain. It
 * may have the path of the newest (with env->replace): a chain that still names the
 * others beneath it remains right, as they are passed over.
 *
 * Return: 0; -EIO for damaged content (what exactly is logged); or -errno. On failure, or
 *	   death at any point, what was at @out_path is unchanged.
 */
int disk_layers_flatten(const struct disk_image_source *s, const char *out_path,
			const struct disk_image_env *env, struct err *e);

/* The content of a whole chain as a sparse raw file; of a base alone: a sparse copy. */
int disk_layers_export(const struct disk_image_source *s, const char *out_path,
		       const struct disk_image_env *env, struct err *e);

/* A raw file, or a whole chain, as one sealed layer without base and parent. */
int disk_layers_import(const struct disk_image_source *s, const char *out_path,
		       const struct disk_image_env *env, struct err *e);

/* Seal a layer that a crash left unsealed, and that nobody writes; no change if it is sealed. */
int disk_layers_seal(const char *path, const struct disk_image_env *env, struct err *e);

/**
 * disk_layers_check() - Compare everything with its checksums
 * @problem:	Called for each thing that is wrong
 *
 * Every layer is looked at by itself, then whether each is the parent of the next.
 *
 * Return: number of problems, or -errno
 */
int disk_layers_check(const struct disk_image_source *s,
		      void (*problem)(void *opaque, const char *text), void *opaque,
		      const struct disk_image_env *env, struct err *e);

struct disk_image_info {
	char id[33], parent[33]; /* hex; parent empty: none */
	bool sealed, flat;
	uint64_t size_bytes, base_bytes;
	uint64_t used_bytes;	/* of the file system */
	uint64_t content_bytes; /* clusters that it has */
};

/* What a layer file says of itself. */
int disk_layers_describe(const char *path, struct disk_image_info *info, struct err *e);

#endif
