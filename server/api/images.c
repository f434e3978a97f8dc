/* SPDX-License-Identifier: Apache-2.0 */
/* Images: built for a create, or by themselves (api.md 9.1, 9.2; /images is an addition). */
#include "server/api/images.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fd.h"
#include "server/http/slow.h"

#define LOOK_MS 1000 /* how often a build that says nothing is left for a look at the client */

bool api_read_manifest(struct request *r, struct manifest *m)
{
	json_t *image = json_object_get(r->json, "image");
	cleanup_free char *made = NULL;
	const char *text = NULL;
	struct err e;
	size_t len;
	int rc;

	if (!image || json_is_null(image)) {
		reply_error(r, 400, "image is required");
		return false;
	}
	len = json_text_member(r->body.data, r->body.len, "image", &text);
	if (!len) {
		/* Its name is written with escapes. */
		text = made = json_dumps(image, JSON_COMPACT | JSON_ENCODE_ANY);
		len = made ? strlen(made) : 0;
	}
	rc = manifest_parse(text, len, image, m, &e);
	if (rc)
		reply_errno(r, rc, &e);
	return !rc;
}

void api_send_log(struct request *r, int step, const char *type, const char *message)
{
	struct strbuf b = {0};

	strbuf_adds(&b, "{");
	strbuf_json_int(&b, "step", step);
	strbuf_json_str(&b, "type", type);
	strbuf_json_str(&b, "message", message);
	strbuf_adds(&b, "}");
	if (!b.failed)
		events_send(r, "build_log", b.data, b.len);
	strbuf_fini(&b);
}

static int next_line(struct request *r, struct build *b, uint64_t *cursor)
{
	struct build_line line;
	int rc = build_next(b, cursor, LOOK_MS, &line);

	if (rc != 1)
		return rc;
	api_send_log(r, line.step, line.type, line.message);
	free(line.message);
	return 1;
}

bool api_await_build(struct request *r, struct build *b, struct build_result *res)
{
	struct manager *m = api_manager(r);
	uint64_t cursor = 0;

	while (next_line(r, b, &cursor)) {
		if (events_gone(r) || manager_interrupted(m))
			break;
	}
	if (events_gone(r) || build_wait(b, res)) {
		reply_error_code(r, 503, NULL, true, "the server stops");
		return false;
	}
	return true;
}

void api_reply_failed_build(struct request *r, const struct build_result *res, unsigned int failed)
{
	reply_error_code(r, res->passes ? 503 : failed, NULL, res->passes, res->error);
}

bool api_follow_build(struct request *r, struct build *b, unsigned int failed,
		      struct build_result *res)
{
	if (!api_await_build(r, b, res))
		return false;
	if (res->error)
		api_reply_failed_build(r, res, failed);
	return !res->error;
}

void api_create_of_image(struct request *r, struct sandbox_spec *spec, const char *preview_token)
{
	struct manager *m = api_manager(r);
	struct build_result res;
	struct manifest manifest;
	struct sandbox *s = NULL;
	struct build *b;
	struct err e;
	int rc;

	if (!api_read_manifest(r, &manifest))
		return;
	if (spec->memory_mib < manifest.runtime_mib)
		spec->memory_mib = manifest.runtime_mib;
	rc = sandbox_check_spec(m, spec, &e);
	if (rc)
		manifest_fini(&manifest);
	else
		rc = build_start(m, &manifest, spec, &b, &e);
	if (rc) {
		reply_errno(r, rc, &e);
		return;
	}
	events_begin(r);
	if (api_follow_build(r, b, 400, &res)) {
		api_send_log(r, 0, "create", "Creating the sandbox");
		spec->template = "";
		rc = image_create(m, spec, res.checkpoint_id, &s, &e);
		/* Somebody has deleted it in the meantime: another attempt builds it. */
		if (rc == -ENOENT)
			rc = -EAGAIN;
		api_reply_new_sandbox(r, rc, s, preview_token, &e);
	}
	build_put(b);
}

/* --- /images --------------------------------------------------------------------------------- */

void api_image_build(struct request *r)
{
	const struct sandbox_spec shape = {.cpus = SANDBOX_DEFAULT_CPUS,
					   .memory_mib = SANDBOX_DEFAULT_MEMORY_MIB};
	struct build_result res;
	struct manifest manifest;
	struct strbuf b = {0};
	struct build *build;
	struct err e;
	int rc;

	if (!request_json(r) || !api_read_manifest(r, &manifest))
		return;
	rc = build_start(api_manager(r), &manifest, &shape, &build, &e);
	if (rc) {
		reply_errno(r, rc, &e);
		return;
	}
	events_begin(r);
	if (api_follow_build(r, build, 500, &res)) {
		strbuf_adds(&b, "{");
		strbuf_json_str(&b, "contentHash", res.hash);
		strbuf_json_str(&b, "checkpointId", res.checkpoint_id);
		strbuf_json_str(&b, "status", "ready");
		strbuf_json_bool(&b, "cached", res.cached);
		strbuf_adds(&b, "}");
		reply_json(r, 201, &b);
	}
	build_put(build);
}

void api_image_list(struct request *r)
{
	struct strbuf b = {0};
	struct image_list l;
	struct err e;
	int rc = image_list(api_manager(r), &l, &e);

	if (rc) {
		reply_errno(r, rc, &e);
		return;
	}
	strbuf_adds(&b, "[");
	for (size_t i = 0; i < l.n; i++) {
		const struct image_row *row = &l.items[i].row;

		strbuf_json_next(&b);
		strbuf_adds(&b, "{");
		strbuf_json_str(&b, "contentHash", row->hash);
		strbuf_json_str(&b, "checkpointId", row->checkpoint_id);
		strbuf_json_str(&b, "status", "ready");
		strbuf_json_int(&b, "steps", row->steps);
		strbuf_json_int(&b, "sizeBytes", l.items[i].bytes);
		strbuf_json_time(&b, "createdAt", row->created_ms);
		strbuf_json_time(&b, "lastUsedAt", row->used_ms);
		strbuf_adds(&b, "}");
	}
	strbuf_adds(&b, "]");
	image_list_fini(&l);
	reply_json(r, 200, &b);
}

void api_image_delete(struct request *r)
{
	struct err e;
	int rc = image_delete(api_manager(r), r->param[0], &e);

	if (rc)
		reply_errno(r, rc, &e);
	else
		reply_empty(r, 204);
}
