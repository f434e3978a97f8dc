/* SPDX-License-Identifier: Apache-2.0 */
/* WebSockets, the client's side; see ws.h. */
#include "tools/cli/ws.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <wslay/wslay.h>

#include "lib/clock.h"
#include "tools/cli/http.h"

#define ANSWER_WAIT_MS 30000	   /* for the handshake: a sandbox may have to be woken for it */
#define CLOSE_WAIT_MS  2000	   /* for the server's close frame */
#define HEAD_MAX       (32u << 10) /* of the answer to the handshake, with the text of a refusal */
#define MESSAGE_MAX    (16u << 20)
#define INBOX_MAX      (1u << 20) /* received and not taken; then nothing more is received */

/* A message that has arrived. */
struct arrived {
	struct arrived *next;
	size_t len;
	bool text;
	uint8_t data[];
};

struct ws {
	CURL *curl; /* owned */
	curl_socket_t fd;
	wslay_event_context_ptr ctx; /* owned */
	char head[HEAD_MAX + 1];     /* answer to the handshake; what follows it is frames */
	size_t head_len, head_at;
	struct arrived *first, **last; /* owned */
	struct arrived *taken;	       /* owned; the one that the caller has */
	size_t inbox;
	bool held;	/* more may be there, and poll() need not know of it */
	bool broken;	/* the connection is gone */
	bool no_memory; /* a message was lost: it is over */
	unsigned int code;
	char reason[124];
};

/* --- bytes -------------------------------------------------------------------------------- */

static int wait_for(struct ws *w, short events, uint64_t deadline_ms,
		    const volatile sig_atomic_t *stop, struct err *e)
{
	struct pollfd p = {.fd = w->fd, .events = events};
	uint64_t now = clock_mono_ms();

	if (stop && *stop)
		return err_set(e, -EINTR, "interrupted");
	if (now >= deadline_ms)
		return err_set(e, -ETIMEDOUT, "the server does not answer");
	if (poll(&p, 1, (int)(deadline_ms - now)) < 0 && errno != EINTR)
		return err_sys(e, -errno, "poll");
	return 0;
}

static ssize_t on_recv(wslay_event_context_ptr ctx, uint8_t *buf, size_t len, int flags, void *arg)
{
	struct ws *w = arg;
	size_t n = w->head_len - w->head_at;
	CURLcode rc;

	(void)flags;
	if (n) {
		n = n < len ? n : len;
		memcpy(buf, w->head + w->head_at, n);
		w->head_at += n;
		return (ssize_t)n;
	}
	if (w->inbox >= INBOX_MAX) {
		w->held = true;
		wslay_event_set_error(ctx, WSLAY_ERR_WOULDBLOCK);
		return -1;
	}
	rc = curl_easy_recv(w->curl, buf, len, &n);
	if (rc == CURLE_OK && n)
		return (ssize_t)n;
	w->broken |= rc != CURLE_AGAIN;
	wslay_event_set_error(ctx, rc == CURLE_AGAIN ? WSLAY_ERR_WOULDBLOCK
						     : WSLAY_ERR_CALLBACK_FAILURE);
	return -1;
}

static ssize_t on_send(wslay_event_context_ptr ctx, const uint8_t *data, size_t len, int flags,
		       void *arg)
{
	struct ws *w = arg;
	size_t n = 0;
	CURLcode rc = curl_easy_send(w->curl, data, len, &n);

	(void)flags;
	if (rc == CURLE_OK)
		return (ssize_t)n;
	w->broken |= rc != CURLE_AGAIN;
	wslay_event_set_error(ctx, rc == CURLE_AGAIN ? WSLAY_ERR_WOULDBLOCK
						     : WSLAY_ERR_CALLBACK_FAILURE);
	return -1;
}

static int on_mask(wslay_event_context_ptr ctx, uint8_t *buf, size_t len, void *arg)
{
	(void)arg;
	if (RAND_bytes(buf, (int)len) == 1)
		return 0;
	wslay_event_set_error(ctx, WSLAY_ERR_CALLBACK_FAILURE);
	return -1;
}

/* --- messages ------------------------------------------------------------------------------- */

