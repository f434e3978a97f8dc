/* SPDX-License-Identifier: Apache-2.0 */
/* The durable state of the daemon: opening, schema, sandbox rows; see store.h. */
#include "server/store/store.h"

#include <errno.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Entry n brings version n to n + 1. Never change one that was released: add another. */
static const char *const migrations[STORE_SCHEMA_VERSION] = {
    "CREATE TABLE sandboxes ("
    " id TEXT PRIMARY KEY, status TEXT NOT NULL, deleted INTEGER NOT NULL,"
    " template TEXT NOT NULL, alias TEXT NOT NULL, error TEXT,"
    " cpus INTEGER NOT NULL, memory_mib INTEGER NOT NULL, disk_mib INTEGER NOT NULL,"
    " timeout_s INTEGER NOT NULL, port INTEGER NOT NULL, network INTEGER NOT NULL,"
    " envs TEXT NOT NULL, metadata TEXT NOT NULL,"
    " created_ms INTEGER NOT NULL, ended_ms INTEGER NOT NULL, vmm_pid INTEGER NOT NULL"
    ") WITHOUT ROWID;"
    "CREATE INDEX sandboxes_by_time ON sandboxes (deleted, created_ms);",
};

#define COLUMNS                                                                                    \
	"id, status, deleted, template, alias, error, cpus, memory_mib, disk_mib, timeout_s, "     \
	"port, network, envs, metadata, created_ms, ended_ms, vmm_pid"

enum statement { ST_INSERT, ST_ENDED, ST_DELETED, ST_GET, ST_EACH, ST_PRUNE, ST_COUNT };

static const char *const statements[ST_COUNT] = {
    [ST_INSERT] = "INSERT INTO sandboxes (" COLUMNS ") VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    [ST_ENDED] = "UPDATE sandboxes SET status=?2, error=?3, ended_ms=?4 WHERE id=?1 AND deleted=0",
    [ST_DELETED] = "UPDATE sandboxes SET status='stopped', deleted=1, "
		   "ended_ms=CASE ended_ms WHEN 0 THEN ?2 ELSE ended_ms END WHERE id=?1",
    [ST_GET] = "SELECT " COLUMNS " FROM sandboxes WHERE id=?1",
    [ST_EACH] =
	"SELECT " COLUMNS " FROM sandboxes WHERE deleted=?1 ORDER BY created_ms DESC LIMIT ?2",
    [ST_PRUNE] = "DELETE FROM sandboxes WHERE deleted=1 AND (ended_ms < ?1 OR id NOT IN "
		 "(SELECT id FROM sandboxes WHERE deleted=1 ORDER BY ended_ms DESC LIMIT ?2))",
};

struct store {
	pthread_mutex_t lock;
	sqlite3 *db;
	sqlite3_stmt *prepared[ST_COUNT];
};

const char *sandbox_status_name(enum sandbox_status s)
{
	switch (s) {
	case SANDBOX_RUNNING:
		return "running";
	case SANDBOX_STOPPED:
		return "stopped";
	case SANDBOX_ERROR:
		break;
	}
	return "error";
}

static enum sandbox_status status_of_name(const char *name)
{
	if (!strcmp(name, "running"))
		return SANDBOX_RUNNING;
	return strcmp(name, "stopped") ? SANDBOX_ERROR : SANDBOX_STOPPED;
}

void sandbox_row_fini(struct sandbox_row *row)
{
	free(row->template);
	free(row->alias);
	free(row->error);
	json_decref(row->envs);
	json_decref(row->metadata);
	memset(row, 0, sizeof(*row));
}

int sandbox_row_copy(struct sandbox_row *to, const struct sandbox_row *from)
{
	*to = *from;
	to->template = strdup(from->template);
	to->alias = strdup(from->alias);
	to->error = from->error ? strdup(from->error) : NULL;
	/* Never changed once made, so a reference is as good as a copy. */
	json_incref(to->envs);
	json_incref(to->metadata);
	if (to->template && to->alias && (to->error || !from->error))
		return 0;
	sandbox_row_fini(to);
	return -ENOMEM;
}

/* --- opening -------------------------------------------------------------------------- */

static int db_error(struct store *s, struct err *e, const char *what)
{
	int code = s->db ? sqlite3_errcode(s->db) & 0xff : SQLITE_NOMEM;
	int rc = -EIO;

	if (code == SQLITE_FULL)
		rc = -ENOSPC;
	else if (code == SQLITE_NOMEM)
		rc = -ENOMEM;
	return err_set(e, rc, "state database: %s: %s", what,
		       s->db ? sqlite3_errmsg(s->db) : "out of memory");
}

