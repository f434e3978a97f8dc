/* SPDX-License-Identifier: Apache-2.0 */
/*
 * File systems that daemons in a sandbox mount (api.md 13): rclone, or any command.
 *
 * A mount is a process in the guest, so hibernation keeps it, and a boot ends it. The list is in
 * the row, without secrets: those are in the daemon's environment, or for rclone in a file that
 * only root can read, in memory.
 */
#ifndef SERVER_MANAGER_MOUNTS_H
#define SERVER_MANAGER_MOUNTS_H

#include "server/manager/manager.h"

/* Beside what sandbox_find() returns. */
#define MOUNT_FAILED (-EREMOTEIO) /* it did not appear, and why */

/**
 * mounts_add() - Mount something, and list it
 * @body:	Of the request, whatever it is
 * @out:	Its entry in the list: a reference
 *
 * Return: 0; -EINVAL; -EEXIST: something is mounted there; -ENOSYS: the image lacks what it takes;
 *	   MOUNT_FAILED; as sandbox_find()
 */
int mounts_add(struct manager *m, const char *id, const json_t *body, json_t **out, struct err *e);
/* @out: an array: a reference. */
int mounts_list(struct manager *m, const char *id, json_t **out, struct err *e);
/* -ENOENT: nothing that was mounted by mounts_add(); MOUNT_FAILED: it is in use. */
int mounts_remove(struct manager *m, const char *id, const char *path, struct err *e);

/* --- for the manager, and for tests --- */

/* The guest has booted: nothing is mounted any more. Under `lifecycle`. */
void mounts_after_boot(struct sandbox *s);

/* What a request asks for, checked. Strings are borrowed from the request but config. */
struct mount_spec {
	const char *path, *driver, *remote, *backend;
	const json_t *command, *options; /* arrays of strings, or NULL */
	const json_t *env, *secrets;	 /* objects of strings, or NULL */
	bool read_only;
	char *config; /* owned: mount_spec_fini(); of rclone, or NULL */
};

int mount_spec_parse(const json_t *body, struct mount_spec *spec, struct err *e);
void mount_spec_fini(struct mount_spec *spec);

#endif
