/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network of sandboxes: a dormouse-net process for each that has sent a frame
 * (docs/network.md).
 *
 * Theory of operation
 * -------------------
 * A VMM asks for a network when its guest sends the first frame (event net_wanted): nothing waits
 * for that. A job then makes a pair of sockets, starts dormouse-net with one end and gives the VMM
 * the other. The process lives as long as the VMM keeps that end, so nobody has to end it: it goes
 * with the VMM, with a rollback, or when it is replaced; when it dies, the VMM asks again.
 *
 * It listens on <sandbox>/net.sock, where this daemon, or the next one, tells it the policy and
 * answers questions of the metadata service. The policy is made of the row, whenever it is told,
 * under net.lock: so the last one told is the one that holds.
 */
#ifndef SERVER_MANAGER_NET_H
#define SERVER_MANAGER_NET_H

#include "server/manager/internal.h"

/* What all sandboxes share. Return: 0 or -errno */
int net_init(struct manager *m, struct err *e);
void net_fini(struct manager *m);
/* On the loop's thread, once a second: name servers of the host, processes that have ended. */
void net_tick(struct manager *m);

/* Of a sandbox; net_end() is due before it is freed. */
void net_begin(struct sandbox *s);
void net_free(struct sandbox *s);

/* The VMM wants one. On its reader's thread: it is done on another one. */
void net_on_wanted(struct sandbox *s);
/* After a restart of the daemon: go on with the process that is there. @wanted: the VMM waits. */
void net_adopt(struct sandbox *s, bool wanted);
/* The VM has ended, or is left to the next daemon. Without s->lock. Idempotent. */
void net_leave(struct sandbox *s);
/* The policy may have changed. Return: 0; -errno: the process did not take it */
int net_tell(struct sandbox *s, struct err *e);

/* As vm_call(), to the sandbox's dormouse-net. */
int net_call(struct sandbox *s, json_t *request, json_t **answer, struct err *e);
/* Answer a question of the metadata service, event @event, on another thread (net_metadata.c). */
void net_answer(struct sandbox *s, json_t *event);

#endif
