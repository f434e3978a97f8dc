/* SPDX-License-Identifier: Apache-2.0 */
/* TCP connections to ports of sandboxes; see tunnel.h. */
#include "server/manager/tunnel.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "lib/clock.h"
#include "server/manager/internal.h"

#define LOOK_MS	     100  /* how often one that is not attached looks for its guest */
#define SLICE_MS     1000 /* and an attached one for the end of the daemon */
#define ATTACH_TRIES 8

struct tunnel {
	struct sandbox *s;	 /* a reference */
	struct agent_conn *conn; /* owned; NULL while not attached */
	uint64_t id;		 /* of the agent's session */
	uint32_t boots;		 /* of the sandbox, when it began */
	bool leased;		 /* the sandbox counts it as a user: until the agent's first word */
	bool started, ended;
	bool out_end; /* the port says no more */
	int failed_attaches;
	int end_rc;	    /* after ended: 0, or why */
	struct err end_err; /* likewise */

	uint64_t next_byte;  /* of what the port says: the first that was not received */
	const uint8_t *data; /* received and not yet taken; in the connection's buffer */
	size_t data_len;

	uint8_t *sent;	  /* owned; the last PROTO_WINDOW bytes, offset o at o % PROTO_WINDOW */
	uint64_t in_len;  /* bytes that were written */
	uint64_t in_sent; /* of these, sent on this connection, or there before it */
	bool in_end, in_end_sent;
	bool in_known; /* the agent has said where it is */
	bool news;     /* there may be room again, and nobody has been told */
};

struct sandbox *tunnel_sandbox(const struct tunnel *t)
{
	return t->s;
}

static void end_lease(struct tunnel *t)
{
	if (t->leased)
		sandbox_unuse(t->s);
	t->leased = false;
}

static void drop_conn(struct tunnel *t)
{
	/* What it holds and nobody has taken comes again. */
	t->next_byte -= t->data_len;
	t->data_len = 0;
	agent_pool_put(t->s->pool, t->conn);
	t->conn = NULL;
	end_lease(t);
}

/* Return: @rc, which is what all calls say from now on. */
static int finish(struct tunnel *t, int rc, const struct err *e)
{
	drop_conn(t);
	t->ended = true;
	t->end_rc = rc;
	if (rc)
		t->end_err = *e;
	return rc;
}

static int finish_reset(struct tunnel *t, const char *why)
{
	struct err e;

	return finish(t, err_set(&e, -ECONNRESET, "%s", why), &e);
}

/* --- attaching again ------------------------------------------------------------------------- */

static int attach_now(struct tunnel *t, struct err *e)
{
	int rc = agent_pool_get(t->s->pool, &t->conn, e);

	if (!rc)
		rc = agent_exec_attach(t->conn, t->id, t->next_byte, 0, false, e);
	t->in_known = t->in_end_sent = false;
	return rc;
}

/* The guest can be reached, and is kept from going away. */
static int attach(struct tunnel *t)
{
	struct err e;
	int rc;

	t->leased = true;
	if (t->boots != sandbox_boots(t->s))
		return finish_reset(t, "the sandbox was restarted");
	rc = attach_now(t, &e);
	if (!rc)
		return 0;
	drop_conn(t);
	if (++t->failed_attaches < ATTACH_TRIES)
		return 0;
	return finish(t, sandbox_explain(t->s, NULL, rc, &e), &e);
}

/* Attach if that is possible right now. */
static void look_for_guest(struct tunnel *t)
{
	struct err e;
	int rc = sandbox_await(t->s, 0, &e);

	if (!rc)
		attach(t);
	else if (rc != -EAGAIN)
		finish(t, rc, &e);
}

/* The same, and wake it. */
static void fetch_guest(struct tunnel *t)
{
	struct err e;
	int rc = sandbox_use(t->s, &e);

	if (rc)
		finish(t, rc, &e);
	else
		attach(t);
}

/* --- events -------------------------------------------------------------------------------------
 */

static void on_broken(struct tunnel *t, int rc, struct err *e)
{
	if (agent_conn_broken(t->conn) && t->started && !manager_interrupted(t->s->m)) {
		drop_conn(t);
		return;
	}
	if (t->started && !agent_conn_broken(t->conn))
		finish_reset(t, "the sandbox went back to before this connection");
	else
		finish(t, sandbox_explain(t->s, t->conn, rc, e), e);
}