static void take_close(struct ws *w, const struct wslay_event_on_msg_recv_arg *m)
{
	/* The payload begins with the code. */
	size_t len = m->msg_length > 2 ? m->msg_length - 2 : 0;

	w->code = m->status_code ? m->status_code : WS_CODE_NORMAL;
	for (size_t i = 0; i < len && i < sizeof(w->reason) - 1; i++) {
		char c = (char)m->msg[2 + i];

		w->reason[i] = c >= ' ' && c <= '~' ? c : '?';
	}
}

static void on_message(wslay_event_context_ptr ctx, const struct wslay_event_on_msg_recv_arg *m,
		       void *arg)
{
	struct ws *w = arg;
	struct arrived *a;

	(void)ctx;
	if (m->opcode == WSLAY_CONNECTION_CLOSE)
		take_close(w, m);
	if (m->opcode != WSLAY_TEXT_FRAME && m->opcode != WSLAY_BINARY_FRAME)
		return;
	a = malloc(sizeof(*a) + m->msg_length);
	if (!a) {
		w->no_memory = true;
		return;
	}
	a->next = NULL;
	a->len = m->msg_length;
	a->text = m->opcode == WSLAY_TEXT_FRAME;
	if (a->len)
		memcpy(a->data, m->msg, a->len);
	*w->last = a;
	w->last = &a->next;
	w->inbox += sizeof(*a) + a->len;
}

int ws_recv(struct ws *w, struct ws_message *m)
{
	free(w->taken);
	w->taken = NULL;
	if (!w->first && w->held)
		ws_turn(w);
	w->taken = w->first;
	if (!w->taken)
		return 0;
	w->first = w->taken->next;
	if (!w->first)
		w->last = &w->first;
	w->inbox -= sizeof(*w->taken) + w->taken->len;
	*m = (struct ws_message){w->taken->data, w->taken->len, w->taken->text};
	return 1;
}

int ws_send(struct ws *w, const void *head, size_t head_len, const void *data, size_t len)
{
	uint8_t *whole = malloc(head_len + len + 1);
	struct wslay_event_msg m = {WSLAY_BINARY_FRAME, whole, head_len + len};
	int rc;

	if (!whole)
		return -ENOMEM;
	if (head_len)
		memcpy(whole, head, head_len);
	if (len)
		memcpy(whole + head_len, data, len);
	rc = wslay_event_queue_msg(w->ctx, &m); /* copies */
	free(whole);
	return rc == WSLAY_ERR_NOMEM ? -ENOMEM : rc ? -EPIPE : 0;
}

size_t ws_unsent(const struct ws *w)
{
	return wslay_event_get_queued_msg_length(w->ctx);
}

int ws_turn(struct ws *w)
{
	w->held = false;
	if (!w->broken && wslay_event_want_read(w->ctx) && wslay_event_recv(w->ctx))
		w->broken = true;
	if (!w->broken && wslay_event_want_write(w->ctx) && wslay_event_send(w->ctx))
		w->broken = true;
	if (w->no_memory)
		w->broken = true;
	if (!w->broken && (wslay_event_want_read(w->ctx) || wslay_event_want_write(w->ctx)))
		return 0;
	if (!w->code)
		w->code = WS_CODE_BROKEN;
	return -EPIPE;
}

int ws_fd(const struct ws *w)
{
	return w->fd;
}

short ws_events(const struct ws *w)
{
	return (short)((wslay_event_want_read(w->ctx) ? POLLIN : 0) |
		       (wslay_event_want_write(w->ctx) ? POLLOUT : 0));
}

unsigned int ws_code(const struct ws *w)
{
	return w->code;
}

const char *ws_reason(const struct ws *w)
{
	return w->reason;
}

void ws_close(struct ws *w, unsigned int code)
{
	uint64_t deadline = clock_mono_ms() + CLOSE_WAIT_MS;
	struct err e;

	if (w->broken || wslay_event_queue_close(w->ctx, (uint16_t)code, NULL, 0))
		return;
	while (!ws_turn(w)) {
		struct ws_message m;

		/* Nobody wants them any more, and a full inbox would hide the close frame. */
		while (ws_recv(w, &m))
			;
		if (wait_for(w, ws_events(w), deadline, NULL, &e))
			return;
	}
}

/* --- handshake ---------------------------------------------------------------------------------
 */

