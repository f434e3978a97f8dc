/* SPDX-License-Identifier: Apache-2.0 */
/* What an image says of its processes (ENV, WORKDIR, USER), and what its guest needs. */
#ifndef SERVER_OCI_SETTINGS_H
#define SERVER_OCI_SETTINGS_H

#include <jansson.h>

#include "server/oci/layer.h"

/* Where the agent finds user and folder of commands (guest-kernel/agent/users.h). */
#define SETTINGS_FILE "/etc/dormouse-image"

/**
 * settings_apply() - Write what an image's configuration says into its files
 * @config:	The whole JSON of the configuration
 * @say:	Gets a line about what was left out
 *
 * Return: 0; -EINVAL: a user that its passwd does not know, a folder with ".."
 */
int settings_apply(struct rootfs *r, const json_t *config, void (*say)(const char *line),
		   struct err *e);

/* The agent as its init, from a file; folders and names that every guest has. */
int settings_put_agent(struct rootfs *r, int agent_fd, struct err *e);

#endif
