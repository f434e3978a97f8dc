/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading commands' connections: on the thread of a request or on the loop; see session.h.
 *
 * Theory of operation
 * -------------------
 * A connection can end while its command lives on: the sandbox hibernates, or is rolled back. The
 * session is then detached. Its driver asks for it again, from the first byte that it lacks, once
 * the guest can be reached: a request's thread waits for that; of those that the loop drives
 * the sandbox keeps a list, and a thread of its own attaches them when sessions_kick() finds
 * that there is something to do. A command that the guest does not know any more (it was started
 * after the checkpoint that the sandbox went back to, or the guest was rebooted) has ended with -1.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/session_int.h"

#define EVENTS_PER_TURN	   16 /* of one session on the loop, before others get a turn */
#define DRIVE_SLICE_MS	   1000
#define ATTACH_TRIES	   8 /* in vain, while the sandbox runs: then the command is lost */
#define ATTACH_RETRY_MS	   50
#define ATTACH_PATIENCE_MS 60000

/* --- events ---------------------------------------------------------------------------------- */

static void end_lease(struct exec_session *x)
{
	if (!x->leased)
		return;
	x->leased = false;
	sandbox_unuse(x->sandbox);
}

/* The connection goes back to the pool; the sandbox's reference is given up. */
static void finish(struct exec_session *x, enum exec_state state)
{
	struct sandbox *s = x->sandbox;
	struct agent_conn *conn;

	end_lease(x);
	session_release_idle(x);
	pthread_mutex_lock(&x->lock);
	conn = x->conn;
	x->conn = NULL;
	x->state = state;
	x->resync = false;
	x->ended_ms = clock_mono_ms();
	x->sandbox = NULL;
	session_notify(x);
	pthread_mutex_unlock(&x->lock);
	/* The next request on it would let the guest forget the session: after a restart of the
	 * daemon nobody would know how it ended. */
	if (conn && x->listed)
		agent_conn_abort(conn);
	agent_pool_put(s->pool, conn);
	sandbox_put(s);
}

/* A last line of the server's own. Under x->lock. */
static void add_line(struct exec_session *x, const char *text)
{
	struct outbuf *err = &x->out[1];

	if (err->len && err->data[err->len - 1] != '\n')
		outbuf_append(err, "\n", 1, x->keep);
	outbuf_append(err, text, strlen(text), x->keep);
	outbuf_append(err, "\n", 1, x->keep);
	order_note(&x->order, 1, outbuf_end(err));
}

static void take_exit(struct exec_session *x, const struct agent_exit *end)
{
	pthread_mutex_lock(&x->lock);
	x->exit_code = end->signal ? 128 + end->signal : end->code;
	x->timed_out = end->timed_out;
	if (end->timed_out) {
		x->exit_code = -1;
		add_line(x, "Process timed out");
	}
	pthread_mutex_unlock(&x->lock);
	finish(x, EXEC_ENDED);
}

/* It ran, and it is gone together with the guest's memory of it. */
static void take_loss(struct exec_session *x, const char *why)
{
	pthread_mutex_lock(&x->lock);
	x->exit_code = -1;
	add_line(x, why);
	pthread_mutex_unlock(&x->lock);
	finish(x, EXEC_ENDED);
}

/* @rc and @e: what is to be said, explained already. */
static void take_failure(struct exec_session *x, enum exec_state state, int rc, const struct err *e)
{
	pthread_mutex_lock(&x->lock);
	x->rc = rc;
	x->exit_code = -1;
	snprintf(x->error, sizeof(x->error), "%s", e->msg);
	pthread_mutex_unlock(&x->lock);
	finish(x, state);
}

static void detach(struct exec_session *x)
{
	struct agent_conn *conn;

	pthread_mutex_lock(&x->lock);
	conn = x->conn;
	x->conn = NULL;
	pthread_mutex_unlock(&x->lock);
	agent_pool_put(x->sandbox->pool, conn);
	end_lease(x);
}

enum turn { GOES_ON, ENDED, DETACHED };

static enum turn take_broken(struct exec_session *x, int rc, struct err *e)
{
	if (!agent_conn_broken(x->conn)) {
		/* What was there once and is not known any more; or never could be started. */
		if (x->started)
			take_loss(x, "Process lost: the sandbox was restarted or rolled back");
		else
			take_failure(x, EXEC_REFUSED, rc, e);
		return ENDED;
	}
	/* When the daemon stops nobody is left to come back to it. */
	if (x->started && !manager_interrupted(x->sandbox->m)) {
		detach(x);
		return DETACHED;
	}
	rc = sandbox_explain(x->sandbox, x->conn, rc, e);
	take_failure(x, EXEC_LOST, rc, e);
	return ENDED;
}

