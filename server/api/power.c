/* SPDX-License-Identifier: Apache-2.0 */
/* /sandboxes/:id/hibernate, wake, timeout, reboot, power-cycle (api.md 3.7, 3.8). */
#include <errno.h>

#include "server/api/api.h"

void api_sandbox_hibernate(struct request *r)
{
	struct sandbox_row row;
	struct strbuf b = {0};
	struct err e;
	bool already;
	int rc;

	if (!request_json(r))
		return;
	rc = sandbox_hibernate(api_manager(r), r->param[0], &row, &already, &e);
	if (rc) {
		reply_errno(r, rc, &e);
		return;
	}
	strbuf_adds(&b, "{");
	strbuf_json_str(&b, "sandboxID", row.id);
	strbuf_json_str(&b, "status", sandbox_status_name(row.status));
	strbuf_json_str(&b, "hibernationKey", row.hibernation);
	strbuf_json_int(&b, "sizeBytes", row.hibernation_bytes);
	if (already)
		strbuf_json_str(&b, "message", "already hibernated");
	strbuf_adds(&b, "}");
	sandbox_row_fini(&row);
	reply_json(r, 200, &b);
}

struct wake_body {
	int64_t timeout_s;
};

void api_sandbox_wake(struct request *r)
{
	static const struct json_field fields[] = {
	    JSON_FIELD(struct wake_body, timeout_s, "timeout", JSON_F_INT),
	};
	struct wake_body body = {.timeout_s = -1};
	struct wake_result w;
	struct sandbox_row row;
	struct strbuf b = {0};
	struct err e;
	json_t *given;
	int rc;

	if (!request_bind(r, fields, 1, &body))
		return;
	given = json_object_get(r->json, "timeout");
	rc = sandbox_wake(api_manager(r), r->param[0],
			  given && !json_is_null(given) ? &body.timeout_s : NULL, &row, &w, &e);
	if (rc) {
		reply_errno(r, rc, &e);
		return;
	}
	strbuf_adds(&b, "{");
	api_write_sandbox(&b, r, &row);
	api_write_cold(&b, w.cold ? w.reason : "");
	strbuf_adds(&b, "}");
	sandbox_row_fini(&row);
	reply_json(r, 200, &b);
}

void api_sandbox_timeout(struct request *r)
{
	struct err e;
	json_t *given;
	int rc;

	if (!api_known(r))
		return;
	if (!request_json(r))
		return;
	given = json_object_get(r->json, "timeout");
	if (!json_is_integer(given)) {
		reply_error(r, 400, "timeout: must be a non-negative number of seconds");
		return;
	}
	rc = sandbox_set_timeout(api_manager(r), r->param[0], json_integer_value(given), &e);
	if (rc)
		reply_errno(r, rc, &e);
	else
		reply_empty(r, 204);
}

static void restart(struct request *r, int (*how)(struct manager *m, const char *id, struct err *e))
{
	struct err e;
	int rc;

	if (!request_json(r))
		return;
	rc = how(api_manager(r), r->param[0], &e);
	if (rc)
		reply_errno(r, rc, &e);
	else
		reply_empty(r, 204);
}

void api_sandbox_reboot(struct request *r)
{
	restart(r, sandbox_reboot);
}

void api_sandbox_power_cycle(struct request *r)
{
	restart(r, sandbox_power_cycle);
}
