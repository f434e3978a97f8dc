/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of images and snapshots; see store.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/store/internal.h"

void image_row_fini(struct image_row *row)
{
	free(row->base_version);
	memset(row, 0, sizeof(*row));
}

void snapshot_row_fini(struct snapshot_row *row)
{
	free(row->name);
	free(row->error);
	free(row->manifest);
	free(row->base_version);
	memset(row, 0, sizeof(*row));
}

const char *snapshot_status_name(enum snapshot_status s)
{
	switch (s) {
	case SNAPSHOT_BUILDING:
		return "building";
	case SNAPSHOT_READY:
		return "ready";
	case SNAPSHOT_FAILED:
		break;
	}
	return "failed";
}

static enum snapshot_status status_of_name(const char *name)
{
	for (int s = SNAPSHOT_BUILDING; s < SNAPSHOT_FAILED; s++)
		if (!strcmp(name, snapshot_status_name((enum snapshot_status)s)))
			return (enum snapshot_status)s;
	return SNAPSHOT_FAILED;
}

/* --- images ---------------------------------------------------------------------------------- */

struct image_change {
	const struct image_row *row;
	const struct checkpoint_row *checkpoint;
};

static int insert_image(struct store *s, void *arg, struct err *e)
{
	const struct image_change *c = arg;
	sqlite3_stmt *st = s->prepared[ST_IMAGE_INSERT];
	int rc;

	bind_text(st, 1, c->row->key);
	bind_text(st, 2, c->row->checkpoint_id);
	bind_text(st, 3, c->row->hash);
	bind_text(st, 4, c->row->base_version);
	sqlite3_bind_int64(st, 5, c->row->steps);
	sqlite3_bind_int64(st, 6, c->row->created_ms);
	sqlite3_bind_int64(st, 7, c->row->used_ms);
	rc = store_step(s, st, e, "recording an image");
	if (rc && (sqlite3_errcode(s->db) & 0xff) == SQLITE_CONSTRAINT)
		return err_set(e, -EEXIST, "there is an image with the key %s", c->row->key);
	return rc ? rc : insert_checkpoint(s, c->checkpoint, e);
}

int store_image_insert(struct store *s, const struct image_row *row,
		       const struct checkpoint_row *checkpoint, struct err *e)
{
	struct image_change c = {row, checkpoint};

	return store_transaction(s, insert_image, &c, e);
}

static int read_image(sqlite3_stmt *st, struct image_row *row)
{
	memset(row, 0, sizeof(*row));
	column_id(st, 0, row->key, sizeof(row->key));
	column_id(st, 1, row->checkpoint_id, sizeof(row->checkpoint_id));
	column_id(st, 2, row->hash, sizeof(row->hash));
	row->base_version = column_text(st, 3);
	row->steps = sqlite3_column_int64(st, 4);
	row->created_ms = sqlite3_column_int64(st, 5);
	row->used_ms = sqlite3_column_int64(st, 6);
	return row->base_version ? 0 : -ENOMEM;
}

int store_image_get(struct store *s, const char *key, struct image_row *row, struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_IMAGE_GET);
	int rc;

	bind_text(st, 1, key);
	rc = sqlite3_step(st);
	if (rc == SQLITE_ROW)
		rc = read_image(st, row) ? err_set(e, -ENOMEM, "out of memory") : 0;
	else if (rc == SQLITE_DONE)
		rc = err_set(e, -ENOENT, "image not found");
	else
		rc = store_error(s, e, "reading an image");
	return store_finish(s, st, rc);
}

int store_image_each(struct store *s, void (*fn)(void *arg, struct image_row *row), void *arg,
		     struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_IMAGE_EACH);
	int rc;

	while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
		struct image_row row;

		if (read_image(st, &row))
			return store_finish(s, st, err_set(e, -ENOMEM, "out of memory"));
		fn(arg, &row);
		image_row_fini(&row);
	}
	return store_finish(s, st, rc == SQLITE_DONE ? 0 : store_error(s, e, "listing images"));
}

