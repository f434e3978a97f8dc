/* SPDX-License-Identifier: Apache-2.0 */
/* One connection of a preview: from its head to the tunnel; see proxy.h. */
#include "server/preview/proxy.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/clock.h"
#include "lib/log.h"
#include "server/manager/preview.h"
#include "server/preview/host.h"

#define HEAD_MS	  15000 /* for the whole head, however slowly it comes */
#define REPLY_MS  5000
#define DRAIN_MS  2000
#define DRAIN_MAX (1u << 20)

/* A server in the sandbox that is about to listen. */
static const int retry_ms[] = {50, 100, 150, 250, 350, 500};
#define RETRIES (sizeof(retry_ms) / sizeof(retry_ms[0]))

struct proxy {
	struct manager *m;
	int fd;
	const char *client;
	struct strbuf in; /* what the client has said so far: head, and what came with it */
	size_t head_len;
	struct head request, answer;
	struct preview_host host;
	struct sandbox *s;
	struct tunnel *t;
	struct preview_stats *stats;
	bool token_in_authorization;
};

/* --- answers of our own ------------------------------------------------------------------------
 */

static const char *reason_of(unsigned int status)
{
	return http_status_str(status);
}

/* Else what it still sends would reset the connection, and our answer with it. */
static void drain(struct proxy *x)
{
	uint64_t deadline = clock_mono_ms() + DRAIN_MS;
	size_t dropped = 0;
	char block[4096];

	shutdown(x->fd, SHUT_WR);
	while (dropped < DRAIN_MAX) {
		struct pollfd pfd = {.fd = x->fd, .events = POLLIN};
		uint64_t now = clock_mono_ms();
		ssize_t n;

		if (now >= deadline || poll(&pfd, 1, (int)(deadline - now)) <= 0)
			return;
		n = recv(x->fd, block, sizeof(block), MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN))
			return;
		dropped += n > 0 ? (size_t)n : 0;
	}
}

static void answer(struct proxy *x, unsigned int status, const char *type, const char *headers,
		   const struct strbuf *body)
{
	struct strbuf out = {0};

	strbuf_addf(&out,
		    "HTTP/1.1 %u %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
		    "Cache-Control: no-store\r\n%sConnection: close\r\n\r\n",
		    status, reason_of(status), type, body->len, headers);
	if (x->request.parser.method != HTTP_HEAD)
		strbuf_add(&out, body->data, body->len);
	if (!out.failed && !pump_send(x->fd, out.data, out.len, REPLY_MS))
		drain(x);
	strbuf_fini(&out);
}

static void refuse(struct proxy *x, unsigned int status, const char *code, const char *headers,
		   const char *text)
{
	struct strbuf body = {0};

	strbuf_adds(&body, "{");
	strbuf_json_str(&body, "error", text);
	strbuf_json_str(&body, "code", code);
	strbuf_adds(&body, "}");
	answer(x, status, "application/json", headers, &body);
	strbuf_fini(&body);
}

static void refuse_errno(struct proxy *x, int rc, const struct err *e)
{
	if (rc == -EACCES)
		refuse(x, 401, "unauthorized", "WWW-Authenticate: Bearer realm=\"preview\"\r\n",
		       e->msg);
	else if (rc == -ENOENT)
		refuse(x, 404, "not_found", "", e->msg);
	else if (rc == -ESHUTDOWN)
		refuse(x, 410, "stopped", "", e->msg);
	else if (rc == -EAGAIN || rc == -ENOSPC || rc == -ENOMEM || rc == -EMFILE ||
		 rc == -ENFILE || rc == -EBUSY || rc == -ECANCELED)
		refuse(x, 503, "worker_unavailable", "Retry-After: 2\r\n", e->msg);
	else if (rc == -EPROTO)
		refuse(x, 502, "bad_gateway", "", e->msg);
	else
		refuse(x, 502, "sandbox_failed", "", e->msg);
}

static bool wants_html(const struct head *h)
{
	const struct head_text *accept = head_find(h, "Accept");

	return accept && memmem(accept->at, accept->len, "text/html", 9);
}

/* Nobody listens on the port. */
static void refuse_port(struct proxy *x)
{
	struct strbuf page = {0};
	char text[96];

	snprintf(text, sizeof(text), "nothing listens on port %u of the sandbox", x->host.port);
	if (!wants_html(&x->request)) {
		refuse(x, 502, "connection_refused", "", text);
		return;
	}
	strbuf_addf(&page,
		    "<!doctype html><html lang=en><meta charset=utf-8>"
		    "<meta http-equiv=refresh content=2><title>Waiting for port %u</title>"
		    "<style>body{font:1.1em sans-serif;margin:20vh auto;max-width:32em;"
		    "text-align:center;color:#444}</style>"
		    "<h1>Waiting for port %u</h1><p>Nothing listens there in sandbox %s yet. "
		    "This page tries again every two seconds.</html>\n",
		    x->host.port, x->host.port, x->host.id);
	answer(x, 503, "text/html; charset=utf-8", "Retry-After: 2\r\nRefresh: 2\r\n", &page);
	strbuf_fini(&page);
}

/* --- the request
 * ----------------------------------------------------------------------------------- */

