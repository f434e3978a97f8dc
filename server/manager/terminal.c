/* SPDX-License-Identifier: Apache-2.0 */
/* What terminals have that other sessions have not: a size, and a line that can be hung up. */
#include <errno.h>
#include <signal.h>

#include "lib/log.h"
#include "server/manager/session_int.h"

static int set_size(struct exec_session *x, void *arg, struct err *e)
{
	const uint16_t *size = arg;

	x->rows = size[0];
	x->cols = size[1];
	return agent_exec_winsize(x->conn, size[0], size[1], e);
}

int exec_resize(struct exec_session *x, unsigned int rows, unsigned int cols, struct err *e)
{
	uint16_t size[2] = {(uint16_t)rows, (uint16_t)cols};

	return session_control(x, set_size, size, e);
}

void exec_redraw(struct exec_session *x)
{
	struct err e;

	pthread_mutex_lock(&x->lock);
	/* Without a connection the screen stands still; an error is for the driver to find. */
	if (x->state == EXEC_RUNNING && x->conn && x->rows && x->seen)
		agent_exec_winsize(x->conn, x->rows, x->cols, &e);
	x->seen = true;
	pthread_mutex_unlock(&x->lock);
}

bool exec_removed(struct exec_session *x)
{
	bool removed;

	pthread_mutex_lock(&x->lock);
	removed = x->removed;
	pthread_mutex_unlock(&x->lock);
	return removed;
}

static void mark_removed(struct exec_session *x)
{
	pthread_mutex_lock(&x->lock);
	x->removed = true;
	session_cut(x);
	pthread_mutex_unlock(&x->lock);
}

static bool unlist(struct sandbox *s, struct exec_session *x)
{
	struct exec_session **p = &s->sessions;
	bool listed;

	pthread_mutex_lock(&s->lock);
	while (*p && *p != x)
		p = &(*p)->next;
	listed = *p;
	if (listed)
		*p = x->next;
	pthread_mutex_unlock(&s->lock);
	return listed;
}

int exec_hang_up(struct sandbox *s, struct exec_session *x, struct err *e)
{
	int rc = exec_signal(x, SIGHUP, e);

	if (rc)
		return rc;
	mark_removed(x);
	if (unlist(s, x))
		exec_put(x);
	return 0;
}

/* --- terminals that nobody comes back to
 * ----------------------------------------------------------- */

bool terminal_abandoned(struct exec_session *x, bool asleep, uint64_t now)
{
	if (x->kind != EXEC_TERMINAL || x->state != EXEC_RUNNING || x->readers || !x->max_alone_s)
		return false;
	/* While its sandbox sleeps it stands still, and so does this clock. */
	if (asleep || !x->alone_since_ms)
		x->alone_since_ms = now;
	return now - x->alone_since_ms >= (uint64_t)x->max_alone_s * 1000;
}

static void hang_up(void *arg)
{
	struct exec_session *x = arg;
	struct err e;

	if (exec_signal(x, SIGHUP, &e))
		log_warn("terminal %s: not hung up: %s", x->id, e.msg);
	exec_put(x);
}

void terminal_end(struct manager *m, struct exec_session *x)
{
	mark_removed(x);
	if (jobs_run(&m->jobs, hang_up, exec_get(x)))
		exec_put(x);
}
