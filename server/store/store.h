/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The durable state of the daemon: one SQLite database in WAL mode.
 *
 * Theory of operation
 * -------------------
 * What a client was told is committed with synchronous=FULL before it is told: a created sandbox,
 * a deleted one, an error that was seen. So neither kill -9 nor loss of power takes back an answer.
 * A sandbox gets its row when it runs; a directory of a sandbox without a row is one that was
 * being made, and is removed at the next start. (One commit per create, and none to undo.)
 *
 * One connection, one lock: calls come from any thread and take turns. Requests for commands and
 * files do not touch the store.
 */
#ifndef SERVER_STORE_STORE_H
#define SERVER_STORE_STORE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/err.h"

#define STORE_SCHEMA_VERSION 6

enum sandbox_status {
	SANDBOX_RUNNING,
	SANDBOX_HIBERNATED, /* no process; row.hibernation says where its memory is */
	SANDBOX_STOPPED,    /* powered off by the guest, or deleted */
	SANDBOX_ERROR,	    /* the VM died; files are kept until it is deleted */
};

/* The API's word for it. Static. */
const char *sandbox_status_name(enum sandbox_status s);

#define SANDBOX_ID_SIZE 32
#define UUID_SIZE	40 /* 36 characters and a NUL */
#define HASH_SIZE	65 /* SHA-256 in hexadecimal and a NUL */

/* Disk layers by id (layers/<id>.layer), oldest first; the base image is not one of them. */
struct chain {
	char (*ids)[UUID_SIZE]; /* owned: chain_fini() */
	size_t n;
};

void chain_fini(struct chain *c);
/* Return: 0 or -ENOMEM; @to is set in each case, to an empty one on failure. */
int chain_copy(struct chain *to, const struct chain *from);
/* Return: 0 or -ENOMEM (nothing changed). */
int chain_push(struct chain *c, const char *id);
/* Are its lowest layers those of @with? */
bool chain_begins(const struct chain *c, const struct chain *with);

/* How large a sandbox may be. */
struct scaling {
	int64_t cpu_percent;		    /* of one processor; 0: all of its vCPUs */
	int64_t auto_min_mib, auto_max_mib; /* it is scaled between these; max 0: it is not */
	bool locked;
};

/* Strings and JSON are owned: sandbox_row_fini(). */
struct sandbox_row {
	char id[SANDBOX_ID_SIZE];
	enum sandbox_status status;
	bool deleted; /* by DELETE: no files are left */
	char *template, *alias;
	char *error; /* why it has status error; may be NULL */
	int64_t cpus, memory_mib, disk_mib, timeout_s, port;
	bool network;
	json_t *envs, *metadata;      /* objects of strings */
	json_t *tags;		      /* the same; replaced as a whole */
	int64_t tagged_ms;	      /* when it was last; 0: never */
	int64_t created_ms, ended_ms; /* since 1970; ended 0: not yet */
	int64_t expires_ms; /* not stored: for clients, when it will have been idle too long; 0:
			       never */
	int64_t used_ms;    /* not stored: when somebody last worked in it; 0: it does not run */
	int64_t vmm_pid;

	char *base_image;    /* path of the root image under the layers; never NULL */
	struct chain layers; /* of its disk; the last one is being written to */
	/*
	 * Committed before the VMM is asked to go to another top layer: what `layers` becomes if
	 * the file of its last one exists, and which checkpoint is the current one then. n 0:
	 * nothing.
	 */
	struct chain pending;
	char pending_checkpoint[UUID_SIZE];
	char hibernation[UUID_SIZE]; /* directory within the sandbox's; "": none */
	int64_t hibernation_bytes;
	char from_checkpoint[UUID_SIZE];    /* that it was forked from; "": none */
	char current_checkpoint[UUID_SIZE]; /* the parent of its next one; "": none */
	int64_t patch_sequence;		    /* of the last patch that was applied */
	char *patch_error;		    /* why the next one failed; may be NULL */
	char preview_hash[HASH_SIZE];	    /* of the token that previews ask for; "": none */
	char *workdir;			    /* where its commands begin; "": at home */
	/* memory_mib is what its machine boots with; it was given this since, or 0. */
	int64_t scaled_mib;
	struct scaling scaling;
	json_t *mounts; /* an array of objects; replaced as a whole */
};