int store_image_used(struct store *s, const char *key, const char *hash, int64_t now_ms,
		     struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_IMAGE_USED);

	bind_text(st, 1, key);
	sqlite3_bind_int64(st, 2, now_ms);
	bind_text(st, 3, hash);
	return store_run(s, st, e, "recording the use of an image");
}

/* --- snapshots ----------------------------------------------------------------------------- */

static int not_found(const char *name, struct err *e)
{
	return err_set(e, -ENOENT, "snapshot not found: %.128s", name);
}

static void bind_snapshot(sqlite3_stmt *st, const struct snapshot_row *row)
{
	bind_text(st, 1, row->name);
	bind_text(st, 2, row->id);
	bind_text(st, 3, row->hash);
	bind_text(st, 4, row->checkpoint_id);
	bind_text(st, 5, snapshot_status_name(row->status));
	bind_text(st, 6, row->error);
	bind_text(st, 7, row->manifest);
	bind_text(st, 8, row->base_version ? row->base_version : "");
	sqlite3_bind_int64(st, 9, row->runtime_mib);
	sqlite3_bind_int(st, 10, row->is_public);
	sqlite3_bind_int64(st, 11, row->created_ms);
	sqlite3_bind_int64(st, 12, row->used_ms);
}

static int insert_snapshot(struct store *s, void *arg, struct err *e)
{
	const struct snapshot_row *row = arg;
	int rc;

	bind_text(s->prepared[ST_SNAP_REPLACE], 1, row->name);
	rc = store_step(s, s->prepared[ST_SNAP_REPLACE], e, "replacing a failed snapshot");
	if (rc)
		return rc;
	bind_snapshot(s->prepared[ST_SNAP_INSERT], row);
	rc = store_step(s, s->prepared[ST_SNAP_INSERT], e, "recording a snapshot");
	if (rc && (sqlite3_errcode(s->db) & 0xff) == SQLITE_CONSTRAINT)
		rc = err_set(e, -EEXIST, "a snapshot with the name \"%.128s\" exists already",
			     row->name);
	return rc;
}

int store_snapshot_insert(struct store *s, const struct snapshot_row *row, struct err *e)
{
	return store_transaction(s, insert_snapshot, (void *)row, e);
}

struct snapshot_end {
	const char *id, *base_version, *error;
	const struct checkpoint_row *checkpoint;
};

static int end_snapshot(struct store *s, void *arg, struct err *e)
{
	const struct snapshot_end *end = arg;
	sqlite3_stmt *st = s->prepared[ST_SNAP_END];
	int rc = end->checkpoint ? insert_checkpoint(s, end->checkpoint, e) : 0;

	if (rc)
		return rc;
	bind_text(st, 1, end->id);
	bind_text(st, 2, snapshot_status_name(end->checkpoint ? SNAPSHOT_READY : SNAPSHOT_FAILED));
	bind_text(st, 3, end->checkpoint ? end->checkpoint->id : "");
	bind_text(st, 4, end->base_version);
	bind_text(st, 5, end->error);
	rc = store_step(s, st, e, "recording the end of a snapshot's build");
	if (!rc && !sqlite3_changes(s->db))
		rc = err_set(e, -ENOENT, "the snapshot was deleted while it was being built");
	return rc;
}

int store_snapshot_end(struct store *s, const char *id, const struct checkpoint_row *checkpoint,
		       const char *base_version, const char *error, struct err *e)
{
	struct snapshot_end end = {id, base_version, error, checkpoint};

	return store_transaction(s, end_snapshot, &end, e);
}

