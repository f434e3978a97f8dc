/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of checkpoints and of their patches; see store.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/store/internal.h"

const char *checkpoint_status_name(enum checkpoint_status s)
{
	switch (s) {
	case CHECKPOINT_PROCESSING:
		return "processing";
	case CHECKPOINT_READY:
		return "ready";
	case CHECKPOINT_FAILED:
		break;
	}
	return "failed";
}

static enum checkpoint_status status_of_name(const char *name)
{
	for (int s = CHECKPOINT_PROCESSING; s < CHECKPOINT_FAILED; s++)
		if (!strcmp(name, checkpoint_status_name((enum checkpoint_status)s)))
			return (enum checkpoint_status)s;
	return CHECKPOINT_FAILED;
}

void checkpoint_row_fini(struct checkpoint_row *row)
{
	free(row->name);
	free(row->error);
	free(row->base_image);
	free(row->template);
	free(row->workdir);
	chain_fini(&row->layers);
	json_decref(row->envs);
	json_decref(row->metadata);
	memset(row, 0, sizeof(*row));
}

void patch_row_fini(struct patch_row *row)
{
	free(row->script);
	free(row->description);
	memset(row, 0, sizeof(*row));
}

/* --- writing ------------------------------------------------------------------------------- */

static void bind_checkpoint(sqlite3_stmt *st, const struct checkpoint_row *row)
{
	const int64_t sizes[] = {row->cpus,	 row->memory_mib, row->disk_mib,
				 row->timeout_s, row->port,	  row->network};
	const int64_t results[] = {row->ram_bytes, row->state_bytes, row->disk_bytes,
				   row->created_ms, row->done_ms};

	bind_text(st, 1, row->id);
	bind_text(st, 2, row->sandbox_id);
	bind_text(st, 3, row->name);
	sqlite3_bind_int(st, 4, row->is_template);
	sqlite3_bind_int(st, 5, row->automatic);
	sqlite3_bind_int(st, 6, row->full);
	sqlite3_bind_int(st, 7, row->promote);
	sqlite3_bind_int(st, 8, row->is_public);
	sqlite3_bind_int(st, 9, row->cold);
	bind_text(st, 10, checkpoint_status_name(row->status));
	bind_text(st, 11, row->error);
	bind_text(st, 12, row->parent);
	bind_text(st, 13, row->base_image);
	bind_chain(st, 14, &row->layers);
	for (int i = 0; i < 6; i++)
		sqlite3_bind_int64(st, 15 + i, sizes[i]);
	bind_text(st, 21, row->template);
	bind_json(st, 22, row->envs);
	bind_json(st, 23, row->metadata);
	for (int i = 0; i < 5; i++)
		sqlite3_bind_int64(st, 24 + i, results[i]);
	bind_text(st, 29, row->workdir ? row->workdir : "");
	sqlite3_bind_int64(st, 30, row->scaled_mib);
}

struct change {
	const struct checkpoint_row *row;
	const struct sandbox_row *sandbox;
	const char *id;
};

int insert_checkpoint(struct store *s, const struct checkpoint_row *row, struct err *e)
{
	sqlite3_stmt *st = s->prepared[ST_CP_INSERT];
	int rc;

	bind_checkpoint(st, row);
	rc = store_step(s, st, e, "recording a checkpoint");
	if (rc && sqlite3_extended_errcode(s->db) == SQLITE_CONSTRAINT_UNIQUE)
		rc = err_set(e, -EEXIST, "a checkpoint with the name \"%.100s\" exists already",
			     row->name);
	return rc;
}

static int insert(struct store *s, void *arg, struct err *e)
{
	const struct change *c = arg;
	int rc = insert_checkpoint(s, c->row, e);

	return !rc && c->sandbox ? update_sandbox(s, c->sandbox, e) : rc;
}

int store_checkpoint_insert(struct store *s, const struct checkpoint_row *row,
			    const struct sandbox_row *sandbox, struct err *e)
{
	struct change c = {.row = row, .sandbox = sandbox};

	return store_transaction(s, insert, &c, e);
}

/* Run a statement that must have met a checkpoint. */
static int step_one(struct store *s, sqlite3_stmt *st, struct err *e, const char *what)
{
	int rc = store_step(s, st, e, what);

	if (!rc && !sqlite3_changes(s->db))
		rc = err_set(e, -ENOENT, "checkpoint not found");
	return rc;
}

static int update(struct store *s, void *arg, struct err *e)
{
	const struct change *c = arg;
	const struct checkpoint_row *row = c->row;
	sqlite3_stmt *st = s->prepared[ST_CP_UPDATE];
	int rc;

	bind_text(st, 1, row->id);
	sqlite3_bind_int(st, 2, row->full);
	sqlite3_bind_int(st, 3, row->promote);
	sqlite3_bind_int(st, 4, row->cold);
	bind_text(st, 5, checkpoint_status_name(row->status));
	bind_text(st, 6, row->error);
	sqlite3_bind_int64(st, 7, row->ram_bytes);
	sqlite3_bind_int64(st, 8, row->state_bytes);
	sqlite3_bind_int64(st, 9, row->disk_bytes);
	sqlite3_bind_int64(st, 10, row->done_ms);
	rc = step_one(s, st, e, "recording a change of a checkpoint");
	return !rc && c->sandbox ? update_sandbox(s, c->sandbox, e) : rc;
}

