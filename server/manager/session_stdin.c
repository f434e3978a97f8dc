/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stdin of sessions; see session.h.
 *
 * Theory of operation
 * -------------------
 * What was written stays in x->in until the agent has acknowledged it. After a new connection the
 * agent says how much it has, and the rest is sent again. What it does not know because its
 * machine went back in time is gone with that time.
 */
#include <errno.h>
#include <string.h>

#include "lib/clock.h"
#include "server/manager/session_int.h"

#define ROOM_BYTES (EXEC_STDIN_BYTES / 4) /* less is not worth a wake-up */

/* Room, after forgetting what has arrived. */
static size_t room(struct exec_session *x)
{
	if (x->conn && x->in_known && x->in.len >= EXEC_STDIN_BYTES / 2)
		outbuf_trim(&x->in, agent_exec_stdin_acked(x->conn));
	return EXEC_STDIN_BYTES - x->in.len;
}

static void tell_room(struct exec_session *x)
{
	if (!x->in_full || room(x) < ROOM_BYTES)
		return;
	x->in_full = false;
	for (struct exec_reader *r = x->readers; r; r = r->next)
		r->room = true;
	session_notify(x);
}

static void send_all(struct exec_session *x)
{
	struct err e;

	if (!x->conn || !x->in_known)
		return;
	/* An error is for the driver to find. */
	while (x->in_sent < outbuf_end(&x->in)) {
		ssize_t n = agent_exec_stdin_now(x->conn, x->in.data + (x->in_sent - x->in.start),
						 (size_t)(outbuf_end(&x->in) - x->in_sent), &e);

		if (n <= 0)
			return;
		x->in_sent += (uint64_t)n;
	}
	if (!x->in_open && x->has_stdin && !x->in_eof_sent)
		x->in_eof_sent = !agent_exec_stdin_eof(x->conn, &e);
}

void stdin_pump(struct exec_session *x)
{
	send_all(x);
	tell_room(x);
}

void stdin_resume(struct exec_session *x, uint64_t offset)
{
	if (offset < x->in.start || offset > outbuf_end(&x->in)) {
		outbuf_fini(&x->in);
		x->in.start = offset;
	}
	x->in_sent = offset;
	x->in_known = true;
	x->in_eof_sent = false;
	stdin_pump(x);
}

ssize_t exec_write(struct exec_session *x, const void *buf, size_t len, int timeout_ms,
		   struct err *e)
{
	uint64_t deadline = clock_mono_ms() + (uint64_t)timeout_ms;
	struct timespec t = {.tv_sec = (time_t)(deadline / 1000),
			     .tv_nsec = (long)(deadline % 1000) * 1000000};
	size_t done = 0;
	int rc = 0;

	pthread_mutex_lock(&x->lock);
	for (;;) {
		size_t n = room(x);

		if (x->state != EXEC_RUNNING || !x->in_open) {
			rc = err_set(e, -EPIPE, "stdin is closed");
			break;
		}
		n = n < len - done ? n : len - done;
		rc = outbuf_append(&x->in, (const uint8_t *)buf + done, n, SIZE_MAX / 2);
		if (rc) {
			err_set(e, rc, "out of memory");
			break;
		}
		done += n;
		sandbox_touch(x->sandbox);
		send_all(x);
		if (done == len || timeout_ms == 0)
			break;
		if (!n && pthread_cond_timedwait(&x->changed, &x->lock, &t))
			break;
	}
	x->in_full |= done < len;
	tell_room(x);
	pthread_mutex_unlock(&x->lock);
	return rc ? rc : (ssize_t)done;
}

void exec_write_eof(struct exec_session *x)
{
	pthread_mutex_lock(&x->lock);
	x->in_open = false;
	if (x->state == EXEC_RUNNING)
		stdin_pump(x);
	pthread_mutex_unlock(&x->lock);
}
