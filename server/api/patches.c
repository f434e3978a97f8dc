/* SPDX-License-Identifier: Apache-2.0 */
/* Patches of checkpoints, and so of images and snapshots (api.md 8.5). */
#include <errno.h>
#include <stdio.h>

#include "server/api/images.h"
#include "server/manager/checkpoint.h"
#include "server/manager/layers.h"
#include "server/manager/snapshot.h"

static bool checkpoint_valid(struct request *r)
{
	if (uuid_valid(r->param[0]))
		return true;
	reply_error(r, 400, "invalid checkpoint ID \"%.64s\"", r->param[0]);
	return false;
}

/* Whose checkpoint the first parameter names. False after having replied. */
static bool of_image(struct request *r, char id[UUID_SIZE])
{
	struct err e;
	int rc = image_find(api_manager(r), r->param[0], id, &e);

	if (rc)
		reply_errno(r, rc, &e);
	return !rc;
}

static bool of_snapshot(struct request *r, char id[UUID_SIZE])
{
	struct err e;
	int rc = snapshot_checkpoint(api_manager(r), r->param[0], id, &e);

	if (rc)
		reply_errno(r, rc, &e);
	return !rc;
}

static void write_patch(struct strbuf *b, const struct patch_row *row)
{
	strbuf_adds(b, "{");
	strbuf_json_str(b, "id", row->id);
	strbuf_json_str(b, "checkpointId", row->checkpoint_id);
	strbuf_json_int(b, "sequence", row->sequence);
	strbuf_json_str(b, "script", row->script);
	strbuf_json_str(b, "description", row->description);
	strbuf_json_str(b, "strategy", "on_wake");
	strbuf_json_time(b, "createdAt", row->created_ms);
	strbuf_adds(b, "}");
}

static void write_item(void *arg, struct patch_row *row)
{
	strbuf_json_next(arg);
	write_patch(arg, row);
}

struct patch_body {
	const char *script, *description;
};

static const struct json_field patch_fields[] = {
    JSON_FIELD(struct patch_body, script, "script", JSON_F_STRING,
	       .flags = JSON_REQUIRED | JSON_NONEMPTY),
    JSON_FIELD(struct patch_body, description, "description", JSON_F_STRING),
};

static void create_for(struct request *r, const char *checkpoint)
{
	struct patch_body body = {.description = ""};
	struct patch_row row = {0};
	struct strbuf b = {0};
	struct err e;
	int rc;

	if (!request_bind(r, patch_fields, 2, &body))
		return;
	snprintf(row.checkpoint_id, sizeof(row.checkpoint_id), "%s", checkpoint);
	row.script = (char *)body.script; /* borrowed */
	row.description = (char *)body.description;
	rc = patch_add(api_manager(r), &row, &e);
	if (rc) {
		reply_errno(r, rc, &e);
		return;
	}
	strbuf_adds(&b, "{");
	strbuf_json_name(&b, "patch");
	write_patch(&b, &row);
	strbuf_adds(&b, "}");
	reply_json(r, 201, &b);
}

static void list_of(struct request *r, const char *checkpoint)
{
	struct strbuf b = {0};
	struct err e;
	int rc;

	strbuf_adds(&b, "[");
	rc = patch_each(api_manager(r), checkpoint, write_item, &b, &e);
	strbuf_adds(&b, "]");
	if (rc) {
		strbuf_fini(&b);
		reply_errno(r, rc, &e);
	} else {
		reply_json(r, 200, &b);
	}
}

static void delete_of(struct request *r, const char *checkpoint)
{
	struct err e;
	int rc;

	if (!uuid_valid(r->param[1])) {
		reply_error(r, 400, "invalid patch ID \"%.64s\"", r->param[1]);
		return;
	}
	rc = patch_delete(api_manager(r), checkpoint, r->param[1], &e);
	if (rc)
		reply_errno(r, rc, &e);
	else
		reply_empty(r, 204);
}

/* --- by checkpoint, image, snapshot ------------------------------------------------------------
 */

void api_patch_create(struct request *r)
{
	if (checkpoint_valid(r))
		create_for(r, r->param[0]);
}

void api_patch_list(struct request *r)
{
	if (checkpoint_valid(r))
		list_of(r, r->param[0]);
}

void api_patch_delete(struct request *r)
{
	if (checkpoint_valid(r))
		delete_of(r, r->param[0]);
}

#define BY(what)                                                                                   \
	void api_##what##_patch_create(struct request *r)                                          \
	{                                                                                          \
		char id[UUID_SIZE];                                                                \
		if (of_##what(r, id))                                                              \
			create_for(r, id);                                                         \
	}                                                                                          \
	void api_##what##_patch_list(struct request *r)                                            \
	{                                                                                          \
		char id[UUID_SIZE];                                                                \
		if (of_##what(r, id))                                                              \
			list_of(r, id);                                                            \
	}                                                                                          \
	void api_##what##_patch_delete(struct request *r)                                          \
	{                                                                                          \
		char id[UUID_SIZE];                                                                \
		if (of_##what(r, id))                                                              \
			delete_of(r, id);                                                          \
	}

BY(image)
BY(snapshot)
