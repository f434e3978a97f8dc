/* SPDX-License-Identifier: Apache-2.0 */
/* /sandboxes/:id/mounts (api.md 13). */
#include <errno.h>

#include "server/api/api.h"
#include "server/manager/mounts.h"

static void reply_value(struct request *r, unsigned int status, json_t *value)
{
	struct strbuf b = {0};
	char *text = json_dumps(value, JSON_COMPACT);

	if (text)
		strbuf_adds(&b, text);
	else
		b.failed = true;
	free(text);
	json_decref(value);
	reply_json(r, status, &b);
}

static void refuse(struct request *r, int rc, const struct err *e)
{
	if (rc == MOUNT_FAILED)
		reply_error_code(r, 500, "mount_failed", false, e->msg);
	else
		reply_errno(r, rc, e);
}

void api_mount_add(struct request *r)
{
	json_t *entry;
	struct err e;
	int rc;

	if (!request_json(r))
		return;
	rc = mounts_add(api_manager(r), r->param[0], r->json, &entry, &e);
	if (rc)
		refuse(r, rc, &e);
	else
		reply_value(r, 201, entry);
}

void api_mount_list(struct request *r)
{
	json_t *list;
	struct err e;
	int rc = mounts_list(api_manager(r), r->param[0], &list, &e);

	if (rc)
		refuse(r, rc, &e);
	else
		reply_value(r, 200, list);
}

void api_mount_remove(struct request *r)
{
	const char *path = url_query(&r->url, "path");
	struct err e;
	int rc;

	if (!path || !*path) {
		reply_error(r, 400, "path is required");
		return;
	}
	rc = mounts_remove(api_manager(r), r->param[0], path, &e);
	if (rc)
		refuse(r, rc, &e);
	else
		reply_empty(r, 204);
}
