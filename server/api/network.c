/* SPDX-License-Identifier: Apache-2.0 */
/* PUT /sandboxes/:id/network, an addition to the API: the policy of a sandbox that exists. */
#include "server/api/api.h"

struct network_body {
	bool enabled;
};

void api_sandbox_network(struct request *r)
{
	static const struct json_field fields[] = {
	    JSON_FIELD(struct network_body, enabled, "networkEnabled", JSON_F_BOOL,
		       .flags = JSON_REQUIRED),
	};
	struct network_body body = {0};
	struct strbuf b = {0};
	struct err e;
	int rc;

	if (!api_known(r))
		return;
	if (!request_bind(r, fields, 1, &body))
		return;
	rc = sandbox_set_network(api_manager(r), r->param[0], body.enabled, &e);
	if (rc) {
		reply_errno(r, rc, &e);
		return;
	}
	strbuf_adds(&b, "{");
	strbuf_json_str(&b, "sandboxID", r->param[0]);
	strbuf_json_bool(&b, "networkEnabled", body.enabled);
	strbuf_adds(&b, "}");
	reply_json(r, 200, &b);
}
