/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checkpoints of sandboxes: taking, listing, deleting, restoring, forking, patching.
 *
 * Theory of operation
 * -------------------
 *   create   row `processing`, sandbox's next top layer named -> guest frozen -> VMM: stop,
 * copy-on-write, new layer, go on -> sandbox's chain committed, guest thawed -> answer
 *            -> in the background the VMM writes out -> row `ready` or `failed`
 *   restore  VMM: memory and chain of the checkpoint, under a new top layer -> chain committed
 *            -> guest's identity renewed
 *   fork     a new sandbox on the chain of the checkpoint (create.c), then its patches
 *   delete   row and patches, children go to the parent -> what nothing names is collected
 *
 * The instant of a checkpoint lies within its request, so that it has all that was answered
 * before it and nothing that was asked for after its answer. Operations on one sandbox take
 * turns (`lifecycle`), but for the writing out, which those that need the VMM's attention wait for.
 *
 * Each sandbox has a current checkpoint: the one that it was taken back to, forked from, or made
 * last. It becomes the parent of the next one.
 */
#ifndef SERVER_MANAGER_CHECKPOINT_H
#define SERVER_MANAGER_CHECKPOINT_H

#include "server/manager/manager.h"

#define CHECKPOINT_MAX_FULL 10
#define CHECKPOINT_MAX_DISK 100

struct checkpoint_spec {
	const char *name; /* borrowed */
	bool full;
	bool promote;	    /* disk only, to become full when it is written out */
	bool automatic;	    /* counts for no limit; goes when nothing refers to it any more */
	int64_t keep_count; /* delete the oldest so that no more than this are there; 0: do not */
};

/**
 * checkpoint_create() - Take a checkpoint of a running (or hibernated: then it is woken) sandbox
 * @row:	Set to a copy: checkpoint_row_fini(). Its status is `processing` as a rule
 *
 * Return: 0, also for one that has failed in the meantime; -ENOENT; -ESHUTDOWN; -EINVAL: it does
 *	   not run, limit reached; -EEXIST: the name is taken; ...
 */
int checkpoint_create(struct manager *m, const char *sandbox_id, const struct checkpoint_spec *spec,
		      struct checkpoint_row *row, struct err *e);

/* -ENOENT unless it is one of this sandbox. @row: checkpoint_row_fini() on success. */
int checkpoint_get(struct manager *m, const char *sandbox_id, const char *id,
		   struct checkpoint_row *row, struct err *e);

/* A list of copies; the caller releases each row and frees the array. */
struct checkpoint_list {
	struct checkpoint_row *rows;
	size_t n;
};

void checkpoint_list_fini(struct checkpoint_list *l);
/* Those of a sandbox, oldest first; @sandbox_id NULL: all, templates too. -ENOENT unknown sandbox.
 */
int checkpoint_list(struct manager *m, const char *sandbox_id, struct checkpoint_list *l,
		    struct err *e);

/* Waits for one that is being written. -ENOENT unless it is one of this sandbox. */
int checkpoint_delete(struct manager *m, const char *sandbox_id, const char *id, struct err *e);

/* -ENOENT unless it is one of this sandbox. */
int checkpoint_set_public(struct manager *m, const char *sandbox_id, const char *id, bool is_public,
			  struct err *e);

/**
 * checkpoint_wait() - Until it is not being written any more
 *
 * Return: 0 and a copy of the row; -ENOENT; -EAGAIN when the time is over
 */
int checkpoint_wait(struct manager *m, const char *id, int timeout_ms, struct checkpoint_row *row,
		    struct err *e);

/**
 * checkpoint_restore() - Take a sandbox back (or forth) to one of its checkpoints
 * @cold:	Set: it was booted, its processes of then are lost
 *
 * Return when it runs: 0; -ENOENT unless it is one of this sandbox; -EINVAL if it is not ready; as
 * checkpoint_create()
 */
int checkpoint_restore(struct manager *m, const char *sandbox_id, const char *id, bool *cold,
		       struct err *e);

struct fork_spec {
	const char *alias;
	int64_t timeout_s;
	int64_t cpus, memory_mib; /* 0: as captured; others than captured: it boots from the disk */
	json_t *envs, *metadata;  /* over those of the checkpoint; NULL: none */
	const char
	    *preview_hash; /* as in struct sandbox_spec; that of the source is not inherited */
};

/**
 * checkpoint_fork() - A new sandbox that goes on from a checkpoint
 *
 * It boots from the checkpoint's disk if that has no memory, or none that can be used
 * (sandbox_cold_reason()).
 * @out:	A reference: sandbox_put()
 *
 * Return: 0; -ENOENT; -EINVAL if the checkpoint has failed, or does not get ready; as
 * sandbox_create()
 */
int checkpoint_fork(struct manager *m, const char *id, const struct fork_spec *spec,
		    struct sandbox **out, struct err *e);

/* At a start, before sandboxes are taken over: what was being made has failed. */
int checkpoints_recover(struct manager *m, struct err *e);

/* Its row, and what points to it in memory. -ENOENT if there is none. The files are gc_run()'s. */
int checkpoint_forget(struct manager *m, const char *id, struct err *e);

/* --- patches (patch.c) ---------------------------------------------------------------------- */

/* @row: script and description are borrowed; id, sequence and time are set. */
int patch_add(struct manager *m, struct patch_row *row, struct err *e);

/* In the order of their sequence, with the store locked. -ENOENT without such a checkpoint. */
int patch_each(struct manager *m, const char *checkpoint_id,
	       void (*fn)(void *arg, struct patch_row *row), void *arg, struct err *e);
/* -ENOENT unless it is one of this checkpoint. */
int patch_delete(struct manager *m, const char *checkpoint_id, const char *id, struct err *e);

/**
 * patches_apply() - Run the patches of its checkpoint that this fork has not got yet
 *
 * With a guest that answers, by whoever makes or wakes the sandbox. Stops at the first one that
 * fails; the row then says why (patch_error), and the next call goes on with it.
 */
void patches_apply(struct sandbox *s);

#endif
