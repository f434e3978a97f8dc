/* SPDX-License-Identifier: Apache-2.0 */
/* Giving up what the process does not need, in stages. */
#ifndef VMM_ISOLATE_H
#define VMM_ISOLATE_H

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

#endif