static int read_snapshot(sqlite3_stmt *st, struct snapshot_row *row)
{
	memset(row, 0, sizeof(*row));
	row->name = column_text(st, 0);
	column_id(st, 1, row->id, sizeof(row->id));
	column_id(st, 2, row->hash, sizeof(row->hash));
	column_id(st, 3, row->checkpoint_id, sizeof(row->checkpoint_id));
	row->status = status_of_name((const char *)sqlite3_column_text(st, 4));
	row->error = column_text(st, 5);
	row->manifest = column_text(st, 6);
	row->base_version = column_text(st, 7);
	row->runtime_mib = sqlite3_column_int64(st, 8);
	row->is_public = sqlite3_column_int(st, 9);
	row->created_ms = sqlite3_column_int64(st, 10);
	row->used_ms = sqlite3_column_int64(st, 11);
	if (row->name && row->manifest && row->base_version)
		return 0;
	snapshot_row_fini(row);
	return -ENOMEM;
}

int store_snapshot_get(struct store *s, const char *name, struct snapshot_row *row, struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_SNAP_GET);
	int rc;

	bind_text(st, 1, name);
	rc = sqlite3_step(st);
	if (rc == SQLITE_ROW)
		rc = read_snapshot(st, row) ? err_set(e, -ENOMEM, "out of memory") : 0;
	else if (rc == SQLITE_DONE)
		rc = not_found(name, e);
	else
		rc = store_error(s, e, "reading a snapshot");
	return store_finish(s, st, rc);
}

int store_snapshot_each(struct store *s, void (*fn)(void *arg, struct snapshot_row *row), void *arg,
			struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_SNAP_EACH);
	int rc;

	while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
		struct snapshot_row row;

		if (read_snapshot(st, &row))
			return store_finish(s, st, err_set(e, -ENOMEM, "out of memory"));
		fn(arg, &row);
		snapshot_row_fini(&row);
	}
	return store_finish(s, st, rc == SQLITE_DONE ? 0 : store_error(s, e, "listing snapshots"));
}

static int delete_snapshot(struct store *s, void *arg, struct err *e)
{
	sqlite3_stmt *st = s->prepared[ST_SNAP_DELETE];
	char checkpoint[UUID_SIZE] = "";
	int rc;

	bind_text(st, 1, arg);
	rc = sqlite3_step(st);
	if (rc == SQLITE_ROW) {
		column_id(st, 0, checkpoint, sizeof(checkpoint));
		rc = sqlite3_step(st);
		rc = rc == SQLITE_DONE ? 0 : store_error(s, e, "deleting a snapshot");
	} else if (rc == SQLITE_DONE) {
		rc = not_found(arg, e);
	} else {
		rc = store_error(s, e, "deleting a snapshot");
	}
	sqlite3_reset(st);
	if (!rc && checkpoint[0])
		rc = delete_checkpoint(s, checkpoint, e);
	/* Somebody may have deleted that before. */
	return rc == -ENOENT && checkpoint[0] ? 0 : rc;
}

int store_snapshot_delete(struct store *s, const char *name, struct err *e)
{
	return store_transaction(s, delete_snapshot, (void *)name, e);
}

/* Run a statement that must have met the snapshot @name. */
static int run_one(struct store *s, sqlite3_stmt *st, const char *name, struct err *e)
{
	int rc = store_step(s, st, e, "recording a change of a snapshot");

	if (!rc && !sqlite3_changes(s->db))
		rc = not_found(name, e);
	return store_finish(s, st, rc);
}

int store_snapshot_set_public(struct store *s, const char *name, bool is_public, struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_SNAP_PUBLIC);

	bind_text(st, 1, name);
	sqlite3_bind_int(st, 2, is_public);
	return run_one(s, st, name, e);
}

int store_snapshot_used(struct store *s, const char *name, int64_t now_ms, struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_SNAP_USED);

	bind_text(st, 1, name);
	sqlite3_bind_int64(st, 2, now_ms);
	return run_one(s, st, name, e);
}

int store_snapshot_fail_building(struct store *s, const char *error, struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_SNAP_FAIL);

	bind_text(st, 1, error);
	return store_run(s, st, e, "recording failed snapshots");
}
