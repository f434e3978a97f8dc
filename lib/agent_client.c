/* SPDX-License-Identifier: Apache-2.0 */
/* Connections to the agent and simple requests; see agent_client.h. */
#include "lib/agent_client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "lib/agent_conn.h"
#include "lib/clock.h"
#include "lib/fd.h"

#define IN_CAP		   (PROTO_HEADER_LEN + (size_t)PROTO_FRAME_MAX)
#define DEFAULT_TIMEOUT_MS 10000u

int conn_break(struct agent_conn *c, int code)
{
	atomic_store(&c->broken, true);
	return code;
}

static int conn_fail(struct agent_conn *c, int code, const char *what, struct err *e)
{
	conn_break(c, code);
	if (atomic_load(&c->aborted))
		return err_set(e, -ECANCELED, "%s: aborted", what);
	return err_sys(e, code, "%s", what);
}

/* ---- sending ---- */

static int wait_for(struct agent_conn *c, short events, int timeout_ms)
{
	struct pollfd p = {.fd = c->fd, .events = events};
	int n = poll(&p, 1, timeout_ms);

	if (n < 0 && errno != EINTR)
		return -errno;
	return n == 0 ? -ETIMEDOUT : 0;
}

int conn_send_two(struct agent_conn *c, const void *head, size_t head_len, const void *body,
		  size_t body_len, struct err *e)
{
	struct iovec iov[2] = {{.iov_base = (void *)(uintptr_t)head, .iov_len = head_len},
			       {.iov_base = (void *)(uintptr_t)body, .iov_len = body_len}};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};

	if (atomic_load(&c->broken))
		return err_set(e, -EPIPE, "the connection to the agent is broken");
	while (iov[0].iov_len || iov[1].iov_len) {
		ssize_t n = sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
		size_t first;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			int rc = wait_for(c, POLLOUT, c->timeout_ms);

			if (rc)
				return conn_fail(c, rc, "send to the agent", e);
			continue;
		}
		if (n < 0)
			return conn_fail(c, -errno, "send to the agent", e);
		first = (size_t)n < iov[0].iov_len ? (size_t)n : iov[0].iov_len;
		iov[0].iov_base = (uint8_t *)iov[0].iov_base + first;
		iov[0].iov_len -= first;
		iov[1].iov_base = (uint8_t *)iov[1].iov_base + ((size_t)n - first);
		iov[1].iov_len -= (size_t)n - first;
	}
	return 0;
}

int conn_send(struct agent_conn *c, struct err *e)
{
	int rc = conn_send_two(c, c->out.data, c->out.len, "", 0, e);

	proto_buf_reset(&c->out);
	return rc;
}

int conn_request(struct agent_conn *c, enum proto_type type, enum conn_state state, struct err *e)
{
	if (atomic_load(&c->broken))
		return err_set(e, -EPIPE, "the connection to the agent is broken");
	if (c->state != CONN_IDLE)
		return err_set(e, -EBUSY, "a request is under way on this connection");
	pthread_mutex_lock(&c->lock);
	c->state = state;
	c->id++;
	pthread_mutex_unlock(&c->lock);
	proto_buf_reset(&c->out);
	proto_begin(&c->out, type, c->id);
	return 0;
}

void conn_done(struct agent_conn *c)
{
	pthread_mutex_lock(&c->lock);
	c->state = CONN_IDLE;
	c->rest = (struct reader){0};
	pthread_mutex_unlock(&c->lock);
}

int conn_request_send(struct agent_conn *c, struct err *e)
{
	int rc = proto_end(&c->out);

	if (rc) {
		conn_done(c);
		return rc == -EMSGSIZE
			   ? err_set(e, rc, "request larger than %u bytes", PROTO_REQUEST_MAX)
			   : err_set(e, rc, "out of memory");
	}
	pthread_mutex_lock(&c->lock);
	rc = conn_send(c, e);
	pthread_mutex_unlock(&c->lock);
	/* A request of a few MiB must not stay in memory while its command runs. */
	if (c->out.cap > PROTO_FRAME_MAX)
		proto_buf_fini(&c->out);
	return rc;
}

/* ---- receiving ---- */

