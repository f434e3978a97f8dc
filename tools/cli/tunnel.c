/* SPDX-License-Identifier: Apache-2.0 */
/* A connection through the server to a port of a sandbox; see tunnel.h. */
#include "tools/cli/tunnel.h"

#include <curl/curl.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "tools/cli/http.h"

#define ANSWER_MS 180000 /* a wake and a boot lie within */
#define HEAD_MAX  16384
#define BLOCK	  65536

struct tunnel {
	CURL *curl; /* owned */
	int fd;	    /* curl's */
	size_t early_len;
	char early[HEAD_MAX]; /* bytes that came with the 101 */
};

void tunnel_close(struct tunnel *t)
{
	if (!t)
		return;
	curl_easy_cleanup(t->curl);
	free(t);
}

static int dial(struct tunnel *t, const struct endpoint *ep, struct err *e)
{
	curl_socket_t fd = CURL_SOCKET_BAD;
	CURLcode code;

	curl_easy_setopt(t->curl, CURLOPT_URL, ep->base);
	if (ep->unix_path[0])
		curl_easy_setopt(t->curl, CURLOPT_UNIX_SOCKET_PATH, ep->unix_path);
	curl_easy_setopt(t->curl, CURLOPT_CONNECT_ONLY, 1L);
	curl_easy_setopt(t->curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(t->curl, CURLOPT_PROXY, "");
	code = curl_easy_perform(t->curl);
	if (code == CURLE_OK)
		code = curl_easy_getinfo(t->curl, CURLINFO_ACTIVESOCKET, &fd);
	if (code != CURLE_OK)
		return http_explain_curl(ep->name, code, e);
	t->fd = (int)fd;
	return 0;
}

/* Return: bytes, 0 at the end, -EAGAIN, -EIO. */
static ssize_t receive(struct tunnel *t, void *buf, size_t len)
{
	size_t n = 0;
	CURLcode code = curl_easy_recv(t->curl, buf, len, &n);

	if (code == CURLE_AGAIN)
		return -EAGAIN;
	return code == CURLE_OK ? (ssize_t)n : -EIO;
}

static ssize_t transmit(struct tunnel *t, const void *buf, size_t len)
{
	size_t n = 0;
	CURLcode code = curl_easy_send(t->curl, buf, len, &n);

	if (code == CURLE_AGAIN)
		return -EAGAIN;
	return code == CURLE_OK ? (ssize_t)n : -EIO;
}

static int ask(struct tunnel *t, const struct endpoint *ep, const char *path, struct err *e)
{
	const char *host = strstr(ep->base, "://") + 3, *slash = strchr(host, '/');
	char text[2048];
	size_t len, sent = 0;

	len = (size_t)snprintf(text, sizeof(text),
			       "GET %s%s HTTP/1.1\r\nHost: %.*s\r\nUpgrade: tcp\r\n"
			       "Connection: Upgrade\r\n%s%s%s\r\n",
			       slash, path, (int)(slash - host), host,
			       ep->api_key[0] ? "X-API-Key: " : "", ep->api_key,
			       ep->api_key[0] ? "\r\n" : "");
	while (sent < len) {
		struct pollfd pfd = {.fd = t->fd, .events = POLLOUT};
		ssize_t n = transmit(t, text + sent, len - sent);

		if (n == -EAGAIN && poll(&pfd, 1, ANSWER_MS) <= 0)
			n = -EIO;
		if (n < 0 && n != -EAGAIN)
			return err_set(e, -EIO, "%s: the connection broke", ep->name);
		sent += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static int read_more(struct tunnel *t, size_t *len, const char *name, struct err *e)
{
	struct pollfd pfd = {.fd = t->fd, .events = POLLIN};
	ssize_t n = receive(t, t->early + *len, HEAD_MAX - 1 - *len);

	if (n == -EAGAIN)
		return poll(&pfd, 1, ANSWER_MS) > 0 ? 0 : err_set(e, -EIO, "%s: no answer", name);
	if (n <= 0)
		return err_set(e, -EIO, "%s: the connection ended before the answer", name);
	*len += (size_t)n;
	t->early[*len] = '\0';
	return 0;
}

/* What the server said instead: its JSON is behind the head, and fits or is not needed. */
static int explain(struct tunnel *t, size_t len, const char *body, const char *name, struct err *e)
{
	long status = strtol(t->early + 9, NULL, 10);
	json_t *json = NULL;
	int rc;

	while (!json && len < HEAD_MAX - 1) {
		json = json_loads(body, 0, NULL);
		if (!json && read_more(t, &len, name, e))
			break;
	}
	rc = http_explain_status(status, json, e);
	json_decref(json);
	return rc;
}

static int take_answer(struct tunnel *t, const char *name, struct err *e)
{
	size_t len = 0, head;
	char *end = NULL;

	while (!end) {
		int rc = len < HEAD_MAX - 1 ? read_more(t, &len, name, e)
					    : err_set(e, -EIO, "%s: this is no answer", name);

		if (rc)
			return rc;
		end = strstr(t->early, "\r\n\r\n");
	}
	if (strncmp(t->early, "HTTP/1.1 ", 9))
		return err_set(e, -EIO, "%s: this is no HTTP server", name);
	if (strncmp(t->early + 9, "101", 3))
		return explain(t, len, end + 4, name, e);
	head = (size_t)(end + 4 - t->early);
	t->early_len = len - head;
	memmove(t->early, t->early + head, t->early_len);
	return 0;
}

int tunnel_open(const struct endpoint *ep, const char *path, struct tunnel **out, struct err *e)
{
	struct tunnel *t = calloc(1, sizeof(*t));
	int rc;

	if (t)
		t->curl = curl_easy_init();
	if (!t || !t->curl) {
		free(t);
		return err_set(e, -ENOMEM, "out of memory");
	}
	rc = dial(t, ep, e);
	if (!rc)
		rc = ask(t, ep, path, e);
	if (!rc)
		rc = take_answer(t, ep->name, e);
	if (rc)
		tunnel_close(t);
	else
		*out = t;
	return rc;
}

/* --- moving bytes ------------------------------------------------------------------------------
 */

struct way {
	char buf[BLOCK];
	size_t len, sent;
	bool ended, told;
};

/* Return: true if something moved or ended; *@broken for good. */
static bool take_in(struct way *w, ssize_t n, bool *broken)
{
	if (n == -EAGAIN)
		return false;
	*broken |= n < 0;
	w->ended = n <= 0;
	w->len = n > 0 ? (size_t)n : 0;
	w->sent = 0;
	return true;
}

static bool give_out(struct way *w, ssize_t n, bool *broken)
{
	if (n == -EAGAIN)
		return false;
	*broken |= n < 0;
	w->sent += n > 0 ? (size_t)n : 0;
	if (w->sent == w->len)
		w->len = w->sent = 0;
	return true;
}

static ssize_t sys(ssize_t n)
{
	if (n >= 0)
		return n;
	return errno == EAGAIN || errno == EINTR ? -EAGAIN : -errno;
}

/* Return: true if something happened. */
static bool turn(struct tunnel *t, int fd, struct way *up, struct way *down, bool *broken)
{
	bool some = false;

	if (!up->len && !up->ended)
		some |= take_in(up, sys(recv(fd, up->buf, BLOCK, MSG_DONTWAIT)), broken);
	if (up->len)
		some |= give_out(up, transmit(t, up->buf + up->sent, up->len - up->sent), broken);
	if (!down->len && !down->ended)
		some |= take_in(down, receive(t, down->buf, BLOCK), broken);
	if (down->len)
		some |= give_out(
		    down,
		    sys(send(fd, down->buf + down->sent, down->len - down->sent, MSG_NOSIGNAL)),
		    broken);
	if (up->ended && !up->len && !up->told) {
		shutdown(t->fd, SHUT_WR);
		up->told = true;
	}
	if (down->ended && !down->len && !down->told) {
		shutdown(fd, SHUT_WR);
		down->told = true;
	}
	return some;
}

void tunnel_pump(struct tunnel *t, int fd)
{
	struct way *up = calloc(2, sizeof(*up)), *down = up + 1;
	bool broken = !up;

	if (up) {
		memcpy(down->buf, t->early, t->early_len);
		down->len = t->early_len;
	}
	while (!broken && !(up->told && down->told)) {
		struct pollfd pfd[2] = {{.fd = fd}, {.fd = t->fd}};

		if (turn(t, fd, up, down, &broken))
			continue;
		pfd[0].events =
		    (short)((up->len || up->ended ? 0 : POLLIN) | (down->len ? POLLOUT : 0));
		pfd[1].events =
		    (short)((down->len || down->ended ? 0 : POLLIN) | (up->len ? POLLOUT : 0));
		/* One that has hung up and is waited for nothing would wake us for ever. */
		for (int i = 0; i < 2; i++)
			if (!pfd[i].events)
				pfd[i].fd = -1;
		poll(pfd, 2, -1);
	}
	if (broken) {
		const struct linger at_once = {.l_onoff = 1};

		setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	}
	free(up);
}
