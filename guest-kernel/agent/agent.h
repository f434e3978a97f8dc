/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent in the guest: what its parts share.
 *
 * Theory of operation
 *
 * In a guest there are two processes of this program. Process 1 (init.c)
 * mounts, reaps orphans and ends the machine; it knows nothing of the protocol
 * and so cannot be broken by it. Its one child is the server (server.c), which
 * has a thread per connection. It is started again should it die. The server
 * waits for its own children by pidfd, so exit codes are exact although process 1 reaps
 * blindly.
 *
 * All threads block all signals for their whole life; spawned children unblock
 * them. So nothing here is ever interrupted, and writing to a closed pipe is an
 * error and not the end.
 *
 * In test mode (`--unix PATH`) the server alone runs, as an ordinary process on
 * a Unix socket; it cannot shut down anything.
 */
#ifndef AGENT_AGENT_H
#define AGENT_AGENT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "guest-kernel/agent/freezer.h"
#include "guest-kernel/agent/session.h"
#include "guest-kernel/agent/users.h"
#include "lib/proto.h"

#define AGENT_VERSION "dormouse-agent 0.1.0"

struct agent {
	bool test;	     /* not in a guest: no vsock, no shutdown, no cgroup */
	const char *etc;     /* borrowed; folder of passwd, group and environment */
	const char *home;    /* borrowed; test mode: replaces the default user's; or NULL */
	const char *user;    /* borrowed; name or uid of the default user, or NULL: `sandbox` */
	int null_fd;	     /* /dev/null, for stdin */
	struct userdb users; /* has its own lock */
	struct sessions sessions; /* likewise */
	struct freezer freezer;	  /* likewise; freezes nothing in test mode */

	pthread_mutex_t lock; /* for all below */
	pthread_cond_t ready_cond;
	bool ready;    /* late set-up is done (guest.h); requests wait for it */
	int cgroup_fd; /* folder of the cgroup for spawned processes, -1 for none */
	unsigned int connections;
	bool has_generation;
	uint8_t generation[PROTO_GENERATION_LEN]; /* of the last RENEW */
};

/* @test: as in struct agent. Return: 0 or -errno. */
int agent_init(struct agent *a, bool test);
/* For tests: all connections must have ended. */
void agent_fini(struct agent *a);
/* The default user of commands and owner of files: the one that an imported image names, else
 * `sandbox`, or root where the image lacks it. */
int agent_default_user(struct agent *a, struct user *u, bool *is_sandbox);
/* Wait until late set-up is done. Return: the cgroup's descriptor or -1. */
int agent_wait_ready(struct agent *a);
/* Return: whether it is another one than the last time, or the first. */
bool agent_enter_generation(struct agent *a, const uint8_t generation[PROTO_GENERATION_LEN]);
/* Late set-up is done. */
void agent_set_ready(struct agent *a, int cgroup_fd);

#endif