/* Have at least @need bytes in the buffer, from in_start on. */
static int fill(struct agent_conn *c, size_t need, uint64_t deadline_ms, struct err *e)
{
	if (IN_CAP - c->in_start < need) {
		memmove(c->in, c->in + c->in_start, c->in_end - c->in_start);
		c->in_end -= c->in_start;
		c->in_start = 0;
	}
	while (c->in_end - c->in_start < need) {
		ssize_t n = recv(c->fd, c->in + c->in_end, IN_CAP - c->in_end, MSG_DONTWAIT);
		int wait_ms = -1, rc;

		if (n > 0) {
			c->in_end += (size_t)n;
			continue;
		}
		if (n == 0)
			return conn_fail(c, -EPIPE, "the agent closed the connection", e);
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return conn_fail(c, -errno, "receive from the agent", e);
		if (deadline_ms != UINT64_MAX) {
			uint64_t now = clock_mono_ms();

			wait_ms = now < deadline_ms ? (int)(deadline_ms - now) : 0;
		}
		rc = wait_for(c, POLLIN, wait_ms);
		if (rc == -ETIMEDOUT)
			return err_set(e, rc, "no answer from the agent in time");
		if (rc)
			return conn_fail(c, rc, "wait for the agent", e);
	}
	return 0;
}

void conn_printable(char *dst, size_t cap, const uint8_t *src, size_t len)
{
	size_t n = len < cap - 1 ? len : cap - 1;

	for (size_t i = 0; i < n; i++)
		dst[i] = src[i] < 0x20 || src[i] == 0x7f ? '?' : (char)src[i];
	dst[n] = '\0';
}

/* What an ERROR frame says, as this side's error. */
static int remote_error(struct agent_conn *c, struct reader r, struct err *e)
{
	uint32_t code = 0;
	char text[200] = "";
	struct proto_tlv t;
	int rc;

	while ((rc = proto_tlv_next(&r, &t, e)) > 0) {
		if (t.tag == PROTO_TAG_ERRNO)
			rc = proto_tlv_u32(&t, &code, e);
		else if (t.tag == PROTO_TAG_MESSAGE)
			conn_printable(text, sizeof(text), t.value, t.len);
		else
			rc = proto_tlv_unknown(&t, e);
		if (rc < 0)
			break;
	}
	conn_done(c);
	if (rc < 0)
		return conn_break(c, rc);
	/* The kernel's own range; -EAGAIN and the like have a meaning of their own here. */
	if (!code || code > 4095 || code == EAGAIN || code == ECANCELED)
		code = EIO;
	return err_set(e, -(int)code, "%s", text[0] ? text : strerror((int)code));
}

int conn_frame(struct agent_conn *c, int timeout_ms, struct proto_header *h, struct reader *payload,
	       struct err *e)
{
	uint64_t deadline_ms = timeout_ms < 0 ? UINT64_MAX : clock_mono_ms() + (uint64_t)timeout_ms;
	int rc;

	if (atomic_load(&c->broken))
		return err_set(e, -EPIPE, "the connection to the agent is broken");
	if (c->in_start == c->in_end)
		c->in_start = c->in_end = 0;
	rc = fill(c, PROTO_HEADER_LEN, deadline_ms, e);
	if (rc)
		return rc;
	rc = proto_header_decode(c->in + c->in_start, PROTO_FROM_AGENT, h, e);
	if (rc)
		return conn_break(c, rc);
	if (h->id != c->id)
		return conn_break(c, err_set(e, -EPROTO, "%s frame for another request",
					     proto_type_name(h->type)));
	rc = fill(c, PROTO_HEADER_LEN + (size_t)h->len, deadline_ms, e);
	if (rc)
		return rc;
	*payload = reader_of(c->in + c->in_start + PROTO_HEADER_LEN, h->len);
	c->in_start += PROTO_HEADER_LEN + (size_t)h->len;
	return h->type == PROTO_ERROR ? remote_error(c, *payload, e) : 0;
}

int conn_answer(struct agent_conn *c, struct proto_header *h, struct reader *payload, struct err *e)
{
	int rc = conn_frame(c, c->timeout_ms, h, payload, e);

	/* A late answer would be taken for that of the next request. A guest's own
	 * -ETIMEDOUT has ended the request and is told apart by that. */
	if (rc == -ETIMEDOUT && c->state != CONN_IDLE)
		conn_break(c, rc);
	return rc;
}

