/* SPDX-License-Identifier: Apache-2.0 */
/* An archive of an image into a root file system. */
#ifndef SERVER_OCI_IMPORT_H
#define SERVER_OCI_IMPORT_H

#include <stdint.h>

#include "server/oci/layer.h"

struct import_config {
	int archive_fd, scratch_fd, image_fd, agent_fd; /* scratch and image: empty files */
	const char *ref;				/* NULL: the only one */
	uint64_t size_mib;				/* of the disk */
	void (*say)(const char *line);			/* how far it is */
};

/* All layers together, unpacked, in sizes of the disk: files may be replaced by other layers. */
#define IMPORT_UNPACKED_MAX 4

/* @r: of rootfs_init(). Return: 0, and image_fd is complete and on the disk; -errno */
int import_run(const struct import_config *c, struct rootfs *r, struct err *e);

#endif
