/* SPDX-License-Identifier: Apache-2.0 */
/* A client of a started command: its output to ours, our input to its. */
#ifndef TOOLS_CLI_SESSION_H
#define TOOLS_CLI_SESSION_H

#include "tools/cli/cli.h"

struct session {
	struct cli *c;
	struct http *h;		       /* borrowed */
	const char *sandbox, *id;      /* borrowed */
	bool with_stdin, kill_on_stop; /* and what an interruption does */
	bool replay;		       /* from what the server still has, else from the beginning */
	/* The outcome. */
	bool ended;
	int code;	/* as the server says it: -1 if it was killed by its time limit, or lost */
	uint64_t at[2]; /* bytes of stdout and stderr that came; offsets if !replay */
};

/**
 * session_follow() - Show output until the command ends
 *
 * Goes on where it was when the sandbox hibernates meanwhile or the server starts again; that
 * wakes the sandbox. Of input, what was under way then may be lost: a warning says so.
 *
 * Return: 0 with s->ended, -EINTR, or as ws_open() and @e
 */
int session_follow(struct session *s, struct err *e);
/* Kill its process group; a failure goes to stderr. */
void session_kill(struct session *s);

#endif
