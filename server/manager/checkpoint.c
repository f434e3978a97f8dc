/* SPDX-License-Identifier: Apache-2.0 */
/* Taking checkpoints; see checkpoint.h. */
#include "server/manager/checkpoint.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/checkpoint_int.h"
#include "server/manager/gc.h"
#include "server/manager/layers_int.h"

/* --- the sandbox --------------------------------------------------------------------------------
 */

int take_running(struct manager *m, const char *id, struct sandbox **out, struct err *e)
{
	struct sandbox *s;
	int rc = sandbox_find(m, id, &s, e);

	while (!rc) {
		sandbox_touch(s);
		rc = sandbox_use(s, e); /* wakes it */
		if (rc) {
			sandbox_put(s);
			break;
		}
		sandbox_unuse(s);
		pthread_mutex_lock(&s->lifecycle);
		pthread_mutex_lock(&s->lock);
		rc = sandbox_status_error(s, e);
		if (!rc && s->row.status == SANDBOX_RUNNING) {
			pthread_mutex_unlock(&s->lock);
			*out = s;
			return 0;
		}
		pthread_mutex_unlock(&s->lock);
		pthread_mutex_unlock(&s->lifecycle);
		if (rc)
			sandbox_put(s);
	}
	if (rc == -EHOSTDOWN)
		rc = err_wrap(e, -EINVAL, "it does not run");
	return rc;
}

void give_back(struct sandbox *s)
{
	pthread_mutex_unlock(&s->lifecycle);
	sandbox_put(s);
}

void take_chains(struct sandbox *s, struct sandbox_row *row)
{
	pthread_mutex_lock(&s->lock);
	chain_fini(&s->row.layers);
	chain_fini(&s->row.pending);
	s->row.layers = row->layers;
	s->row.pending = row->pending;
	memcpy(s->row.pending_checkpoint, row->pending_checkpoint, UUID_SIZE);
	memcpy(s->row.current_checkpoint, row->current_checkpoint, UUID_SIZE);
	pthread_mutex_unlock(&s->lock);
	memset(&row->layers, 0, sizeof(row->layers));
	memset(&row->pending, 0, sizeof(row->pending));
	sandbox_row_fini(row);
}

int announce_switch(struct sandbox *s, const struct chain *below, const char *new_layer,
		    const char *current, const struct checkpoint_row *insert, struct err *e)
{
	struct sandbox_row row;
	int rc;

	if (sandbox_copy_row(s, &row))
		return err_set(e, -ENOMEM, "out of memory");
	chain_fini(&row.pending);
	snprintf(row.pending_checkpoint, sizeof(row.pending_checkpoint), "%s", current);
	if (chain_copy(&row.pending, below) || chain_push(&row.pending, new_layer))
		rc = err_set(e, -ENOMEM, "out of memory");
	else if (insert)
		rc = store_checkpoint_insert(s->m->store, insert, &row, e);
	else
		rc = store_sandbox_update(s->m->store, &row, e);
	if (rc)
		sandbox_row_fini(&row);
	else
		take_chains(s, &row);
	return rc;
}

int commit_switch(struct sandbox *s, bool switched, struct err *e)
{
	struct sandbox_row row;
	int rc;

	if (sandbox_copy_row(s, &row))
		return err_set(e, -ENOMEM, "out of memory");
	if (switched) {
		chain_fini(&row.layers);
		row.layers = row.pending;
		memset(&row.pending, 0, sizeof(row.pending));
		memcpy(row.current_checkpoint, row.pending_checkpoint, UUID_SIZE);
	} else {
		chain_fini(&row.pending);
	}
	row.pending_checkpoint[0] = '\0';
	rc = store_sandbox_update(s->m->store, &row, e);
	/* The truth is in memory even when the disk is full: a restart finds it out again. */
	take_chains(s, &row);
	return rc;
}

bool vm_has_switched(struct sandbox *s)
{
	const struct chain *pending = &s->row.pending;
	cleanup_free char *path = layer_path(s->m, pending->ids[pending->n - 1]);
	json_t *info = NULL, *layers;
	bool switched = path && !access(path, F_OK);

	if (!switched)
		return false;
	/* It exists. A VMM that still answers knows better whether it writes to it. */
	if (!vm_call(s, json_pack("{sssb}", "op", "info", "memory", 0), VM_CALL_MS, &info, NULL)) {
		layers =
		    json_object_get(json_array_get(json_object_get(info, "disks"), 0), "layers");
		if (json_is_integer(layers))
			switched = json_integer_value(layers) == (json_int_t)pending->n;
		json_decref(info);
	}
	return switched;
}

/* --- finding room ------------------------------------------------------------------------------
 */

struct census {
	bool full;
	const char *name;
	int64_t n;
	char same_name[UUID_SIZE]; /* the one that has the name; "": none */
	struct chain candidates;   /* of this kind, for deletion; oldest first */
};

