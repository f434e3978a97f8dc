/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of previews; see store.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/store/internal.h"

void preview_row_fini(struct preview_row *row)
{
	free(row->custom);
	json_decref(row->auth_config);
	memset(row, 0, sizeof(*row));
}

int store_preview_insert(struct store *s, const struct preview_row *row, struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_PREVIEW_INSERT);
	int rc;

	bind_text(st, 1, row->id);
	bind_text(st, 2, row->sandbox_id);
	sqlite3_bind_int64(st, 3, row->port);
	bind_text(st, 4, row->custom);
	bind_json(st, 5, row->auth_config);
	sqlite3_bind_int64(st, 6, row->created_ms);
	rc = sqlite3_step(st);
	if (rc == SQLITE_CONSTRAINT)
		rc = err_set(e, -EEXIST, "port %lld has a preview URL", (long long)row->port);
	else if (rc != SQLITE_DONE)
		rc = store_error(s, e, "recording a preview URL");
	else
		rc = sqlite3_changes(s->db) ? 0 : err_set(e, -ENOENT, "sandbox not found");
	return store_finish(s, st, rc);
}

static int read_preview(sqlite3_stmt *st, struct preview_row *row)
{
	memset(row, 0, sizeof(*row));
	column_id(st, 0, row->id, sizeof(row->id));
	column_id(st, 1, row->sandbox_id, sizeof(row->sandbox_id));
	row->port = sqlite3_column_int64(st, 2);
	row->custom = column_text(st, 3);
	row->auth_config = column_json(st, 4);
	row->created_ms = sqlite3_column_int64(st, 5);
	if (row->auth_config && (row->custom || sqlite3_column_type(st, 3) == SQLITE_NULL))
		return 0;
	preview_row_fini(row);
	return -ENOMEM;
}

int store_preview_get(struct store *s, const char *sandbox_id, int64_t port,
		      struct preview_row *row, struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_PREVIEW_GET);
	int rc;

	bind_text(st, 1, sandbox_id);
	sqlite3_bind_int64(st, 2, port);
	rc = sqlite3_step(st);
	if (rc == SQLITE_ROW)
		rc = read_preview(st, row) ? err_set(e, -ENOMEM, "out of memory") : 0;
	else if (rc == SQLITE_DONE)
		rc = err_set(e, -ENOENT, "preview URL not found");
	else
		rc = store_error(s, e, "reading a preview URL");
	return store_finish(s, st, rc);
}

int store_preview_each(struct store *s, const char *sandbox_id,
		       void (*fn)(void *arg, struct preview_row *row), void *arg, struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_PREVIEW_EACH);
	int rc;

	bind_text(st, 1, sandbox_id);
	while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
		struct preview_row row;

		if (read_preview(st, &row))
			return store_finish(s, st, err_set(e, -ENOMEM, "out of memory"));
		fn(arg, &row);
		preview_row_fini(&row);
	}
	return store_finish(s, st,
			    rc == SQLITE_DONE ? 0 : store_error(s, e, "listing preview URLs"));
}

int store_preview_delete(struct store *s, const char *sandbox_id, int64_t port, struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_PREVIEW_DELETE);
	int rc;

	bind_text(st, 1, sandbox_id);
	sqlite3_bind_int64(st, 2, port);
	rc = store_step(s, st, e, "deleting a preview URL");
	if (!rc && !sqlite3_changes(s->db))
		rc = err_set(e, -ENOENT, "preview URL not found");
	return store_finish(s, st, rc);
}