static void on_started(struct tunnel *t, uint64_t offset)
{
	end_lease(t);
	t->failed_attaches = 0;
	if (!t->started) {
		t->started = t->in_known = true;
		return;
	}
	/* Before what is kept: the guest has gone back. Beyond: it is not to be believed. */
	if (offset > t->in_len || t->in_len - offset > PROTO_WINDOW) {
		finish_reset(t, "the sandbox went back to before this connection");
		return;
	}
	t->in_sent = offset;
	t->in_known = true;
}

/* Send again what a former connection took along, and the end. */
static void send_rest(struct tunnel *t)
{
	struct err e;

	while (t->conn && t->in_known && t->in_sent < t->in_len) {
		size_t at = t->in_sent % PROTO_WINDOW, len = PROTO_WINDOW - at;
		ssize_t n;

		if (len > t->in_len - t->in_sent)
			len = (size_t)(t->in_len - t->in_sent);
		n = agent_exec_stdin(t->conn, t->sent + at, len, &e);
		if (n < 0)
			on_broken(t, (int)n, &e);
		if (n <= 0)
			return;
		t->in_sent += (uint64_t)n;
	}
	if (t->conn && t->in_known && t->in_end && !t->in_end_sent &&
	    !agent_exec_stdin_eof(t->conn, &e))
		t->in_end_sent = true;
}

/* Take one event. Return: true if there was one. */
static bool take_event(struct tunnel *t)
{
	struct agent_event ev;
	struct err e;
	int rc = agent_exec_next(t->conn, 0, &ev, &e);

	if (rc == -EAGAIN)
		return false;
	if (rc) {
		on_broken(t, rc, &e);
		return true;
	}
	sandbox_touch(t->s);
	t->news |= ev.type == AGENT_STARTED || ev.type == AGENT_STDIN_ROOM;
	if (ev.type == AGENT_STARTED) {
		on_started(t, ev.stdin_offset);
	} else if (ev.type == AGENT_STDOUT) {
		t->data = ev.data;
		t->data_len = ev.len;
		t->next_byte = ev.offset + ev.len;
	} else if (ev.type == AGENT_STDOUT_END) {
		t->out_end = true;
	} else if (ev.type == AGENT_EXIT && ev.exit.code) {
		finish_reset(t, "the connection was reset in the sandbox");
	} else if (ev.type == AGENT_EXIT) {
		finish(t, 0, NULL);
	}
	return true;
}

/* --- from outside -------------------------------------------------------------------------------
 */

static int start(struct tunnel *t, unsigned int port, struct err *e)
{
	int rc;

	sandbox_touch(t->s);
	rc = sandbox_agent_get(t->s, &t->conn, e);
	if (rc)
		return rc;
	t->leased = true;
	t->boots = sandbox_boots(t->s);
	rc = agent_tunnel_start(t->conn, t->id, port, false, e);
	if (rc)
		return sandbox_explain(t->s, t->conn, rc, e);
	while (!t->started && !t->ended)
		if (!take_event(t) && tunnel_wait(t, true, -1, 0, -1) < 0)
			return err_set(e, -ECANCELED, "the server stops");
	if (t->ended && t->end_rc)
		*e = t->end_err;
	return t->ended ? t->end_rc : 0;
}

int tunnel_open(struct sandbox *s, unsigned int port, struct tunnel **out, struct err *e)
{
	struct tunnel *t = calloc(1, sizeof(*t));
	int rc;

	if (t)
		t->sent = malloc(PROTO_WINDOW);
	if (!t || !t->sent || getrandom(&t->id, sizeof(t->id), 0) != sizeof(t->id)) {
		if (t)
			free(t->sent);
		free(t);
		return err_set(e, -ENOMEM, "out of memory");
	}
	t->id |= !t->id;
	__atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
	t->s = s;
	if (__atomic_add_fetch(&s->tunnels, 1, __ATOMIC_RELAXED) > TUNNELS_MAX)
		rc = err_set(e, -EAGAIN, "sandbox %s has %u connections", sandbox_id(s),
			     TUNNELS_MAX);
	else
		rc = start(t, port, e);
	if (rc)
		tunnel_close(t);
	else
		*out = t;
	return rc;
}

