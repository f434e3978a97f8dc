/* SPDX-License-Identifier: Apache-2.0 */
/* Drawing the tree of the checkpoints of a sandbox. */
#ifndef TOOLS_CLI_TREE_H
#define TOOLS_CLI_TREE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

/* Deeper ones are drawn at this depth: a terminal has an end. */
#define TREE_MAX_DEPTH 64

/**
 * tree_draw() - Draw what GET /sandboxes/ID/tree answers
 * @answer:	An object: "sandboxId", "status", "current" (an id or null) and "nodes", an array of
 *		checkpoints with "parentId". A node whose parent is not among them is a root
 * @utf8:	Draw with lines, else with ASCII
 *
 * The answer may be of any shape: cycles, missing fields, repeated ids; each node is
 * drawn once. Children come in the order of the array.
 *
 * Return: 0, -EINVAL if it is no such object, -ENOMEM
 */
int tree_draw(const json_t *answer, bool utf8, FILE *out);

#endif
