/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starting a process, fast: a child that borrows this process's memory until it
 * executes its program (as vfork does), on a stack of its own, born into its
 * cgroup and with a pidfd. Copying page tables or moving the child into a cgroup
 * afterwards (an RCU grace period) would each cost more than all the rest.
 */
#ifndef AGENT_SPAWN_H
#define AGENT_SPAWN_H

#include <linux/sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "guest-kernel/agent/users.h"

enum spawn_step { SPAWN_OK, SPAWN_USER, SPAWN_CWD, SPAWN_EXEC };

struct spawn {
	/* In; all borrowed. */
	char **argv, **envp;
	const char *path; /* to look argv[0] up in, if it has no slash */
	const char *cwd;
	const struct user *user;
	int fds[3];    /* become 0, 1, 2 */
	bool terminal; /* fds[0] is one: it becomes the controlling terminal */
	int cgroup_fd; /* -1: this process's own */

	/* Out, when spawn_process() returned 0. */
	enum spawn_step failed; /* the step that failed in the child, which has ended then */
	int error;		/* its errno */
	pid_t pid;
	int pidfd;

	/* Working memory, prepared before the child exists. */
	char *candidate;   /* owned */
	char **shell_argv; /* owned */
	bool switch_user;
};

/**
 * spawn_process() - Start a program as the leader of a session and process group of its own
 *
 * All signals must be blocked in the calling thread. Blocks it until the program
 * is executed or has failed. The caller waits for the child by the pidfd, also
 * after a failed step.
 *
 * Return: 0, or -errno when no child could be made
 */
int spawn_process(struct spawn *s);

/* clone3() for CLONE_VM: the child runs @fn(@arg) on the stack in @args. In spawn_ARCH.c. */
long spawn_clone(struct clone_args *args, int (*fn)(void *), void *arg);

#endif
