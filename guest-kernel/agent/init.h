/* SPDX-License-Identifier: Apache-2.0 */
/* Process 1 of a guest. */
#ifndef AGENT_INIT_H
#define AGENT_INIT_H

/*
 * Set the guest up, run the server in a child and again whenever it dies, reap
 * orphans, end the machine when asked to. Signals, as other inits take them: SIGTERM and SIGINT
 * reboot, SIGUSR1 and SIGUSR2 power off.
 */
_Noreturn void init_run(void);

#endif
