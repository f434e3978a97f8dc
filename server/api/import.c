/* SPDX-License-Identifier: Apache-2.0 */
/* POST /images/import: a template out of a container image, whose archive is the body. */
#include "server/manager/import.h"

#include <errno.h>
#include <stdio.h>

#include "server/api/images.h"
#include "server/http/slow.h"

static void upload_begin(struct request *r)
{
	const char *name = url_query(&r->url, "name");
	struct import *i;
	struct err e;
	int rc;

	if (!name || !*name) {
		reply_error(r, 400, "name is required");
		return;
	}
	rc = import_new(api_manager(r), name, url_query(&r->url, "ref"), &i, &e);
	if (rc)
		reply_errno(r, rc, &e);
	else
		r->upload = i;
}

static void upload_data(struct request *r, const void *data, size_t len)
{
	struct err e;
	int rc = import_write(r->upload, data, len, &e);

	if (!rc)
		return;
	import_free(r->upload);
	r->upload = NULL;
	reply_errno(r, rc, &e);
}

static void upload_abort(struct request *r)
{
	import_free(r->upload);
	r->upload = NULL;
}

const struct upload_ops api_image_upload = {
    .begin = upload_begin, .data = upload_data, .abort = upload_abort};

static void say(void *ctx, const char *line)
{
	int step = 0;

	if (sscanf(line, "Step %9d/", &step) != 1)
		step = 0;
	api_send_log(ctx, step, "import", line);
}

void api_image_import(struct request *r)
{
	const char *name = url_query(&r->url, "name");
	struct strbuf b = {0};
	int64_t bytes = 0;
	struct err e;
	int rc;

	events_begin(r);
	rc = import_finish(r->upload, say, r, &bytes, &e);
	import_free(r->upload);
	r->upload = NULL;
	if (rc == -ECANCELED) {
		reply_error_code(r, 503, NULL, true, "the server stops");
		return;
	}
	if (rc) {
		reply_errno(r, rc, &e);
		return;
	}
	strbuf_adds(&b, "{");
	strbuf_json_str(&b, "templateID", name);
	strbuf_json_str(&b, "name", name);
	strbuf_json_str(&b, "tag", "latest");
	strbuf_json_str(&b, "status", "ready");
	strbuf_json_int(&b, "sizeBytes", bytes);
	strbuf_adds(&b, "}");
	reply_json(r, 201, &b);
}
