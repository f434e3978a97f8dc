/* SPDX-License-Identifier: Apache-2.0 */
/* Shells in advance; see pool.h. */
#include "server/manager/pool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"

struct pool {
	pthread_mutex_t lock;
	struct sandbox *shells; /* references; linked by `next`, not in the table */
	unsigned int n;
	bool filling; /* a job is at it */
};

int pool_init(struct manager *m, struct err *e)
{
	m->pool = calloc(1, sizeof(*m->pool));
	if (!m->pool)
		return err_set(e, -ENOMEM, "out of memory");
	pthread_mutex_init(&m->pool->lock, NULL);
	return 0;
}

static bool is_alive(struct sandbox *s)
{
	bool alive;

	pthread_mutex_lock(&s->lock);
	alive = s->vm.client && !s->vm.closed_ms;
	pthread_mutex_unlock(&s->lock);
	return alive;
}

static struct sandbox *pop(struct pool *p)
{
	struct sandbox *s;

	pthread_mutex_lock(&p->lock);
	s = p->shells;
	if (s) {
		p->shells = s->next;
		s->next = NULL;
		p->n--;
	}
	pthread_mutex_unlock(&p->lock);
	return s;
}

void pool_fini(struct manager *m)
{
	struct sandbox *s;

	if (!m->pool)
		return;
	while ((s = pop(m->pool)))
		sandbox_discard(s);
	pthread_mutex_destroy(&m->pool->lock);
	free(m->pool);
	m->pool = NULL;
}

struct sandbox *pool_take(struct manager *m, int64_t cpus, int64_t memory_mib)
{
	struct sandbox *s;

	if (cpus != SANDBOX_DEFAULT_CPUS || memory_mib != SANDBOX_DEFAULT_MEMORY_MIB)
		return NULL;
	while ((s = pop(m->pool)) && !is_alive(s)) {
		log_warn("shell %s: %s", s->id, s->exit_reason);
		sandbox_discard(s);
	}
	return s;
}

static int make_shell(struct manager *m, struct err *e)
{
	struct sandbox *s;
	int rc = sandbox_make_shell(m, &s, e);

	if (rc)
		return rc;
	rc = vm_spawn(s, NULL, e);
	if (!rc)
		rc = vm_prepare(s, SANDBOX_DEFAULT_CPUS, SANDBOX_DEFAULT_MEMORY_MIB, e);
	if (rc) {
		sandbox_discard(s);
		return rc;
	}
	pthread_mutex_lock(&m->pool->lock);
	s->next = m->pool->shells;
	m->pool->shells = s;
	m->pool->n++;
	pthread_mutex_unlock(&m->pool->lock);
	return 0;
}

/* Return: true if another one is to be made; else the job's end is noted. */
static bool wants_more(struct manager *m, bool failed)
{
	struct pool *p = m->pool;
	bool more;

	pthread_mutex_lock(&p->lock);
	more = !failed && p->n < (unsigned int)m->config->pool_size && !manager_interrupted(m);
	p->filling = more;
	pthread_mutex_unlock(&p->lock);
	return more;
}

/* One that has ended in the meantime, out of the pool; NULL if there is none. */
static struct sandbox *pop_dead(struct pool *p)
{
	struct sandbox **at = &p->shells, *dead;

	pthread_mutex_lock(&p->lock);
	while (*at && is_alive(*at))
		at = &(*at)->next;
	dead = *at;
	if (dead) {
		*at = dead->next;
		dead->next = NULL;
		p->n--;
	}
	pthread_mutex_unlock(&p->lock);
	return dead;
}

static void fill(void *arg)
{
	struct manager *m = arg;
	struct sandbox *dead;
	int rc = 0;

	while ((dead = pop_dead(m->pool))) {
		log_warn("shell %s: %s", dead->id, dead->exit_reason);
		sandbox_discard(dead);
	}

	while (wants_more(m, rc)) {
		struct err e;

		rc = make_shell(m, &e);
		if (rc)
			log_warn("making a shell in advance: %s", e.msg);
	}
}

static bool any_dead(const struct pool *p)
{
	for (struct sandbox *s = p->shells; s; s = s->next)
		if (!is_alive(s))
			return true;
	return false;
}

static void start_job(struct manager *m, bool only_if_dead)
{
	struct pool *p = m->pool;
	bool go;

	if (!p)
		return; /* the daemon stops */
	pthread_mutex_lock(&p->lock);
	go = !p->filling && !manager_interrupted(m) &&
	     (any_dead(p) || (!only_if_dead && p->n < (unsigned int)m->config->pool_size));
	if (go)
		p->filling = true;
	pthread_mutex_unlock(&p->lock);
	if (go && jobs_run(&m->jobs, fill, m)) {
		pthread_mutex_lock(&p->lock);
		p->filling = false;
		pthread_mutex_unlock(&p->lock);
	}
}

void pool_refill(struct manager *m)
{
	start_job(m, false);
}

void pool_check(struct manager *m)
{
	start_job(m, true);
}

unsigned int pool_count(struct manager *m)
{
	unsigned int n;

	pthread_mutex_lock(&m->pool->lock);
	n = m->pool->n;
	pthread_mutex_unlock(&m->pool->lock);
	return n;
}
