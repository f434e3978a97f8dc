/* SPDX-License-Identifier: Apache-2.0 */
/* /sandboxes: create, list, get, delete, console (api.md 3.1 - 3.6). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fd.h"
#include "server/api/api.h"
#include "server/api/images.h"
#include "server/manager/images.h"

#define DEFAULT_TIMEOUT_S 300
#define DEFAULT_PORT	  80

/* Fields in the order of api.md 3.3. */
void api_write_sandbox(struct strbuf *b, const struct request *r, const struct sandbox_row *row)
{
	const struct api *a = r->app;
	const struct config *c = manager_config(a->manager);

	strbuf_json_str(b, "sandboxID", row->id);
	strbuf_json_str(b, "status", sandbox_status_name(row->status));
	strbuf_json_str(b, "templateID", row->template);
	strbuf_json_str(b, "template", row->template);
	api_write_access(b, r, row);
	strbuf_json_str(b, "region", c->region);
	strbuf_json_str(b, "workerID", API_WORKER_ID);
	strbuf_json_str(b, "sandboxDomain", a->domain);
	strbuf_json_time(b, "startedAt", row->created_ms);
	if (row->ended_ms)
		strbuf_json_time(b, "endAt", row->ended_ms);
	else if (row->expires_ms)
		strbuf_json_time(b, "endAt", row->expires_ms);
	strbuf_json_value(b, "metadata", row->metadata);
	strbuf_json_str(b, "alias", row->alias);
	strbuf_json_int(b, "cpuCount", row->cpus);
	strbuf_json_int(b, "memoryMB", sandbox_row_memory(row));
	strbuf_json_int(b, "diskMB", row->disk_mib);
	strbuf_json_int(b, "timeout", row->timeout_s);
	strbuf_json_bool(b, "networkEnabled", row->network);
	api_write_tags(b, row);
	if (row->from_checkpoint[0])
		strbuf_json_str(b, "fromCheckpointId", row->from_checkpoint);
	if (row->patch_error)
		strbuf_json_str(b, "patchError", row->patch_error);
	if (row->error)
		strbuf_json_str(b, "error", row->error);
}

void api_write_cold(struct strbuf *b, const char *reason)
{
	if (!reason[0])
		return;
	strbuf_json_bool(b, "coldBoot", true);
	strbuf_json_str(b, "message", reason);
}

static void write_sandbox(struct strbuf *b, const struct request *r, const struct sandbox_row *row)
{
	strbuf_json_next(b);
	strbuf_adds(b, "{");
	api_write_sandbox(b, r, row);
	strbuf_adds(b, "}");
}

void api_reply_sandbox(struct request *r, unsigned int status, struct sandbox_row *row)
{
	struct strbuf b = {0};

	write_sandbox(&b, r, row);
	sandbox_row_fini(row);
	reply_json(r, status, &b);
}

void api_reply_new_sandbox(struct request *r, int rc, struct sandbox *s, const char *preview_token,
			   const struct err *e)
{
	struct sandbox_row row;
	struct strbuf b = {0};

	if (rc) {
		reply_errno(r, rc, e);
		return;
	}
	if (sandbox_copy_row(s, &row)) {
		sandbox_put(s);
		reply_error(r, 503, "out of memory");
		return;
	}
	strbuf_adds(&b, "{");
	api_write_sandbox(&b, r, &row);
	if (preview_token[0])
		strbuf_json_str(&b, "previewAuthToken", preview_token);
	api_write_cold(&b, sandbox_cold_reason(s));
	strbuf_adds(&b, "}");
	sandbox_row_fini(&row);
	sandbox_put(s);
	reply_json(r, 201, &b);
}

static const struct json_field create_fields[] = {
    JSON_FIELD(struct sandbox_spec, template, "templateID", JSON_F_STRING),
    JSON_FIELD(struct sandbox_spec, alias, "alias", JSON_F_STRING),
    JSON_FIELD(struct sandbox_spec, timeout_s, "timeout", JSON_F_INT),
    JSON_FIELD(struct sandbox_spec, cpus, "cpuCount", JSON_F_INT),
    JSON_FIELD(struct sandbox_spec, memory_mib, "memoryMB", JSON_F_INT),
    JSON_FIELD(struct sandbox_spec, disk_mib, "diskMB", JSON_F_INT),
    JSON_FIELD(struct sandbox_spec, port, "port", JSON_F_INT),
    JSON_FIELD(struct sandbox_spec, network, "networkEnabled", JSON_F_BOOL),
    JSON_FIELD(struct sandbox_spec, envs, "envs", JSON_F_MAP),
    JSON_FIELD(struct sandbox_spec, metadata, "metadata", JSON_F_MAP),
};

/* A field that changes what the client gets must not be passed over in silence. */
static bool asks_for_what_is_missing(struct request *r)
{
	static const char *const later[] = {"secretStore", "webhooks"};

	for (size_t i = 0; i < sizeof(later) / sizeof(later[0]); i++) {
		const json_t *v = json_object_get(r->json, later[i]);

		if (!v || json_is_null(v) || (json_is_string(v) && !json_string_length(v)) ||
		    (json_is_array(v) && !json_array_size(v)))
			continue;
		reply_error(r, 501, "%s: not implemented yet", later[i]);
		return true;
	}
	return false;
}

