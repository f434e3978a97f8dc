/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of sandboxes; see store.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/store/internal.h"

const char *sandbox_status_name(enum sandbox_status s)
{
	switch (s) {
	case SANDBOX_RUNNING:
		return "running";
	case SANDBOX_HIBERNATED:
		return "hibernated";
	case SANDBOX_STOPPED:
		return "stopped";
	case SANDBOX_ERROR:
		break;
	}
	return "error";
}

static enum sandbox_status status_of_name(const char *name)
{
	for (int s = SANDBOX_RUNNING; s < SANDBOX_ERROR; s++)
		if (!strcmp(name, sandbox_status_name((enum sandbox_status)s)))
			return (enum sandbox_status)s;
	return SANDBOX_ERROR;
}

void sandbox_row_fini(struct sandbox_row *row)
{
	free(row->template);
	free(row->alias);
	free(row->error);
	free(row->base_image);
	free(row->patch_error);
	free(row->workdir);
	chain_fini(&row->layers);
	chain_fini(&row->pending);
	json_decref(row->envs);
	json_decref(row->metadata);
	json_decref(row->tags);
	json_decref(row->mounts);
	memset(row, 0, sizeof(*row));
}

static char *copy_text(const char *text, bool *failed)
{
	char *copy = text ? strdup(text) : NULL;

	*failed |= text && !copy;
	return copy;
}

int sandbox_row_copy(struct sandbox_row *to, const struct sandbox_row *from)
{
	bool failed = false;

	*to = *from;
	to->template = copy_text(from->template, &failed);
	to->alias = copy_text(from->alias, &failed);
	to->error = copy_text(from->error, &failed);
	to->base_image = copy_text(from->base_image, &failed);
	to->patch_error = copy_text(from->patch_error, &failed);
	to->workdir = copy_text(from->workdir, &failed);
	failed |= chain_copy(&to->layers, &from->layers) != 0;
	failed |= chain_copy(&to->pending, &from->pending) != 0;
	/* Never changed once made, so a reference is as good as a copy. */
	json_incref(to->envs);
	json_incref(to->metadata);
	json_incref(to->tags);
	json_incref(to->mounts);
	if (!failed)
		return 0;
	sandbox_row_fini(to);
	return -ENOMEM;
}

static void bind_sandbox(sqlite3_stmt *st, const struct sandbox_row *row)
{
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
	bind_text(st, 18, row->base_image ? row->base_image : "");
	bind_chain(st, 19, &row->layers);
	bind_chain(st, 20, &row->pending);
	bind_text(st, 21, row->pending_checkpoint);
	bind_text(st, 22, row->hibernation);
	sqlite3_bind_int64(st, 23, row->hibernation_bytes);
	bind_text(st, 24, row->from_checkpoint);
	bind_text(st, 25, row->current_checkpoint);
	sqlite3_bind_int64(st, 26, row->patch_sequence);
	bind_text(st, 27, row->patch_error);
	bind_json(st, 28, row->tags);
	sqlite3_bind_int64(st, 29, row->tagged_ms);
	bind_text(st, 30, row->preview_hash);
	bind_text(st, 31, row->workdir ? row->workdir : "");
	sqlite3_bind_int64(st, 32, row->scaled_mib);
	sqlite3_bind_int64(st, 33, row->scaling.cpu_percent);
	sqlite3_bind_int64(st, 34, row->scaling.auto_min_mib);
	sqlite3_bind_int64(st, 35, row->scaling.auto_max_mib);
	sqlite3_bind_int(st, 36, row->scaling.locked);
	if (row->mounts)
		bind_json(st, 37, row->mounts);
	else
		bind_text(st, 37, "[]");
}

int store_sandbox_insert(struct store *s, const struct sandbox_row *row, struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_INSERT);

	bind_sandbox(st, row);
	return store_run(s, st, e, "recording a sandbox");
}

int update_sandbox(struct store *s, const struct sandbox_row *row, struct err *e)
{
	bind_sandbox(s->prepared[ST_UPDATE], row);
	return store_step(s, s->prepared[ST_UPDATE], e, "recording a change of a sandbox");
}

int store_sandbox_update(struct store *s, const struct sandbox_row *row, struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_UPDATE);

	return store_finish(s, st, update_sandbox(s, row, e));
}

int store_sandbox_set_settings(struct store *s, const struct sandbox_row *row, struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_SETTINGS);

	bind_sandbox(st, row);
	return store_run(s, st, e, "recording settings of a sandbox");
}