static void take_census(void *arg, struct checkpoint_row *row)
{
	struct census *c = arg;

	if (c->name && !strcmp(row->name, c->name))
		memcpy(c->same_name, row->id, UUID_SIZE);
	if (row->full != c->full || row->automatic || row->status == CHECKPOINT_FAILED)
		return;
	c->n++;
	if (!row->is_public && row->status == CHECKPOINT_READY)
		chain_push(&c->candidates, row->id);
}

static int count_kind(struct sandbox *s, bool full, const char *name, struct census *c,
		      struct err *e)
{
	memset(c, 0, sizeof(*c));
	c->full = full;
	c->name = name;
	return store_checkpoint_each(s->m->store, s->id, take_census, c, e);
}

/* Those that have to go so that there are less than @limit. */
static int choose_victims(struct manager *m, struct census *c, int64_t limit, struct chain *victims,
			  struct err *e)
{
	for (size_t i = 0; c->n >= limit && i < c->candidates.n; i++) {
		const char *id = c->candidates.ids[i];
		bool in_use;
		int rc = store_checkpoint_in_use(m->store, id, &in_use, e);

		if (rc || in_use) {
			if (rc)
				return rc;
			continue;
		}
		if (chain_push(victims, id))
			return err_set(e, -ENOMEM, "out of memory");
		if (!strcmp(c->same_name, id))
			c->same_name[0] = '\0';
		c->n--;
	}
	return 0;
}

/* Nothing is deleted for a checkpoint that is refused. */
static int make_room(struct sandbox *s, const struct checkpoint_spec *spec, struct err *e)
{
	int64_t limit = spec->full ? CHECKPOINT_MAX_FULL : CHECKPOINT_MAX_DISK;
	struct chain victims = {0};
	struct census c;
	int rc = count_kind(s, spec->full, spec->name, &c, e);

	if (spec->keep_count && spec->keep_count < limit)
		limit = spec->keep_count;
	if (!rc && spec->keep_count)
		rc = choose_victims(s->m, &c, limit, &victims, e);
	if (!rc && c.same_name[0])
		rc = err_set(e, -EEXIST, "a checkpoint with the name \"%.100s\" exists already",
			     spec->name);
	if (!rc && c.n >= limit)
		rc = err_set(e, -EINVAL, "the sandbox has the maximum of %lld %s checkpoints%s",
			     (long long)limit, spec->full ? "full" : "disk_only",
			     spec->keep_count ? ", and none of them can be deleted" : "");
	for (size_t i = 0; !rc && i < victims.n; i++) {
		rc = checkpoint_forget(s->m, victims.ids[i], e);
		if (rc == -ENOENT)
			rc = 0;
	}
	if (victims.n)
		gc_kick(s->m);
	chain_fini(&victims);
	chain_fini(&c.candidates);
	return rc;
}

/* --- taking one ----------------------------------------------------------------------------------
 */

/* What the sandbox is at this moment. Under its lock. */
static int copy_shape(struct checkpoint_row *row, const struct sandbox_row *from)
{
	snprintf(row->parent, sizeof(row->parent), "%s", from->current_checkpoint);
	row->base_image = strdup(from->base_image);
	row->template = strdup(from->template);
	row->workdir = strdup(from->workdir);
	row->cpus = from->cpus;
	row->memory_mib = from->memory_mib;
	row->scaled_mib = from->scaled_mib;
	row->disk_mib = from->disk_mib;
	row->timeout_s = from->timeout_s;
	row->port = from->port;
	row->network = from->network;
	row->envs = json_incref(from->envs);
	row->metadata = json_incref(from->metadata);
	return chain_copy(&row->layers, &from->layers);
}

static int fill_row(struct checkpoint_row *row, struct sandbox *s,
		    const struct checkpoint_spec *spec, struct err *e)
{
	int rc;

	memset(row, 0, sizeof(*row));
	if (uuid_make(row->id, e))
		return -EIO;
	snprintf(row->sandbox_id, sizeof(row->sandbox_id), "%s", s->id);
	row->full = spec->full;
	row->promote = spec->promote;
	row->automatic = spec->automatic;
	row->status = CHECKPOINT_PROCESSING;
	row->name = strdup(spec->name);
	row->created_ms = clock_wall_ms();
	pthread_mutex_lock(&s->lock);
	rc = copy_shape(row, &s->row);
	pthread_mutex_unlock(&s->lock);
	if (!rc && row->name && row->base_image && row->template && row->workdir)
		return 0;
	checkpoint_row_fini(row);
	return err_set(e, -ENOMEM, "out of memory");
}

