/* SPDX-License-Identifier: Apache-2.0 */
/* Checkpoints: create, list, restore, delete, publish, fork, tree (api.md 8.1 - 8.4). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "server/api/api.h"
#include "server/manager/checkpoint.h"
#include "server/manager/layers.h"

#define NAME_MAX_BYTES	       200
#define DEFAULT_FORK_TIMEOUT_S 300
#define FORK_READY_MS	       120000

/* The id in the path; false after having replied 400. */
static bool checkpoint_id(struct request *r, const char *id)
{
	if (uuid_valid(id))
		return true;
	reply_error(r, 400, "invalid checkpoint ID \"%.64s\"", id);
	return false;
}

/* --- CheckpointInfo -----------------------------------------------------------------------------
 */

static void write_config(struct strbuf *b, const struct checkpoint_row *row)
{
	strbuf_json_name(b, "sandboxConfig");
	strbuf_adds(b, "{");
	strbuf_json_int(b, "memoryMB", row->scaled_mib ? row->scaled_mib : row->memory_mib);
	strbuf_json_int(b, "cpuCount", row->cpus);
	strbuf_json_int(b, "diskMB", row->disk_mib);
	strbuf_json_int(b, "timeout", row->timeout_s);
	strbuf_json_str(b, "template", row->template);
	strbuf_adds(b, "}");
}

static void write_checkpoint(struct strbuf *b, const struct checkpoint_row *row)
{
	char key[UUID_SIZE + 16];

	strbuf_json_next(b);
	strbuf_adds(b, "{");
	strbuf_json_str(b, "id", row->id);
	strbuf_json_str(b, "sandboxId", row->sandbox_id);
	strbuf_json_str(b, "orgId", API_ORG_ID);
	strbuf_json_str(b, "name", row->name);
	strbuf_json_str(b, "kind", row->full ? "full" : "disk_only");
	strbuf_json_str(b, "status", checkpoint_status_name(row->status));
	strbuf_json_int(b, "sizeBytes", row->ram_bytes + row->state_bytes + row->disk_bytes);
	if (row->status == CHECKPOINT_READY) {
		snprintf(key, sizeof(key), "rootfs/%s", row->id);
		strbuf_json_str(b, "rootfsS3Key", key);
		snprintf(key, sizeof(key), "workspace/%s", row->id);
		strbuf_json_str(b, "workspaceS3Key", key);
	}
	write_config(b, row);
	strbuf_json_bool(b, "isPublic", row->is_public);
	strbuf_json_str(b, "parentId", row->parent);
	if (row->automatic)
		strbuf_json_bool(b, "automatic", true);
	strbuf_json_time(b, "createdAt", row->created_ms);
	if (row->status == CHECKPOINT_FAILED) {
		strbuf_json_str(b, "errorMsg", row->error ? row->error : "unknown reason");
		strbuf_json_time(b, "failedAt", row->done_ms);
	}
	strbuf_adds(b, "}");
}

/* Releases the row. */
static void reply_checkpoint(struct request *r, unsigned int status, struct checkpoint_row *row)
{
	struct strbuf b = {0};

	write_checkpoint(&b, row);
	checkpoint_row_fini(row);
	reply_json(r, status, &b);
}

/* --- create -------------------------------------------------------------------------------------
 */

struct create_body {
	const char *name, *kind;
	bool promote;
	json_t *retention;
};

static const struct json_field create_fields[] = {
    JSON_FIELD(struct create_body, name, "name", JSON_F_STRING,
	       .flags = JSON_REQUIRED | JSON_NONEMPTY),
    JSON_FIELD(struct create_body, kind, "kind", JSON_F_STRING),
    JSON_FIELD(struct create_body, promote, "promoteToFull", JSON_F_BOOL),
    JSON_FIELD(struct create_body, retention, "retentionPolicy", JSON_F_OBJECT),
};

struct retention_body {
	const char *mode;
	int64_t max_count;
};

static const struct json_field retention_fields[] = {
    JSON_FIELD(struct retention_body, mode, "mode", JSON_F_STRING),
    JSON_FIELD(struct retention_body, max_count, "maxCount", JSON_F_INT),
};

static int read_retention(json_t *policy, bool full, int64_t *keep, struct err *e)
{
	int64_t limit = full ? CHECKPOINT_MAX_FULL : CHECKPOINT_MAX_DISK;
	struct retention_body body = {.mode = "none", .max_count = limit};
	int rc = policy ? json_bind(policy, retention_fields, 2, JSON_IGNORE_UNKNOWN, &body, e) : 0;

	*keep = 0;
	if (rc)
		return err_wrap(e, rc, "retentionPolicy");
	if (!strcmp(body.mode, "none"))
		return 0;
	if (strcmp(body.mode, "delete_oldest") != 0)
		return err_set(e, -EINVAL,
			       "retentionPolicy: mode \"%.40s\" is none of none, delete_oldest",
			       body.mode);
	if (body.max_count < 1 || body.max_count > limit)
		return err_set(e, -EINVAL, "retentionPolicy: maxCount is not within 1 to %lld",
			       (long long)limit);
	*keep = body.max_count;
	return 0;
}

