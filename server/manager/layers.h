/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files of the store by id: disk layers and checkpoint images, and what keeps them.
 *
 * Theory of operation
 * -------------------
 * <state>/layers/<id>.layer and <state>/checkpoints/<id>/{ram,state}. A file is kept by the rows
 * that name it (chains of sandboxes and checkpoints) and by pins: ids that a thread works with and
 * that are in no row yet, or in one that may be deleted meanwhile. What has neither is garbage,
 * and gc_run() removes it. The pins' lock makes "read a row and pin what it names" one step for gc.
 *
 * A change of a sandbox's top layer has three steps: the row names the chain to be (`pending`), the
 * VMM makes the file, the row makes the chain its own. After a crash between these the VMM
 * decides, if it lives, else the file: layers_settle().
 */
#ifndef SERVER_MANAGER_LAYERS_H
#define SERVER_MANAGER_LAYERS_H

#include "server/manager/manager.h"

/* Return: 0 or -EIO. */
int uuid_make(char id[UUID_SIZE], struct err *e);
bool uuid_valid(const char *text);

/* Paths; the caller frees them. NULL without memory. */
char *layer_path(const struct manager *m, const char *id);
/* @file: "ram" or "state"; "" for the directory. */
char *checkpoint_path(const struct manager *m, const char *id, const char *file);

/* Of the memory image, in the form that the row says it has. */
char *checkpoint_ram_path(const struct manager *m, const struct checkpoint_row *row);

int layers_init(struct manager *m, struct err *e);
void layers_fini(struct manager *m);

/* An id for a new layer (or image), pinned. Return: 0 or -errno. */
int layer_new(struct manager *m, char id[UUID_SIZE], struct err *e);
/* Pins count. Return: 0 or -ENOMEM. */
int layer_pin(struct manager *m, const char *id);
/* "" is fine. */
void layer_unpin(struct manager *m, const char *id);
/* Under the lock of pins. */
bool layer_pinned(struct manager *m, const char *id);
/* All of a chain or none. */
int chain_pin(struct manager *m, const struct chain *c);
void chain_unpin(struct manager *m, const struct chain *c);

/**
 * checkpoint_pin() - Read a checkpoint and pin its layers and its image
 * @row:	checkpoint_row_fini() after checkpoint_unpin()
 *
 * Return: 0; -ENOENT "checkpoint not found"; -ENOMEM; of the store
 */
int checkpoint_pin(struct manager *m, const char *id, struct checkpoint_row *row, struct err *e);
void checkpoint_unpin(struct manager *m, const struct checkpoint_row *row);

/**
 * layers_settle() - Decide whether a sandbox has gone to its pending chain
 * @row:	In memory; `layers` and `current_checkpoint` are set and `pending` is emptied
 *
 * Return: true if anything changed and has to be committed
 */
bool layers_settle(struct manager *m, struct sandbox_row *row);

/* The file that a deleted sandbox wrote to: nobody else's. */
void layer_remove_top(struct manager *m, const struct chain *c);

/* Bytes that the file takes on the disk; 0 if there is none. */
int64_t layer_bytes(struct manager *m, const char *id);
int64_t checkpoint_image_bytes(struct manager *m, const char *id);

#endif
