/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Templates: what a create forks.
 *
 * Theory of operation
 * -------------------
 * The first create of an image in some shape (CPUs, memory) boots it once, runs a command in it so
 * that what every command needs is in memory, and takes a checkpoint, which no API shows. Others
 * that come meanwhile wait for it. Its name tells what it was made of: the files of image, kernel
 * and VMM, the top layer of the disk if that is one that was built (build.h), and the shape; so
 * when one of them is replaced, another template is made. At most TEMPLATES_MAX are kept, the last
 * used ones. A template is never needed: without one, sandboxes boot.
 */
#ifndef SERVER_MANAGER_TEMPLATE_H
#define SERVER_MANAGER_TEMPLATE_H

#include "server/manager/manager.h"

#define TEMPLATES_MAX 16

int templates_init(struct manager *m, struct err *e);
/* No job may run. */
void templates_fini(struct manager *m);

/* At a start, in the background: forget what was made of replaced files, make what is to be
 * prewarmed. */
void templates_start(struct manager *m);

/**
 * template_get() - The template to fork for a sandbox
 * @spec:	Its template is the image's real name
 * @disk:	Of an image or snapshot that was built on @image, pinned: what boots; or NULL
 * @out:	Set to the checkpoint, valid and pinned until template_put(); or to NULL: boot
 *
 * Blocks while it is being made.
 *
 * Return: 0; -errno if the guest does not come up
 */
int template_get(struct manager *m, const struct sandbox_spec *spec, const char *image,
		 const struct checkpoint_row *disk, const struct checkpoint_row **out,
		 struct err *e);
/* NULL is fine. */
void template_put(struct manager *m, const struct checkpoint_row *row);

/* Those of images and snapshots that are no more. */
void templates_forget_unused(struct manager *m);

/* It turned out to be unusable. */
void template_drop(struct manager *m, const char *id);

#endif