static int read_spec(const struct create_body *body, struct checkpoint_spec *spec, struct err *e)
{
	bool full = !strcmp(body->kind, "full");

	if (strlen(body->name) > NAME_MAX_BYTES)
		return err_set(e, -EINVAL, "name: longer than %d bytes", NAME_MAX_BYTES);
	if (!full && strcmp(body->kind, "disk_only") != 0)
		return err_set(e, -EINVAL, "kind: \"%.40s\" is neither full nor disk_only",
			       body->kind);
	*spec = (struct checkpoint_spec){
	    .name = body->name, .full = full, .promote = !full && body->promote};
	return read_retention(body->retention, full, &spec->keep_count, e);
}

void api_checkpoint_create(struct request *r)
{
	struct create_body body = {.kind = "full"};
	struct checkpoint_spec spec;
	struct checkpoint_row row;
	struct err e;
	int rc;

	if (!request_bind(r, create_fields, sizeof(create_fields) / sizeof(create_fields[0]),
			  &body))
		return;
	rc = read_spec(&body, &spec, &e);
	if (!rc)
		rc = checkpoint_create(api_manager(r), r->param[0], &spec, &row, &e);
	if (rc)
		reply_errno(r, rc, &e);
	else
		reply_checkpoint(r, 201, &row);
}

/* --- list, delete, publish
 * -------------------------------------------------------------------------- */

void api_checkpoint_list(struct request *r)
{
	struct checkpoint_list l;
	struct strbuf b = {0};
	struct err e;
	int rc = checkpoint_list(api_manager(r), r->param[0], &l, &e);

	if (rc) {
		reply_errno(r, rc, &e);
		return;
	}
	strbuf_adds(&b, "[");
	for (size_t i = 0; i < l.n; i++)
		write_checkpoint(&b, &l.rows[i]);
	strbuf_adds(&b, "]");
	checkpoint_list_fini(&l);
	reply_json(r, 200, &b);
}

void api_checkpoint_delete(struct request *r)
{
	struct err e;
	int rc;

	if (!checkpoint_id(r, r->param[1]))
		return;
	rc = checkpoint_delete(api_manager(r), r->param[0], r->param[1], &e);
	if (rc)
		reply_errno(r, rc, &e);
	else
		reply_empty(r, 204);
}

static void set_public(struct request *r, bool is_public)
{
	struct checkpoint_row row;
	struct err e;
	int rc;

	if (!request_json(r) || !checkpoint_id(r, r->param[1]))
		return;
	rc = checkpoint_set_public(api_manager(r), r->param[0], r->param[1], is_public, &e);
	if (!rc)
		rc = checkpoint_get(api_manager(r), r->param[0], r->param[1], &row, &e);
	if (rc)
		reply_errno(r, rc, &e);
	else
		reply_checkpoint(r, 200, &row);
}

void api_checkpoint_publish(struct request *r)
{
	set_public(r, true);
}

void api_checkpoint_unpublish(struct request *r)
{
	set_public(r, false);
}

/* --- restore
 * --------------------------------------------------------------------------------------- */

void api_checkpoint_restore(struct request *r)
{
	struct strbuf b = {0};
	bool cold = false;
	struct err e;
	int rc;

	if (!request_json(r) || !checkpoint_id(r, r->param[1]))
		return;
	rc = checkpoint_restore(api_manager(r), r->param[0], r->param[1], &cold, &e);
	if (rc) {
		reply_errno(r, rc, &e);
		return;
	}
	strbuf_adds(&b, "{");
	strbuf_json_str(&b, "sandboxId", r->param[0]);
	strbuf_json_str(&b, "checkpointId", r->param[1]);
	strbuf_json_str(&b, "status", "restoring"); /* the word of the API: it is done */
	if (cold)
		strbuf_json_bool(&b, "coldBoot", true);
	strbuf_adds(&b, "}");
	reply_json(r, 200, &b);
}

/* --- fork
 * ------------------------------------------------------------------------------------------- */