static bool is_given(const json_t *v)
{
	return v && !json_is_null(v) && !(json_is_string(v) && !json_string_length(v));
}

/* What it begins with: an image or a snapshot, by name or as template, or a template. */
static void create_of(struct request *r, struct sandbox_spec *spec, const char *preview_token)
{
	const json_t *image = json_object_get(r->json, "image");
	const json_t *snapshot = json_object_get(r->json, "snapshot");
	struct sandbox *s = NULL;
	const char *name;
	struct err e;
	int rc;

	if (is_given(image) && is_given(snapshot)) {
		reply_error(r, 400, "image and snapshot: only one of them is possible");
	} else if (is_given(image)) {
		api_create_of_image(r, spec, preview_token);
	} else if (is_given(snapshot) && !json_is_string(snapshot)) {
		reply_error(r, 400, "snapshot: a string is required");
	} else if (is_given(snapshot)) {
		api_create_of_snapshot(r, json_string_value(snapshot), false, spec, preview_token);
	} else if (!images_find(manager_images(api_manager(r)), spec->template, &name)) {
		api_create_of_snapshot(r, spec->template, true, spec, preview_token);
	} else {
		rc = sandbox_create(api_manager(r), spec, &s, &e);
		api_reply_new_sandbox(r, rc, s, preview_token, &e);
	}
}

void api_sandbox_create(struct request *r)
{
	struct sandbox_spec spec = {
	    .template = "",
	    .alias = "",
	    .cpus = SANDBOX_DEFAULT_CPUS,
	    .memory_mib = SANDBOX_DEFAULT_MEMORY_MIB,
	    .disk_mib = SANDBOX_DEFAULT_DISK_MIB,
	    .timeout_s = DEFAULT_TIMEOUT_S,
	    .port = DEFAULT_PORT,
	    .network = true,
	};
	struct preview_auth auth;

	if (!request_bind(r, create_fields, sizeof(create_fields) / sizeof(create_fields[0]),
			  &spec) ||
	    asks_for_what_is_missing(r) || !api_read_preview_auth(r, &auth))
		return;
	spec.preview_hash = auth.hash;
	create_of(r, &spec, auth.token);
}

void api_sandbox_list(struct request *r)
{
	const char *status = url_query(&r->url, "status");
	struct sandbox_row *rows;
	struct strbuf b = {0};
	struct err e;
	size_t n;
	int rc = sandbox_list(api_manager(r), status && *status ? status : NULL, &rows, &n, &e);

	if (rc) {
		reply_errno(r, rc, &e);
		return;
	}
	strbuf_adds(&b, "[");
	for (size_t i = 0; i < n; i++) {
		write_sandbox(&b, r, &rows[i]);
		sandbox_row_fini(&rows[i]);
	}
	strbuf_adds(&b, "]");
	free(rows);
	reply_json(r, 200, &b);
}

void api_sandbox_get(struct request *r)
{
	struct sandbox_row row;

	if (api_row(r, &row))
		api_reply_sandbox(r, 200, &row);
}

void api_sandbox_delete(struct request *r)
{
	struct err e;
	int rc = sandbox_delete(api_manager(r), r->param[0], &e);

	if (rc)
		reply_errno(r, rc, &e);
	else
		reply_empty(r, 204);
}

/* --- the console log: an addition to the API, for `dormouse logs` --------------------------- */

static ssize_t read_console(void *cls, uint64_t pos, char *buf, size_t max)
{
	ssize_t n = pread(*(int *)cls, buf, max, (off_t)pos);

	if (n < 0)
		return MHD_CONTENT_READER_END_WITH_ERROR;
	return n ? n : MHD_CONTENT_READER_END_OF_STREAM;
}

static void close_console(void *cls)
{
	close(*(int *)cls);
	free(cls);
}

void api_sandbox_console(struct request *r)
{
	struct sandbox *s = sandbox_find_any(api_manager(r), r->param[0]);
	struct stat st;
	int *fd;

	if (!s) {
		s = api_sandbox(r); /* it replies: 404, or 410 after a deletion */
		if (!s)
			return;
	}
	fd = malloc(sizeof(*fd));
	if (!fd) {
		reply_error(r, 503, "out of memory");
	} else if ((*fd = sandbox_open_console(s)) < 0 || fstat(*fd, &st) < 0 || !st.st_size) {
		if (*fd >= 0)
			close(*fd);
		free(fd);
		reply_bytes(r, 200, "text/plain; charset=utf-8", "", 0);
	} else {
		/* It may grow meanwhile: what is there now is the answer. */
		reply_stream(r, 200, "text/plain; charset=utf-8", (uint64_t)st.st_size,
			     read_console, fd, close_console);
	}
	sandbox_put(s);
}
