/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Limits of processor time for VMM processes, by cgroup v2.
 *
 * Each process with a limit is in a cgroup of its own, <root>/<id>, and so is whatever it clones.
 * The root is the configuration's; it and its parent must let us make cgroups with the cpu
 * controller. Where they do not there are no limits, and who asks for one is told. If the daemon
 * itself is in one of the two, as in a service with a delegated tree, all processes there move
 * to "dormoused" below it: a cgroup with processes cannot have others with controllers below it.
 */
#ifndef SERVER_MANAGER_CPU_LIMIT_H
#define SERVER_MANAGER_CPU_LIMIT_H

#include <stdint.h>

#include "lib/err.h"

/**
 * cpu_limit_set() - Let process @pid have @percent of one processor's time
 * @percent:	0: no limit
 *
 * Return: 0 or -errno, then it has none
 */
int cpu_limit_set(const char *root, const char *id, int64_t pid, int64_t percent, struct err *e);
/* When the process has ended; what it cloned is ended, too. Nothing if there was no limit. */
void cpu_limit_remove(const char *root, const char *id);
/* Remove those of processes that have ended while there was no daemon. */
void cpu_limit_sweep(const char *root);

#endif
