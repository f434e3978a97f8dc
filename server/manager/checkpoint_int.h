/* SPDX-License-Identifier: Apache-2.0 */
/* What checkpoint.c, restore.c and checkpoint_list.c share. */
#ifndef SERVER_MANAGER_CHECKPOINT_INT_H
#define SERVER_MANAGER_CHECKPOINT_INT_H

#include "server/manager/checkpoint.h"
#include "server/manager/internal.h"

/**
 * take_running() - A sandbox that runs, with its `lifecycle` held; wakes it if it is hibernated
 * @out:	give_back() is due
 *
 * Return: 0; -ENOENT, -ESHUTDOWN, -EHOSTDOWN as sandbox_find(); what the wake failed with
 */
int take_running(struct manager *m, const char *id, struct sandbox **out, struct err *e);
void give_back(struct sandbox *s);

/* Chains and current checkpoint of @row become those of the sandbox; the rest of it is released. */
void take_chains(struct sandbox *s, struct sandbox_row *row);

/**
 * announce_switch() - Commit that the sandbox is about to go to another top layer
 * @below:	What it will lie on
 * @current:	Which checkpoint is the current one then; "": none
 * @insert:	A new row of a checkpoint, for the same transaction; or NULL
 *
 * Under `lifecycle`. Return: 0 or -errno (nothing changed)
 */
int announce_switch(struct sandbox *s, const struct chain *below, const char *new_layer,
		    const char *current, const struct checkpoint_row *insert, struct err *e);
/* It has, or it has not. In memory that is so even if the store fails. */
int commit_switch(struct sandbox *s, bool switched, struct err *e);
/* After a failure: does the VMM write to the pending top layer? */
bool vm_has_switched(struct sandbox *s);

/* Under its lock: until a checkpoint is not being written any more, for a second at most. */
void checkpoint_wait_turn(struct layers *l);

#endif