int store_checkpoint_update(struct store *s, const struct checkpoint_row *row,
			    const struct sandbox_row *sandbox, struct err *e)
{
	struct change c = {.row = row, .sandbox = sandbox};

	return store_transaction(s, update, &c, e);
}

int store_checkpoint_set_public(struct store *s, const char *id, bool is_public, struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_CP_PUBLIC);

	bind_text(st, 1, id);
	sqlite3_bind_int(st, 2, is_public);
	return store_finish(s, st, step_one(s, st, e, "publishing a checkpoint"));
}

int store_checkpoint_set_layers(struct store *s, const char *id, const struct chain *layers,
				struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_CP_LAYERS);

	bind_text(st, 1, id);
	bind_chain(st, 2, layers);
	return store_finish(s, st, step_one(s, st, e, "recording the layers of a checkpoint"));
}

int delete_checkpoint(struct store *s, const char *id, struct err *e)
{
	static const enum statement first[] = {ST_CP_ADOPT_CHILDREN, ST_CP_ADOPT_SANDBOXES,
					       ST_CP_DELETE_PATCHES};

	for (size_t i = 0; i < sizeof(first) / sizeof(first[0]); i++) {
		int rc;

		bind_text(s->prepared[first[i]], 1, id);
		rc = store_step(s, s->prepared[first[i]], e, "deleting a checkpoint");
		if (rc)
			return rc;
	}
	bind_text(s->prepared[ST_CP_DELETE], 1, id);
	return step_one(s, s->prepared[ST_CP_DELETE], e, "deleting a checkpoint");
}

static int delete (struct store *s, void *arg, struct err *e)
{
	return delete_checkpoint(s, ((const struct change *)arg)->id, e);
}

int store_checkpoint_delete(struct store *s, const char *id, struct err *e)
{
	struct change c = {.id = id};

	return store_transaction(s, delete, &c, e);
}

int store_checkpoint_fail_processing(struct store *s, const char *error, int64_t now_ms,
				     struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_CP_FAIL);

	bind_text(st, 1, error);
	sqlite3_bind_int64(st, 2, now_ms);
	return store_run(s, st, e, "recording failed checkpoints");
}

/* --- reading ---------------------------------------------------------------------------------- */

static int read_checkpoint(sqlite3_stmt *st, struct checkpoint_row *row)
{
	int64_t *const sizes[] = {&row->cpus, &row->memory_mib, &row->disk_mib, &row->timeout_s,
				  &row->port};
	int64_t *const results[] = {&row->ram_bytes, &row->state_bytes, &row->disk_bytes,
				    &row->created_ms, &row->done_ms};
	int rc;

	memset(row, 0, sizeof(*row));
	column_id(st, 0, row->id, sizeof(row->id));
	column_id(st, 1, row->sandbox_id, sizeof(row->sandbox_id));
	row->name = column_text(st, 2);
	row->is_template = sqlite3_column_int(st, 3);
	row->automatic = sqlite3_column_int(st, 4);
	row->full = sqlite3_column_int(st, 5);
	row->promote = sqlite3_column_int(st, 6);
	row->is_public = sqlite3_column_int(st, 7);
	row->cold = sqlite3_column_int(st, 8);
	row->status = status_of_name((const char *)sqlite3_column_text(st, 9));
	row->error = column_text(st, 10);
	column_id(st, 11, row->parent, sizeof(row->parent));
	row->base_image = column_text(st, 12);
	rc = column_chain(st, 13, &row->layers);
	for (int i = 0; i < 5; i++)
		*sizes[i] = sqlite3_column_int64(st, 14 + i);
	row->network = sqlite3_column_int(st, 19);
	row->template = column_text(st, 20);
	row->envs = column_json(st, 21);
	row->metadata = column_json(st, 22);
	for (int i = 0; i < 5; i++)
		*results[i] = sqlite3_column_int64(st, 23 + i);
	row->workdir = column_text(st, 28);
	row->scaled_mib = sqlite3_column_int64(st, 29);
	if (!rc && row->workdir && row->name && row->base_image && row->template && row->envs &&
	    row->metadata)
		return 0;
	checkpoint_row_fini(row);
	return -ENOMEM;
}

static int get(struct store *s, enum statement which, const char *key, struct checkpoint_row *row,
	       struct err *e)
{
	sqlite3_stmt *st = store_begin(s, which);
	int rc;