/* How much memory it has. */
static inline int64_t sandbox_row_memory(const struct sandbox_row *row)
{
	return row->scaled_mib ? row->scaled_mib : row->memory_mib;
}

enum checkpoint_status { CHECKPOINT_PROCESSING, CHECKPOINT_READY, CHECKPOINT_FAILED };

/* The API's word for it. Static. */
const char *checkpoint_status_name(enum checkpoint_status s);

/* Strings, JSON and chain are owned: checkpoint_row_fini(). Strings are never NULL but error. */
struct checkpoint_row {
	char id[UUID_SIZE];
	char sandbox_id[SANDBOX_ID_SIZE]; /* "" for templates */
	char *name;			  /* for templates: what they were made of */
	bool is_template;		  /* internal: no API shows it */
	bool automatic;			  /* made for a fork: goes when nothing refers to it */
	bool full;			  /* RAM and disk; else disk only */
	bool promote;			  /* becomes full when it is ready */
	bool is_public;
	bool cold; /* ram is in the cold format */
	enum checkpoint_status status;
	char *error;		/* of a failed one */
	char parent[UUID_SIZE]; /* "": a root */

	char *base_image;
	struct chain layers; /* immutable, all of them */
	int64_t cpus, memory_mib, disk_mib, timeout_s, port;
	bool network;
	char *template;
	json_t *envs, *metadata;
	char *workdir;

	int64_t scaled_mib; /* as in sandbox_row */

	int64_t ram_bytes, state_bytes, disk_bytes; /* its own: what it added to the store */
	int64_t created_ms, done_ms;		    /* done 0: processing */
};

void checkpoint_row_fini(struct checkpoint_row *row);

struct patch_row {
	char id[UUID_SIZE], checkpoint_id[UUID_SIZE];
	int64_t sequence;
	char *script, *description; /* owned: patch_row_fini() */
	int64_t created_ms;
};

void patch_row_fini(struct patch_row *row);

/* A preview URL that somebody has made. Previews work without, too. */
struct preview_row {
	char id[UUID_SIZE], sandbox_id[SANDBOX_ID_SIZE];
	int64_t port;
	char *custom;	     /* owned: preview_row_fini(); a host name of the client's, or NULL */
	json_t *auth_config; /* owned; as it was given */
	int64_t created_ms;
};

void preview_row_fini(struct preview_row *row);

/*
 * A disk after some steps of a manifest, with a checkpoint row (disk only, of no sandbox) that
 * keeps it. It goes with that.
 */
struct image_row {
	char key[HASH_SIZE]; /* of the base's version and all steps so far */
	char checkpoint_id[UUID_SIZE];
	char hash[HASH_SIZE]; /* contentHash of a manifest that ends here; "": none has yet */
	char *base_version;   /* owned: image_row_fini(); of the image under it */
	int64_t steps;
	int64_t created_ms, used_ms;
};

void image_row_fini(struct image_row *row);

enum snapshot_status { SNAPSHOT_BUILDING, SNAPSHOT_READY, SNAPSHOT_FAILED };

/* The API's word for it. Static. */
const char *snapshot_status_name(enum snapshot_status s);

/* An image with a name. Strings are owned: snapshot_row_fini(); never NULL but error. */
struct snapshot_row {
	char id[UUID_SIZE];
	char *name;
	char hash[HASH_SIZE];	       /* contentHash of its manifest */
	char checkpoint_id[UUID_SIZE]; /* of its own, of no sandbox; "" until it is ready */
	enum snapshot_status status;
	char *error;	    /* of a failed one */
	char *manifest;	    /* JSON */
	char *base_version; /* as in struct image_row */
	int64_t runtime_mib;
	bool is_public;
	int64_t created_ms, used_ms; /* used 0: never */
};

void snapshot_row_fini(struct snapshot_row *row);

