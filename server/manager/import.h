/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Templates out of container images: archives that clients send (docs/images.md).
 *
 * The archive goes into a file without a name. dormouse-oci, in its jail, makes an image file of it
 * under a name for the time being, <state>/images/ID.new; only what is complete and on the disk
 * gets the name that makes it a template. What a server that was killed has left is removed at the
 * next start.
 */
#ifndef SERVER_MANAGER_IMPORT_H
#define SERVER_MANAGER_IMPORT_H

#include "server/manager/manager.h"

struct import;

/* At a start: the templates that were imported. */
int imports_load(struct manager *m, struct err *e);

/**
 * import_new() - Begin to take an archive in
 * @name:	Of the template to be
 * @ref:	Which image of the archive; NULL or "": the only one
 *
 * Return: 0; -EINVAL: no good name; -EEXIST: it is taken; -ENOSYS: dormouse-oci is missing;
 *	   -EAGAIN: too many are under way; ...
 */
int import_new(struct manager *m, const char *name, const char *ref, struct import **out,
	       struct err *e);
/* -EINVAL beyond what an archive may have; -ENOSPC, ... */
int import_write(struct import *i, const void *data, size_t len, struct err *e);

/**
 * import_finish() - Make the template
 * @say:	Gets lines about how far it is
 * @bytes:	Set to what its file takes on the disk
 *
 * Its guest is booted once: one that does not boot has failed. After a failure nothing is left.
 *
 * Return: 0; -EINVAL: the archive is at fault; -EEXIST; -EIO; -ECANCELED: the server stops
 */
int import_finish(struct import *i, void (*say)(void *ctx, const char *line), void *ctx,
		  int64_t *bytes, struct err *e);
/* NULL is fine. */
void import_free(struct import *i);

#endif
