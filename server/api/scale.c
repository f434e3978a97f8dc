/* SPDX-License-Identifier: Apache-2.0 */
/* /sandboxes/:id/scale, limits, autoscale, scaling-lock (api.md 12). */
#include <errno.h>

#include "server/api/api.h"
#include "server/manager/scale.h"

static void refuse(struct request *r, int rc, const struct err *e)
{
	if (rc == SCALE_LOCKED)
		reply_error_code(r, 403, "scaling_locked", false, e->msg);
	else if (rc == SCALE_FLOOR)
		reply_error_code(r, 409, "oom_floor", false, e->msg);
	else
		reply_errno(r, rc, e);
}

static void write_scaled(struct request *r, const struct scale_result *s)
{
	struct strbuf b = {0};

	strbuf_adds(&b, "{");
	strbuf_json_bool(&b, "ok", true);
	strbuf_json_str(&b, "sandboxID", r->param[0]);
	strbuf_json_int(&b, "memoryMB", s->memory_mib);
	strbuf_json_int(&b, "cpuPercent", s->cpu_percent);
	strbuf_json_str(&b, "workerID", API_WORKER_ID);
	strbuf_json_bool(&b, "autoscaleDisabled", s->autoscale_disabled);
	if (s->pending)
		strbuf_json_bool(&b, "pending", true);
	if (s->degraded[0])
		strbuf_json_str(&b, "degraded", s->degraded);
	strbuf_adds(&b, "}");
	reply_json(r, 200, &b);
}

static void scale(struct request *r, bool with_cpu)
{
	static const struct json_field fields[] = {
	    JSON_FIELD(struct scale_request, memory_mib, "memoryMB", JSON_F_INT),
	    JSON_FIELD(struct scale_request, cpu_percent, "cpuPercent", JSON_F_INT),
	};
	struct scale_request s = {0};
	struct scale_result result;
	struct err e;
	int rc;

	if (!request_bind(r, fields, with_cpu ? 2 : 1, &s))
		return;
	/* Bad bodies win over unknown sandboxes. */
	rc = scale_check(api_manager(r), &s, &e);
	if (!rc)
		rc = sandbox_scale(api_manager(r), r->param[0], &s, &result, &e);
	if (rc)
		refuse(r, rc, &e);
	else
		write_scaled(r, &result);
}

void api_scale(struct request *r)
{
	scale(r, false);
}

void api_limits_set(struct request *r)
{
	scale(r, true);
}

static void write_mb(struct strbuf *b, const char *name, int64_t kib)
{
	strbuf_json_int(b, name, kib >> 10);
}

void api_limits_get(struct request *r)
{
	struct sandbox_row row;
	struct memory_use u;
	struct strbuf b = {0};
	struct err e;

	if (!api_row(r, &row))
		return;
	strbuf_adds(&b, "{");
	strbuf_json_str(&b, "sandboxID", row.id);
	strbuf_json_int(&b, "memoryMB", sandbox_row_memory(&row));
	strbuf_json_int(&b, "cpuPercent",
			row.scaling.cpu_percent ? row.scaling.cpu_percent : 100 * row.cpus);
	if (!sandbox_memory_use(api_manager(r), row.id, &u, &e)) {
		strbuf_json_name(&b, "memory");
		strbuf_adds(&b, "{");
		write_mb(&b, "totalMB", u.guest_total_kib);
		write_mb(&b, "usedMB", u.guest_total_kib - u.guest_available_kib);
		write_mb(&b, "residentMB", u.resident_kib);
		write_mb(&b, "balloonedMB", u.ballooned_kib);
		write_mb(&b, "reportedFreeMB", u.free_kib);
		strbuf_adds(&b, "}");
	}
	strbuf_adds(&b, "}");
	sandbox_row_fini(&row);
	reply_json(r, 200, &b);
}

/* --- autoscale, scaling-lock ---------------------------------------------------------------- */

/* Both release the row. */
static void write_autoscale(struct request *r, struct sandbox_row *row)
{
	struct strbuf b = {0};

	strbuf_adds(&b, "{");
	strbuf_json_str(&b, "sandboxID", row->id);
	strbuf_json_bool(&b, "enabled", row->scaling.auto_max_mib);
	strbuf_json_int(&b, "minMemoryMB", row->scaling.auto_min_mib);
	strbuf_json_int(&b, "maxMemoryMB", row->scaling.auto_max_mib);
	strbuf_adds(&b, "}");
	sandbox_row_fini(row);
	reply_json(r, 200, &b);
}

static void write_lock(struct request *r, struct sandbox_row *row)
{
	struct strbuf b = {0};

	strbuf_adds(&b, "{");
	strbuf_json_str(&b, "sandboxID", row->id);
	strbuf_json_bool(&b, "locked", row->scaling.locked);
	strbuf_adds(&b, "}");
	sandbox_row_fini(row);
	reply_json(r, 200, &b);
}

void api_autoscale_get(struct request *r)
{
	api_reply_row(r, write_autoscale);
}

void api_scaling_lock_get(struct request *r)
{
	api_reply_row(r, write_lock);
}

struct autoscale_body {
	bool enabled;
	int64_t min_mib, max_mib;
};

static int check_bounds(struct request *r, const struct autoscale_body *b, struct err *e)
{
	const struct scale_request min = {.memory_mib = b->min_mib},
				   max = {.memory_mib = b->max_mib};

	if (!json_is_boolean(json_object_get(r->json, "enabled")))
		return err_set(e, -EINVAL, "enabled is required, a boolean");
	if (!b->enabled)
		return 0;
	if (scale_check(api_manager(r), &min, e))
		return err_wrap(e, -EINVAL, "minMemoryMB");
	if (scale_check(api_manager(r), &max, e))
		return err_wrap(e, -EINVAL, "maxMemoryMB");
	return b->min_mib <= b->max_mib
		   ? 0
		   : err_set(e, -EINVAL, "minMemoryMB is larger than maxMemoryMB");
}

void api_autoscale_set(struct request *r)
{
	static const struct json_field fields[] = {
	    JSON_FIELD(struct autoscale_body, enabled, "enabled", JSON_F_BOOL),
	    JSON_FIELD(struct autoscale_body, min_mib, "minMemoryMB", JSON_F_INT),
	    JSON_FIELD(struct autoscale_body, max_mib, "maxMemoryMB", JSON_F_INT),
	};
	struct autoscale_body body = {0};
	struct sandbox_row row;
	struct err e;
	int rc;

	if (!request_bind(r, fields, 3, &body))
		return;
	rc = check_bounds(r, &body, &e);
	if (!rc)
		rc = sandbox_set_autoscale(api_manager(r), r->param[0], body.min_mib,
					   body.enabled ? body.max_mib : 0, &row, &e);
	if (rc)
		refuse(r, rc, &e);
	else
		write_autoscale(r, &row);
}

void api_scaling_lock_set(struct request *r)
{
	struct sandbox_row row;
	struct err e;
	json_t *locked;
	int rc;

	if (!request_json(r))
		return;
	locked = json_object_get(r->json, "locked");
	if (!json_is_boolean(locked)) {
		reply_error(r, 400, "locked is required, a boolean");
		return;
	}
	rc = sandbox_set_scaling_lock(api_manager(r), r->param[0], json_is_true(locked), &row, &e);
	if (rc)
		refuse(r, rc, &e);
	else
		write_lock(r, &row);
}