void sandbox_row_fini(struct sandbox_row *row);
/* Return: 0 or -ENOMEM; @to is only to be released on success. */
int sandbox_row_copy(struct sandbox_row *to, const struct sandbox_row *from);

struct store;

/**
 * store_open() - Open or make the database and bring its schema up to date
 *
 * Return: 0; -ENOTSUP if a newer version of the program made it; -EIO, -ENOSPC, ... of SQLite
 */
int store_open(const char *path, struct store **out, struct err *e);
/* NULL is fine. */
void store_close(struct store *s);

/*
 * After a commit that failed: make one that does not. What failed was told to nobody, but may be in
 * the journal, whole, so that a crash would bring it back; the next commit is written over it.
 * Costs nothing when none has failed. Called now and then.
 */
void store_settle(struct store *s);

/* All of these: 0 or -errno (-ENOSPC for a full disk). */
int store_sandbox_insert(struct store *s, const struct sandbox_row *row, struct err *e);
/* @error may be NULL. */
int store_sandbox_set_ended(struct store *s, const char *id, enum sandbox_status status,
			    const char *error, int64_t ended_ms, struct err *e);
/* Status stopped, deleted; the time of an earlier end is kept. */
int store_sandbox_set_deleted(struct store *s, const char *id, int64_t now_ms, struct err *e);
/*
 * Everything of @row that can change but its settings: status, error, times, sizes, scaled_mib,
 * layers, hibernation, checkpoints, patches. Nothing if it was deleted.
 */
int store_sandbox_update(struct store *s, const struct sandbox_row *row, struct err *e);
/* The settings of @row: timeout, tags, token of previews, scaling, mounts. Nothing if it was
 * deleted. */
int store_sandbox_set_settings(struct store *s, const struct sandbox_row *row, struct err *e);
/* The last patch that was applied, and why the next one failed (NULL: it did not). */
int store_sandbox_set_patched(struct store *s, const char *id, int64_t sequence, const char *error,
			      struct err *e);
/* -ENOENT if there is none. @row: sandbox_row_fini() on success. */
int store_sandbox_get(struct store *s, const char *id, struct sandbox_row *row, struct err *e);

/**
 * store_sandbox_each() - All rows, newest first
 * @deleted:	Those that were deleted, or those that were not
 * @limit:	At most so many
 * @fn:		Called with the store locked; it may take the row's contents over by zeroing it
 */
int store_sandbox_each(struct store *s, bool deleted, int limit,
		       void (*fn)(void *arg, struct sandbox_row *row), void *arg, struct err *e);

/* Forget deleted sandboxes that ended before @before_ms, and all but the @keep newest of them. */
int store_sandbox_prune(struct store *s, int64_t before_ms, int keep, struct err *e);

/* --- checkpoints ---------------------------------------------------------------------------
 * Where a @sandbox is given, its row is updated in the same transaction. */

/* -EEXIST if its sandbox has one of this name. */
int store_checkpoint_insert(struct store *s, const struct checkpoint_row *row,
			    const struct sandbox_row *sandbox, struct err *e);
/* Its status, error, kind, sizes, time of the end, format. -ENOENT if it was deleted. */
int store_checkpoint_update(struct store *s, const struct checkpoint_row *row,
			    const struct sandbox_row *sandbox, struct err *e);
int store_checkpoint_set_public(struct store *s, const char *id, bool is_public, struct err *e);
/* The same content in fewer layers. -ENOENT if it was deleted. */
int store_checkpoint_set_layers(struct store *s, const char *id, const struct chain *layers,
				struct err *e);
/* -ENOENT "checkpoint not found". @row: checkpoint_row_fini() on success; likewise below. */
int store_checkpoint_get(struct store *s, const char *id, struct checkpoint_row *row,
			 struct err *e);
/* The template made of @name, in whatever status. -ENOENT if there is none. */
int store_checkpoint_get_template(struct store *s, const char *name, struct checkpoint_row *row,
				  struct err *e);