int conn_unexpected(struct agent_conn *c, const struct proto_header *h, struct err *e)
{
	return conn_break(
	    c, err_set(e, -EPROTO, "unexpected %s frame from the agent", proto_type_name(h->type)));
}

/* ---- connecting ---- */

/* Ask the VMM's vsock device for a port: "CONNECT <port>\n", answer "OK <n>\n". */
static int vsock_connect(struct agent_conn *c, uint32_t port, struct err *e)
{
	uint64_t deadline_ms = clock_mono_ms() + (uint64_t)c->timeout_ms;
	char line[32];
	int len = snprintf(line, sizeof(line), "CONNECT %u\n", port), rc;

	rc = conn_send_two(c, line, (size_t)len, "", 0, e);
	for (size_t n = 1; !rc; n++) {
		if (n > sizeof(line))
			return err_set(e, -EPROTO, "vsock socket: no line in answer to CONNECT");
		rc = fill(c, n, deadline_ms, e);
		if (!rc && c->in[n - 1] == '\n') {
			if (n < 4 || memcmp(c->in, "OK ", 3))
				return err_set(e, -ECONNREFUSED, "vsock port %u refused", port);
			c->in_start = n;
			return 0;
		}
	}
	/* Refused means closed. */
	if (rc == -EPIPE || rc == -ECONNRESET)
		return err_set(e, -ECONNREFUSED, "vsock port %u: nobody listens in the guest",
			       port);
	return rc;
}

static int parse_hello(struct agent_conn *c, struct reader r, struct err *e)
{
	struct agent_hello *hello = &c->hello;
	struct proto_tlv t;
	int rc;

	while ((rc = proto_tlv_next(&r, &t, e)) > 0) {
		if (t.tag == PROTO_TAG_VERSION)
			rc = proto_tlv_u32(&t, &hello->version, e);
		else if (t.tag == PROTO_TAG_HELLO_FLAGS)
			rc = proto_tlv_u32(&t, &hello->flags, e);
		else if (t.tag == PROTO_TAG_AGENT)
			conn_printable(hello->agent, sizeof(hello->agent), t.value, t.len);
		else if (t.tag == PROTO_TAG_BOOT_ID && t.len == sizeof(hello->boot_id))
			memcpy(hello->boot_id, t.value, sizeof(hello->boot_id));
		else
			rc = proto_tlv_unknown(&t, e);
		if (rc < 0)
			return rc;
	}
	if (!rc && hello->version != PROTO_VERSION)
		return err_set(e, -EPROTONOSUPPORT, "agent speaks protocol version %u, not %u",
			       hello->version, PROTO_VERSION);
	return rc;
}

static int say_hello(struct agent_conn *c, struct err *e)
{
	struct proto_header h;
	struct reader r;
	int rc = conn_request(c, PROTO_HELLO, CONN_SIMPLE, e);

	if (rc)
		return rc;
	proto_put_tlv_u32(&c->out, PROTO_TAG_VERSION_MIN, PROTO_MANDATORY, PROTO_VERSION);
	proto_put_tlv_u32(&c->out, PROTO_TAG_VERSION_MAX, PROTO_MANDATORY, PROTO_VERSION);
	rc = conn_request_send(c, e);
	if (!rc)
		rc = conn_answer(c, &h, &r, e);
	if (rc)
		return rc;
	if (h.type != PROTO_HELLO)
		return conn_unexpected(c, &h, e);
	conn_done(c);
	return parse_hello(c, r, e);
}

int conn_create(int fd, const struct agent_addr *addr, struct agent_conn **out, struct err *e)
{
	struct agent_conn *c = calloc(1, sizeof(*c));
	uint8_t *in = malloc(IN_CAP);
	int rc = 0;

	if (!c || !in) {
		close(fd);
		free(c);
		free(in);
		return err_set(e, -ENOMEM, "out of memory");
	}
	pthread_mutex_init(&c->lock, NULL);
	c->fd = fd;
	c->in = in;
	c->timeout_ms = (int)(addr->timeout_ms ? addr->timeout_ms : DEFAULT_TIMEOUT_MS);
	if (c->timeout_ms < 0)
		c->timeout_ms = INT32_MAX;
	if (addr->vsock_port)
		rc = vsock_connect(c, addr->vsock_port, e);
	if (!rc)
		rc = say_hello(c, e);
	if (rc)
		agent_close(c);
	else
		*out = c;
	return rc;
}