/* Its name is durable before the row can be `ready`. */
static int make_image_dir(struct manager *m, const char *id, struct err *e)
{
	int fd = m->layers->checkpoints_fd;

	if (mkdirat(fd, id, 0700) || fsync(fd))
		return err_sys(e, -errno, "making a directory for the checkpoint");
	return 0;
}

/* Between freeze and thaw. */
static int capture(struct sandbox *s, const struct checkpoint_row *row, const char *new_layer,
		   struct err *e)
{
	bool memory = row->full || row->promote;
	cleanup_free char *state = checkpoint_path(s->m, row->id, "state");
	cleanup_free char *ram = checkpoint_path(s->m, row->id, "ram");
	cleanup_free char *overlay = layer_path(s->m, new_layer);
	struct vm_checkpoint c = {.name = row->id,
				  .state = memory ? state : NULL,
				  .ram = memory ? ram : NULL,
				  .overlay = overlay,
				  .resume = true};

	if (!state || !ram || !overlay)
		return err_set(e, -ENOMEM, "out of memory");
	return vm_checkpoint_begin(s, &c, e);
}

static int freeze_and_capture(struct sandbox *s, const struct checkpoint_row *row,
			      const char *new_layer, struct err *e)
{
	struct err thaw;
	int rc = row->full || row->promote ? make_image_dir(s->m, row->id, e) : 0;

	if (!rc)
		rc = guest_freeze(s, true, e);
	if (rc)
		return rc;
	rc = capture(s, row, new_layer, e);
	if (guest_thaw(s, &thaw))
		log_warn("sandbox %s: after a checkpoint: %s", s->id, thaw.msg);
	return rc;
}

/* --- its end
 * -------------------------------------------------------------------------------------- */

static void set_failed(struct checkpoint_row *row, const char *why)
{
	row->status = CHECKPOINT_FAILED;
	row->done_ms = clock_wall_ms();
	free(row->error);
	row->error = strdup(why);
}

static void tell_done(struct manager *m)
{
	pthread_mutex_lock(&m->layers->lock);
	pthread_cond_broadcast(&m->layers->done);
	pthread_mutex_unlock(&m->layers->lock);
}

/* Return: 0; -errno if nobody can know yet: on a full disk. */
static int record_end(struct sandbox *s, struct checkpoint_row *row)
{
	struct err e;
	int rc = store_checkpoint_update(s->m->store, row, NULL, &e);

	if (rc && rc != -ENOENT) {
		log_error("checkpoint %s: %s", row->id, e.msg);
		return rc;
	}
	if (row->status == CHECKPOINT_FAILED) {
		log_warn("checkpoint %s of sandbox %s failed: %s", row->id, s->id,
			 row->error ? row->error : "out of memory");
		gc_kick(s->m);
	} else {
		log_info("checkpoint %s of sandbox %s: ready, %lld bytes", row->id, s->id,
			 (long long)(row->ram_bytes + row->state_bytes + row->disk_bytes));
	}
	tell_done(s->m);
	return 0;
}

/* Whoever waits for it is to hear of its end once there is room again. */
static void record_end_at_last(struct sandbox *s, struct checkpoint_row *row)
{
	struct layers *l = s->m->layers;

	while (record_end(s, row) && !manager_interrupted(s->m)) {
		pthread_mutex_lock(&l->lock);
		checkpoint_wait_turn(l);
		pthread_mutex_unlock(&l->lock);
	}
}

/* It is the sandbox's current one, unless that has been taken elsewhere since. */
static void become_current(struct sandbox *s, const struct checkpoint_row *row,
			   const char *new_layer)
{
	struct sandbox_row changed;
	struct err e = {0};
	bool here;

	pthread_mutex_lock(&s->lifecycle);
	pthread_mutex_lock(&s->lock);
	here = s->row.layers.n && !strcmp(s->row.layers.ids[s->row.layers.n - 1], new_layer) &&
	       s->row.status != SANDBOX_STOPPED;
	pthread_mutex_unlock(&s->lock);
	if (here && !sandbox_copy_row(s, &changed)) {
		snprintf(changed.current_checkpoint, UUID_SIZE, "%s", row->id);
		if (store_sandbox_update(s->m->store, &changed, &e))
			log_error("sandbox %s: %s", s->id, e.msg);
		take_chains(s, &changed);
	}
	pthread_mutex_unlock(&s->lifecycle);
}

struct write_out {
	struct sandbox *s; /* a reference */
	struct checkpoint_row row;
	char new_layer[UUID_SIZE];
	struct err failed; /* code 0: it is being written */
};

static int64_t size_of(struct manager *m, const char *id, const char *file)
{
	cleanup_free char *path = checkpoint_path(m, id, file);
	struct stat st;

	return path && !stat(path, &st) ? (int64_t)st.st_size : 0;
}

