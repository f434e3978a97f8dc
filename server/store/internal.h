/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of server/store/ share. A statement belongs to the file of its table. */
#ifndef SERVER_STORE_INTERNAL_H
#define SERVER_STORE_INTERNAL_H

#include <pthread.h>
#include <sqlite3.h>

#include "server/store/store.h"

enum statement {
	ST_INSERT,
	ST_UPDATE,
	ST_SETTINGS,
	ST_PATCHED,
	ST_ENDED,
	ST_DELETED,
	ST_GET,
	ST_EACH,
	ST_PRUNE,
	ST_CP_INSERT,
	ST_CP_UPDATE,
	ST_CP_PUBLIC,
	ST_CP_LAYERS,
	ST_CP_GET,
	ST_CP_GET_TEMPLATE,
	ST_CP_EACH,
	ST_CP_FAIL,
	ST_CP_IN_USE,
	ST_CP_ADOPT_CHILDREN,
	ST_CP_ADOPT_SANDBOXES,
	ST_CP_DELETE_PATCHES,
	ST_CP_DELETE,
	ST_PATCH_INSERT,
	ST_PATCH_EACH,
	ST_PATCH_DELETE,
	ST_PREVIEW_INSERT,
	ST_PREVIEW_GET,
	ST_PREVIEW_EACH,
	ST_PREVIEW_DELETE,
	ST_IMAGE_INSERT,
	ST_IMAGE_GET,
	ST_IMAGE_EACH,
	ST_IMAGE_USED,
	ST_SNAP_REPLACE,
	ST_SNAP_INSERT,
	ST_SNAP_END,
	ST_SNAP_GET,
	ST_SNAP_EACH,
	ST_SNAP_DELETE,
	ST_SNAP_PUBLIC,
	ST_SNAP_USED,
	ST_SNAP_FAIL,
	ST_COUNT
};

extern const char *const store_statements[ST_COUNT];

struct store {
	pthread_mutex_t lock;
	sqlite3 *db;
	sqlite3_stmt *prepared[ST_COUNT];
	bool unsettled; /* a commit may have failed since the last one that did not */
};

/* Say what SQLite says. Return: the -errno for it. */
int store_error(struct store *s, struct err *e, const char *what);

/* Lock the store and get a statement; store_finish() or store_run() unlocks it. */
sqlite3_stmt *store_begin(struct store *s, enum statement which);
int store_finish(struct store *s, sqlite3_stmt *st, int rc);
/* Run a statement that gives no rows, with the store locked, and reset it. */
int store_step(struct store *s, sqlite3_stmt *st, struct err *e, const char *what);
/* The same, and unlock. */
int store_run(struct store *s, sqlite3_stmt *st, struct err *e, const char *what);
/* Call @fn with the store locked: all that it does, or, if it fails, nothing. */
int store_transaction(struct store *s, int (*fn)(struct store *s, void *arg, struct err *e),
		      void *arg, struct err *e);

/* NULL binds NULL. */
void bind_text(sqlite3_stmt *st, int i, const char *text);
void bind_json(sqlite3_stmt *st, int i, const json_t *json);
void bind_chain(sqlite3_stmt *st, int i, const struct chain *c);
char *column_text(sqlite3_stmt *st, int i);
json_t *column_json(sqlite3_stmt *st, int i);
/* An array; an empty one if it is none. */
json_t *column_list(sqlite3_stmt *st, int i);
int column_chain(sqlite3_stmt *st, int i, struct chain *c);
void column_id(sqlite3_stmt *st, int i, char *out, size_t size);

/* sandboxes.c; the store is locked */
int update_sandbox(struct store *s, const struct sandbox_row *row, struct err *e);
/* checkpoints.c; the same */
int insert_checkpoint(struct store *s, const struct checkpoint_row *row, struct err *e);
int delete_checkpoint(struct store *s, const char *id, struct err *e);

#endif
