/* SPDX-License-Identifier: Apache-2.0 */
/* How much memory and processor time a sandbox has (api.md 12). */
#ifndef SERVER_MANAGER_SCALE_H
#define SERVER_MANAGER_SCALE_H

#include "server/manager/manager.h"

/* Beside what sandbox_find() returns. */
#define SCALE_LOCKED (-EPERM)
#define SCALE_FLOOR  (-EBUSY) /* what it uses would not fit */

struct scale_request {
	int64_t memory_mib;
	int64_t cpu_percent; /* of one processor; 0: as it is */
};

struct scale_result {
	int64_t memory_mib, cpu_percent;
	bool autoscale_disabled; /* it was on */
	bool pending;		 /* the guest has not got there yet */
	char degraded[200];	 /* what could not be done, or "" */
};

/* What the server can give. -EINVAL says why not. */
int scale_check(const struct manager *m, const struct scale_request *r, struct err *e);

/**
 * sandbox_scale() - Make its memory larger or smaller while it runs; one that hibernates is woken
 *
 * Returns when the guest has the new size, or after about two seconds: it goes on getting there.
 * Switches autoscaling off. The size outlives hibernation, restarts and forks.
 *
 * Return: 0; -EINVAL; SCALE_LOCKED; SCALE_FLOOR; as sandbox_find()
 */
int sandbox_scale(struct manager *m, const char *id, const struct scale_request *r,
		  struct scale_result *out, struct err *e);

/* @max_mib 0: off. In every state. @row: a copy, released by the caller after success. */
int sandbox_set_autoscale(struct manager *m, const char *id, int64_t min_mib, int64_t max_mib,
			  struct sandbox_row *row, struct err *e);
/* Locking switches autoscaling off. */
int sandbox_set_scaling_lock(struct manager *m, const char *id, bool locked,
			     struct sandbox_row *row, struct err *e);

/* Of a sandbox that runs. */
struct memory_use {
	int64_t size_mib;			      /* that the guest has at the moment */
	int64_t guest_total_kib, guest_available_kib; /* as the guest sees it; 0: it does not say */
	int64_t resident_kib, ballooned_kib, free_kib; /* of the host; see docs/vmm.md */
};

/* Return: 0; -EINVAL if it does not run; as sandbox_find() */
int sandbox_memory_use(struct manager *m, const char *id, struct memory_use *out, struct err *e);

/* --- for the manager --- */

/* Its guest has booted: with what the row says of the boot. Under `lifecycle`. */
void scale_after_boot(struct sandbox *s);
/* A fork goes on from memory: it gets what its row says beyond that. Return: 0 or -errno, when its
 * memory cannot grow. */
int scale_forked(struct sandbox *s, struct err *e);
/* A daemon that was killed may have recorded a size and not asked for it yet. Waits for no guest.
 */
void scale_adopted(struct sandbox *s);
/* It has gone back to a checkpoint, and to the size that it had then. Under `lifecycle`. */
void scale_restored(struct sandbox *s, const struct checkpoint_row *c);
/* A new VMM process is to have its share of the processors. */
void scale_cpu(struct sandbox *s);
/* On the loop's thread, once a second. */
void scale_tick(struct sandbox *s);

#endif
