/* SPDX-License-Identifier: Apache-2.0 */
/* What turns the kernel's bare machine into a sandbox, and what ends it. Guests only. */
#ifndef AGENT_GUEST_H
#define AGENT_GUEST_H

#include "guest-kernel/agent/agent.h"
#include "lib/proto.h"

/*
 * Mounts, loopback, host name, limits: all that a command may need and that
 * costs microseconds. Failures are logged and lived with: a guest that can be
 * talked to is better than one that cannot.
 */
void guest_setup(void);

/* A listening vsock socket on PROTO_AGENT_PORT, or -errno. */
int guest_listen(void);
/* Connect to PROTO_KNOCK_PORT on the host: the sign that this side listens. Blocks shortly. */
void guest_knock(void);
/* /workspace, the other name of /home/sandbox. Reads the disk: not before the knock. */
void guest_bind_workspace(void);
/* The cgroup of all commands, with its limits (api.md 18.7). Return: its folder, or -1. */
int guest_make_cgroup(void);
/**
 * guest_grow_root() - Grow the root file system to the size of its disk
 * @disk_bytes:	Wait shortly until the disk has this size: the kernel learns of a new one by
 *		an interrupt, and by a worker after that. 0: as it is
 *
 * Return: 0, also where there is nothing to grow, or -errno
 */
int guest_grow_root(uint64_t disk_bytes, struct err *e);

/* Ask process 1 to end the machine. */
void guest_request_shutdown(enum proto_shutdown mode);
/* End all processes, sync, unmount what can be, reboot(2). For process 1; does not return. */
_Noreturn void guest_shutdown(enum proto_shutdown mode, pid_t server);

#endif