static const struct json_field fork_fields[] = {
    JSON_FIELD(struct fork_spec, alias, "alias", JSON_F_STRING),
    JSON_FIELD(struct fork_spec, timeout_s, "timeout", JSON_F_INT),
    JSON_FIELD(struct fork_spec, cpus, "cpuCount", JSON_F_INT),
    JSON_FIELD(struct fork_spec, memory_mib, "memoryMB", JSON_F_INT),
    JSON_FIELD(struct fork_spec, envs, "envs", JSON_F_MAP),
    JSON_FIELD(struct fork_spec, metadata, "metadata", JSON_F_MAP),
};

/* False after having replied. */
static bool read_fork(struct request *r, struct fork_spec *spec, struct preview_auth *auth)
{
	const json_t *store;

	*spec = (struct fork_spec){.alias = "", .timeout_s = DEFAULT_FORK_TIMEOUT_S};
	if (!request_bind(r, fork_fields, sizeof(fork_fields) / sizeof(fork_fields[0]), spec))
		return false;
	store = json_object_get(r->json, "secretStore");
	if (json_is_string(store) && json_string_length(store)) {
		reply_error(r, 501, "secretStore: not implemented yet");
		return false;
	}
	if (spec->cpus < 0 || spec->memory_mib < 0) {
		reply_error(r, 400, "cpuCount, memoryMB: must not be negative");
		return false;
	}
	spec->preview_hash = auth->hash;
	return api_read_preview_auth(r, auth);
}

static void fork_from(struct request *r, const char *id, const struct fork_spec *spec,
		      const struct preview_auth *auth)
{
	struct sandbox *s = NULL;
	struct err e;
	int rc = checkpoint_fork(api_manager(r), id, spec, &s, &e);

	api_reply_new_sandbox(r, rc, s, auth->token, &e);
}

void api_checkpoint_fork(struct request *r)
{
	struct preview_auth auth;
	struct fork_spec spec;

	if (checkpoint_id(r, r->param[0]) && read_fork(r, &spec, &auth))
		fork_from(r, r->param[0], &spec, &auth);
}

/* A checkpoint that is ready, made for this. Return: 0 or -errno. */
static int checkpoint_now(struct manager *m, const char *sandbox_id, char id[UUID_SIZE],
			  struct err *e)
{
	struct checkpoint_spec spec = {.full = true, .automatic = true};
	struct checkpoint_row row;
	uint32_t number;
	char name[32];
	int rc;

	if (getrandom(&number, sizeof(number), 0) != sizeof(number))
		return err_set(e, -EIO, "getrandom");
	snprintf(name, sizeof(name), "fork-%08x", number);
	spec.name = name;
	rc = checkpoint_create(m, sandbox_id, &spec, &row, e);
	if (rc)
		return rc;
	snprintf(id, UUID_SIZE, "%s", row.id);
	checkpoint_row_fini(&row);
	rc = checkpoint_wait(m, id, FORK_READY_MS, &row, e);
	if (rc)
		return rc;
	if (row.status != CHECKPOINT_READY)
		rc = err_set(e, -EIO, "the sandbox could not be written out: %.160s",
			     row.error ? row.error : "unknown reason");
	checkpoint_row_fini(&row);
	return rc;
}

/* A checkpoint and a fork of it in one call: an addition to the API, for `dormouse fork`. */
void api_sandbox_fork(struct request *r)
{
	struct preview_auth auth;
	struct fork_spec spec;
	char id[UUID_SIZE];
	struct err e;
	int rc;

	if (!read_fork(r, &spec, &auth))
		return;
	rc = checkpoint_now(api_manager(r), r->param[0], id, &e);
	if (rc)
		reply_errno(r, rc, &e);
	else
		fork_from(r, id, &spec, &auth);
}

/* --- tree
 * -------------------------------------------------------------------------------------------- */

void api_sandbox_tree(struct request *r)
{
	struct checkpoint_list l;
	struct sandbox_row row;
	struct strbuf b = {0};
	struct err e;
	int rc;

	if (!api_row(r, &row))
		return;
	rc = checkpoint_list(api_manager(r), r->param[0], &l, &e);
	if (rc) {
		sandbox_row_fini(&row);
		reply_errno(r, rc, &e);
		return;
	}
	strbuf_adds(&b, "{");
	strbuf_json_str(&b, "sandboxId", row.id);
	strbuf_json_str(&b, "status", sandbox_status_name(row.status));
	strbuf_json_str(&b, "current", row.current_checkpoint);
	strbuf_json_name(&b, "nodes");
	strbuf_adds(&b, "[");
	for (size_t i = 0; i < l.n; i++)
		write_checkpoint(&b, &l.rows[i]);
	strbuf_adds(&b, "]}");
	checkpoint_list_fini(&l);
	sandbox_row_fini(&row);
	reply_json(r, 200, &b);
}