/* With its patches; its children become those of its parent. -ENOENT if there is none. */
int store_checkpoint_delete(struct store *s, const char *id, struct err *e);
/* Those of a sandbox, or, with NULL, all, templates too; oldest first. @fn as above. */
int store_checkpoint_each(struct store *s, const char *sandbox_id,
			  void (*fn)(void *arg, struct checkpoint_row *row), void *arg,
			  struct err *e);
/* At a start: those that were being made have failed. */
int store_checkpoint_fail_processing(struct store *s, const char *error, int64_t now_ms,
				     struct err *e);
/* Is something in the way of deleting it unasked: patches, or sandboxes forked from it? */
int store_checkpoint_in_use(struct store *s, const char *id, bool *in_use, struct err *e);

/* --- images and snapshots ------------------------------------------------------------------- */

/* With the checkpoint that keeps it. -EEXIST if there is one with that key. */
int store_image_insert(struct store *s, const struct image_row *row,
		       const struct checkpoint_row *checkpoint, struct err *e);
/* -ENOENT if there is none. @row: image_row_fini() on success. */
int store_image_get(struct store *s, const char *key, struct image_row *row, struct err *e);
/* The last used first. @fn as above. */
int store_image_each(struct store *s, void (*fn)(void *arg, struct image_row *row), void *arg,
		     struct err *e);
/* @hash: of a manifest that ends here; "": as it is. */
int store_image_used(struct store *s, const char *key, const char *hash, int64_t now_ms,
		     struct err *e);

/* A failed one of that name is replaced. -EEXIST if the name is taken. */
int store_snapshot_insert(struct store *s, const struct snapshot_row *row, struct err *e);
/*
 * Ready, with @checkpoint, which is inserted and becomes its own; or failed, without one and with
 * @error. -ENOENT if it was deleted: then nothing is inserted.
 */
int store_snapshot_end(struct store *s, const char *id, const struct checkpoint_row *checkpoint,
		       const char *base_version, const char *error, struct err *e);
/* -ENOENT "snapshot not found: NAME". @row: snapshot_row_fini() on success. */
int store_snapshot_get(struct store *s, const char *name, struct snapshot_row *row, struct err *e);
/* The newest first. @fn as above. */
int store_snapshot_each(struct store *s, void (*fn)(void *arg, struct snapshot_row *row), void *arg,
			struct err *e);
/* With its checkpoint and the patches of that. -ENOENT as above. */
int store_snapshot_delete(struct store *s, const char *name, struct err *e);
int store_snapshot_set_public(struct store *s, const char *name, bool is_public, struct err *e);
int store_snapshot_used(struct store *s, const char *name, int64_t now_ms, struct err *e);
/* At a start: those that were being built have failed. */
int store_snapshot_fail_building(struct store *s, const char *error, struct err *e);

/* --- patches of checkpoints ----------------------------------------------------------------- */

/* Sets row->sequence. -ENOENT if there is no such checkpoint. */
int store_patch_insert(struct store *s, struct patch_row *row, struct err *e);
/* In the order of their sequence. */
int store_patch_each(struct store *s, const char *checkpoint_id,
		     void (*fn)(void *arg, struct patch_row *row), void *arg, struct err *e);
/* The first one with a sequence above @after. -ENOENT if there is none. */
int store_patch_next(struct store *s, const char *checkpoint_id, int64_t after,
		     struct patch_row *row, struct err *e);
int store_patch_delete(struct store *s, const char *checkpoint_id, const char *id, struct err *e);

/* --- previews; they go with their sandbox ---------------------------------------------------- */

/* -EEXIST if the port has one, -ENOENT if there is no such sandbox (any more). */
int store_preview_insert(struct store *s, const struct preview_row *row, struct err *e);
/* -ENOENT if there is none. @row: preview_row_fini() on success. */
int store_preview_get(struct store *s, const char *sandbox_id, int64_t port,
		      struct preview_row *row, struct err *e);
/* Those of a sandbox, by port. */
int store_preview_each(struct store *s, const char *sandbox_id,
		       void (*fn)(void *arg, struct preview_row *row), void *arg, struct err *e);
int store_preview_delete(struct store *s, const char *sandbox_id, int64_t port, struct err *e);

#endif
