/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshots: images with names.
 *
 * A snapshot has a checkpoint of its own, with the disk of the image: so it stays when the image
 * is forgotten, and its patches are its own.
 */
#ifndef SERVER_MANAGER_SNAPSHOT_H
#define SERVER_MANAGER_SNAPSHOT_H

#include "server/manager/build.h"

#define SNAPSHOT_NAME_MAX 128

/**
 * snapshot_create() - Begin to build one
 * @manifest:	Taken over, whatever comes of it
 * @row:	Set to what is in the store: snapshot_row_fini() on success
 * @build:	Its build, to follow: build_put() is due
 *
 * What becomes of it is in the store when snapshot_wait() returns, whether or not anybody calls
 * that.
 *
 * Return: 0; -EINVAL; -EEXIST: the name is taken; ...
 */
int snapshot_create(struct manager *m, const char *name, struct manifest *manifest,
		    struct snapshot_row *row, struct build **build, struct err *e);

/* Until it is ready or has failed. -ENOENT if it was deleted; -ECANCELED when the server stops */
int snapshot_wait(struct manager *m, const char *name, const char *id, struct snapshot_row *row,
		  struct err *e);

struct snapshot_list {
	struct snapshot_row *rows;
	size_t n;
};

/* Newest first. */
int snapshot_list(struct manager *m, struct snapshot_list *l, struct err *e);
void snapshot_list_fini(struct snapshot_list *l);

/* -ENOENT "snapshot not found: NAME" for all of these. @row: snapshot_row_fini() */
int snapshot_get(struct manager *m, const char *name, struct snapshot_row *row, struct err *e);
/* Sandboxes of it stay. One that is being built is forgotten; its build goes on. */
int snapshot_delete(struct manager *m, const char *name, struct err *e);
int snapshot_set_public(struct manager *m, const char *name, bool is_public, struct err *e);
/* -EINVAL unless it is ready. */
int snapshot_checkpoint(struct manager *m, const char *name, char id[UUID_SIZE], struct err *e);

/* As sandbox_create(), from a snapshot. -ENOENT; -EINVAL unless it is ready */
int snapshot_fork(struct manager *m, const char *name, const struct sandbox_spec *spec,
		  struct sandbox **out, struct err *e);

/* At a start: what was being built has failed. */
int snapshots_recover(struct manager *m, struct err *e);

#endif