static int sha1_base64(const char *text, char out[32])
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int len = 0;

	if (!EVP_Digest(text, strlen(text), digest, &len, EVP_sha1(), NULL))
		return -EIO;
	EVP_EncodeBlock((unsigned char *)out, digest, (int)len);
	return 0;
}

static int make_key(char key[32], char accept[32])
{
	unsigned char bytes[16];
	char text[80];

	if (RAND_bytes(bytes, sizeof(bytes)) != 1)
		return -EIO;
	EVP_EncodeBlock((unsigned char *)key, bytes, sizeof(bytes));
	snprintf(text, sizeof(text), "%s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
	return sha1_base64(text, accept);
}

/* Host and path of "scheme://host/path" for the request. */
static char *make_request(const struct endpoint *ep, const char *path, const char *key)
{
	const char *host = strstr(ep->base, "://") + 3, *slash = strchr(host, '/');
	int host_len = slash ? (int)(slash - host) : (int)strlen(host);
	char *text;

	if (asprintf(&text,
		     "GET %s%s HTTP/1.1\r\nHost: %.*s\r\nUpgrade: websocket\r\n"
		     "Connection: Upgrade\r\nSec-WebSocket-Key: %s\r\n"
		     "Sec-WebSocket-Version: 13\r\n%s%s%s\r\n",
		     slash ? slash : "", path, host_len, host, key,
		     ep->api_key[0] ? "X-API-Key: " : "", ep->api_key,
		     ep->api_key[0] ? "\r\n" : "") < 0)
		return NULL;
	return text;
}

static int send_request(struct ws *w, const char *text, uint64_t deadline,
			const volatile sig_atomic_t *stop, struct err *e)
{
	size_t len = strlen(text), at = 0;

	while (at < len) {
		size_t n = 0;
		CURLcode rc = curl_easy_send(w->curl, text + at, len - at, &n);
		int wait = 0;

		if (rc == CURLE_AGAIN)
			wait = wait_for(w, POLLOUT, deadline, stop, e);
		else if (rc != CURLE_OK)
			return err_set(e, -EIO, "the connection broke: %s", curl_easy_strerror(rc));
		if (wait)
			return wait;
		at += n;
	}
	return 0;
}

/* More of the answer. Return: 1, 0 at its end, or -errno. */
static int receive_more(struct ws *w, uint64_t deadline, const volatile sig_atomic_t *stop,
			struct err *e)
{
	for (;;) {
		size_t n = 0;
		CURLcode rc;
		int wait;

		if (w->head_len == HEAD_MAX)
			return 0;
		rc = curl_easy_recv(w->curl, w->head + w->head_len, HEAD_MAX - w->head_len, &n);
		if (rc == CURLE_OK) {
			w->head_len += n;
			w->head[w->head_len] = '\0';
			return n > 0;
		}
		if (rc != CURLE_AGAIN)
			return err_set(e, -EIO, "the connection broke: %s", curl_easy_strerror(rc));
		wait = wait_for(w, POLLIN, deadline, stop, e);
		if (wait)
			return wait;
	}
}

/* The value of a header in the lines [head, end); NULL if it is not there. */
static const char *header_value(const char *head, const char *end, const char *name, size_t *len)
{
	size_t name_len = strlen(name);

	for (const char *line = head; line < end; line += strcspn(line, "\n") + 1) {
		const char *v = line + name_len;

		if (strncasecmp(line, name, name_len) || *v != ':')
			continue;
		v += 1 + strspn(v + 1, " \t");
		*len = strcspn(v, "\r\n");
		while (*len && (v[*len - 1] == ' ' || v[*len - 1] == '\t'))
			--*len;
		return v;
	}
	return NULL;
}

static bool header_is(const char *head, const char *end, const char *name, const char *value)
{
	size_t len;
	const char *v = header_value(head, end, name, &len);

	return v && len == strlen(value) && !strncasecmp(v, value, len);
}

/* The server says no: read why. */
static int refused(struct ws *w, long status, const char *body, uint64_t deadline,
		   const volatile sig_atomic_t *stop, struct err *e)
{
	size_t at = (size_t)(body - w->head), len, want;
	const char *v = header_value(w->head, body, "Content-Length", &len);
	json_t *json;
	int rc;

	want = v ? strtoul(v, NULL, 10) : HEAD_MAX;
	while (w->head_len - at < want && receive_more(w, deadline, stop, e) > 0)
		;
	json = json_loadb(w->head + at, w->head_len - at, JSON_DISABLE_EOF_CHECK, NULL);
	rc = http_explain_status(status, json, e);
	json_decref(json);
	return rc;
}

static int read_answer(struct ws *w, const char *accept, uint64_t deadline,
		       const volatile sig_atomic_t *stop, struct err *e)
{
	char *end;
	long status;
	int rc = 1;

	while (!(end = strstr(w->head, "\r\n\r\n"))) {
		rc = receive_more(w, deadline, stop, e);
		if (rc < 0)
			return rc;
		if (!rc)
			return err_set(e, -EIO, "the answer is not of a Dormouse server");
	}
	end += 4;
	status = strncmp(w->head, "HTTP/1.", 7) ? 0 : strtol(w->head + 8, NULL, 10);
	if (status >= 300)
		return refused(w, status, end, deadline, stop, e);
	if (status != 101 || !header_is(w->head, end, "Upgrade", "websocket") ||
	    !header_is(w->head, end, "Sec-WebSocket-Accept", accept))
		return err_set(e, -EIO, "the answer is no WebSocket's");
	w->head_at = (size_t)(end - w->head);
	return 0;
}

static int connect_to(struct ws *w, const struct endpoint *ep, struct err *e)
{
	CURLcode rc;

	curl_easy_setopt(w->curl, CURLOPT_CONNECT_ONLY, 1L);
	curl_easy_setopt(w->curl, CURLOPT_URL, ep->base);
	curl_easy_setopt(w->curl, CURLOPT_PROTOCOLS_STR, "http,https");
	/* Over TLS the other version would be agreed on, and has no upgrade. */
	curl_easy_setopt(w->curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(w->curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(w->curl, CURLOPT_CONNECTTIMEOUT, 10L);
	curl_easy_setopt(w->curl, CURLOPT_TCP_KEEPALIVE, 1L);
	if (ep->unix_path[0])
		curl_easy_setopt(w->curl, CURLOPT_UNIX_SOCKET_PATH, ep->unix_path);
	rc = curl_easy_perform(w->curl);
	if (rc == CURLE_OK)
		rc = curl_easy_getinfo(w->curl, CURLINFO_ACTIVESOCKET, &w->fd);
	return rc == CURLE_OK ? 0 : http_explain_curl(ep->name, rc, e);
}

static int start_frames(struct ws *w, struct err *e)
{
	static const struct wslay_event_callbacks callbacks = {
	    .recv_callback = on_recv,
	    .send_callback = on_send,
	    .genmask_callback = on_mask,
	    .on_msg_recv_callback = on_message,
	};

	if (wslay_event_context_client_init(&w->ctx, &callbacks, w))
		return err_set(e, -ENOMEM, "out of memory");
	wslay_event_config_set_max_recv_msg_length(w->ctx, MESSAGE_MAX);
	return 0;
}

int ws_open(const struct endpoint *ep, const char *path, const volatile sig_atomic_t *stop,
	    struct ws **out, struct err *e)
{
	uint64_t deadline = clock_mono_ms() + ANSWER_WAIT_MS;
	struct ws *w = calloc(1, sizeof(*w));
	char key[32], accept[32], *text = NULL;
	int rc = err_set(e, -ENOMEM, "out of memory");

	if (!w)
		return rc;
	w->last = &w->first;
	w->curl = curl_easy_init();
	if (w->curl)
		rc = connect_to(w, ep, e);
	if (!rc && make_key(key, accept))
		rc = err_set(e, -EIO, "no random numbers");
	if (!rc && !(text = make_request(ep, path, key)))
		rc = err_set(e, -ENOMEM, "out of memory");
	if (!rc)
		rc = send_request(w, text, deadline, stop, e);
	if (!rc)
		rc = read_answer(w, accept, deadline, stop, e);
	if (!rc)
		rc = start_frames(w, e);
	free(text);
	if (rc)
		ws_free(w);
	else
		*out = w;
	return rc;
}

void ws_free(struct ws *w)
{
	if (!w)
		return;
	while (w->first) {
		struct arrived *a = w->first;

		w->first = a->next;
		free(a);
	}
	free(w->taken);
	if (w->ctx)
		wslay_event_context_free(w->ctx);
	if (w->curl)
		curl_easy_cleanup(w->curl);
	free(w);
}
