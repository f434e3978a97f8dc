/* SPDX-License-Identifier: Apache-2.0 */
/* GET /workers (api.md 16): this machine is the only one. */
#include "server/api/api.h"

void api_workers(struct request *r)
{
	const struct config *c = manager_config(api_manager(r));
	struct strbuf b = {0};

	strbuf_adds(&b, "[{");
	strbuf_json_str(&b, "id", API_WORKER_ID);
	strbuf_json_str(&b, "region", c->region);
	strbuf_json_int(&b, "capacity", c->max_sandboxes);
	strbuf_json_int(&b, "current", manager_running_count(api_manager(r)));
	strbuf_adds(&b, "}]");
	reply_json(r, 200, &b);
}
