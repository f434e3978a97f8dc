/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Building images from manifests.
 *
 * Theory of operation
 * -------------------
 * A build is a fork of the base's template in a sandbox that no API shows. Each step runs in it
 * through the agent, and after each the disk is checkpointed (no memory): such a checkpoint is the
 * cache entry of the chain of steps so far, the last one is the image. Entries are found by a key,
 * the hash of the base's version and the digests of the steps; so a build begins behind the last
 * step that anybody has built, with a boot of that disk, and one that has all its steps is done.
 *
 * What is not in the store is nobody's: a build that fails, or a server that is killed, leaves the
 * steps that were completed, and of the others no more than files that the garbage collection
 * removes.
 *
 * Sandboxes of an image fork a template of it (template.h), which the end of the build makes: so
 * they are there as fast as those of the base.
 *
 * Two builds of one key are one: who comes later gets its log from the beginning. Nobody who reads
 * a log holds the build up: of what is longer than LOG_BYTES the beginning is dropped.
 */
#ifndef SERVER_MANAGER_BUILD_H
#define SERVER_MANAGER_BUILD_H

#include "server/manager/manager.h"
#include "server/manager/manifest.h"

struct build;

int builds_init(struct manager *m, struct err *e);
/* No job may run. */
void builds_fini(struct manager *m);

/**
 * build_start() - Build an image, or join who does, or find that it is built
 * @manifest:	Taken over, whatever comes of it
 * @shape:	CPUs and memory of the sandboxes that are to be created fast at the end
 * @out:	build_put() is due
 *
 * Return: 0; -ENOENT: no such base; -EINVAL: more memory than the server allows; ...
 */
int build_start(struct manager *m, struct manifest *manifest, const struct sandbox_spec *shape,
		struct build **out, struct err *e);
struct build *build_get(struct build *b);
/* It goes on without its readers. NULL is fine. */
void build_put(struct build *b);

struct build_line {
	int step;	  /* 1 is the first; 0: none of them */
	const char *type; /* static */
	char *message;	  /* the caller frees it */
};

/**
 * build_next() - The next line of its log
 * @cursor:	0 at first; changed
 *
 * Return: 1 and *@line; 0: it has ended and there are no more; -EAGAIN after @timeout_ms, or if the
 *	   server stops
 */
int build_next(struct build *b, uint64_t *cursor, int timeout_ms, struct build_line *line);

struct build_result {
	const char *error; /* NULL: it was built. Borrowed from the build */
	bool passes;	   /* then: it was for lack of room */
	const char *checkpoint_id, *hash, *base_version;
	bool cached; /* no step was run for it */
};

/* Wait for its end. Return: 0; -ECANCELED when the server stops first */
int build_wait(struct build *b, struct build_result *r);

/* --- images: what builds have left ------------------------------------------------------------ */

/**
 * sandbox_create_of_image() - As sandbox_create(), from the checkpoint of an image or a snapshot
 * @c:	Pinned; its disk
 */
int sandbox_create_of_image(struct manager *m, const struct sandbox_spec *spec,
			    const struct checkpoint_row *c, struct sandbox **out, struct err *e);

/* The same by id: -ENOENT if it has gone. @spec: its template and workdir are filled in. */
int image_create(struct manager *m, const struct sandbox_spec *spec, const char *checkpoint_id,
		 struct sandbox **out, struct err *e);

/* Is this the checkpoint of an image or a snapshot? */
bool checkpoint_is_image(const struct checkpoint_row *c);

struct image_info {
	struct image_row row;
	int64_t bytes; /* of its disk layers; others may need them, too */
};

struct image_list {
	struct image_info *items;
	size_t n;
};

/* Those at which a manifest ends, the last used first. image_list_fini() */
int image_list(struct manager *m, struct image_list *l, struct err *e);
void image_list_fini(struct image_list *l);
/* @hash: contentHash, or the beginning of one, 8 characters at least. 0 and its checkpoint;
 * -ENOENT; -EINVAL if more than one begins so */
int image_find(struct manager *m, const char *hash, char checkpoint_id[UUID_SIZE], struct err *e);
/* Sandboxes and snapshots of it stay; the steps on the way to it go, too, if nothing else needs
 * them. */
int image_delete(struct manager *m, const char *hash, struct err *e);

#endif