/* Room for another full one is not promised when the capture begins. */
static bool may_be_full(struct sandbox *s)
{
	struct census c;
	bool yes = !count_kind(s, true, NULL, &c, NULL) && c.n < CHECKPOINT_MAX_FULL;

	chain_fini(&c.candidates);
	return yes;
}

static void write_out_job(void *arg)
{
	struct write_out *w = arg;
	struct checkpoint_row *row = &w->row;
	struct sandbox *s = w->s;
	uint64_t ram = 0, disk = 0;
	struct err e = w->failed;
	int rc = e.code ? e.code : vm_checkpoint_wait(s, row->id, &ram, &disk, &e);

	/* When the daemon stops, the next one decides. */
	if (rc != -ECANCELED) {
		if (rc) {
			set_failed(row, e.msg);
		} else {
			row->status = CHECKPOINT_READY;
			row->done_ms = clock_wall_ms();
			row->ram_bytes = (int64_t)ram;
			row->disk_bytes = (int64_t)disk;
			row->state_bytes = size_of(s->m, row->id, "state");
			row->full |= row->promote && may_be_full(s);
			row->promote = false;
			if (!row->automatic)
				become_current(s, row, w->new_layer);
		}
		record_end_at_last(s, row);
	}
	checkpoint_row_fini(row);
	sandbox_put(s);
	free(w);
}

/* @failed: it has failed, and that is to be recorded; or NULL. Return: 0 or -ENOMEM, -EAGAIN. */
static int write_out(struct sandbox *s, const char *id, const char *new_layer,
		     const struct err *failed, struct err *e)
{
	struct write_out *w = calloc(1, sizeof(*w));
	int rc;

	if (!w)
		return err_set(e, -ENOMEM, "out of memory");
	w->s = s;
	if (failed)
		w->failed = *failed;
	snprintf(w->new_layer, sizeof(w->new_layer), "%s", new_layer);
	rc = store_checkpoint_get(s->m->store, id, &w->row, e);
	if (!rc) {
		__atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
		rc = jobs_run(&s->m->jobs, write_out_job, w);
		if (!rc)
			return 0;
		sandbox_put(s);
		checkpoint_row_fini(&w->row);
		err_sys(e, rc, "starting a thread");
	}
	free(w);
	return rc;
}

/* The row is in the store: from here on a failure is one of the checkpoint. */
static void take(struct sandbox *s, struct checkpoint_row *row, const char *new_layer)
{
	struct err e, commit;
	int rc = freeze_and_capture(s, row, new_layer, &e);
	bool switched = !rc || vm_has_switched(s);

	if (!switched) {
		cleanup_free char *path = layer_path(s->m, new_layer);

		if (path)
			unlink(path);
	}
	if (commit_switch(s, switched, &commit))
		log_error("sandbox %s: %s", s->id, commit.msg);
	if (!rc)
		rc = write_out(s, row->id, new_layer, NULL, &e);
	if (rc) {
		set_failed(row, e.msg);
		e.code = rc;
		if (record_end(s, row) && write_out(s, row->id, new_layer, &e, &commit))
			log_error("checkpoint %s: %s", row->id, commit.msg);
	}
}

static int create_locked(struct sandbox *s, const struct checkpoint_spec *spec,
			 struct checkpoint_row *row, struct err *e)
{
	char new_layer[UUID_SIZE] = "";
	int rc;

	if (!s->row.layers.n)
		return err_set(e, -EINVAL,
			       "sandbox %s was made by an older version and has no layers", s->id);
	vm_checkpoints_settle(s); /* the VMM does one at a time */
	rc = spec->automatic ? 0 : make_room(s, spec, e);
	if (!rc)
		rc = fill_row(row, s, spec, e);
	if (rc)
		return rc;
	rc = layer_new(s->m, new_layer, e);
	if (!rc)
		rc = announce_switch(s, &s->row.layers, new_layer, row->parent, row, e);
	if (rc)
		checkpoint_row_fini(row);
	else
		take(s, row, new_layer);
	layer_unpin(s->m, new_layer);
	return rc;
}

int checkpoint_create(struct manager *m, const char *sandbox_id, const struct checkpoint_spec *spec,
		      struct checkpoint_row *row, struct err *e)
{
	struct sandbox *s;
	uint64_t begun_ns;
	int rc = take_running(m, sandbox_id, &s, e);

	if (rc)
		return rc;
	begun_ns = clock_mono_ns();
	rc = create_locked(s, spec, row, e);
	operation_done(&m->ops[OP_CHECKPOINT], begun_ns, rc != 0);
	give_back(s);
	return rc;
}

/* --- at a start ----------------------------------------------------------------------------------
 */

int checkpoints_recover(struct manager *m, struct err *e)
{
	return store_checkpoint_fail_processing(
	    m->store, "the server was restarted while it was being written", clock_wall_ms(), e);
}