static int db_exec(struct store *s, const char *sql, struct err *e)
{
	if (sqlite3_exec(s->db, sql, NULL, NULL, NULL) != SQLITE_OK)
		return db_error(s, e, "opening");
	return 0;
}

static int read_version(struct store *s, int *version, struct err *e)
{
	sqlite3_stmt *st;

	if (sqlite3_prepare_v2(s->db, "SELECT value FROM meta WHERE key='schema_version'", -1, &st,
			       NULL) != SQLITE_OK)
		return db_error(s, e, "reading its version");
	*version = sqlite3_step(st) == SQLITE_ROW ? sqlite3_column_int(st, 0) : 0;
	sqlite3_finalize(st);
	return 0;
}

static int migrate(struct store *s, struct err *e)
{
	int version = 0, rc;

	rc = db_exec(s, "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value)", e);
	if (!rc)
		rc = read_version(s, &version, e);
	if (rc)
		return rc;
	if (version > STORE_SCHEMA_VERSION)
		return err_set(e, -ENOTSUP,
			       "state database: its version is %d, this program knows %d", version,
			       STORE_SCHEMA_VERSION);
	for (; version < STORE_SCHEMA_VERSION; version++) {
		char set[128];

		snprintf(set, sizeof(set),
			 "INSERT OR REPLACE INTO meta VALUES ('schema_version', %d); COMMIT",
			 version + 1);
		rc = db_exec(s, "BEGIN IMMEDIATE", e);
		if (!rc)
			rc = db_exec(s, migrations[version], e);
		if (!rc)
			rc = db_exec(s, set, e);
		if (rc)
			return rc;
	}
	return 0;
}