	bind_text(st, 1, key);
	rc = sqlite3_step(st);
	if (rc == SQLITE_ROW)
		rc = read_checkpoint(st, row) ? err_set(e, -ENOMEM, "out of memory") : 0;
	else if (rc == SQLITE_DONE)
		rc = err_set(e, -ENOENT, "checkpoint not found");
	else
		rc = store_error(s, e, "reading a checkpoint");
	return store_finish(s, st, rc);
}

int store_checkpoint_get(struct store *s, const char *id, struct checkpoint_row *row, struct err *e)
{
	return get(s, ST_CP_GET, id, row, e);
}

int store_checkpoint_get_template(struct store *s, const char *name, struct checkpoint_row *row,
				  struct err *e)
{
	return get(s, ST_CP_GET_TEMPLATE, name, row, e);
}

int store_checkpoint_each(struct store *s, const char *sandbox_id,
			  void (*fn)(void *arg, struct checkpoint_row *row), void *arg,
			  struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_CP_EACH);
	int rc;

	bind_text(st, 1, sandbox_id);
	while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
		struct checkpoint_row row;

		if (read_checkpoint(st, &row))
			return store_finish(s, st, err_set(e, -ENOMEM, "out of memory"));
		fn(arg, &row);
		checkpoint_row_fini(&row);
	}
	return store_finish(s, st,
			    rc == SQLITE_DONE ? 0 : store_error(s, e, "listing checkpoints"));
}

int store_checkpoint_in_use(struct store *s, const char *id, bool *in_use, struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_CP_IN_USE);
	int rc = 0;

	bind_text(st, 1, id);
	if (sqlite3_step(st) == SQLITE_ROW)
		*in_use = sqlite3_column_int(st, 0);
	else
		rc = store_error(s, e, "reading a checkpoint");
	return store_finish(s, st, rc);
}

/* --- patches ------------------------------------------------------------------------------------
 */

int store_patch_insert(struct store *s, struct patch_row *row, struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_PATCH_INSERT);
	int rc;

	bind_text(st, 1, row->id);
	bind_text(st, 2, row->checkpoint_id);
	bind_text(st, 3, row->script);
	bind_text(st, 4, row->description);
	sqlite3_bind_int64(st, 5, row->created_ms);
	rc = sqlite3_step(st);
	if (rc == SQLITE_DONE)
		return store_finish(s, st, err_set(e, -ENOENT, "checkpoint not found"));
	if (rc == SQLITE_ROW) {
		row->sequence = sqlite3_column_int64(st, 0);
		rc = sqlite3_step(st); /* it commits when it is done */
	}
	return store_finish(s, st, rc == SQLITE_DONE ? 0 : store_error(s, e, "recording a patch"));
}

static int read_patch(sqlite3_stmt *st, struct patch_row *row)
{
	memset(row, 0, sizeof(*row));
	column_id(st, 0, row->id, sizeof(row->id));
	column_id(st, 1, row->checkpoint_id, sizeof(row->checkpoint_id));
	row->sequence = sqlite3_column_int64(st, 2);
	row->script = column_text(st, 3);
	row->description = column_text(st, 4);
	row->created_ms = sqlite3_column_int64(st, 5);
	if (row->script && row->description)
		return 0;
	patch_row_fini(row);
	return -ENOMEM;
}

int store_patch_each(struct store *s, const char *checkpoint_id,
		     void (*fn)(void *arg, struct patch_row *row), void *arg, struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_PATCH_EACH);
	int rc;

	bind_text(st, 1, checkpoint_id);
	sqlite3_bind_int64(st, 2, 0);
	while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
		struct patch_row row;

		if (read_patch(st, &row))
			return store_finish(s, st, err_set(e, -ENOMEM, "out of memory"));
		fn(arg, &row);
		patch_row_fini(&row);
	}
	return store_finish(s, st, rc == SQLITE_DONE ? 0 : store_error(s, e, "listing patches"));
}

int store_patch_next(struct store *s, const char *checkpoint_id, int64_t after,
		     struct patch_row *row, struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_PATCH_EACH);
	int rc;

	bind_text(st, 1, checkpoint_id);
	sqlite3_bind_int64(st, 2, after);
	rc = sqlite3_step(st);
	if (rc == SQLITE_ROW)
		rc = read_patch(st, row) ? err_set(e, -ENOMEM, "out of memory") : 0;
	else if (rc == SQLITE_DONE)
		rc = err_set(e, -ENOENT, "no more patches");
	else
		rc = store_error(s, e, "reading a patch");
	return store_finish(s, st, rc);
}

int store_patch_delete(struct store *s, const char *checkpoint_id, const char *id, struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_PATCH_DELETE);
	int rc;

	bind_text(st, 1, checkpoint_id);
	bind_text(st, 2, id);
	rc = store_step(s, st, e, "deleting a patch");
	if (!rc && !sqlite3_changes(s->db))
		rc = err_set(e, -ENOENT, "patch not found");
	return store_finish(s, st, rc);
}
