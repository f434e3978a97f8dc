/* SPDX-License-Identifier: Apache-2.0 */
/* The durable state of the daemon: opening and schema; see store.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "server/store/internal.h"

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

    "ALTER TABLE sandboxes ADD COLUMN base_image TEXT NOT NULL DEFAULT '';"
    "ALTER TABLE sandboxes ADD COLUMN layers TEXT NOT NULL DEFAULT '[]';"
    "ALTER TABLE sandboxes ADD COLUMN pending TEXT NOT NULL DEFAULT '[]';"
    "ALTER TABLE sandboxes ADD COLUMN pending_checkpoint TEXT NOT NULL DEFAULT '';"
    "ALTER TABLE sandboxes ADD COLUMN hibernation TEXT NOT NULL DEFAULT '';"
    "ALTER TABLE sandboxes ADD COLUMN hibernation_bytes INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE sandboxes ADD COLUMN from_checkpoint TEXT NOT NULL DEFAULT '';"
    "ALTER TABLE sandboxes ADD COLUMN current_checkpoint TEXT NOT NULL DEFAULT '';"
    "ALTER TABLE sandboxes ADD COLUMN patch_sequence INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE sandboxes ADD COLUMN patch_error TEXT;"
    "CREATE TABLE checkpoints ("
    " id TEXT PRIMARY KEY, sandbox_id TEXT NOT NULL, name TEXT NOT NULL,"
    " is_template INTEGER NOT NULL, automatic INTEGER NOT NULL, is_full INTEGER NOT NULL, promote "
    "INTEGER NOT NULL,"
    " is_public INTEGER NOT NULL, cold INTEGER NOT NULL, status TEXT NOT NULL, error TEXT,"
    " parent TEXT NOT NULL, base_image TEXT NOT NULL, layers TEXT NOT NULL,"
    " cpus INTEGER NOT NULL, memory_mib INTEGER NOT NULL, disk_mib INTEGER NOT NULL,"
    " timeout_s INTEGER NOT NULL, port INTEGER NOT NULL, network INTEGER NOT NULL,"
    " template TEXT NOT NULL, envs TEXT NOT NULL, metadata TEXT NOT NULL,"
    " ram_bytes INTEGER NOT NULL, state_bytes INTEGER NOT NULL, disk_bytes INTEGER NOT NULL,"
    " created_ms INTEGER NOT NULL, done_ms INTEGER NOT NULL);"
    "CREATE UNIQUE INDEX checkpoints_by_name ON checkpoints (sandbox_id, name);"
    "CREATE TABLE patches ("
    " id TEXT PRIMARY KEY, checkpoint_id TEXT NOT NULL, sequence INTEGER NOT NULL,"
    " script TEXT NOT NULL, description TEXT NOT NULL, created_ms INTEGER NOT NULL);"
    "CREATE UNIQUE INDEX patches_by_sequence ON patches (checkpoint_id, sequence);",

    "ALTER TABLE sandboxes ADD COLUMN tags TEXT NOT NULL DEFAULT '{}';"
    "ALTER TABLE sandboxes ADD COLUMN tagged_ms INTEGER NOT NULL DEFAULT 0;",

    "ALTER TABLE sandboxes ADD COLUMN preview_hash TEXT NOT NULL DEFAULT '';"
    "CREATE TABLE previews ("
    " id TEXT PRIMARY KEY, sandbox_id TEXT NOT NULL, port INTEGER NOT NULL, custom TEXT,"
    " auth_config TEXT NOT NULL, created_ms INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE UNIQUE INDEX previews_by_port ON previews (sandbox_id, port);"
    "CREATE TRIGGER previews_go AFTER UPDATE OF deleted ON sandboxes WHEN NEW.deleted=1 "
    "BEGIN DELETE FROM previews WHERE sandbox_id=NEW.id; END;",

    "ALTER TABLE sandboxes ADD COLUMN workdir TEXT NOT NULL DEFAULT '';"
    "ALTER TABLE checkpoints ADD COLUMN workdir TEXT NOT NULL DEFAULT '';"
    "CREATE TABLE images ("
    " key TEXT PRIMARY KEY, checkpoint_id TEXT NOT NULL, hash TEXT NOT NULL,"
    " base_version TEXT NOT NULL, steps INTEGER NOT NULL,"
    " created_ms INTEGER NOT NULL, used_ms INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE INDEX images_by_checkpoint ON images (checkpoint_id);"
    "CREATE TRIGGER images_go AFTER DELETE ON checkpoints "
    "BEGIN DELETE FROM images WHERE checkpoint_id=OLD.id; END;"
    "CREATE TABLE snapshots ("
    " name TEXT PRIMARY KEY, id TEXT NOT NULL UNIQUE, hash TEXT NOT NULL,"
    " checkpoint_id TEXT NOT NULL, status TEXT NOT NULL, error TEXT, manifest TEXT NOT NULL,"
    " base_version TEXT NOT NULL, runtime_mib INTEGER NOT NULL, is_public INTEGER NOT NULL,"
    " created_ms INTEGER NOT NULL, used_ms INTEGER NOT NULL);",

    "ALTER TABLE sandboxes ADD COLUMN scaled_mib INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE sandboxes ADD COLUMN cpu_percent INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE sandboxes ADD COLUMN auto_min_mib INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE sandboxes ADD COLUMN auto_max_mib INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE sandboxes ADD COLUMN scale_locked INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE sandboxes ADD COLUMN mounts TEXT NOT NULL DEFAULT '[]';"
    "ALTER TABLE checkpoints ADD COLUMN scaled_mib INTEGER NOT NULL DEFAULT 0;",
};

/* --- opening -------------------------------------------------------------------------- */