/* Return: 1 a head is there, 0 the client is gone or too slow, -EMSGSIZE. */
static int read_head(struct proxy *x)
{
	uint64_t deadline = clock_mono_ms() + HEAD_MS;
	char block[8192];

	for (;;) {
		struct pollfd pfd = {.fd = x->fd, .events = POLLIN};
		uint64_t now = clock_mono_ms();
		ssize_t n = recv(x->fd, block, sizeof(block), MSG_DONTWAIT);

		if (n > 0) {
			strbuf_add(&x->in, block, (size_t)n);
			if (x->in.failed)
				return 0;
			x->head_len = head_end(x->in.data, x->in.len);
			if (x->head_len)
				return x->head_len > HEAD_MAX ? -EMSGSIZE : 1;
			if (x->in.len > HEAD_MAX)
				return -EMSGSIZE;
		} else if (n == 0 || (errno != EAGAIN && errno != EINTR) || now >= deadline ||
			   manager_interrupted(x->m)) {
			return 0;
		} else {
			poll(&pfd, 1, deadline - now < 1000 ? (int)(deadline - now) : 1000);
		}
	}
}

/* Return: false after having answered, or when there is nobody to answer. */
static bool take_request(struct proxy *x)
{
	const struct head_text *host;
	struct err e;
	int rc = read_head(x);

	if (rc == -EMSGSIZE)
		refuse(x, 431, "too_large", "", "the headers are too large");
	if (rc != 1)
		return false;
	rc = head_parse_request(&x->request, x->in.data, x->head_len, &e);
	if (rc) {
		refuse(x, rc == -EMSGSIZE ? 431 : 400,
		       rc == -EMSGSIZE ? "too_large" : "bad_request", "", e.msg);
		return false;
	}
	host = head_find(&x->request, "Host");
	if (preview_host_parse(host->at, host->len, &x->host))
		return true;
	refuse(x, 400, "bad_request", "", "the Host is no preview");
	return false;
}

static bool admit(struct proxy *x)
{
	struct head_text token = head_token(&x->request, &x->token_in_authorization);
	struct err e;
	int rc = preview_admit(x->m, x->host.id, x->host.port, token.at, token.len, &x->s, &e);

	if (rc)
		refuse_errno(x, rc, &e);
	return !rc;
}

/* The client has hung up: nobody waits for the port any more. */
static bool client_is_gone(struct proxy *x, int wait_ms)
{
	struct pollfd pfd = {.fd = x->fd, .events = 0};

	return poll(&pfd, 1, wait_ms) > 0;
}

static bool connect_port(struct proxy *x)
{
	struct err e;
	int rc;

	for (size_t i = 0;; i++) {
		rc = tunnel_open(x->s, x->host.port, &x->t, &e);
		if (rc != -ECONNREFUSED || i == RETRIES)
			break;
		if (client_is_gone(x, retry_ms[i]))
			return false;
	}
	if (rc == -ECONNREFUSED)
		refuse_port(x);
	else if (rc)
		refuse_errno(x, rc, &e);
	return !rc;
}

/* --- and its answer
 * ------------------------------------------------------------------------------------ */

static void abort_client(int fd)
{
	const struct linger at_once = {.l_onoff = 1};

	/* A reset: else what came so far could pass for the whole. */
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
}

static void count_bytes(struct pump *p, struct preview_stats *stats)
{
	p->up.counted = &stats->bytes_up;
	p->down.counted = &stats->bytes_down;
}

static void exchange(struct proxy *x)
{
	const struct config *c = manager_config(x->m);
	struct head_rewrite w = {
	    .client = x->client,
	    .host = c->preview_host,
	    .strip_authorization = x->token_in_authorization && sandbox_has_preview_token(x->s),
	};
	struct pump p = {.fd = x->fd, .t = x->t, .request = &x->request, .answer = &x->answer};
	size_t rest = x->in.len - x->head_len;
	ssize_t mine;

	count_bytes(&p, x->stats);
	head_write_request(&x->request, &w, &p.up.b);
	mine = head_body(&x->request, x->in.data + x->head_len, rest);
	if (mine < 0) {
		refuse(x, 400, "bad_request", "", "the body is not what the headers say");
	} else {
		if (mine)
			strbuf_add(&p.up.b, x->in.data + x->head_len, (size_t)mine);
		switch (p.up.b.failed ? PUMP_ABORTED : pump_run(&p)) {
		case PUMP_NO_ANSWER:
			refuse_errno(x, p.err.code == -ECONNRESET ? -EPROTO : p.err.code, &p.err);
			break;
		case PUMP_ABORTED:
			abort_client(x->fd);
			break;
		case PUMP_DONE:
			if (!p.raw)
				drain(x);
		}
	}
	pump_fini(&p);
}

void proxy_forward(int fd, struct tunnel *t, const void *early, size_t early_len,
		   struct preview_stats *stats)
{
	struct pump p = {.fd = fd, .t = t, .raw = true};

	count_bytes(&p, stats);
	strbuf_add(&p.up.b, early, early_len);
	if (p.up.b.failed || pump_run(&p) != PUMP_DONE)
		abort_client(fd);
	pump_fini(&p);
}

void proxy_serve(struct manager *m, int fd, const char *client, struct preview_stats *stats)
{
	struct proxy *x = calloc(1, sizeof(*x)); /* two heads: too large for the stack */

	if (!x)
		return;
	x->m = m;
	x->fd = fd;
	x->client = client;
	x->stats = stats;
	if (take_request(x) && admit(x) && connect_port(x))
		exchange(x);
	tunnel_close(x->t);
	sandbox_put(x->s);
	strbuf_fini(&x->in);
	free(x);
}
