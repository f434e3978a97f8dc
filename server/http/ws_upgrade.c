/* SPDX-License-Identifier: Apache-2.0 */
/* The way from an HTTP request to a WebSocket; see ws.h. */
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "server/http/request.h"
#include "server/http/ws_int.h"

#define WS_GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

/* --- the handshake ------------------------------------------------------------------------------
 */

/* Is @token in a comma-separated list? */
static bool has_token(const char *list, const char *token)
{
	size_t len = strlen(token);

	while (list && *list) {
		size_t n;

		list += strspn(list, " \t,");
		n = strcspn(list, " \t,");
		if (n == len && !strncasecmp(list, token, len))
			return true;
		list += n;
	}
	return false;
}

/* base64 of 16 bytes: 22 digits, and the last has no bits to spare. */
static bool is_key(const char *key)
{
	static const char digits[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	return strlen(key) == 24 && strspn(key, digits) == 22 && !strcmp(key + 22, "==") &&
	       strchr("AQgw", key[21]);
}

int ws_handshake_check(const struct ws_handshake *h, char accept[WS_ACCEPT_SIZE], struct err *e)
{
	unsigned char text[24 + sizeof(WS_GUID)], digest[EVP_MAX_MD_SIZE];
	unsigned int len;

	if (strcmp(h->method, "GET") || strcmp(h->version, "HTTP/1.1"))
		return err_set(e, -EINVAL, "a WebSocket begins with GET and HTTP/1.1");
	if (!has_token(h->upgrade, "websocket") || !has_token(h->connection, "upgrade"))
		return err_set(e, -EPROTONOSUPPORT, "this is a WebSocket: Upgrade is missing");
	if (h->repeated)
		return err_set(e, -EINVAL, "a header of the WebSocket handshake came twice");
	if ((h->content_length && strcmp(h->content_length, "0")) || h->encoding)
		return err_set(e, -EINVAL, "a WebSocket handshake has no body");
	if (!h->ws_version || strcmp(h->ws_version, "13"))
		return err_set(e, -EPROTONOSUPPORT, "WebSocket version 13 is spoken here");
	if (!h->key || !is_key(h->key))
		return err_set(e, -EINVAL, "Sec-WebSocket-Key: must be base64 of 16 bytes");
	memcpy(text, h->key, 24);
	memcpy(text + 24, WS_GUID, sizeof(WS_GUID));
	if (!EVP_Digest(text, sizeof(text) - 1, digest, &len, EVP_sha1(), NULL))
		return err_set(e, -ENOMEM, "out of memory");
	EVP_EncodeBlock((unsigned char *)accept, digest, (int)len);
	return 0;
}

struct counts {
	int key, version, length, encoding;
};

static enum MHD_Result count_header(void *cls, enum MHD_ValueKind kind, const char *name,
				    const char *value)
{
	struct counts *c = cls;

	(void)kind;
	(void)value;
	c->key += !strcasecmp(name, "Sec-WebSocket-Key");
	c->version += !strcasecmp(name, "Sec-WebSocket-Version");
	c->length += !strcasecmp(name, "Content-Length");
	c->encoding += !strcasecmp(name, "Transfer-Encoding");
	return MHD_YES;
}

static int check_request(struct request *r, char accept[WS_ACCEPT_SIZE], struct err *e)
{
	struct counts c = {0};
	struct ws_handshake h = {
	    .method = r->method,
	    .version = r->version,
	    .upgrade = request_header(r, "Upgrade"),
	    .connection = request_header(r, "Connection"),
	    .key = request_header(r, "Sec-WebSocket-Key"),
	    .ws_version = request_header(r, "Sec-WebSocket-Version"),
	    .content_length = request_header(r, "Content-Length"),
	    .encoding = request_header(r, "Transfer-Encoding"),
	};

	MHD_get_connection_values(r->conn, MHD_HEADER_KIND, count_header, &c);
	h.repeated = c.key > 1 || c.version > 1 || c.length > 1 || c.encoding > 1;
	return ws_handshake_check(&h, accept, e);
}

/* --- the set
 * -------------------------------------------------------------------------------------- */

void ws_set_init(struct ws_set *set, unsigned int *requests)
{
	pthread_mutex_init(&set->lock, NULL);
	pthread_cond_init(&set->changed, NULL);
	set->requests = requests;
}

/* Under the set's lock. The owner of the socket notices the end of what it reads. */
static void stop_one(struct ws *w)
{
	__atomic_store_n(&w->stopping, true, __ATOMIC_RELEASE);
	shutdown(w->fd, SHUT_RD);
}

static void enter_set(struct ws_set *set, struct ws *w)
{
	pthread_mutex_lock(&set->lock);
	w->next = set->first;
	set->first = w;
	if (set->stopping)
		stop_one(w);
	pthread_mutex_unlock(&set->lock);
}

static void leave_set(struct ws_set *set, struct ws *w)
{
	pthread_mutex_lock(&set->lock);
	for (struct ws **at = &set->first; *at; at = &(*at)->next)
		if (*at == w) {
			*at = w->next;
			break;
		}
	pthread_cond_broadcast(&set->changed);
	pthread_mutex_unlock(&set->lock);
}

void ws_set_stop(struct ws_set *set)
{
	pthread_mutex_lock(&set->lock);
	set->stopping = true;
	for (struct ws *w = set->first; w; w = w->next)
		stop_one(w);
	pthread_mutex_unlock(&set->lock);
}

void ws_set_wait(struct ws_set *set)
{
	pthread_mutex_lock(&set->lock);
	while (set->first)
		pthread_cond_wait(&set->changed, &set->lock);
	pthread_mutex_unlock(&set->lock);
}

/* --- the switch
 * ------------------------------------------------------------------------------------- */

struct ws_upgrade {
	struct ws_set *set; /* borrowed */
	void (*run)(struct ws *w, void *state);
	void (*release)(void *state);
	void *state;
};

void ws_upgrade_free(struct ws_upgrade *u)
{
	if (!u)
		return;
	u->release(u->state);
	free(u);
}

static void set_socket(int fd)
{
	int on = 1, idle_s = 60, every_s = 10, times = 6;

	/* These fail on Unix sockets, which need none. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof(every_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof(times));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

/* On the connection's thread, when the 101 is sent. */
static void on_upgrade(void *cls, struct MHD_Connection *conn, void *con_cls, const char *extra,
		       size_t extra_len, MHD_socket fd, struct MHD_UpgradeResponseHandle *urh)
{
	struct ws_upgrade *u = cls;
	struct ws *w = ws_new(fd, extra, extra_len);

	(void)conn;
	(void)con_cls;
	if (w) {
		__atomic_sub_fetch(u->set->requests, 1, __ATOMIC_RELAXED);
		set_socket(fd);
		enter_set(u->set, w);
		poll(NULL, 0, WS_FIRST_FRAME_MS);
		u->run(w, u->state);
		ws_close(w, WS_NORMAL, "");
		leave_set(u->set, w);
		ws_free(w);
		__atomic_add_fetch(u->set->requests, 1, __ATOMIC_RELAXED);
	}
	MHD_upgrade_action(urh, MHD_UPGRADE_ACTION_CLOSE);
}

void reply_websocket(struct request *r, void (*run)(struct ws *w, void *state), void *state,
		     void (*release)(void *state))
{
	struct MHD_Response *response = NULL;
	char accept[WS_ACCEPT_SIZE];
	struct ws_upgrade *u;
	struct err e;
	int rc = check_request(r, accept, &e);

	if (rc) {
		release(state);
		reply_error(r,
			    rc == -EPROTONOSUPPORT ? 426
			    : rc == -ENOMEM	   ? 503
						   : 400,
			    "%s", e.msg);
		if (rc == -EPROTONOSUPPORT) {
			reply_header(r, "Upgrade", "websocket");
			reply_header(r, "Sec-WebSocket-Version", "13");
		}
		return;
	}
	u = calloc(1, sizeof(*u));
	if (u)
		response = MHD_create_response_for_upgrade(on_upgrade, u);
	if (!response) {
		free(u);
		release(state);
		reply_error(r, 503, "out of memory");
		return;
	}
	*u = (struct ws_upgrade){r->sockets, run, release, state};
	r->upgrade = u;
	request_set_reply(r, 101, response);
	reply_header(r, "Upgrade", "websocket");
	reply_header(r, "Sec-WebSocket-Accept", accept);
}