int store_error(struct store *s, struct err *e, const char *what)
{
	int code = s->db ? sqlite3_errcode(s->db) & 0xff : SQLITE_NOMEM;
	int rc = -EIO;

	if (code == SQLITE_FULL)
		rc = -ENOSPC;
	else if (code == SQLITE_NOMEM)
		rc = -ENOMEM;
	if (code != SQLITE_CONSTRAINT)
		s->unsettled = true;
	return err_set(e, rc, "state database: %s: %s", what,
		       s->db ? sqlite3_errmsg(s->db) : "out of memory");
}

static int db_exec(struct store *s, const char *sql, struct err *e)
{
	if (sqlite3_exec(s->db, sql, NULL, NULL, NULL) != SQLITE_OK)
		return store_error(s, e, "opening");
	return 0;
}

static int read_version(struct store *s, int *version, struct err *e)
{
	sqlite3_stmt *st;

	if (sqlite3_prepare_v2(s->db, "SELECT value FROM meta WHERE key='schema_version'", -1, &st,
			       NULL) != SQLITE_OK)
		return store_error(s, e, "reading its version");
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
		rc = store_error(s, e, path);
		goto fail;
	}
	sqlite3_busy_timeout(s->db, 5000); /* somebody looks at it with the sqlite3 shell */
	rc = db_exec(s, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL", e);
	if (!rc)
		rc = migrate(s, e);
	for (int i = 0; !rc && i < ST_COUNT; i++)
		if (sqlite3_prepare_v3(s->db, store_statements[i], -1, SQLITE_PREPARE_PERSISTENT,
				       &s->prepared[i], NULL) != SQLITE_OK)
			rc = store_error(s, e, "preparing");
	if (rc)
		goto fail;
	*out = s;
	return 0;
fail:
	store_close(s);
	return rc;
}

