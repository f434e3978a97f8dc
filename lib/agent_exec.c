/* SPDX-License-Identifier: Apache-2.0 */
/* Exec sessions over the agent protocol; see agent_client.h. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "lib/agent_conn.h"

/* ---- starting ---- */

static void put_strings(struct agent_conn *c, enum proto_tag tag, const char *const *list)
{
	for (; list && *list; list++)
		proto_put_tlv_str(&c->out, tag, PROTO_MANDATORY, *list);
}

static void exec_reset(struct agent_conn *c, bool manual_ack)
{
	c->manual_ack = manual_ack;
	c->started = c->room_wanted = c->oldest = false;
	c->stdin_sent = c->stdin_acked = 0;
	c->next[0] = c->next[1] = c->acked[0] = c->acked[1] = 0;
}

int agent_exec_start(struct agent_conn *c, const struct agent_exec_spec *s, struct err *e)
{
	int rc;

	if (!s->session || !s->argv || !s->argv[0])
		return err_set(e, -EINVAL, "exec needs a session id and a program");
	rc = conn_request(c, PROTO_EXEC, CONN_EXEC, e);
	if (rc)
		return rc;
	exec_reset(c, s->manual_ack);
	c->stdin_known = true;
	proto_put_tlv_u64(&c->out, PROTO_TAG_SESSION, PROTO_MANDATORY, s->session);
	put_strings(c, PROTO_TAG_ARG, s->argv);
	put_strings(c, PROTO_TAG_SANDBOX_ENV, s->sandbox_env);
	put_strings(c, PROTO_TAG_ENV, s->env);
	if (s->cwd)
		proto_put_tlv_str(&c->out, PROTO_TAG_CWD, PROTO_MANDATORY, s->cwd);
	if (s->user)
		proto_put_tlv_str(&c->out, PROTO_TAG_USER, PROTO_MANDATORY, s->user);
	if (s->timeout_ms)
		proto_put_tlv_u32(&c->out, PROTO_TAG_TIMEOUT_MS, PROTO_MANDATORY, s->timeout_ms);
	if (s->flags)
		proto_put_tlv_u32(&c->out, PROTO_TAG_EXEC_FLAGS, PROTO_MANDATORY, s->flags);
	if (s->label)
		proto_put_tlv(&c->out, PROTO_TAG_LABEL, 0, s->label, s->label_len);
	if (s->rows)
		proto_put_tlv_u32(&c->out, PROTO_TAG_ROWS, PROTO_MANDATORY, s->rows);
	if (s->cols)
		proto_put_tlv_u32(&c->out, PROTO_TAG_COLS, PROTO_MANDATORY, s->cols);
	return conn_request_send(c, e);
}

int agent_tunnel_start(struct agent_conn *c, uint64_t session, unsigned int port, bool manual_ack,
		       struct err *e)
{
	int rc;

	if (!session || !port || port > UINT16_MAX)
		return err_set(e, -EINVAL, "a tunnel needs a session id and a port");
	if (!(c->hello.flags & PROTO_HELLO_CONNECT))
		return err_set(e, -EOPNOTSUPP, "this agent cannot connect to ports");
	rc = conn_request(c, PROTO_CONNECT, CONN_EXEC, e);
	if (rc)
		return rc;
	exec_reset(c, manual_ack);
	c->stdin_known = true;
	proto_put_tlv_u64(&c->out, PROTO_TAG_SESSION, PROTO_MANDATORY, session);
	proto_put_tlv_u32(&c->out, PROTO_TAG_PORT, PROTO_MANDATORY, port);
	return conn_request_send(c, e);
}

