/* SPDX-License-Identifier: Apache-2.0 */
/* Giving up what the process does not need, in stages, each once and in this order. */
#ifndef VMM_ISOLATE_H
#define VMM_ISOLATE_H

#include <stdbool.h>
#include <sys/types.h>

#include "lib/err.h"

/**
 * isolate_start() - First stage: before anything is opened or a line of input is read
 * @keep_fd:	An inherited descriptor that is needed, or -1
 *
 * Closes every descriptor but 0, 1, 2 and @keep_fd; no program that is executed from here on
 * gains privileges; no core dump holds a tenant's memory; files made are the owner's alone.
 * The process may outlive who started it: no parent-death signal, but for isolate_with_parent().
 *
 * Return: 0 or -errno
 */
int isolate_start(int keep_fd, struct err *e);

/**
 * isolate_with_parent() - Be killed when the parent's thread ends that has started this process
 *
 * For tests and tools, which may be killed themselves. Return: 0; -ESRCH: @parent has ended
 */
int isolate_with_parent(pid_t parent);

struct isolate_path {
	const char *path; /* a file, or a directory and all below it; borrowed for the call */
	bool writable;	  /* what is in it can be read, made, written and removed */
};

/**
 * isolate_setup() - Second stage: by one thread, before there are others
 *
 * From here on files can only be opened under @paths (Landlock), besides /dev/kvm, /dev/userfaultfd
 * and what /proc says of this process and its children; neither TCP nor abstract Unix sockets can
 * be used, nor can signals be sent to others, as far as the kernel knows of these; and of root's
 * capabilities only the one to look for files in directories of others is left. A path that does
 * not exist grants nothing. A kernel without Landlock is warned of in the log and in isolate_get().
 *
 * Return: 0 or -errno: then the process is to end
 */
int isolate_setup(const struct isolate_path *paths, unsigned int n, struct err *e);

/**
 * isolate_run() - Third stage: the system calls that the process may make from here on (seccomp)
 *
 * By one thread, before there are others. Another call ends the process with SECCOMP_EXIT, after a
 * line in the log. A kernel without filters is warned of, as in isolate_setup().
 *
 * Return: 0 or -errno: then the process is to end
 */
int isolate_run(struct err *e);

/* For the process that writes a checkpoint, in a jail: fewer calls still. Makes system calls only.
 */
void isolate_child(void);

struct isolate_state {
	bool jailed;	       /* isolate_setup() was called */
	bool seccomp;	       /* system calls are filtered */
	unsigned int landlock; /* version of Landlock in force; 0: files are not restricted */
};

const struct isolate_state *isolate_get(void);

/**
 * isolate_open_proc() - Open /proc/self/@name for reading, in a jail or outside
 *
 * Makes system calls only.
 *
 * Return: a descriptor or -errno
 */
int isolate_open_proc(const char *name);

#endif
