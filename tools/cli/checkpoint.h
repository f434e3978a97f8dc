/* SPDX-License-Identifier: Apache-2.0 */
/* Which checkpoint is meant: an id, or the name that it has among those of a sandbox. */
#ifndef TOOLS_CLI_CHECKPOINT_H
#define TOOLS_CLI_CHECKPOINT_H

#include <stdbool.h>

#include "tools/cli/cli.h"

#define CHECKPOINT_ID_MAX 37 /* a UUID and the NUL */

/* Is @text the id of a checkpoint, by its form? */
bool checkpoint_is_id(const char *text);

/* The checkpoints of a sandbox. Return: a new reference to an array, or NULL with *code set. */
json_t *checkpoint_list(struct cli *c, struct http *h, const char *sandbox, int *code);

/**
 * checkpoint_find() - Find the checkpoint that @ref names
 * @sandbox:	Whose names are meant
 * @ref:	An id, taken as it is, or a name, looked up at the server
 * @id:		Set to the id: CHECKPOINT_ID_MAX bytes
 *
 * Return: 0, or an exit code after printing what is wrong
 */
int checkpoint_find(struct cli *c, struct http *h, const char *sandbox, const char *ref, char *id);

/* The same for an argument that stands alone: an id, or SANDBOX:NAME. */
int checkpoint_find_global(struct cli *c, struct http *h, const char *ref, char *id);

#endif
