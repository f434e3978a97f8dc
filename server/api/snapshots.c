/* SPDX-License-Identifier: Apache-2.0 */
/* /snapshots: images with names (api.md 9.3). */
#include <errno.h>
#include <string.h>

#include "server/api/images.h"
#include "server/http/slow.h"
#include "server/manager/snapshot.h"

static void write_snapshot(struct strbuf *b, const struct snapshot_row *row)
{
	strbuf_json_next(b);
	strbuf_adds(b, "{");
	strbuf_json_str(b, "id", row->id);
	strbuf_json_str(b, "orgId", API_ORG_ID);
	strbuf_json_str(b, "name", row->name);
	strbuf_json_str(b, "contentHash", row->hash);
	strbuf_json_str(b, "checkpointId", row->checkpoint_id);
	strbuf_json_str(b, "status", snapshot_status_name(row->status));
	strbuf_json_name(b, "manifest");
	strbuf_adds(b, row->manifest);
	strbuf_json_bool(b, "isPublic", row->is_public);
	strbuf_json_time(b, "createdAt", row->created_ms);
	if (row->used_ms)
		strbuf_json_time(b, "lastUsedAt", row->used_ms);
	if (row->error)
		strbuf_json_str(b, "error", row->error);
	strbuf_adds(b, "}");
}

/* Releases the row. */
static void reply_snapshot(struct request *r, unsigned int status, struct snapshot_row *row)
{
	struct strbuf b = {0};

	write_snapshot(&b, row);
	snapshot_row_fini(row);
	reply_json(r, status, &b);
}

bool api_finish_snapshot(struct request *r, struct build *b, struct snapshot_row *row,
			 unsigned int failed)
{
	struct snapshot_row begun = *row;
	struct build_result res;
	struct err e;
	int rc;

	memset(row, 0, sizeof(*row));
	if (!api_await_build(r, b, &res)) {
		snapshot_row_fini(&begun);
		return false;
	}
	/* Whatever became of it: who has the reply finds it in the snapshot, too. */
	rc = snapshot_wait(api_manager(r), begun.name, begun.id, row, &e);
	snapshot_row_fini(&begun);
	if (res.error)
		api_reply_failed_build(r, &res, failed);
	else if (rc == -ENOENT)
		reply_error(r, 409, "the snapshot was deleted while it was being built");
	else if (rc)
		reply_errno(r, rc, &e);
	else if (row->status == SNAPSHOT_READY)
		return true;
	else
		reply_error(r, failed, "%.400s", row->error ? row->error : "unknown reason");
	if (!rc)
		snapshot_row_fini(row);
	return false;
}

void api_snapshot_create(struct request *r)
{
	const char *name = "", *async = url_query(&r->url, "async");
	const struct json_field fields[] = {
	    {.name = "name", .kind = JSON_F_STRING, .flags = JSON_REQUIRED | JSON_NONEMPTY},
	};
	struct manifest manifest;
	struct snapshot_row row;
	struct build *b;
	struct err e;
	int rc;

	if (!request_bind(r, fields, 1, &name) || !api_read_manifest(r, &manifest))
		return;
	rc = snapshot_create(api_manager(r), name, &manifest, &row, &b, &e);
	if (rc) {
		reply_errno(r, rc, &e);
		return;
	}
	if (async && strcmp(async, "0") != 0) {
		reply_snapshot(r, 202, &row);
	} else {
		events_begin(r);
		if (api_finish_snapshot(r, b, &row, 500))
			reply_snapshot(r, 201, &row);
	}
	build_put(b);
}

void api_snapshot_list(struct request *r)
{
	struct snapshot_list l;
	struct strbuf b = {0};
	struct err e;
	int rc = snapshot_list(api_manager(r), &l, &e);

	if (rc) {
		reply_errno(r, rc, &e);
		return;
	}
	strbuf_adds(&b, "[");
	for (size_t i = 0; i < l.n; i++)
		write_snapshot(&b, &l.rows[i]);
	strbuf_adds(&b, "]");
	snapshot_list_fini(&l);
	reply_json(r, 200, &b);
}

void api_snapshot_get(struct request *r)
{
	struct snapshot_row row;
	struct err e;
	int rc = snapshot_get(api_manager(r), r->param[0], &row, &e);

	if (rc)
		reply_errno(r, rc, &e);
	else
		reply_snapshot(r, 200, &row);
}

void api_snapshot_delete(struct request *r)
{
	struct err e;
	int rc = snapshot_delete(api_manager(r), r->param[0], &e);

	if (rc)
		reply_errno(r, rc, &e);
	else
		reply_empty(r, 204);
}

static void set_public(struct request *r, bool is_public)
{
	struct snapshot_row row;
	struct err e;
	int rc = snapshot_set_public(api_manager(r), r->param[0], is_public, &e);

	if (!rc)
		rc = snapshot_get(api_manager(r), r->param[0], &row, &e);
	if (rc)
		reply_errno(r, rc, &e);
	else
		reply_snapshot(r, 200, &row);
}

void api_snapshot_publish(struct request *r)
{
	set_public(r, true);
}

void api_snapshot_unpublish(struct request *r)
{
	set_public(r, false);
}

/* --- creating from one --------------------------------------------------------------------- */

void api_create_of_snapshot(struct request *r, const char *name, bool by_template,
			    struct sandbox_spec *spec, const char *preview_token)
{
	struct manager *m = api_manager(r);
	struct snapshot_row row;
	struct sandbox *s = NULL;
	struct err e;
	int rc = snapshot_get(m, name, &row, &e);

	if (rc == -ENOENT) {
		if (by_template)
			reply_error(r, 404, "template not found: %.64s", name);
		else
			reply_error(r, 400, "%s", e.msg);
		return;
	}
	if (rc) {
		reply_errno(r, rc, &e);
		return;
	}
	snapshot_row_fini(&row);
	rc = sandbox_check_spec(m, spec, &e);
	if (!rc) {
		events_begin(r);
		api_send_log(r, 0, "create", "Creating the sandbox from the snapshot");
		spec->template = by_template ? name : "";
		rc = snapshot_fork(m, name, spec, &s, &e);
	}
	if (rc == -ENOENT && !by_template)
		rc = -EINVAL;
	api_reply_new_sandbox(r, rc, s, preview_token, &e);
}
