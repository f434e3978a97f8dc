/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions that the guest knows and this daemon does not (any more).
 *
 * Theory of operation
 * -------------------
 * Sessions that have names are known to the guest by a label, with which the server knows them
 * again. After a restart of the daemon all of them are taken over; after a rollback those that
 * run again although they had ended. What the guest keeps of their output is fetched before a
 * client sees them. Labels that name another sandbox were inherited by a fork, and are nobody's.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/log.h"
#include "server/manager/session_int.h"

/* Nobody is told of this one: it is about to be taken over anew. Under s->lock. */
static void unlist(struct sandbox *s, struct exec_session *x)
{
	struct exec_session **at = &s->sessions;

	while (*at != x)
		at = &(*at)->next;
	*at = x->next;
}

/*
 * Is it here already, in the state that the guest says? An old one is unlisted. One that this
 * daemon has started and does not list is a request's, whose thread reads it.
 */
static bool is_known(struct sandbox *s, const char *id, const struct agent_session *a)
{
	struct exec_session *x;
	bool known = (uint32_t)a->id == s->m->life;

	pthread_mutex_lock(&s->lock);
	for (x = s->sessions; x && strcmp(x->id, id); x = x->next)
		;
	if (x) {
		pthread_mutex_lock(&x->lock);
		known = x->state == EXEC_RUNNING || !a->running;
		pthread_mutex_unlock(&x->lock);
		if (!known)
			unlist(s, x);
	}
	pthread_mutex_unlock(&s->lock);
	if (x && !known)
		exec_put(x);
	return known;
}

static void adopt(struct sandbox *s, struct exec_session *x, uint64_t agent_id)
{
	__atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
	x->sandbox = s;
	x->agent_id = agent_id;
	x->started = x->resync = true;
	x->in_known = false;
	x->boots = sandbox_boots(s);
	x->rewinds = sandbox_rewinds(s);
	x->holds = x->foreground;
	if (x->holds)
		idle_hold(&s->idle);
	/* Whoever was attached is not any more. */
	if (x->max_alone_s)
		x->alone_since_ms = clock_mono_ms();
	session_list(s, x);
	pthread_mutex_lock(&s->lock);
	x->detached_next = s->detached;
	s->detached = x;
	pthread_mutex_unlock(&s->lock);
}

static int list_and_adopt(struct sandbox *s, struct agent_conn *conn, struct err *e)
{
	struct agent_session a;
	int rc = agent_sessions_open(conn, e), n = 0;

	while (!rc && (rc = agent_sessions_next(conn, &a, e)) > 0) {
		struct exec_session *x = label_parse(a.label, a.label_len, s->id);

		rc = 0;
		if (!x)
			continue;
		if (is_known(s, x->id, &a)) {
			exec_put(x);
			continue;
		}
		adopt(s, x, a.id);
		n++;
	}
	if (n)
		log_info("sandbox %s: %d sessions taken over", s->id, n);
	return rc == -EOPNOTSUPP ? 0 : rc;
}

static bool is_settled(struct sandbox *s)
{
	bool settled;

	pthread_mutex_lock(&s->lock);
	settled = s->settled;
	pthread_mutex_unlock(&s->lock);
	return settled;
}

/* Unless the guest went back in time since it was asked. */
static void set_settled(struct sandbox *s, uint32_t rewinds)
{
	pthread_mutex_lock(&s->lock);
	s->settled |= rewinds == sandbox_rewinds(s);
	pthread_mutex_unlock(&s->lock);
}

int exec_settle(struct sandbox *s, struct err *e)
{
	struct agent_conn *conn;
	uint32_t rewinds;
	int rc = 0;

	if (is_settled(s))
		return 0;
	pthread_mutex_lock(&s->settle_lock);
	if (!is_settled(s)) {
		rc = sandbox_agent_get(s, &conn, e);
		if (!rc) {
			rewinds = sandbox_rewinds(s);
			rc = list_and_adopt(s, conn, e);
			if (rc)
				rc = sandbox_explain(s, conn, rc, e);
			else
				set_settled(s, rewinds);
			sandbox_agent_put(s, conn);
		}
	}
	pthread_mutex_unlock(&s->settle_lock);
	if (!rc)
		sessions_kick(s);
	return rc;
}

static struct exec_session *find_listed(struct sandbox *s, unsigned int kinds, const char *id)
{
	struct exec_session *x;

	pthread_mutex_lock(&s->lock);
	for (x = s->sessions; x; x = x->next)
		if (kinds & EXEC_KIND(x->kind) && !strcmp(x->id, id)) {
			exec_get(x);
			break;
		}
	pthread_mutex_unlock(&s->lock);
	return x;
}

static bool is_running(struct exec_session *x)
{
	bool running;

	pthread_mutex_lock(&x->lock);
	running = x->state == EXEC_RUNNING;
	pthread_mutex_unlock(&x->lock);
	return running;
}

int exec_find(struct sandbox *s, unsigned int kinds, const char *id, struct exec_session **out,
	      struct err *e)
{
	int rc = 0;

	*out = find_listed(s, kinds, id);
	if (!*out || !is_running(*out)) {
		exec_put(*out);
		rc = exec_settle(s, e);
		*out = rc ? NULL : find_listed(s, kinds, id);
	}
	return !rc && !*out ? -ENOENT : rc;
}
