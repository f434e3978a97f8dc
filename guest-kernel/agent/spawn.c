/* SPDX-License-Identifier: Apache-2.0 */
/* Starting processes; see spawn.h. */
#include "guest-kernel/agent/spawn.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

#define CHILD_STACK_LEN (64u << 10)

/*
 * The child's code shares all memory with this process, whose calling thread
 * stands still. So: no allocation, no stdio, no libc call that acts on all
 * threads (setuid() and friends), and no sanitizer, which would take the stack
 * for a strange one.
 */
#define CHILD_CODE __attribute__((no_sanitize("address", "undefined")))

CHILD_CODE static int child_become_user(const struct user *u)
{
	if (syscall(SYS_setgroups, u->groups_len, u->groups) < 0 ||
	    syscall(SYS_setresgid, u->gid, u->gid, u->gid) < 0 ||
	    syscall(SYS_setresuid, u->uid, u->uid, u->uid) < 0)
		return errno;
	return 0;
}

CHILD_CODE static int child_execute(struct spawn *s, const char *file)
{
	execve(file, s->argv, s->envp);
	if (errno != ENOEXEC)
		return errno;
	/* A script without "#!", as execvp() and every shell take it. */
	s->shell_argv[1] = (char *)(uintptr_t)file;
	execve("/bin/sh", s->shell_argv, s->envp);
	return errno;
}

/* Along PATH, with the rights of the user who will run it. */
CHILD_CODE static int child_search(struct spawn *s)
{
	const char *name = s->argv[0], *dir = s->path;
	size_t name_len = strlen(name);
	int found = ENOENT;

	if (strchr(name, '/'))
		return child_execute(s, name);
	for (;;) {
		size_t len = strcspn(dir, ":");
		int rc;

		memcpy(s->candidate, len ? dir : ".", len ? len : 1);
		len = len ? len : 1;
		s->candidate[len] = '/';
		memcpy(s->candidate + len + 1, name, name_len + 1);
		rc = child_execute(s, s->candidate);
		if (rc == EACCES)
			found = EACCES;
		else if (rc != ENOENT && rc != ENOTDIR)
			return rc;
		dir += strcspn(dir, ":");
		if (!*dir)
			return found;
		dir++;
	}
}

CHILD_CODE static int child_main(void *arg)
{
	struct spawn *s = arg;
	sigset_t none;

	setsid();
	if (s->terminal && syscall(SYS_ioctl, s->fds[0], TIOCSCTTY, 0) < 0) {
		s->failed = SPAWN_EXEC;
		s->error = errno;
		return 127;
	}
	for (int i = 0; i < 3; i++)
		if (dup2(s->fds[i], i) < 0) {
			s->failed = SPAWN_EXEC;
			s->error = errno;
			return 127;
		}
	umask(022);
	if (s->switch_user && (s->error = child_become_user(s->user)) != 0) {
		s->failed = SPAWN_USER;
		return 127;
	}
	if (chdir(s->cwd) < 0) {
		s->failed = SPAWN_CWD;
		s->error = errno;
		return 127;
	}
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/* Set before the attempts: the memory is this process's again as soon as one succeeds. */
	s->failed = SPAWN_EXEC;
	s->error = child_search(s);
	return 127;
}

static int prepare(struct spawn *s)
{
	size_t argc = 0;

	while (s->argv[argc])
		argc++;
	if (!argc)
		return -EINVAL;
	s->candidate = malloc(strlen(s->path) + strlen(s->argv[0]) + 3);
	s->shell_argv = calloc(argc + 2, sizeof(char *));
	if (!s->candidate || !s->shell_argv)
		return -ENOMEM;
	s->shell_argv[0] = (char *)(uintptr_t) "sh";
	memcpy(s->shell_argv + 2, s->argv + 1, (argc - 1) * sizeof(char *));
	s->switch_user = geteuid() == 0;
	if (!s->switch_user && s->user->uid != geteuid())
		return -EPERM;
	return 0;
}

int spawn_process(struct spawn *s)
{
	struct clone_args args = {
	    .flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD,
	    .exit_signal = SIGCHLD,
	};
	int pidfd = -1, rc = prepare(s);
	void *stack = NULL;
	long pid;

	if (!rc && !(stack = aligned_alloc(64, CHILD_STACK_LEN)))
		rc = -ENOMEM;
	if (rc)
		goto out;
	args.pidfd = (uintptr_t)&pidfd;
	args.stack = (uintptr_t)stack;
	args.stack_size = CHILD_STACK_LEN;
	if (s->cgroup_fd >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)s->cgroup_fd;
	}
	s->failed = SPAWN_OK;
	s->error = 0;
	pid = spawn_clone(&args, child_main, s);
	if (pid < 0 && s->cgroup_fd >= 0 && (pid == -ENODEV || pid == -ENOENT)) {
		/* Somebody in the guest removed the cgroup. */
		args.flags &= ~CLONE_INTO_CGROUP;
		pid = spawn_clone(&args, child_main, s);
	}
	if (pid < 0) {
		rc = (int)pid;
		goto out;
	}
	s->pid = (pid_t)pid;
	s->pidfd = pidfd;
	/* An executed program has this memory no more: only a failure left an errno. */
	if (!s->error)
		s->failed = SPAWN_OK;
out:
	free(stack);
	free(s->candidate);
	free(s->shell_argv);
	s->candidate = NULL;
	s->shell_argv = NULL;
	return rc;
}
