/* SPDX-License-Identifier: Apache-2.0 */
/* Checkpoints that are there: finding, listing, waiting, deleting; see checkpoint.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/clock.h"
#include "lib/log.h"
#include "server/manager/checkpoint_int.h"
#include "server/manager/gc.h"
#include "server/manager/layers_int.h"

#define WAIT_TURN_MS   1000
#define DELETE_WAIT_MS 60000

int checkpoint_get(struct manager *m, const char *sandbox_id, const char *id,
		   struct checkpoint_row *row, struct err *e)
{
	int rc = store_checkpoint_get(m->store, id, row, e);

	if (rc)
		return rc;
	if (!row->is_template && !strcmp(row->sandbox_id, sandbox_id))
		return 0;
	checkpoint_row_fini(row);
	return err_set(e, -ENOENT, "checkpoint not found");
}

/* --- lists ------------------------------------------------------------------------------------ */

void checkpoint_list_fini(struct checkpoint_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		checkpoint_row_fini(&l->rows[i]);
	free(l->rows);
	memset(l, 0, sizeof(*l));
}

struct collector {
	struct checkpoint_list *list;
	size_t cap;
	bool failed;
};

static void collect(void *arg, struct checkpoint_row *row)
{
	struct collector *c = arg;
	struct checkpoint_list *l = c->list;

	if (l->n == c->cap) {
		size_t cap = c->cap ? c->cap * 2 : 16;
		struct checkpoint_row *grown = realloc(l->rows, cap * sizeof(*grown));

		if (!grown) {
			c->failed = true;
			return;
		}
		l->rows = grown;
		c->cap = cap;
	}
	l->rows[l->n++] = *row;
	memset(row, 0, sizeof(*row));
}

int checkpoint_list(struct manager *m, const char *sandbox_id, struct checkpoint_list *l,
		    struct err *e)
{
	struct collector c = {.list = l};
	struct sandbox_row row;
	int rc;

	memset(l, 0, sizeof(*l));
	rc = store_checkpoint_each(m->store, sandbox_id, collect, &c, e);
	if (!rc && c.failed)
		rc = err_set(e, -ENOMEM, "out of memory");
	/* They outlive their sandbox, and what is known of it. */
	if (!rc && !l->n && sandbox_id) {
		rc = sandbox_get_row(m, sandbox_id, &row, e);
		if (!rc)
			sandbox_row_fini(&row);
	}
	if (rc)
		checkpoint_list_fini(l);
	return rc;
}

/* --- waiting ---------------------------------------------------------------------------------- */

void checkpoint_wait_turn(struct layers *l)
{
	uint64_t until = clock_mono_ms() + WAIT_TURN_MS;
	struct timespec t = {.tv_sec = (time_t)(until / 1000),
			     .tv_nsec = (long)(until % 1000) * 1000000};

	pthread_cond_timedwait(&l->done, &l->lock, &t);
}

int checkpoint_wait(struct manager *m, const char *id, int timeout_ms, struct checkpoint_row *row,
		    struct err *e)
{
	uint64_t deadline = clock_mono_ms() + (uint64_t)timeout_ms, now;
	struct layers *l = m->layers;
	int rc;

	pthread_mutex_lock(&l->lock);
	for (;;) {
		rc = store_checkpoint_get(m->store, id, row, e);
		if (rc || row->status != CHECKPOINT_PROCESSING)
			break;
		checkpoint_row_fini(row);
		now = clock_mono_ms();
		if (now >= deadline || manager_interrupted(m)) {
			rc = err_set(e, -EAGAIN, "the checkpoint is still being written");
			break;
		}
		checkpoint_wait_turn(l);
	}
	pthread_mutex_unlock(&l->lock);
	return rc;
}

/* --- deleting -----------------------------------------------------------------------------------
 */

/* What the store has done, for the sandboxes in memory. */
static void point_to_parent(struct manager *m, const char *id, const char *parent)
{
	pthread_mutex_lock(&m->table_lock);
	for (size_t i = 0; i < TABLE_BUCKETS; i++)
		for (struct sandbox *s = m->buckets[i]; s; s = s->next) {
			pthread_mutex_lock(&s->lock);
			if (!strcmp(s->row.current_checkpoint, id))
				memcpy(s->row.current_checkpoint, parent, UUID_SIZE);
			if (!strcmp(s->row.pending_checkpoint, id))
				memcpy(s->row.pending_checkpoint, parent, UUID_SIZE);
			pthread_mutex_unlock(&s->lock);
		}
	pthread_mutex_unlock(&m->table_lock);
}

int checkpoint_forget(struct manager *m, const char *id, struct err *e)
{
	struct checkpoint_row row;
	int rc = store_checkpoint_get(m->store, id, &row, e);

	if (rc)
		return rc;
	rc = store_checkpoint_delete(m->store, id, e);
	if (!rc) {
		point_to_parent(m, id, row.parent);
		log_info("checkpoint %s of sandbox %s: deleted", id, row.sandbox_id);
	}
	checkpoint_row_fini(&row);
	return rc;
}

int checkpoint_delete(struct manager *m, const char *sandbox_id, const char *id, struct err *e)
{
	struct checkpoint_row row;
	int rc = checkpoint_get(m, sandbox_id, id, &row, e);

	if (rc)
		return rc;
	checkpoint_row_fini(&row);
	rc = checkpoint_wait(m, id, DELETE_WAIT_MS, &row, e);
	if (rc)
		return rc;
	checkpoint_row_fini(&row);
	rc = checkpoint_forget(m, id, e);
	if (!rc)
		gc_kick(m);
	return rc;
}

int checkpoint_set_public(struct manager *m, const char *sandbox_id, const char *id, bool is_public,
			  struct err *e)
{
	struct checkpoint_row row;
	int rc = checkpoint_get(m, sandbox_id, id, &row, e);

	if (rc)
		return rc;
	checkpoint_row_fini(&row);
	return store_checkpoint_set_public(m->store, id, is_public, e);
}
