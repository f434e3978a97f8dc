/* SPDX-License-Identifier: Apache-2.0 */
/* The upkeep of the store's files: what they take, what is garbage, what is damaged. */
#ifndef SERVER_MANAGER_GC_H
#define SERVER_MANAGER_GC_H

#include "server/manager/manager.h"

struct gc_result {
	int64_t files, bytes; /* removed */
	int64_t checkpoints;  /* automatic ones that nothing refers to any more, deleted */
};

/**
 * gc_run() - Remove every layer and image that no row names and nobody works with
 *
 * Any thread, at any time. What cannot be removed stays for the next time.
 *
 * Return: 0; -errno if rows or directories cannot be read: then nothing was removed
 */
int gc_run(struct manager *m, struct gc_result *result, struct err *e);

/* gc_run() soon, in the background. */
void gc_kick(struct manager *m);

/* GET /store: who takes what. A new reference; NULL and @e on failure. */
json_t *store_report(struct manager *m, struct err *e);

/* POST /store/verify: read and check everything. A new reference; NULL and @e on failure. */
json_t *store_verify(struct manager *m, struct err *e);

#endif
