/* SPDX-License-Identifier: Apache-2.0 */
/* /store: what images and layers take, and their upkeep. An addition to the API, for `dormouse
 * store`. */
#include <stdlib.h>

#include "server/api/api.h"
#include "server/manager/gc.h"
#include "server/manager/upkeep.h"

/* Takes the reference over; NULL is an error. */
static void reply_value(struct request *r, json_t *value, const struct err *e)
{
	char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;
	struct strbuf b = {0};

	json_decref(value);
	if (!value) {
		reply_errno(r, e->code, e);
		return;
	}
	strbuf_adds(&b, text ? text : "");
	b.failed |= !text;
	free(text);
	reply_json(r, 200, &b);
}

void api_store_get(struct request *r)
{
	struct err e = {0};

	reply_value(r, store_report(api_manager(r), &e), &e);
}

void api_store_gc(struct request *r)
{
	struct gc_result result;
	struct strbuf b = {0};
	struct err e;
	int rc;

	if (!request_json(r))
		return;
	rc = gc_run(api_manager(r), &result, &e);
	upkeep_kick(api_manager(r));
	if (rc) {
		reply_errno(r, rc, &e);
		return;
	}
	strbuf_adds(&b, "{");
	strbuf_json_int(&b, "removedFiles", result.files);
	strbuf_json_int(&b, "removedBytes", result.bytes);
	strbuf_json_int(&b, "removedCheckpoints", result.checkpoints);
	strbuf_adds(&b, "}");
	reply_json(r, 200, &b);
}

void api_store_verify(struct request *r)
{
	struct err e = {0};

	if (request_json(r))
		reply_value(r, store_verify(api_manager(r), &e), &e);
}