/* Has all come that was there when it was attached to? Under x->lock. */
static void check_resync(struct exec_session *x)
{
	if (x->next_byte[0] >= x->resync_until[0] && x->next_byte[1] >= x->resync_until[1])
		x->resync = false;
}

static void take_output(struct exec_session *x, const struct agent_event *ev)
{
	int i = ev->type == AGENT_STDERR, rc;

	pthread_mutex_lock(&x->lock);
	rc = outbuf_append(&x->out[i], ev->data, ev->len, x->keep);
	order_note(&x->order, (unsigned int)i, outbuf_end(&x->out[i]));
	order_trim(&x->order, x->out);
	x->next_byte[i] = ev->offset + ev->len;
	if (x->resync)
		check_resync(x);
	session_notify(x);
	pthread_mutex_unlock(&x->lock);
	if (rc)
		log_guest("no memory for the output of a command: bytes are lost");
}

/*
 * What is known of the streams is of another time, or nothing: the guest knows better. What it
 * does not keep any more stays only if there is nobody who could tell it apart: without
 * a name, nobody but the request that began it reads it. Under x->lock.
 */
static void replace_streams(struct exec_session *x, const struct agent_event *ev)
{
	for (int i = 0; i < 2; i++) {
		struct outbuf *b = &x->out[i];

		if (!x->id[0] && b->start <= ev->start[i] && ev->start[i] <= outbuf_end(b)) {
			b->len = (size_t)(ev->start[i] - b->start);
		} else {
			outbuf_fini(b);
			b->start = ev->start[i];
		}
		x->next_byte[i] = ev->start[i];
		x->resync_until[i] = ev->end[i];
	}
	x->order.base += x->order.n;
	x->order.n = 0;
	outbuf_fini(&x->in);
	x->in.start = ev->stdin_offset;
	x->in_open = x->has_stdin && !ev->stdin_ended;
	for (struct exec_reader *r = x->readers; r; r = r->next)
		r->cut = true;
	check_resync(x);
}

static void take_stdin_news(struct exec_session *x, const struct agent_event *ev)
{
	pthread_mutex_lock(&x->lock);
	if (ev->type == AGENT_STARTED && x->resync)
		replace_streams(x, ev);
	if (ev->type == AGENT_STARTED && !x->in_known)
		stdin_resume(x, ev->stdin_offset);
	else
		stdin_pump(x);
	session_notify(x);
	pthread_mutex_unlock(&x->lock);
}

static enum turn take_event(struct exec_session *x, int rc, const struct agent_event *ev,
			    struct err *e)
{
	if (rc)
		return take_broken(x, rc, e);
	x->started = true;
	x->failed_attaches = 0;
	end_lease(x);
	if (ev->type == AGENT_EXIT) {
		take_exit(x, &ev->exit);
		return ENDED;
	}
	if (ev->type == AGENT_STDOUT || ev->type == AGENT_STDERR)
		take_output(x, ev);
	else
		take_stdin_news(x, ev);
	return GOES_ON;
}

/* --- attaching again -----------------------------------------------------------------------------
 */

/* Return: true if it makes sense to try again. */
static bool attach_failed(struct exec_session *x, const struct err *e)
{
	end_lease(x);
	if (++x->failed_attaches < ATTACH_TRIES) {
		poll(NULL, 0, ATTACH_RETRY_MS);
		return true;
	}
	take_failure(x, EXEC_LOST, -EHOSTDOWN, e);
	return false;
}

static int attach_now(struct exec_session *x, struct err *e)
{
	struct agent_conn *conn;
	uint32_t rewinds;
	bool anew;
	int rc = agent_pool_get(x->sandbox->pool, &conn, e);

	if (rc)
		return rc;
	rewinds = sandbox_rewinds(x->sandbox);
	pthread_mutex_lock(&x->lock);
	x->resync |= rewinds != x->rewinds;
	anew = x->resync;
	pthread_mutex_unlock(&x->lock);
	rc = agent_exec_attach(conn, x->agent_id, anew ? AGENT_OLDEST : x->next_byte[0],
			       anew ? AGENT_OLDEST : x->next_byte[1], false, e);
	if (rc) {
		agent_pool_put(x->sandbox->pool, conn);
		return rc;
	}
	pthread_mutex_lock(&x->lock);
	x->conn = conn;
	x->in_known = false;
	x->rewinds = rewinds;
	x->epoch = sandbox_epoch(x->sandbox);
	session_notify(x);
	pthread_mutex_unlock(&x->lock);
	return 0;
}

