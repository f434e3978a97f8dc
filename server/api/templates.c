/* SPDX-License-Identifier: Apache-2.0 */
/* /templates: what templateID may name, image files of the server and snapshots (api.md 9.4). */
#include <errno.h>
#include <string.h>

#include "lib/fd.h"
#include "server/api/images.h"
#include "server/manager/dockerfile.h"
#include "server/manager/images.h"
#include "server/manager/snapshot.h"

static void write_template(struct strbuf *b, const char *name, const char *status)
{
	strbuf_json_next(b);
	strbuf_adds(b, "{");
	strbuf_json_str(b, "templateID", name);
	strbuf_json_str(b, "name", name);
	strbuf_json_str(b, "tag", "latest");
	strbuf_json_str(b, "status", status);
	strbuf_adds(b, "}");
}

/* An image file: NULL if it is none. */
static const char *image_file(struct request *r, const char *name)
{
	const char *real;

	return images_find(manager_images(api_manager(r)), name, &real) ? real : NULL;
}

void api_template_list(struct request *r)
{
	const struct images *im = manager_images(api_manager(r));
	struct snapshot_list l;
	struct strbuf b = {0};
	struct err e;
	int rc = snapshot_list(api_manager(r), &l, &e);

	if (rc) {
		reply_errno(r, rc, &e);
		return;
	}
	strbuf_adds(&b, "[");
	for (size_t i = 0; i < images_count(im); i++)
		/* The first of a name counts. */
		if (images_find_name(im, im->items[i]->name) == i)
			write_template(&b, im->items[i]->name, "ready");
	for (size_t i = 0; i < l.n; i++)
		if (l.rows[i].status == SNAPSHOT_READY && !image_file(r, l.rows[i].name))
			write_template(&b, l.rows[i].name, "ready");
	strbuf_adds(&b, "]");
	snapshot_list_fini(&l);
	reply_json(r, 200, &b);
}

void api_template_get(struct request *r)
{
	const char *real = image_file(r, r->param[0]);
	struct snapshot_row row;
	struct strbuf b = {0};
	struct err e;
	int rc;

	if (real) {
		write_template(&b, real, "ready");
		reply_json(r, 200, &b);
		return;
	}
	rc = snapshot_get(api_manager(r), r->param[0], &row, &e);
	if (rc == -ENOENT) {
		reply_error(r, 404, "template not found: %.64s", r->param[0]);
	} else if (rc) {
		reply_errno(r, rc, &e);
	} else {
		write_template(&b, row.name, snapshot_status_name(row.status));
		snapshot_row_fini(&row);
		reply_json(r, 200, &b);
	}
}

void api_template_delete(struct request *r)
{
	struct err e;
	int rc;

	if (image_file(r, r->param[0])) {
		reply_error(r, 400, "template %.64s is an image file of the server", r->param[0]);
		return;
	}
	rc = snapshot_delete(api_manager(r), r->param[0], &e);
	if (rc == -ENOENT)
		reply_error(r, 404, "template not found: %.64s", r->param[0]);
	else if (rc)
		reply_errno(r, rc, &e);
	else
		reply_empty(r, 204);
}

struct build_body {
	const char *name, *dockerfile;
};

static const struct json_field build_fields[] = {
    JSON_FIELD(struct build_body, name, "name", JSON_F_STRING,
	       .flags = JSON_REQUIRED | JSON_NONEMPTY),
    JSON_FIELD(struct build_body, dockerfile, "dockerfile", JSON_F_STRING,
	       .flags = JSON_REQUIRED | JSON_NONEMPTY),
};

static int parse_dockerfile(const char *dockerfile, struct manifest *m, struct err *e)
{
	cleanup_free char *text = NULL;
	json_t *image = NULL;
	int rc = dockerfile_parse(dockerfile, &image, e);

	if (rc)
		return rc;
	text = json_dumps(image, JSON_COMPACT);
	rc = text ? manifest_parse(text, strlen(text), image, m, e)
		  : err_set(e, -ENOMEM, "out of memory");
	json_decref(image);
	return rc;
}

void api_template_build(struct request *r)
{
	struct snapshot_row row;
	struct build_body body;
	struct manifest m;
	struct strbuf text = {0};
	struct build *b;
	struct err e;
	int rc;

	if (!request_bind(r, build_fields, 2, &body))
		return;
	if (image_file(r, body.name)) {
		reply_error(r, 409, "template %.64s is an image file of the server", body.name);
		return;
	}
	rc = parse_dockerfile(body.dockerfile, &m, &e);
	if (!rc)
		rc = snapshot_create(api_manager(r), body.name, &m, &row, &b, &e);
	if (rc) {
		reply_errno(r, rc, &e);
		return;
	}
	if (api_finish_snapshot(r, b, &row, 400)) {
		write_template(&text, row.name, "ready");
		snapshot_row_fini(&row);
		reply_json(r, 201, &text);
	}
	build_put(b);
}
