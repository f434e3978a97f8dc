/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which system calls the process may make. The lists are in comments, "#syscalls", beside the code
 * that needs them; tools/seccomp makes filters of them when Dormouse is built, and says what can be
 * written there. "#syscalls:child" is for the process that writes a checkpoint.
 */
#ifndef LIB_SECCOMP_H
#define LIB_SECCOMP_H

#include <linux/filter.h>

#include "lib/err.h"

extern const struct sock_fprog seccomp_process, seccomp_child;
/* "#syscalls:net": dormouse-net; "#syscalls:oci": dormouse-oci. */
extern const struct sock_fprog seccomp_net, seccomp_oci;

/* What a process ends with that makes another call, after a line in the log that names it. */
#define SECCOMP_EXIT 159 /* 128 + SIGSYS */

/**
 * seccomp_enter() - Filter the calls of this thread, and of what it makes, for ever
 *
 * A filter comes on top of those that are there. Makes system calls only. no_new_privs must be set.
 *
 * Return: 0 or -errno
 */
int seccomp_enter(const struct sock_fprog *filter);

/* What is denied is written to @log_fd, and ends the process. @name: of the program, borrowed. */
void seccomp_report_to(int log_fd, const char *name);

#endif
