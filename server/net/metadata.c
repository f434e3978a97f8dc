/* SPDX-License-Identifier: Apache-2.0 */
/* Connections to the metadata service; see metadata.h. */
#include "server/net/metadata.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"

#define UNAVAILABLE "{\"error\":\"the server cannot be reached\"}"

struct conn {
	int fd;		/* -1: free */
	uint32_t asked; /* 0: nothing; else it waits for the answer to this */
	uint64_t until_ms;
	struct metadata_request request;
	char *out; /* owned; the answer, as far as it is not sent */
	size_t out_len, sent;
	bool linger; /* all is sent; it waits for the other side to close */
};

struct metadata {
	metadata_ask *ask;
	void *arg;
	uint32_t last_id;
	struct conn conns[METADATA_CONNS];
};

struct metadata *metadata_create(metadata_ask *ask, void *arg)
{
	struct metadata *m = calloc(1, sizeof(*m));

	for (size_t i = 0; m && i < METADATA_CONNS; i++)
		m->conns[i].fd = -1;
	if (m) {
		m->ask = ask;
		m->arg = arg;
	}
	return m;
}

static void conn_end(struct conn *c)
{
	fd_close(&c->fd);
	free(c->out);
	c->out = NULL;
	c->asked = 0;
}

void metadata_destroy(struct metadata *m)
{
	for (size_t i = 0; m && i < METADATA_CONNS; i++)
		conn_end(&m->conns[i]);
	free(m);
}

void metadata_accept(struct metadata *m, int fd)
{
	for (size_t i = 0; i < METADATA_CONNS; i++) {
		struct conn *c = &m->conns[i];

		if (c->fd >= 0)
			continue;
		memset(c, 0, sizeof(*c));
		c->fd = fd;
		c->until_ms = clock_mono_ms() + METADATA_WHILE_MS;
		metadata_request_init(&c->request);
		return;
	}
	close(fd);
}

/* --- answers ------------------------------------------------------------------------------ */

static const char *reason(int status)
{
	switch (status) {
	case 200:
		return "OK";
	case 400:
		return "Bad Request";
	case 404:
		return "Not Found";
	case 405:
		return "Method Not Allowed";
	case 503:
		return "Service Unavailable";
	}
	return status < 500 ? "Refused" : "Failed";
}

static void conn_flush(struct conn *c)
{
	while (c->sent < c->out_len) {
		ssize_t n = send(c->fd, c->out + c->sent, c->out_len - c->sent,
				 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0)
			return conn_end(c);
		c->sent += (size_t)n;
	}
	/* What was not read would make a reset of the end, which may overtake the answer. */
	shutdown(c->fd, SHUT_WR);
	c->linger = true;
}

static void conn_reply(struct conn *c, int status, const char *text)
{
	bool head = c->request.parser.method == HTTP_HEAD && c->request.complete;
	int n;

	c->asked = 0;
	c->until_ms = clock_mono_ms() + METADATA_WHILE_MS;
	n = asprintf(&c->out,
		     "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
		     "Connection: close\r\n\r\n%s",
		     status, reason(status), strlen(text), head ? "" : text);
	if (n < 0) {
		c->out = NULL;
		return conn_end(c);
	}
	c->out_len = (size_t)n;
	conn_flush(c);
}

void metadata_answer(struct metadata *m, uint32_t id, int status, const json_t *body)
{
	for (size_t i = 0; i < METADATA_CONNS; i++) {
		struct conn *c = &m->conns[i];
		char *text;

		if (c->fd < 0 || !id || c->asked != id)
			continue;
		text = json_dumps(body, JSON_COMPACT);
		conn_reply(c, text ? status : 500, text ? text : "{}");
		free(text);
	}
}

void metadata_fail(struct metadata *m)
{
	for (size_t i = 0; i < METADATA_CONNS; i++)
		if (m->conns[i].fd >= 0 && m->conns[i].asked)
			conn_reply(&m->conns[i], 503, UNAVAILABLE);
}

/* --- requests ------------------------------------------------------------------------------ */

static void handle(struct metadata *m, struct conn *c)
{
	struct metadata_question q;

	metadata_request_read(&c->request, &q);
	if (!q.what)
		return conn_reply(c, q.status, q.text);
	if (!++m->last_id)
		m->last_id++;
	c->asked = m->last_id;
	c->until_ms = clock_mono_ms() + METADATA_ANSWER_MS;
	if (!m->ask(m->arg, c->asked, &q))
		conn_reply(c, 503, UNAVAILABLE);
}

static void conn_read(struct metadata *m, struct conn *c)
{
	char data[2048];
	ssize_t n = recv(c->fd, data, sizeof(data), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0)
		return conn_end(c);
	/* One request; what comes behind it is read so that it can be forgotten. */
	if (c->asked || c->out)
		return;
	if (metadata_request_feed(&c->request, data, (size_t)n))
		return conn_reply(c, 400, "{\"error\":\"bad request\"}");
	if (c->request.complete)
		handle(m, c);
}

size_t metadata_prepare(struct metadata *m, struct pollfd *p, int *timeout_ms)
{
	uint64_t now = clock_mono_ms();
	size_t n = 0;

	for (size_t i = 0; i < METADATA_CONNS; i++) {
		struct conn *c = &m->conns[i];

		if (c->fd >= 0 && now >= c->until_ms)
			conn_end(c);
		if (c->fd < 0)
			continue;
		clock_sooner(timeout_ms, (int)(c->until_ms - now));
		p[n++] = (struct pollfd){
		    .fd = c->fd, .events = (short)(POLLIN | (c->out && !c->linger ? POLLOUT : 0))};
	}
	return n;
}

void metadata_dispatch(struct metadata *m, const struct pollfd *p, size_t n)
{
	for (size_t i = 0; i < METADATA_CONNS; i++) {
		struct conn *c = &m->conns[i];

		for (size_t k = 0; k < n && c->fd >= 0; k++) {
			if (p[k].fd != c->fd)
				continue;
			if (p[k].revents & POLLOUT)
				conn_flush(c);
			if (c->fd >= 0 && (p[k].revents & (POLLIN | POLLHUP | POLLERR)))
				conn_read(m, c);
			break;
		}
	}
}