int store_open(const char *path, struct store **out, struct err *e)
{
	struct store *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return err_set(e, -ENOMEM, "out of memory");
	pthread_mutex_init(&s->lock, NULL);
	if (sqlite3_open_v2(path, &s->db,
			    SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
			    NULL) != SQLITE_OK) {
		rc = db_error(s, e, path);
		goto fail;
	}
	sqlite3_busy_timeout(s->db, 5000); /* somebody looks at it with the sqlite3 shell */
	rc = db_exec(s, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL", e);
	if (!rc)
		rc = migrate(s, e);
	for (int i = 0; !rc && i < ST_COUNT; i++)
		if (sqlite3_prepare_v3(s->db, statements[i], -1, SQLITE_PREPARE_PERSISTENT,
				       &s->prepared[i], NULL) != SQLITE_OK)
			rc = db_error(s, e, "preparing");
	if (rc)
		goto fail;
	*out = s;
	return 0;
fail:
	store_close(s);
	return rc;
}

void store_close(struct store *s)
{
	if (!s)
		return;
	for (int i = 0; i < ST_COUNT; i++)
		sqlite3_finalize(s->prepared[i]);
	sqlite3_close(s->db);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

/* --- statements ------------------------------------------------------------------------- */

static sqlite3_stmt *begin(struct store *s, enum statement which)
{
	pthread_mutex_lock(&s->lock);
	return s->prepared[which];
}

static int finish(struct store *s, sqlite3_stmt *st, int rc)
{
	sqlite3_reset(st);
	sqlite3_clear_bindings(st);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

/* Run a statement that gives no rows. */
static int run(struct store *s, sqlite3_stmt *st, struct err *e, const char *what)
{
	int rc = sqlite3_step(st) == SQLITE_DONE ? 0 : db_error(s, e, what);

	return finish(s, st, rc);
}

static void bind_text(sqlite3_stmt *st, int i, const char *text)
{
	if (text)
		sqlite3_bind_text(st, i, text, -1, SQLITE_TRANSIENT);
}

static void bind_json(sqlite3_stmt *st, int i, const json_t *json)
{
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

	bind_text(st, i, text ? text : "{}");
	free(text);
}

int store_sandbox_insert(struct store *s, const struct sandbox_row *row, struct err *e)
{
	sqlite3_stmt *st = begin(s, ST_INSERT);
	const int64_t numbers[] = {row->cpus,	   row->memory_mib, row->disk_mib,
				   row->timeout_s, row->port,	    row->network};

	bind_text(st, 1, row->id);
	bind_text(st, 2, sandbox_status_name(row->status));
	sqlite3_bind_int(st, 3, row->deleted);
	bind_text(st, 4, row->template);
	bind_text(st, 5, row->alias);
	bind_text(st, 6, row->error);
	for (int i = 0; i < 6; i++)
		sqlite3_bind_int64(st, 7 + i, numbers[i]);
	bind_json(st, 13, row->envs);
	bind_json(st, 14, row->metadata);
	sqlite3_bind_int64(st, 15, row->created_ms);
	sqlite3_bind_int64(st, 16, row->ended_ms);
	sqlite3_bind_int64(st, 17, row->vmm_pid);
	return run(s, st, e, "recording a sandbox");
}

int store_sandbox_set_ended(struct store *s, const char *id, enum sandbox_status status,
			    const char *error, int64_t ended_ms, struct err *e)
{
	sqlite3_stmt *st = begin(s, ST_ENDED);

	bind_text(st, 1, id);
	bind_text(st, 2, sandbox_status_name(status));
	bind_text(st, 3, error);
	sqlite3_bind_int64(st, 4, ended_ms);
	return run(s, st, e, "recording the end of a sandbox");
}

int store_sandbox_set_deleted(struct store *s, const char *id, int64_t now_ms, struct err *e)
{
	sqlite3_stmt *st = begin(s, ST_DELETED);

	bind_text(st, 1, id);
	sqlite3_bind_int64(st, 2, now_ms);
	return run(s, st, e, "recording a deletion");
}

static char *column_text(sqlite3_stmt *st, int i)
{
	const char *text = (const char *)sqlite3_column_text(st, i);

	return text ? strdup(text) : NULL;
}

static json_t *column_json(sqlite3_stmt *st, int i)
{
	const char *text = (const char *)sqlite3_column_text(st, i);
	json_t *json = text ? json_loads(text, JSON_ALLOW_NUL, NULL) : NULL;

	return json_is_object(json) ? json : json_object();
}

static int read_row(sqlite3_stmt *st, struct sandbox_row *row)
{
	int64_t *const numbers[] = {&row->cpus, &row->memory_mib, &row->disk_mib, &row->timeout_s,
				    &row->port};

	memset(row, 0, sizeof(*row));
	snprintf(row->id, sizeof(row->id), "%s", (const char *)sqlite3_column_text(st, 0));
	row->status = status_of_name((const char *)sqlite3_column_text(st, 1));
	row->deleted = sqlite3_column_int(st, 2);
	row->template = column_text(st, 3);
	row->alias = column_text(st, 4);
	row->error = column_text(st, 5);
	for (int i = 0; i < 5; i++)
		*numbers[i] = sqlite3_column_int64(st, 6 + i);
	row->network = sqlite3_column_int(st, 11);
	row->envs = column_json(st, 12);
	row->metadata = column_json(st, 13);
	row->created_ms = sqlite3_column_int64(st, 14);
	row->ended_ms = sqlite3_column_int64(st, 15);
	row->vmm_pid = sqlite3_column_int64(st, 16);
	if (row->template && row->alias && row->envs && row->metadata)
		return 0;
	sandbox_row_fini(row);
	return -ENOMEM;
}

int store_sandbox_get(struct store *s, const char *id, struct sandbox_row *row, struct err *e)
{
	sqlite3_stmt *st = begin(s, ST_GET);
	int rc;

	bind_text(st, 1, id);
	rc = sqlite3_step(st);
	if (rc == SQLITE_ROW)
		rc = read_row(st, row) ? err_set(e, -ENOMEM, "out of memory") : 0;
	else if (rc == SQLITE_DONE)
		rc = err_set(e, -ENOENT, "sandbox not found");
	else
		rc = db_error(s, e, "reading a sandbox");
	return finish(s, st, rc);
}

int store_sandbox_each(struct store *s, bool deleted, int limit,
		       void (*fn)(void *arg, struct sandbox_row *row), void *arg, struct err *e)
{
	sqlite3_stmt *st = begin(s, ST_EACH);
	int rc;

	sqlite3_bind_int(st, 1, deleted);
	sqlite3_bind_int(st, 2, limit);
	while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
		struct sandbox_row row;

		if (read_row(st, &row))
			return finish(s, st, err_set(e, -ENOMEM, "out of memory"));
		fn(arg, &row);
		sandbox_row_fini(&row);
	}
	return finish(s, st, rc == SQLITE_DONE ? 0 : db_error(s, e, "listing sandboxes"));
}

int store_sandbox_prune(struct store *s, int64_t before_ms, int keep, struct err *e)
{
	sqlite3_stmt *st = begin(s, ST_PRUNE);

	sqlite3_bind_int64(st, 1, before_ms);
	sqlite3_bind_int(st, 2, keep);
	return run(s, st, e, "forgetting old sandboxes");
}