int agent_exec_attach(struct agent_conn *c, uint64_t session, uint64_t stdout_offset,
		      uint64_t stderr_offset, bool manual_ack, struct err *e)
{
	int rc = conn_request(c, PROTO_ATTACH, CONN_EXEC, e);

	if (rc)
		return rc;
	exec_reset(c, manual_ack);
	c->stdin_known = false;
	c->next[0] = c->acked[0] = stdout_offset;
	c->next[1] = c->acked[1] = stderr_offset;
	proto_put_tlv_u64(&c->out, PROTO_TAG_SESSION, PROTO_MANDATORY, session);
	c->oldest = stdout_offset == AGENT_OLDEST && stderr_offset == AGENT_OLDEST;
	if (!c->oldest) {
		proto_put_tlv_u64(&c->out, PROTO_TAG_STDOUT_OFFSET, PROTO_MANDATORY, stdout_offset);
		proto_put_tlv_u64(&c->out, PROTO_TAG_STDERR_OFFSET, PROTO_MANDATORY, stderr_offset);
	}
	return conn_request_send(c, e);
}

/* ---- towards the process; any thread ---- */

/* Take the lock if an exec is running here; frames go into c->out. */
static bool exec_lock(struct agent_conn *c)
{
	pthread_mutex_lock(&c->lock);
	if (c->state == CONN_EXEC)
		return true;
	pthread_mutex_unlock(&c->lock);
	return false;
}

/*
 * Whole frames go while there is room for one: a Unix socket is writable below a
 * quarter of its buffer, which is more than a frame less than full.
 */
static bool writable(const struct agent_conn *c)
{
	struct pollfd p = {.fd = c->fd, .events = POLLOUT};

	return poll(&p, 1, 0) > 0;
}

uint64_t agent_exec_stdin_acked(struct agent_conn *c)
{
	uint64_t acked;

	pthread_mutex_lock(&c->lock);
	acked = c->stdin_acked;
	pthread_mutex_unlock(&c->lock);
	return acked;
}

static ssize_t send_stdin(struct agent_conn *c, const void *buf, size_t len, bool wait,
			  struct err *e)
{
	uint64_t room;
	size_t done = 0;
	int rc = 0;

	if (!exec_lock(c))
		return (ssize_t)len;
	/* After an attach the agent first says how much it has: until then no room. */
	room = c->stdin_sent - c->stdin_acked;
	room = c->stdin_known && room < PROTO_WINDOW ? PROTO_WINDOW - room : 0;
	if (len > room)
		len = (size_t)room;
	c->room_wanted = !room;
	while (!rc && done < len) {
		size_t n;

		if (!wait && !writable(c)) {
			c->room_wanted = true;
			break;
		}
		n = len - done < PROTO_DATA_MAX ? len - done : PROTO_DATA_MAX;
		proto_buf_reset(&c->out);
		proto_begin(&c->out, PROTO_STDIN, c->id);
		proto_put_u64(&c->out, c->stdin_sent);
		proto_put_bytes(&c->out, (const uint8_t *)buf + done, n);
		rc = proto_end(&c->out);
		if (!rc)
			rc = conn_send(c, e);
		done += n;
		c->stdin_sent += n;
	}
	pthread_mutex_unlock(&c->lock);
	return rc ? rc : (ssize_t)done;
}

ssize_t agent_exec_stdin(struct agent_conn *c, const void *buf, size_t len, struct err *e)
{
	return send_stdin(c, buf, len, true, e);
}

ssize_t agent_exec_stdin_now(struct agent_conn *c, const void *buf, size_t len, struct err *e)
{
	return send_stdin(c, buf, len, false, e);
}

static int send_numbers(struct agent_conn *c, enum proto_type type, const uint64_t *v, size_t n,
			struct err *e)
{
	proto_buf_reset(&c->out);
	proto_begin(&c->out, type, c->id);
	for (size_t i = 0; i < n; i++)
		proto_put_u64(&c->out, v[i]);
	proto_end(&c->out);
	return conn_send(c, e);
}

int agent_exec_stdin_eof(struct agent_conn *c, struct err *e)
{
	int rc;

	if (!exec_lock(c))
		return 0;
	rc = send_numbers(c, PROTO_STDIN_EOF, &c->stdin_sent, 1, e);
	pthread_mutex_unlock(&c->lock);
	return rc;
}