void store_settle(struct store *s)
{
	bool settled = false;
	struct err e;

	pthread_mutex_lock(&s->lock);
	if (s->unsettled && !db_exec(s, "INSERT OR REPLACE INTO meta VALUES ('settled', 1)", &e)) {
		s->unsettled = false;
		settled = true;
	}
	pthread_mutex_unlock(&s->lock);
	if (settled)
		log_info("state database: it can be written again");
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

/* --- what the files of the tables share -------------------------------------------------- */

sqlite3_stmt *store_begin(struct store *s, enum statement which)
{
	pthread_mutex_lock(&s->lock);
	return s->prepared[which];
}

static void reset(sqlite3_stmt *st)
{
	sqlite3_reset(st);
	sqlite3_clear_bindings(st);
}

int store_finish(struct store *s, sqlite3_stmt *st, int rc)
{
	reset(st);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

int store_step(struct store *s, sqlite3_stmt *st, struct err *e, const char *what)
{
	int rc = sqlite3_step(st) == SQLITE_DONE ? 0 : store_error(s, e, what);

	reset(st);
	return rc;
}

int store_run(struct store *s, sqlite3_stmt *st, struct err *e, const char *what)
{
	return store_finish(s, st, store_step(s, st, e, what));
}

int store_transaction(struct store *s, int (*fn)(struct store *s, void *arg, struct err *e),
		      void *arg, struct err *e)
{
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = db_exec(s, "BEGIN IMMEDIATE", e);
	if (!rc) {
		rc = fn(s, arg, e);
		if (!rc)
			rc = db_exec(s, "COMMIT", e);
		if (rc)
			sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

void bind_text(sqlite3_stmt *st, int i, const char *text)
{
	if (text)
		sqlite3_bind_text(st, i, text, -1, SQLITE_TRANSIENT);
}

void bind_json(sqlite3_stmt *st, int i, const json_t *json)
{
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

	bind_text(st, i, text ? text : "{}");
	free(text);
}

/* Ids need no escapes. */
void bind_chain(sqlite3_stmt *st, int i, const struct chain *c)
{
	size_t size = c->n * (UUID_SIZE + 3) + 3, used = 1;
	char *text = malloc(size);

	/* Without memory nothing is bound: NOT NULL makes the statement fail. */
	if (!text)
		return;
	text[0] = '[';
	for (size_t k = 0; k < c->n; k++)
		used +=
		    (size_t)snprintf(text + used, size - used, "%s\"%s\"", k ? "," : "", c->ids[k]);
	text[used] = ']';
	sqlite3_bind_text(st, i, text, (int)used + 1, free);
}

char *column_text(sqlite3_stmt *st, int i)
{
	const char *text = (const char *)sqlite3_column_text(st, i);

	return text ? strdup(text) : NULL;
}

json_t *column_json(sqlite3_stmt *st, int i)
{
	const char *text = (const char *)sqlite3_column_text(st, i);
	json_t *json = text ? json_loads(text, JSON_ALLOW_NUL, NULL) : NULL;

	return json_is_object(json) ? json : json_object();
}

json_t *column_list(sqlite3_stmt *st, int i)
{
	const char *text = (const char *)sqlite3_column_text(st, i);
	json_t *json = text ? json_loads(text, 0, NULL) : NULL;

	return json_is_array(json) ? json : json_array();
}

int column_chain(sqlite3_stmt *st, int i, struct chain *c)
{
	const char *text = (const char *)sqlite3_column_text(st, i);
	json_t *json = text ? json_loads(text, 0, NULL) : NULL, *id;
	size_t k;
	int rc = 0;

	memset(c, 0, sizeof(*c));
	json_array_foreach(json, k, id) if (!rc) rc = chain_push(c, json_string_value(id));
	json_decref(json);
	return rc;
}

void column_id(sqlite3_stmt *st, int i, char *out, size_t size)
{
	const char *text = (const char *)sqlite3_column_text(st, i);

	snprintf(out, size, "%s", text ? text : "");
}

/* --- chains ------------------------------------------------------------------------------- */

void chain_fini(struct chain *c)
{
	free(c->ids);
	memset(c, 0, sizeof(*c));
}

int chain_copy(struct chain *to, const struct chain *from)
{
	struct chain c = {.n = from->n};

	memset(to, 0, sizeof(*to));
	if (!from->n)
		return 0;
	c.ids = malloc(from->n * sizeof(*c.ids));
	if (!c.ids)
		return -ENOMEM;
	memcpy(c.ids, from->ids, from->n * sizeof(*c.ids));
	*to = c;
	return 0;
}

int chain_push(struct chain *c, const char *id)
{
	char(*grown)[UUID_SIZE];

	if (!id)
		return -EINVAL;
	grown = realloc(c->ids, (c->n + 1) * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	c->ids = grown;
	snprintf(c->ids[c->n++], UUID_SIZE, "%s", id);
	return 0;
}

bool chain_begins(const struct chain *c, const struct chain *with)
{
	if (c->n < with->n)
		return false;
	/* Not memcmp(): nobody writes what is behind the NUL. */
	for (size_t i = 0; i < with->n; i++)
		if (strcmp(c->ids[i], with->ids[i]))
			return false;
	return true;
}