int agent_connect(const struct agent_addr *addr, struct agent_conn **out, struct err *e)
{
	struct err why;
	int fd = fd_unix_connect(addr->path, &why);

	/* No such socket is the same to the caller: nobody is there. */
	if (fd < 0)
		return err_set(e, fd == -ENOENT ? -ECONNREFUSED : fd, "%s", why.msg);
	return conn_create(fd, addr, out, e);
}

void agent_close(struct agent_conn *c)
{
	if (!c)
		return;
	fd_close(&c->fd);
	free(c->in);
	proto_buf_fini(&c->out);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

const struct agent_hello *agent_conn_hello(const struct agent_conn *c)
{
	return &c->hello;
}

bool agent_conn_broken(const struct agent_conn *c)
{
	return atomic_load(&c->broken);
}

bool agent_conn_idle(const struct agent_conn *c)
{
	return c->state == CONN_IDLE && !atomic_load(&c->broken) && c->in_start == c->in_end;
}

void agent_conn_abort(struct agent_conn *c)
{
	atomic_store(&c->aborted, true);
	atomic_store(&c->broken, true);
	shutdown(c->fd, SHUT_RDWR);
}

int agent_conn_fd(const struct agent_conn *c)
{
	return c->fd;
}

/* ---- requests that are one question and one answer ---- */

int conn_simple_finish(struct agent_conn *c, int timeout_ms, struct reader *r, struct err *e)
{
	struct proto_header h;
	int rc = conn_request_send(c, e);

	if (!rc)
		rc = conn_frame(c, timeout_ms, &h, r, e);
	if (rc) {
		if (rc == -ETIMEDOUT && c->state != CONN_IDLE)
			conn_break(c, rc);
		return rc;
	}
	if (h.type != PROTO_RESULT)
		return conn_unexpected(c, &h, e);
	conn_done(c);
	return 0;
}

static int simple_request(struct agent_conn *c, enum proto_type type, const char *path,
			  int timeout_ms, struct reader *r, struct err *e)
{
	int rc = conn_request(c, type, CONN_SIMPLE, e);

	if (rc)
		return rc;
	if (path)
		proto_put_tlv_str(&c->out, PROTO_TAG_PATH, PROTO_MANDATORY, path);
	return conn_simple_finish(c, timeout_ms, r, e);
}

int agent_ping(struct agent_conn *c, struct err *e)
{
	struct reader r;

	return simple_request(c, PROTO_PING, NULL, c->timeout_ms, &r, e);
}

/*
 * How long these take depends on how much there is to do, not on the agent's
 * health: no timeout, agent_conn_abort() ends them.
 */
int agent_sync(struct agent_conn *c, struct err *e)
{
	struct reader r;

	return simple_request(c, PROTO_SYNC, NULL, -1, &r, e);
}

int agent_remove(struct agent_conn *c, const char *path, struct err *e)
{
	struct reader r;

	return simple_request(c, PROTO_FILE_REMOVE, path, -1, &r, e);
}

int agent_mkdir(struct agent_conn *c, const char *path, struct err *e)
{
	struct reader r;

	return simple_request(c, PROTO_FILE_MKDIR, path, c->timeout_ms, &r, e);
}

int agent_shutdown(struct agent_conn *c, enum proto_shutdown mode, struct err *e)
{
	struct reader r;
	int rc = conn_request(c, PROTO_SHUTDOWN, CONN_SIMPLE, e);

	if (rc)
		return rc;
	proto_put_tlv_u32(&c->out, PROTO_TAG_SHUTDOWN_MODE, PROTO_MANDATORY, mode);
	return conn_simple_finish(c, c->timeout_ms, &r, e);
}

int agent_stat(struct agent_conn *c, const char *path, struct agent_stat *st, struct err *e)
{
	struct reader r;
	int rc = simple_request(c, PROTO_FILE_STAT, path, c->timeout_ms, &r, e);

	if (!rc)
		rc = conn_parse_stat(c, r, st, e);
	return rc;
}