int store_sandbox_set_patched(struct store *s, const char *id, int64_t sequence, const char *error,
			      struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_PATCHED);

	bind_text(st, 1, id);
	sqlite3_bind_int64(st, 2, sequence);
	bind_text(st, 3, error);
	return store_run(s, st, e, "recording patches");
}

int store_sandbox_set_ended(struct store *s, const char *id, enum sandbox_status status,
			    const char *error, int64_t ended_ms, struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_ENDED);

	bind_text(st, 1, id);
	bind_text(st, 2, sandbox_status_name(status));
	bind_text(st, 3, error);
	sqlite3_bind_int64(st, 4, ended_ms);
	return store_run(s, st, e, "recording the end of a sandbox");
}

int store_sandbox_set_deleted(struct store *s, const char *id, int64_t now_ms, struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_DELETED);

	bind_text(st, 1, id);
	sqlite3_bind_int64(st, 2, now_ms);
	return store_run(s, st, e, "recording a deletion");
}

static int read_row(sqlite3_stmt *st, struct sandbox_row *row)
{
	int64_t *const numbers[] = {&row->cpus, &row->memory_mib, &row->disk_mib, &row->timeout_s,
				    &row->port};
	int rc;

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
	row->base_image = column_text(st, 17);
	rc = column_chain(st, 18, &row->layers) | column_chain(st, 19, &row->pending);
	column_id(st, 20, row->pending_checkpoint, sizeof(row->pending_checkpoint));
	column_id(st, 21, row->hibernation, sizeof(row->hibernation));
	row->hibernation_bytes = sqlite3_column_int64(st, 22);
	column_id(st, 23, row->from_checkpoint, sizeof(row->from_checkpoint));
	column_id(st, 24, row->current_checkpoint, sizeof(row->current_checkpoint));
	row->patch_sequence = sqlite3_column_int64(st, 25);
	row->patch_error = column_text(st, 26);
	row->tags = column_json(st, 27);
	row->tagged_ms = sqlite3_column_int64(st, 28);
	column_id(st, 29, row->preview_hash, sizeof(row->preview_hash));
	row->workdir = column_text(st, 30);
	row->scaled_mib = sqlite3_column_int64(st, 31);
	row->scaling = (struct scaling){
	    .cpu_percent = sqlite3_column_int64(st, 32),
	    .auto_min_mib = sqlite3_column_int64(st, 33),
	    .auto_max_mib = sqlite3_column_int64(st, 34),
	    .locked = sqlite3_column_int(st, 35),
	};
	row->mounts = column_list(st, 36);
	if (!rc && row->mounts && row->workdir && row->template && row->alias && row->envs &&
	    row->metadata && row->tags && row->base_image)
		return 0;
	sandbox_row_fini(row);
	return -ENOMEM;
}

int store_sandbox_get(struct store *s, const char *id, struct sandbox_row *row, struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_GET);
	int rc;

	bind_text(st, 1, id);
	rc = sqlite3_step(st);
	if (rc == SQLITE_ROW)
		rc = read_row(st, row) ? err_set(e, -ENOMEM, "out of memory") : 0;
	else if (rc == SQLITE_DONE)
		rc = err_set(e, -ENOENT, "sandbox not found");
	else
		rc = store_error(s, e, "reading a sandbox");
	return store_finish(s, st, rc);
}

int store_sandbox_each(struct store *s, bool deleted, int limit,
		       void (*fn)(void *arg, struct sandbox_row *row), void *arg, struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_EACH);
	int rc;

	sqlite3_bind_int(st, 1, deleted);
	sqlite3_bind_int(st, 2, limit);
	while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
		struct sandbox_row row;

		if (read_row(st, &row))
			return store_finish(s, st, err_set(e, -ENOMEM, "out of memory"));
		fn(arg, &row);
		sandbox_row_fini(&row);
	}
	return store_finish(s, st, rc == SQLITE_DONE ? 0 : store_error(s, e, "listing sandboxes"));
}

int store_sandbox_prune(struct store *s, int64_t before_ms, int keep, struct err *e)
{
	sqlite3_stmt *st = store_begin(s, ST_PRUNE);

	sqlite3_bind_int64(st, 1, before_ms);
	sqlite3_bind_int(st, 2, keep);
	return store_run(s, st, e, "forgetting old sandboxes");
}
