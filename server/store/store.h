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

#define STORE_SCHEMA_VERSION 1

enum sandbox_status {
	SANDBOX_RUNNING,
	SANDBOX_STOPPED, /* powered off by the guest, or deleted */
	SANDBOX_ERROR,	 /* the VM died; files are kept until it is deleted */
};

/* The API's word for it. Static. */
const char *sandbox_status_name(enum sandbox_status s);

#define SANDBOX_ID_SIZE 32

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
	int64_t created_ms, ended_ms; /* since 1970; ended 0: not yet */
	int64_t vmm_pid;
};

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

/* All of these: 0 or -errno (-ENOSPC for a full disk). */
int store_sandbox_insert(struct store *s, const struct sandbox_row *row, struct err *e);
/* @error may be NULL. */
int store_sandbox_set_ended(struct store *s, const char *id, enum sandbox_status status,
			    const char *error, int64_t ended_ms, struct err *e);
/* Status stopped, deleted; the time of an earlier end is kept. */
int store_sandbox_set_deleted(struct store *s, const char *id, int64_t now_ms, struct err *e);
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

#endif
