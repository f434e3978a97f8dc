/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Failures on demand, for tests: the environment variable DORMOUSE_VMM_FAULT is
 * "POINT:N:ACTION". The N-th time (from 1) that the process, or one forked from it, gets to POINT,
 * ACTION happens: the name of an errno (that call fails), "stop" (until SIGCONT), "kill" (the
 * process is gone), or "kill-vmm" (the VMM is gone, and this one goes no further).
 * docs/testing.md lists the points.
 */
#ifndef VMM_FAULT_H
#define VMM_FAULT_H

/* Read the environment. Once, before there are threads. */
void fault_init(void);

/* Return: 0, or -errno of what is to fail. Makes system calls only. */
int fault_point(const char *prefix, const char *name);

#endif