void tunnel_close(struct tunnel *t)
{
	if (!t)
		return;
	if (t->conn && !t->ended)
		agent_exec_signal(t->conn, SIGKILL, NULL);
	drop_conn(t);
	__atomic_sub_fetch(&t->s->tunnels, 1, __ATOMIC_RELAXED);
	sandbox_put(t->s);
	free(t->sent);
	free(t);
}

ssize_t tunnel_read(struct tunnel *t, void *buf, size_t max, struct err *e)
{
	while (!t->data_len) {
		if (t->ended) {
			if (t->end_rc)
				*e = t->end_err;
			return t->end_rc;
		}
		send_rest(t);
		if (!t->conn || !take_event(t))
			return t->out_end && !t->ended ? 0 : -EAGAIN;
	}
	if (max > t->data_len)
		max = t->data_len;
	memcpy(buf, t->data, max);
	t->data += max;
	t->data_len -= max;
	return (ssize_t)max;
}

static void keep(struct tunnel *t, const uint8_t *bytes, size_t len)
{
	size_t at = t->in_len % PROTO_WINDOW, first = PROTO_WINDOW - at;

	if (first > len)
		first = len;
	memcpy(t->sent + at, bytes, first);
	memcpy(t->sent, bytes + first, len - first);
	t->in_len += len;
	t->in_sent += len;
}

/* Return: bytes taken, 0: no room, or, when t->conn is gone, whatever; -errno. */
static ssize_t send_some(struct tunnel *t, const void *buf, size_t len, struct err *e)
{
	ssize_t n;

	t->news = false;
	send_rest(t);
	if (!t->conn || !t->in_known || t->in_sent < t->in_len)
		return 0;
	n = agent_exec_stdin(t->conn, buf, len < PROTO_WINDOW ? len : PROTO_WINDOW, e);
	if (n < 0)
		on_broken(t, (int)n, e);
	else
		keep(t, buf, (size_t)n);
	return n < 0 ? 0 : n;
}

ssize_t tunnel_write(struct tunnel *t, const void *buf, size_t len, struct err *e)
{
	ssize_t n;

	if (!t->conn && !t->ended)
		fetch_guest(t);
	sandbox_touch(t->s);
	/* That there is room again is an event like others. */
	do
		n = send_some(t, buf, len, e);
	while (!n && t->conn && !t->data_len && take_event(t));
	if (!t->ended || n)
		return n;
	if (t->end_rc)
		*e = t->end_err;
	return t->end_rc ? t->end_rc : (ssize_t)len; /* nobody reads it any more */
}

void tunnel_write_end(struct tunnel *t)
{
	t->in_end = true;
	send_rest(t);
}

static bool stops(const struct tunnel *t)
{
	return manager_interrupted(t->s->m);
}

/* Without a connection: look now and then. Those who write do not wait here. */
static int wait_detached(struct tunnel *t, int fd, short events, int timeout_ms)
{
	uint64_t deadline = timeout_ms < 0 ? UINT64_MAX : clock_mono_ms() + (uint64_t)timeout_ms;
	struct pollfd pfd = {.fd = fd, .events = events};

	for (;;) {
		look_for_guest(t);
		if (t->conn || t->ended || clock_mono_ms() >= deadline)
			return 0;
		if (stops(t))
			return -ECANCELED;
		if (poll(&pfd, 1, LOOK_MS) > 0)
			return pfd.revents;
	}
}

int tunnel_wait(struct tunnel *t, bool want_tunnel, int fd, short events, int timeout_ms)
{
	uint64_t deadline = timeout_ms < 0 ? UINT64_MAX : clock_mono_ms() + (uint64_t)timeout_ms;
	struct pollfd pfd[2] = {{.fd = fd, .events = events}, {.fd = -1, .events = POLLIN}};
	int n;

	/* Who reads may have taken the event that who writes waits for. */
	if (want_tunnel && (t->ended || t->data_len || t->news)) {
		t->news = false;
		return 0;
	}
	if (!t->conn && !t->ended)
		return wait_detached(t, fd, events, timeout_ms);
	if (want_tunnel && t->conn)
		pfd[1].fd = agent_conn_fd(t->conn);
	do {
		uint64_t now = clock_mono_ms();
		int left = deadline - now < SLICE_MS ? (int)(deadline - now) : SLICE_MS;

		if (stops(t))
			return -ECANCELED;
		if (now >= deadline)
			return 0;
		n = poll(pfd, 2, left);
	} while (n <= 0);
	return pfd[0].revents;
}
