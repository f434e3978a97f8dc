/* SPDX-License-Identifier: Apache-2.0 */
/* A client of a command or terminal, over a WebSocket (api.md 4.6, 6, 17.1, 17.2). */
#include "server/api/api.h"

void api_session_attach(struct request *r, struct exec_session *x, enum bridge_format format,
			const char *ended)
{
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
	bridge_reply(r, x, format, given ? from : NULL, ended);
}

void api_exec_attach(struct request *r)
{
	api_session_attach(r, api_exec_find(r), BRIDGE_CHANNELS, "exec completed");
}
