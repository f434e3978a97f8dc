/* SPDX-License-Identifier: Apache-2.0 */
/* Commands that do one thing to each of the sandboxes they are given: kill, hibernate, wake, ... */
#ifndef TOOLS_CLI_EACH_H
#define TOOLS_CLI_EACH_H

#include "tools/cli/cli.h"

struct each {
	const char *method;
	const char *suffix; /* of the path, after /sandboxes/ID */
	const json_t *body; /* borrowed, or NULL */
	const char *done;   /* name of the boolean in what --json prints */
	/* Tell on stderr what in an answer is worth knowing; or NULL. */
	void (*remark)(const struct cli *c, const char *id, const json_t *answer);
};

/**
 * each_sandbox() - Do it to @n sandboxes, one after the other, and go on after failures
 *
 * Prints the ids as they are done, or with --json an array of objects: the id, whether it
 * was done, the error, and what the server has answered.
 *
 * Return: the exit code: EXIT_FAILED if one of them failed
 */
int each_sandbox(struct cli *c, const struct each *x, int n, char **ids);

#endif
