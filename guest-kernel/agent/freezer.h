/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Letting all processes of a guest stand still, and go on.
 *
 * Theory of operation
 *
 * All that runs for users is in cgroups below the root of cgroup v2: commands in
 * `sandbox`, and what they put elsewhere (a container engine makes groups of its
 * own). The agent is in the root itself, which the kernel cannot freeze. So
 * freezing is: each child of the root that is not frozen already, and the names
 * of those are kept, so that thawing leaves alone what somebody in the guest had
 * frozen himself. A process that root in the guest has moved to the root group runs on.
 *
 * Who freezes may die, or the machine may be gone on another host: a thread of
 * this module thaws after limit_ms. It is there before anything is frozen.
 */
#ifndef AGENT_FREEZER_H
#define AGENT_FREEZER_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

#define CGROUP_ROOT "/sys/fs/cgroup"

struct freezer {
	const char *root;  /* borrowed; folder of the hierarchy, NULL: none, nothing is frozen */
	uint32_t limit_ms; /* thaws itself; set before the first use */
	uint32_t wait_ms;  /* for processes that cannot be stopped; less than limit_ms */

	pthread_mutex_t lock; /* for all below */
	pthread_cond_t changed;
	bool frozen, stop, has_thread;
	uint64_t thaw_at_ms; /* CLOCK_MONOTONIC */
	pthread_t thread;
	char **names; /* owned, each too; the groups frozen by us */
	size_t names_len, names_cap;
};

void freezer_init(struct freezer *f, const char *root);
/* Thaws. No other thread may be in here. */
void freezer_fini(struct freezer *f);

/**
 * freezer_freeze() - Return when all stand still
 * @do_sync:	sync(2), before it, so that they stand still for a short time, and after it
 *
 * Return: 0, -ETIMEDOUT if a process does not stop within wait_ms or sync took longer than
 *	   limit_ms, ...: then nothing is frozen
 */
int freezer_freeze(struct freezer *f, bool do_sync, struct err *e);
/* No failure if nothing is frozen. Return: 0 or -errno for what could not be thawed. */
int freezer_thaw(struct freezer *f, struct err *e);
/* Thaw whatever is frozen: for those who come after an agent that died, and for the end. */
void freezer_thaw_all(const char *root);

#endif
