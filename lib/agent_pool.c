/* SPDX-License-Identifier: Apache-2.0 */
/* Idle connections to one agent; see agent_client.h. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "lib/agent_conn.h"

struct agent_pool {
	struct agent_addr addr; /* path owned */
	char *path;
	unsigned int max_idle;
	pthread_mutex_t lock; /* for all below */
	bool aborted;
	unsigned int idle_len;
	struct agent_conn *idle;   /* last used first: its memory is warm; linked by pool_next */
	struct agent_conn *in_use; /* doubly linked */
};

struct agent_pool *agent_pool_create(const struct agent_addr *addr, unsigned int max_idle)
{
	struct agent_pool *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->path = strdup(addr->path);
	if (!p->path) {
		free(p);
		return NULL;
	}
	p->addr = *addr;
	p->addr.path = p->path;
	p->max_idle = max_idle;
	pthread_mutex_init(&p->lock, NULL);
	return p;
}

static void close_list(struct agent_conn *c)
{
	while (c) {
		struct agent_conn *next = c->pool_next;

		agent_close(c);
		c = next;
	}
}

/* Lock held. */
static struct agent_conn *take_idle(struct agent_pool *p)
{
	struct agent_conn *c = p->idle;

	p->idle = NULL;
	p->idle_len = 0;
	return c;
}

void agent_pool_flush(struct agent_pool *p)
{
	struct agent_conn *c;

	pthread_mutex_lock(&p->lock);
	c = take_idle(p);
	pthread_mutex_unlock(&p->lock);
	close_list(c);
}

void agent_pool_destroy(struct agent_pool *p)
{
	if (!p)
		return;
	agent_pool_flush(p);
	pthread_mutex_destroy(&p->lock);
	free(p->path);
	free(p);
}

static void break_all(struct agent_pool *p, bool for_ever)
{
	struct agent_conn *idle;

	pthread_mutex_lock(&p->lock);
	p->aborted |= for_ever;
	idle = take_idle(p);
	for (struct agent_conn *c = p->in_use; c; c = c->pool_next)
		agent_conn_abort(c);
	pthread_mutex_unlock(&p->lock);
	close_list(idle);
}

void agent_pool_abort(struct agent_pool *p)
{
	break_all(p, true);
}

void agent_pool_reset(struct agent_pool *p)
{
	break_all(p, false);
}

static void link_in_use(struct agent_pool *p, struct agent_conn *c)
{
	c->pool_prev = NULL;
	c->pool_next = p->in_use;
	if (p->in_use)
		p->in_use->pool_prev = c;
	p->in_use = c;
}

static void unlink_in_use(struct agent_pool *p, struct agent_conn *c)
{
	if (c->pool_prev)
		c->pool_prev->pool_next = c->pool_next;
	else
		p->in_use = c->pool_next;
	if (c->pool_next)
		c->pool_next->pool_prev = c->pool_prev;
	c->pool_prev = c->pool_next = NULL;
}

/* An idle connection on which something can be read has ended (or its agent misbehaves). */
static bool is_quiet(struct agent_conn *c)
{
	struct pollfd p = {.fd = c->fd, .events = POLLIN};

	return poll(&p, 1, 0) == 0;
}

int agent_pool_get(struct agent_pool *p, struct agent_conn **out, struct err *e)
{
	struct agent_conn *c, *stale = NULL;
	int rc = 0;

	pthread_mutex_lock(&p->lock);
	while ((c = p->idle) != NULL) {
		p->idle = c->pool_next;
		p->idle_len--;
		if (is_quiet(c)) {
			link_in_use(p, c);
			break;
		}
		c->pool_next = stale;
		stale = c;
	}
	if (p->aborted)
		rc = err_set(e, -ESHUTDOWN, "the sandbox is being stopped");
	pthread_mutex_unlock(&p->lock);
	close_list(stale);
	if (rc || c) {
		*out = c;
		return rc;
	}
	rc = agent_connect(&p->addr, &c, e);
	if (rc)
		return rc;
	pthread_mutex_lock(&p->lock);
	link_in_use(p, c);
	if (p->aborted)
		agent_conn_abort(c);
	pthread_mutex_unlock(&p->lock);
	*out = c;
	return 0;
}

void agent_pool_put(struct agent_pool *p, struct agent_conn *c)
{
	if (!c)
		return;
	pthread_mutex_lock(&p->lock);
	unlink_in_use(p, c);
	if (agent_conn_idle(c) && !p->aborted && p->idle_len < p->max_idle) {
		c->pool_next = p->idle;
		p->idle = c;
		p->idle_len++;
		c = NULL;
	}
	pthread_mutex_unlock(&p->lock);
	agent_close(c);
}