int agent_exec_signal(struct agent_conn *c, int signo, struct err *e)
{
	uint8_t number[4] = {(uint8_t)signo};
	int rc;

	if (signo < 1 || signo > 64)
		return err_set(e, -EINVAL, "no signal %d", signo);
	if (!exec_lock(c))
		return 0;
	proto_buf_reset(&c->out);
	proto_begin(&c->out, PROTO_SIGNAL, c->id);
	proto_put_bytes(&c->out, number, sizeof(number));
	proto_end(&c->out);
	rc = conn_send(c, e);
	pthread_mutex_unlock(&c->lock);
	return rc;
}

int agent_exec_winsize(struct agent_conn *c, uint16_t rows, uint16_t cols, struct err *e)
{
	uint8_t size[4];
	struct writer w = writer_of(size, sizeof(size));
	int rc;

	if (!rows || !cols)
		return err_set(e, -EINVAL, "a terminal of %u rows and %u columns", rows, cols);
	if (!exec_lock(c))
		return 0;
	write_u16(&w, rows);
	write_u16(&w, cols);
	proto_buf_reset(&c->out);
	proto_begin(&c->out, PROTO_WINSIZE, c->id);
	proto_put_bytes(&c->out, size, sizeof(size));
	proto_end(&c->out);
	rc = conn_send(c, e);
	pthread_mutex_unlock(&c->lock);
	return rc;
}

int agent_exec_ack(struct agent_conn *c, uint64_t stdout_offset, uint64_t stderr_offset,
		   struct err *e)
{
	uint64_t acked[2] = {stdout_offset, stderr_offset};
	int rc = 0;

	if (!exec_lock(c))
		return 0;
	if (acked[0] > c->next[0] || acked[1] > c->next[1])
		rc = err_set(e, -EINVAL, "acknowledged more than was received");
	else
		rc = send_numbers(c, PROTO_ACK, acked, 2, e);
	pthread_mutex_unlock(&c->lock);
	return rc;
}

/* ---- events ---- */

/* What was handed out before this call has been taken: let the agent forget it, now and then. */
static int auto_ack(struct agent_conn *c, struct err *e)
{
	int rc = 0;

	if (c->manual_ack || (c->next[0] - c->acked[0] < PROTO_WINDOW / 4 &&
			      c->next[1] - c->acked[1] < PROTO_WINDOW / 4))
		return 0;
	if (exec_lock(c)) {
		memcpy(c->acked, c->next, sizeof(c->acked));
		rc = send_numbers(c, PROTO_ACK, c->acked, 2, e);
		pthread_mutex_unlock(&c->lock);
	}
	return rc;
}

static int on_started(struct agent_conn *c, struct reader *r, struct agent_event *ev, struct err *e)
{
	uint32_t ended = 0;
	struct proto_tlv t;
	int rc;

	ev->type = AGENT_STARTED;
	memcpy(ev->start, c->next, sizeof(ev->start));
	while ((rc = proto_tlv_next(r, &t, e)) > 0) {
		if (t.tag == PROTO_TAG_PID)
			rc = proto_tlv_u32(&t, &ev->pid, e);
		else if (t.tag == PROTO_TAG_STDIN_OFFSET)
			rc = proto_tlv_u64(&t, &ev->stdin_offset, e);
		else if (t.tag == PROTO_TAG_STDIN_ENDED)
			rc = proto_tlv_u32(&t, &ended, e);
		else if (t.tag == PROTO_TAG_STDOUT_OFFSET)
			rc = proto_tlv_u64(&t, &ev->start[0], e);
		else if (t.tag == PROTO_TAG_STDERR_OFFSET)
			rc = proto_tlv_u64(&t, &ev->start[1], e);
		else if (t.tag == PROTO_TAG_STDOUT_END)
			rc = proto_tlv_u64(&t, &ev->end[0], e);
		else if (t.tag == PROTO_TAG_STDERR_END)
			rc = proto_tlv_u64(&t, &ev->end[1], e);
		else
			rc = proto_tlv_unknown(&t, e);
		if (rc < 0)
			return rc;
	}
	if (rc < 0)
		return rc;
	ev->stdin_ended = ended;
	if (!c->oldest && memcmp(ev->start, c->next, sizeof(ev->start)))
		return err_set(e, -EPROTO, "output from another offset than was asked for");
	if (ev->start[0] > INT64_MAX || ev->start[1] > INT64_MAX)
		return err_set(e, -EPROTO, "impossible offset of output");
	pthread_mutex_lock(&c->lock);
	memcpy(c->next, ev->start, sizeof(c->next));
	memcpy(c->acked, ev->start, sizeof(c->acked));
	c->started = true;
	if (!c->stdin_known)
		c->stdin_sent = ev->stdin_offset;
	c->stdin_known = true;
	pthread_mutex_unlock(&c->lock);
	return 0;
}

