/* SPDX-License-Identifier: Apache-2.0 */
/* Running dormouse-img and dormouse-ram on files of the store. */
#ifndef SERVER_MANAGER_TOOL_H
#define SERVER_MANAGER_TOOL_H

#include "server/manager/manager.h"

#define TOOL_ARGS 520 /* the longest chain of layers, and options */

struct tool {
	const char *argv[TOOL_ARGS]; /* borrowed but for argv[0] */
	size_t n;
	int fds[4]; /* borrowed: it has them open, too, with these numbers */
	size_t n_fds;
	/* Called with each line that it prints, as it comes; then tool_result.out has none. */
	void (*on_line)(void *ctx, const char *line);
	void *ctx;
};

struct tool_result {
	int status;	/* of its exit; 128 + the signal that ended it */
	char *out;	/* owned: free(); all that it printed, NUL-terminated */
	char said[400]; /* the end of what it printed on standard error */
};

/* @name: the program. tool_fini() is due, in each case. Return: 0; -ENOSYS if it is missing */
int tool_init(struct tool *t, const struct manager *m, const char *name, struct err *e);
/* NULL makes tool_run() fail with -ENOMEM: a path that could not be made. */
void tool_add(struct tool *t, const char *arg);
void tool_fini(struct tool *t);

/**
 * tool_run() - Run a program to its end
 *
 * It ends with the daemon, and when the daemon stops.
 *
 * Return: 0 and @r, whatever its status is: free(r->out); -ECANCELED when the daemon stops;
 *	   -errno if it cannot be run
 */
int tool_run(const struct tool *t, struct manager *m, struct tool_result *r, struct err *e);

/* The same, where a status that is not 0 is a failure: -EIO and what it said. */
int tool_must(const struct tool *t, struct manager *m, struct err *e);

#endif
