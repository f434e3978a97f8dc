/* SPDX-License-Identifier: Apache-2.0 */
/* GET /health, /healthz, /readyz (api.md 16). No credentials. */
#include "server/api/api.h"

static void reply_status(struct request *r, const char *status)
{
	struct strbuf b = {0};

	strbuf_adds(&b, "{");
	strbuf_json_str(&b, "status", status);
	strbuf_adds(&b, "}");
	reply_json(r, 200, &b);
}

void api_health(struct request *r)
{
	reply_status(r, "ok");
}

void api_healthz(struct request *r)
{
	reply_status(r, "alive");
}

/* Served at all means ready: listeners open after the state was recovered. */
void api_readyz(struct request *r)
{
	reply_status(r, "ready");
}