static int on_output(struct agent_conn *c, int stream, struct reader *r, struct agent_event *ev,
		     struct err *e)
{
	ev->type = stream ? AGENT_STDERR : AGENT_STDOUT;
	ev->offset = read_u64(r);
	ev->len = reader_left(r);
	ev->data = read_bytes(r, ev->len);
	if (!stream && !ev->len)
		ev->type = AGENT_STDOUT_END;
	if (r->failed || (stream && !ev->len) || ev->offset != c->next[stream])
		return err_set(e, -EPROTO, "output of %zu bytes at %llu, expected at %llu", ev->len,
			       (unsigned long long)ev->offset, (unsigned long long)c->next[stream]);
	pthread_mutex_lock(&c->lock);
	c->next[stream] += ev->len;
	pthread_mutex_unlock(&c->lock);
	return 0;
}

/* Return: 1 if there is an event in it for the caller. */
static int on_stdin_ack(struct agent_conn *c, struct reader *r, struct agent_event *ev,
			struct err *e)
{
	uint64_t v = read_u64(r);
	int rc = 0;

	pthread_mutex_lock(&c->lock);
	if (r->failed || reader_left(r) || v < c->stdin_acked || v > c->stdin_sent) {
		rc = err_set(e, -EPROTO, "impossible acknowledgement of stdin");
	} else {
		c->stdin_acked = v;
		rc = c->room_wanted;
		c->room_wanted = false;
	}
	pthread_mutex_unlock(&c->lock);
	ev->type = AGENT_STDIN_ROOM;
	return rc;
}

static int parse_exit(struct agent_conn *c, struct reader *r, struct agent_exit *x, struct err *e)
{
	uint32_t code = UINT32_MAX, signo = 0, flags = 0;
	struct proto_tlv t;
	int rc;

	while ((rc = proto_tlv_next(r, &t, e)) > 0) {
		if (t.tag == PROTO_TAG_EXIT_CODE)
			rc = proto_tlv_u32(&t, &code, e);
		else if (t.tag == PROTO_TAG_SIGNAL)
			rc = proto_tlv_u32(&t, &signo, e);
		else if (t.tag == PROTO_TAG_EXIT_FLAGS)
			rc = proto_tlv_u32(&t, &flags, e);
		else if (t.tag == PROTO_TAG_STDOUT_OFFSET)
			rc = proto_tlv_u64(&t, &x->stdout_len, e);
		else if (t.tag == PROTO_TAG_STDERR_OFFSET)
			rc = proto_tlv_u64(&t, &x->stderr_len, e);
		else
			rc = proto_tlv_unknown(&t, e);
		if (rc < 0)
			return rc;
	}
	if (rc < 0)
		return rc;
	if (signo ? signo > 64 : code > 255)
		return err_set(e, -EPROTO, "impossible exit status");
	if (x->stdout_len != c->next[0] || x->stderr_len != c->next[1])
		return err_set(e, -EPROTO, "output is missing at the end of the session");
	x->code = signo ? -1 : (int)code;
	x->signal = (int)signo;
	x->timed_out = flags & PROTO_EXIT_TIMED_OUT;
	x->held_open = flags & PROTO_EXIT_HELD_OPEN;
	return 0;
}

