/* SPDX-License-Identifier: Apache-2.0 */
/* Started commands and their clients; see session.h. */
#include "tools/cli/session.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tools/cli/ws.h"

/* Channels of the WebSocket: docs/server.md. */
enum { CH_STDIN = 0, CH_STDOUT = 1, CH_STDERR = 2, CH_EXIT = 3, CH_LIVE = 4, CH_STDIN_EOF = 5 };

#define UNSENT_MAX (256u << 10) /* of input; then we read no more of it */
#define LOST_TRIES 100		/* to reach the server again */
#define LOST_MS	   100		/* between them */

/* One connection. */
struct follower {
	struct session *s;
	struct ws *w;
	bool stdin_open;
	bool sent; /* input, so that some may be lost with the connection */
};

static int show(struct session *s, unsigned int channel, const uint8_t *data, size_t len,
		struct err *e)
{
	FILE *out = channel == CH_STDOUT ? stdout : stderr;

	if (fwrite(data, 1, len, out) != len || fflush(out) == EOF)
		return err_set(e, -EPIPE, "the output could not be written");
	s->at[channel == CH_STDERR] += len;
	return 0;
}

static int take_message(struct session *s, const struct ws_message *m, struct err *e)
{
	uint32_t code = 0;

	if (!m->len || m->text)
		return 0;
	switch (m->data[0]) {
	case CH_STDOUT:
	case CH_STDERR:
		return show(s, m->data[0], m->data + 1, m->len - 1, e);
	case CH_EXIT:
		if (m->len != 5)
			return err_set(e, -EIO, "the server's message makes no sense");
		for (int i = 1; i < 5; i++)
			code = code << 8 | m->data[i];
		s->code = (int)code;
		s->ended = true;
		return 0;
	default:
		return 0;
	}
}

/* Pass on what there is on standard input. */
static int take_input(struct follower *f, struct err *e)
{
	static uint8_t buf[32768];
	static const uint8_t data = CH_STDIN, end = CH_STDIN_EOF;
	ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	if (n < 0)
		return err_sys(e, -errno, "reading standard input");
	f->sent = true;
	f->stdin_open = n > 0;
	if (n > 0)
		ws_send(f->w, &data, 1, buf, (size_t)n);
	else
		ws_send(f->w, &end, 1, "", 0);
	return 0;
}

static int take_messages(struct follower *f, struct err *e)
{
	struct ws_message m;
	int rc = 0;

	while (!rc && ws_recv(f->w, &m))
		rc = take_message(f->s, &m, e);
	return rc;
}

/* Return: 0 when the connection is over, or -errno. */
static int pump(struct follower *f, struct err *e)
{
	for (;;) {
		int over = ws_turn(f->w), rc = take_messages(f, e);
		struct pollfd p[2] = {{.fd = ws_fd(f->w)}, {.fd = -1, .events = POLLIN}};

		if (rc || over)
			return rc;
		if (f->s->h->stop && *f->s->h->stop)
			return err_set(e, -EINTR, "interrupted");
		p[0].events = ws_events(f->w);
		if (f->stdin_open && ws_unsent(f->w) < UNSENT_MAX)
			p[1].fd = STDIN_FILENO;
		/* A signal may come just before the wait. */
		if (poll(p, 2, 1000) > 0 && p[1].revents)
			rc = take_input(f, e);
		if (rc)
			return rc;
	}
}

static int connect_to(struct session *s, bool first, struct ws **w, struct err *e)
{
	char path[400];
	int n = snprintf(path, sizeof(path), "/sandboxes/%.200s/exec/%.64s", s->sandbox, s->id);

	if (!first || !s->replay)
		snprintf(path + n, sizeof(path) - (size_t)n, "?stdoutFrom=%llu&stderrFrom=%llu",
			 (unsigned long long)s->at[0], (unsigned long long)s->at[1]);
	return ws_open(&s->h->ep, path, s->h->stop, w, e);
}

/* Again, while the server may be starting. */
static int connect_again(struct session *s, struct ws **w, struct err *e)
{
	const struct timespec pause = {.tv_nsec = LOST_MS * 1000000L};
	int rc = 0;

	for (int i = 0; i < LOST_TRIES; i++) {
		rc = connect_to(s, false, w, e);
		if (rc != -ECONNREFUSED && rc != -EIO && rc != -ETIMEDOUT)
			break;
		nanosleep(&pause, NULL);
	}
	return rc;
}

int session_follow(struct session *s, struct err *e)
{
	struct follower f = {.s = s, .stdin_open = s->with_stdin};
	int rc = connect_to(s, true, &f.w, e);

	while (!rc) {
		rc = pump(&f, e);
		ws_free(f.w);
		f.w = NULL;
		if (rc || s->ended)
			break;
		if (s->replay)
			return err_set(e, -EIO, "the connection to the server ended");
		if (f.sent && s->with_stdin)
			fputs("dormouse: the connection was lost and is made again; some input "
			      "may be lost\n",
			      stderr);
		f.sent = false;
		rc = connect_again(s, &f.w, e);
	}
	return rc;
}

void session_kill(struct session *s)
{
	char path[400];
	json_t *body = json_object();
	struct http_request r = {.method = "POST", .path = path, .json = body};
	struct http_answer a;
	struct err e = {0};

	/* A second Ctrl-C ends us as usual: this call must not be given up by the first. */
	s->h->stop = NULL;
	snprintf(path, sizeof(path), "/sandboxes/%.200s/exec/%.64s/kill", s->sandbox, s->id);
	if (http_call(s->h, &r, &a, &e) < 0)
		fprintf(stderr, "dormouse: the command may still run: %s\n", e.msg);
	http_answer_fini(&a);
	json_decref(body);
}