/* Wait until @deadline_ms for the guest. GOES_ON: attached; DETACHED: not yet. */
static enum turn attach(struct exec_session *x, uint64_t deadline_ms)
{
	for (;;) {
		struct err e;
		int rc = sandbox_await(x->sandbox, deadline_ms, &e);

		if (rc == -EAGAIN)
			return DETACHED;
		if (rc) {
			take_failure(x, EXEC_LOST, rc, &e);
			return ENDED;
		}
		x->leased = true;
		if (x->boots != sandbox_boots(x->sandbox)) {
			take_loss(x, "Process lost: the sandbox was restarted");
			return ENDED;
		}
		rc = attach_now(x, &e);
		if (!rc)
			return GOES_ON;
		if (!attach_failed(x, &e))
			return ENDED;
	}
}

static bool must_wait_for_reader(struct exec_session *x)
{
	bool wait;

	pthread_mutex_lock(&x->lock);
	wait = x->held = session_must_wait(x);
	pthread_mutex_unlock(&x->lock);
	return wait;
}

bool exec_drive(struct exec_session *x, int timeout_ms)
{
	uint64_t deadline = clock_mono_ms() + (uint64_t)timeout_ms;
	const bool *interrupted = &x->sandbox->m->interrupted;
	enum turn turn = x->conn ? GOES_ON : DETACHED;

	while (turn != ENDED) {
		uint64_t now = clock_mono_ms();
		struct agent_event ev;
		struct err e;
		int left, rc;

		if (now >= deadline || must_wait_for_reader(x) ||
		    __atomic_load_n(interrupted, __ATOMIC_RELAXED))
			return false;
		if (turn == DETACHED) {
			turn = attach(x, deadline);
			continue;
		}
		left = deadline - now < DRIVE_SLICE_MS ? (int)(deadline - now) : DRIVE_SLICE_MS;
		rc = agent_exec_next(x->conn, left, &ev, &e);
		if (rc != -EAGAIN)
			turn = take_event(x, rc, &ev, &e);
	}
	return true;
}

/* --- on the loop
 * ------------------------------------------------------------------------------------ */

/* Events that the client has read ahead raise no EPOLLIN: come back without one. */
static void pump_again(struct manager *m, struct exec_session *x)
{
	uint64_t one = 1;

	if (x->in_again)
		return;
	x->in_again = true;
	x->again_next = m->again;
	m->again = x;
	if (write(m->again_fd, &one, sizeof(one)) < 0)
		log_error("waking the background loop: %s", strerror(errno));
}

/* What is left to do when its source is removed. */
static void leave_loop(struct manager *m, struct exec_session *x)
{
	for (struct exec_session **p = &m->again; *p; p = &(*p)->again_next)
		if (*p == x) {
			*p = x->again_next;
			break;
		}
	x->in_again = x->paused = false;
	__atomic_sub_fetch(&m->background, 1, __ATOMIC_RELEASE);
}

/* The reference that the loop had is the list's from now on. */
static void keep_detached(struct exec_session *x)
{
	struct sandbox *s = x->sandbox;

	pthread_mutex_lock(&s->lock);
	x->detached_next = s->detached;
	s->detached = x;
	pthread_mutex_unlock(&s->lock);
	sessions_kick(s);
}

/* Under loop_lock. */
static void pump(struct manager *m, struct exec_session *x)
{
	for (int i = 0; i < EVENTS_PER_TURN; i++) {
		struct agent_event ev;
		enum turn turn;
		struct err e;
		int rc;

		if (!agent_conn_broken(x->conn) && must_wait_for_reader(x)) {
			x->paused = true;
			loop_modify(&m->loop, &x->source, 0);
			return;
		}
		rc = agent_exec_next(x->conn, 0, &ev, &e);
		if (rc == -EAGAIN)
			return;
		/* What ends its turns gives the connection away: to be closed, or to others. */
		if (rc || ev.type == AGENT_EXIT)
			loop_remove(&m->loop, &x->source);
		turn = take_event(x, rc, &ev, &e);
		if (turn != GOES_ON) {
			leave_loop(m, x);
			if (turn == DETACHED)
				keep_detached(x);
			else
				exec_put(x);
			return;
		}
	}
	pump_again(m, x);
}

void session_unpause(struct manager *m, struct exec_session *x)
{
	if (!x->paused || !x->source.handler)
		return;
	x->paused = false;
	loop_modify(&m->loop, &x->source, EPOLLIN);
	pump_again(m, x);
}

static void on_readable(struct loop_source *source, uint32_t events)
{
	struct exec_session *x = container_of(source, struct exec_session, source);

	/*
	 * An error is reported even to a source that waits for nothing. What the connection still
	 * holds has no room here: the guest has it, too, and will send it on the next one.
	 */
	if ((events & (EPOLLHUP | EPOLLERR)) && x->paused) {
		x->paused = false;
		agent_conn_abort(x->conn);
	}
	pump(x->sandbox->m, x);
}