/* Return: 1 for an event, 0 for none, or -errno. */
static int on_frame(struct agent_conn *c, const struct proto_header *h, struct reader *r,
		    struct agent_event *ev, struct err *e)
{
	int rc;

	if (c->started ? h->type == PROTO_STARTED : h->type != PROTO_STARTED)
		return conn_unexpected(c, h, e);
	switch (h->type) {
	case PROTO_STARTED:
		rc = on_started(c, r, ev, e);
		return rc ? rc : 1;
	case PROTO_STDOUT:
	case PROTO_STDERR:
		rc = on_output(c, h->type == PROTO_STDERR, r, ev, e);
		return rc ? rc : 1;
	case PROTO_STDIN_ACK:
		return on_stdin_ack(c, r, ev, e);
	case PROTO_EXIT:
		ev->type = AGENT_EXIT;
		rc = parse_exit(c, r, &ev->exit, e);
		conn_done(c);
		return rc ? rc : 1;
	default:
		return conn_unexpected(c, h, e);
	}
}

int agent_exec_next(struct agent_conn *c, int timeout_ms, struct agent_event *ev, struct err *e)
{
	struct proto_header h;
	struct reader r;
	int rc;

	if (c->state != CONN_EXEC)
		return err_set(e, -EINVAL, "no exec is under way on this connection");
	rc = auto_ack(c, e);
	if (rc)
		return rc;
	do {
		*ev = (struct agent_event){0};
		rc = conn_frame(c, timeout_ms, &h, &r, e);
		if (rc) /* a guest's own ETIMEDOUT has ended the request */
			return rc == -ETIMEDOUT && c->state == CONN_EXEC ? -EAGAIN : rc;
		rc = on_frame(c, &h, &r, ev, e);
	} while (rc == 0);
	return rc < 0 ? conn_break(c, rc) : 0;
}

/* ---- all at once ---- */

struct collected {
	char *data;
	size_t len, cap;
};

static int collect(struct collected *s, const void *data, size_t len, size_t max, bool *truncated)
{
	if (len > max - s->len) {
		len = max - s->len;
		*truncated = true;
	}
	if (!s->data || s->len + len + 1 > s->cap) {
		size_t cap = s->cap ? s->cap : 1024;
		char *p;

		while (cap < s->len + len + 1)
			cap *= 2;
		p = realloc(s->data, cap);
		if (!p)
			return -ENOMEM;
		s->data = p;
		s->cap = cap;
	}
	if (len)
		memcpy(s->data + s->len, data, len);
	s->len += len;
	s->data[s->len] = '\0';
	return 0;
}

int agent_exec_run(struct agent_conn *c, const struct agent_exec_spec *s, size_t max,
		   struct agent_output *out, struct err *e)
{
	struct collected got[2] = {0};
	struct agent_event ev;
	bool truncated = false;
	int rc = agent_exec_start(c, s, e);

	while (!rc && !(rc = agent_exec_next(c, -1, &ev, e))) {
		if (ev.type == AGENT_STDOUT || ev.type == AGENT_STDERR)
			rc = collect(&got[ev.type == AGENT_STDERR], ev.data, ev.len, max,
				     &truncated);
		if (ev.type == AGENT_EXIT)
			break;
	}
	/* So that both are strings, also where nothing came. */
	for (int i = 0; !rc && i < 2; i++)
		rc = collect(&got[i], NULL, 0, max, &truncated);
	if (rc) {
		free(got[0].data);
		free(got[1].data);
		return rc == -ENOMEM ? err_set(e, rc, "out of memory") : rc;
	}
	*out = (struct agent_output){.exit = ev.exit,
				     .out = got[0].data,
				     .out_len = got[0].len,
				     .err = got[1].data,
				     .err_len = got[1].len,
				     .truncated = truncated};
	return 0;
}
