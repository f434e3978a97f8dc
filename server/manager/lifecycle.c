/* SPDX-License-Identifier: Apache-2.0 */
/* Ending and listing sandboxes; see manager.h for the order of things, create.c for their making.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/gc.h"
#include "server/manager/internal.h"

/* --- delete -------------------------------------------------------------------------------- */

static int delete_known(struct manager *m, struct sandbox *s, struct err *e)
{
	bool was_running;
	int rc = store_sandbox_set_deleted(m->store, s->id, clock_wall_ms(), e);

	/* On a full disk the files have to go first, or no deletion could ever free it. */
	if (rc && rc != -ENOSPC && rc != -EIO)
		return rc;
	pthread_mutex_lock(&s->lock);
	was_running = s->row.status == SANDBOX_RUNNING;
	s->row.status = SANDBOX_STOPPED;
	if (!s->row.ended_ms)
		s->row.ended_ms = clock_wall_ms();
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	if (was_running)
		manager_unreserve(m);
	agent_pool_abort(s->pool);
	vm_kill(s);
	sessions_kick(s); /* detached ones hear of the end */
	sessions_unlist(s);
	remove_dir(m, s->id);
	layer_remove_top(m, &s->row.layers);
	if (rc)
		rc = store_sandbox_set_deleted(m->store, s->id, clock_wall_ms(), e);
	if (rc)
		return rc;
	table_remove(m, s);
	gc_kick(m);
	log_info("sandbox %s: deleted", s->id);
	return 0;
}

/* A deletion beats everything: what another operation waits for ends with the VMM process. */
static void take_lifecycle_by_force(struct sandbox *s)
{
	pthread_mutex_lock(&s->lock);
	s->doomed = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	if (!pthread_mutex_trylock(&s->lifecycle))
		return;
	vm_interrupt(s);
	pthread_mutex_lock(&s->lifecycle);
}

int sandbox_delete(struct manager *m, const char *id, struct err *e)
{
	struct sandbox *s = sandbox_find_any(m, id);
	struct sandbox_row row;
	int rc;

	if (s) {
		take_lifecycle_by_force(s);
		rc = delete_known(m, s, e);
		pthread_mutex_lock(&s->lock);
		s->doomed = false; /* stopped, or it goes on */
		pthread_mutex_unlock(&s->lock);
		pthread_mutex_unlock(&s->lifecycle);
		sandbox_put(s);
		return rc;
	}
	rc = store_sandbox_get(m->store, id, &row, e);
	if (!rc)
		sandbox_row_fini(&row); /* deleted before: that is fine */
	return rc;
}

/* --- list ------------------------------------------------------------------------------------- */

#define LIST_MAX 1000

struct listing {
	struct sandbox_row *rows; /* owned */
	size_t n, cap;
	bool failed;
};

static struct sandbox_row *listing_add(struct listing *l)
{
	if (l->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 32;
		struct sandbox_row *grown = realloc(l->rows, cap * sizeof(*grown));

		if (!grown) {
			l->failed = true;
			return NULL;
		}
		l->rows = grown;
		l->cap = cap;
	}
	memset(&l->rows[l->n], 0, sizeof(l->rows[0]));
	return &l->rows[l->n++];
}

static void listing_add_copy(struct listing *l, struct sandbox *s)
{
	struct sandbox_row *place = listing_add(l);

	if (place && sandbox_copy_row_locked(s, place)) {
		l->n--;
		l->failed = true;
	}
}

static void listing_add_deleted(void *arg, struct sandbox_row *row)
{
	struct listing *l = arg;
	struct sandbox_row *place = listing_add(l);

	if (!place)
		return;
	*place = *row;
	memset(row, 0, sizeof(*row));
}

static int newest_first(const void *a, const void *b)
{
	const struct sandbox_row *x = a, *y = b;

	return x->created_ms < y->created_ms ? 1 : x->created_ms > y->created_ms ? -1 : 0;
}

static bool wanted(const struct sandbox_row *row, const char *status)
{
	if (!status)
		return row->status != SANDBOX_STOPPED;
	return !strcmp(sandbox_status_name(row->status), status);
}

int sandbox_list(struct manager *m, const char *status, struct sandbox_row **rows, size_t *n,
		 struct err *e)
{
	struct listing l = {0};
	int rc = 0;

	pthread_mutex_lock(&m->table_lock);
	for (size_t i = 0; i < TABLE_BUCKETS; i++)
		for (struct sandbox *s = m->buckets[i]; s; s = s->next) {
			pthread_mutex_lock(&s->lock);
			if (wanted(&s->row, status))
				listing_add_copy(&l, s);
			pthread_mutex_unlock(&s->lock);
		}
	pthread_mutex_unlock(&m->table_lock);
	if (status && !strcmp(status, "stopped"))
		rc = store_sandbox_each(m->store, true, LIST_MAX, listing_add_deleted, &l, e);
	if (!rc && l.failed)
		rc = err_set(e, -ENOMEM, "out of memory");
	if (l.n)
		qsort(l.rows, l.n, sizeof(l.rows[0]), newest_first);
	for (; l.n && (rc || l.n > LIST_MAX); l.n--)
		sandbox_row_fini(&l.rows[l.n - 1]);
	if (rc) {
		free(l.rows);
		return rc;
	}
	*rows = l.rows;
	*n = l.n;
	return 0;
}
