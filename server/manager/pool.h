/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shells: VMM processes made in advance.
 *
 * A shell is a process that holds everything of a machine but its state (`prepare` in
 * docs/vmm.md). It lives in the directory of a sandbox id made for it, so whoever takes a shell
 * takes its id. It has no row in the store: after a restart it is a leftover like any other. All
 * shells have the default shape; with an empty pool processes are started when they are needed.
 */
#ifndef SERVER_MANAGER_POOL_H
#define SERVER_MANAGER_POOL_H

#include "server/manager/internal.h"

int pool_init(struct manager *m, struct err *e);
/* Ends the shells; no job may run. */
void pool_fini(struct manager *m);

/* A live shell of this shape, the caller's alone; NULL if there is none. */
struct sandbox *pool_take(struct manager *m, int64_t cpus, int64_t memory_mib);

/* How many there are. */
unsigned int pool_count(struct manager *m);

/* Make what is missing, in the background. */
void pool_refill(struct manager *m);
/* Replace those that have ended by themselves, in the background. */
void pool_check(struct manager *m);

#endif