static void on_again(struct loop_source *source, uint32_t events)
{
	struct manager *m = container_of(source, struct manager, again_source);
	struct exec_session *list;
	uint64_t count;

	(void)events;
	if (read(m->again_fd, &count, sizeof(count)) < 0)
		return;
	list = m->again;
	m->again = NULL;
	while (list) {
		struct exec_session *x = list;

		list = x->again_next;
		x->in_again = false;
		x->again_next = NULL;
		pump(m, x);
	}
}

int sessions_start(struct manager *m)
{
	m->again_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->again_fd < 0)
		return -errno;
	return loop_add(&m->loop, &m->again_source, m->again_fd, EPOLLIN, on_again);
}

void sessions_drain(struct manager *m)
{
	uint64_t deadline = clock_mono_ms() + 2000;

	while (__atomic_load_n(&m->background, __ATOMIC_ACQUIRE) && clock_mono_ms() < deadline)
		poll(NULL, 0, 1);
}

/* Takes over the caller's reference, also on failure. */
static int enter_loop(struct manager *m, struct exec_session *x, struct err *e)
{
	int rc;

	pthread_mutex_lock(&m->loop_lock);
	rc = loop_add(&m->loop, &x->source, agent_conn_fd(x->conn), EPOLLIN, on_readable);
	if (!rc) {
		__atomic_add_fetch(&m->background, 1, __ATOMIC_RELAXED);
		pump_again(m, x);
	}
	pthread_mutex_unlock(&m->loop_lock);
	if (rc) {
		err_sys(e, rc, "watching the command");
		take_failure(x, EXEC_LOST, rc, e);
		exec_put(x);
	}
	return rc;
}

void session_list(struct sandbox *s, struct exec_session *x)
{
	bool taken;

	pthread_mutex_lock(&s->lock);
	do {
		uint32_t number = 0;

		taken = !x->id[0];
		for (struct exec_session *o = s->sessions; o; o = o->next)
			taken |= !strcmp(o->id, x->id);
		if (!taken)
			break;
		if (getrandom(&number, sizeof(number), 0) != sizeof(number))
			number = (uint32_t)clock_mono_ns();
		snprintf(x->id, sizeof(x->id), "%08x", number);
	} while (taken);
	x->listed = true;
	x->next = s->sessions;
	s->sessions = exec_get(x);
	pthread_mutex_unlock(&s->lock);
}

int exec_background(struct exec_session *x, bool listed, struct err *e)
{
	if (listed)
		session_list(x->sandbox, x);
	exec_get(x);
	if (x->conn)
		return enter_loop(x->sandbox->m, x, e);
	if (!manager_interrupted(x->sandbox->m)) {
		keep_detached(x);
		return 0;
	}
	err_set(e, -ECANCELED, "the server stops");
	take_failure(x, EXEC_LOST, -ECANCELED, e);
	exec_put(x);
	return -ECANCELED;
}

/* --- detached ones
 * ---------------------------------------------------------------------------------- */

static struct exec_session *take_detached(struct sandbox *s)
{
	struct exec_session *x;

	pthread_mutex_lock(&s->lock);
	x = s->detached;
	if (x)
		s->detached = x->detached_next;
	pthread_mutex_unlock(&s->lock);
	return x;
}

static void attach_detached(void *arg)
{
	struct sandbox *s = arg;
	struct exec_session *later = NULL, *x;
	struct err settle_err;

	if (!sandbox_hibernated(s) && exec_settle(s, &settle_err))
		log_warn("sandbox %s: its sessions: %s", s->id, settle_err.msg);

	while ((x = take_detached(s))) {
		struct err e;

		switch (attach(x, clock_mono_ms() + ATTACH_PATIENCE_MS)) {
		case GOES_ON:
			enter_loop(s->m, x, &e);
			break;
		case ENDED:
			exec_put(x);
			break;
		case DETACHED:
			x->detached_next = later;
			later = x;
			break;
		}
	}
	pthread_mutex_lock(&s->lock);
	while (later) {
		x = later;
		later = x->detached_next;
		x->detached_next = s->detached;
		s->detached = x;
	}
	s->attaching = false;
	pthread_mutex_unlock(&s->lock);
	sandbox_put(s);
}

void sessions_kick(struct sandbox *s)
{
	bool go;

	pthread_mutex_lock(&s->lock);
	/* Asleep: the wake kicks again. */
	go = (s->detached || !s->settled) && !s->attaching && s->row.status != SANDBOX_HIBERNATED &&
	     !__atomic_load_n(&s->m->interrupted, __ATOMIC_RELAXED);
	if (go)
		s->attaching = true;
	pthread_mutex_unlock(&s->lock);
	if (!go)
		return;
	__atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
	if (jobs_run(&s->m->jobs, attach_detached, s)) {
		/* The next tick tries again. */
		pthread_mutex_lock(&s->lock);
		s->attaching = false;
		pthread_mutex_unlock(&s->lock);
		sandbox_put(s);
	}
}
