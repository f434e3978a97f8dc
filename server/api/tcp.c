/* SPDX-License-Identifier: Apache-2.0 */
/* /sandboxes/:id/tcp/:port: any TCP to a port of a sandbox; an addition to the API. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/api/api.h"
#include "server/http/ws.h"
#include "server/manager/tunnel.h"
#include "server/preview/preview.h"

/* From the request to the end of what came of it; owned by the request. */
struct forward {
	struct preview_server *previews;
	struct tunnel *t;
	unsigned int *requests; /* atomic; a forward does not count as a request in progress */
};

static void forward_release(void *state)
{
	struct forward *f = state;

	tunnel_close(f->t);
	free(f);
}

/* On the connection's thread, when the 101 is sent. */
static void on_upgrade(void *cls, struct MHD_Connection *conn, void *con_cls, const char *extra,
		       size_t extra_len, MHD_socket fd, struct MHD_UpgradeResponseHandle *urh)
{
	struct forward *f = cls;

	(void)conn;
	(void)con_cls;
	__atomic_sub_fetch(f->requests, 1, __ATOMIC_RELAXED);
	preview_forward(f->previews, fd, f->t, extra, extra_len);
	__atomic_add_fetch(f->requests, 1, __ATOMIC_RELAXED);
	MHD_upgrade_action(urh, MHD_UPGRADE_ACTION_CLOSE);
}

static bool asks_for_it(const struct request *r)
{
	const char *upgrade = request_header(r, "Upgrade");
	const char *connection = request_header(r, "Connection");

	return upgrade && !strcasecmp(upgrade, "tcp") && connection &&
	       strcasestr(connection, "upgrade") && !strcmp(r->version, "HTTP/1.1");
}

static void reply_forward(struct request *r, struct tunnel *t)
{
	struct forward *f = malloc(sizeof(*f));
	struct MHD_Response *response = NULL;

	if (f)
		response = MHD_create_response_for_upgrade(on_upgrade, f);
	if (!response) {
		free(f);
		tunnel_close(t);
		reply_error(r, 503, "out of memory");
		return;
	}
	*f = (struct forward){((struct api *)r->app)->previews, t, r->sockets->requests};
	r->tail = f;
	r->tail_release = forward_release;
	request_set_reply(r, 101, response);
	reply_header(r, "Upgrade", "tcp");
}

void api_tcp(struct request *r)
{
	struct sandbox *s = api_sandbox(r);
	struct tunnel *t;
	struct err e;
	char *end;
	long port;
	int rc;

	if (!s)
		return;
	port = strtol(r->param[1], &end, 10);
	if (*end || port < 1 || port > 65535) {
		reply_error(r, 400, "port: \"%.64s\" is none", r->param[1]);
	} else if (!asks_for_it(r)) {
		reply_error(r, 426, "this is raw TCP: Upgrade: tcp is missing");
		reply_header(r, "Upgrade", "tcp");
	} else {
		rc = tunnel_open(s, (unsigned int)port, &t, &e);
		if (rc == -ECONNREFUSED || rc == -ETIMEDOUT)
			reply_error_code(r, 502, "connection_refused", false, e.msg);
		else if (rc)
			reply_errno(r, rc, &e);
		else
			reply_forward(r, t);
	}
	sandbox_put(s);
}
