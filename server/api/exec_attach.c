/* SPDX-License-Identifier: Apache-2.0 */
/* GET /sandboxes/:id/exec/:sid: a client of a command, over a WebSocket (api.md 4.6, 17.1). */
#include "server/api/api.h"
#include "server/api/bridge.h"

void api_exec_attach(struct request *r)
{
	struct exec_session *x = api_exec_find(r);
	uint64_t from[2];
	bool given;
	struct err e;
	int rc;

	if (!x)
		return;
	if (!api_exec_offsets(r, from, &given)) {
		exec_put(x);
		return;
	}
	/* For one that has ended nobody is woken. */
	rc = exec_wake(x, &e);
	if (rc) {
		exec_put(x);
		reply_errno(r, rc, &e);
		return;
	}
	bridge_reply(r, x, BRIDGE_CHANNELS, given ? from : NULL, "exec completed");
}
