/* SPDX-License-Identifier: Apache-2.0 */
/* Restoring checkpoints in place, and forking them; see checkpoint.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/build.h"
#include "server/manager/checkpoint_int.h"
#include "server/manager/scale.h"
#include "server/manager/upkeep.h"

#define PATIENCE_MS  1000 /* for requests in progress: what they do is undone anyway */
#define FORK_WAIT_MS 30000

static int check_ready(const struct checkpoint_row *c, struct err *e)
{
	if (c->status == CHECKPOINT_READY)
		return 0;
	if (c->status == CHECKPOINT_FAILED)
		return err_set(e, -EINVAL, "checkpoint has failed: %s",
			       c->error ? c->error : "unknown reason");
	return err_set(e, -EINVAL, "checkpoint is not ready: it is still processing");
}

/* --- restore in place ---------------------------------------------------------------------- */

static int roll_back(struct sandbox *s, const struct checkpoint_row *c, struct err *e)
{
	cleanup_free char *state = checkpoint_path(s->m, c->id, "state");
	cleanup_free char *ram = checkpoint_ram_path(s->m, c);
	struct vm_image image = {.state = state,
				 .ram = ram,
				 .cold = c->cold,
				 .base_image = c->base_image,
				 .layers = &s->row.pending};
	int rc;

	if (!state || !ram)
		return err_set(e, -ENOMEM, "out of memory");
	upkeep_image_used(s->m, c);
	sessions_cut(s);
	rc = vm_rollback(s, &image, e);
	return rc ? rc : guest_renew(s, e);
}

/* It may have ended, and nobody has told yet. */
static bool vm_lives(struct sandbox *s)
{
	const char *state;
	bool lives = false;
	json_t *info;

	if (vm_call(s, json_pack("{sssb}", "op", "info", "memory", 0), VM_CALL_MS, &info, NULL))
		return false;
	state = json_string_value(json_object_get(info, "state"));
	lives = state && (!strcmp(state, "running") || !strcmp(state, "paused"));
	json_decref(info);
	return lives;
}

/* As it was before announce_switch(). */
static void stay(struct sandbox *s, const char *new_layer)
{
	cleanup_free char *path = layer_path(s->m, new_layer);
	struct err e;

	if (path)
		unlink(path);
	if (commit_switch(s, false, &e))
		log_error("sandbox %s: %s", s->id, e.msg);
	vm_unexpect_end(s);
	sandbox_set_ready(s);
}

/* Between sandbox_change_begin() and _end(). */
static int restore_in_place(struct sandbox *s, const struct checkpoint_row *c,
			    const char *new_layer, bool *cold, struct err *e)
{
	struct err commit;
	int rc = announce_switch(s, &c->layers, new_layer, c->id, NULL, e);

	if (rc)
		return rc;
	vm_expect_end(s);
	*cold = !c->full;
	if (c->full) {
		rc = roll_back(s, c, e);
		if (rc && vm_lives(s) && !vm_has_switched(s)) {
			stay(s, new_layer);
			return rc;
		}
		if (rc)
			log_warn("sandbox %s: it boots from the checkpoint's disk: %s", s->id,
				 e->msg);
		*cold = rc != 0;
	}
	if (*cold)
		vm_end(s); /* or it would go on with the disk of before */
	/* If that fails the row still has it as pending, which the file makes true. */
	if (commit_switch(s, true, &commit))
		log_error("sandbox %s: %s", s->id, commit.msg);
	scale_restored(s, c);
	if (*cold)
		return sandbox_boot_anew(s, e);
	vm_unexpect_end(s);
	sandbox_set_ready(s);
	return 0;
}

static int restore_locked(struct sandbox *s, const struct checkpoint_row *c, bool *cold,
			  struct err *e)
{
	uint64_t start_ms = clock_mono_ms(), begun_ns = clock_mono_ns();
	char new_layer[UUID_SIZE];
	int rc = sandbox_change_begin(s, PATIENCE_MS, e);

	if (rc)
		return rc;
	vm_checkpoints_settle(s);
	rc = layer_new(s->m, new_layer, e);
	if (!rc) {
		rc = restore_in_place(s, c, new_layer, cold, e);
		if (rc)
			rc = err_wrap(e, lifecycle_errno(rc), "restoring checkpoint %s", c->id);
	}
	layer_unpin(s->m, new_layer);
	operation_done(&s->m->ops[OP_RESTORE], begun_ns, rc != 0);
	sandbox_change_end(s);
	if (!rc)
		log_info("sandbox %s: restored to checkpoint %s after %llu ms%s", s->id, c->id,
			 (unsigned long long)(clock_mono_ms() - start_ms), *cold ? ", booted" : "");
	return rc;
}

int checkpoint_restore(struct manager *m, const char *sandbox_id, const char *id, bool *cold,
		       struct err *e)
{
	struct checkpoint_row c;
	struct sandbox *s;
	int rc = take_running(m, sandbox_id, &s, e);

	if (rc)
		return rc;
	rc = checkpoint_pin(m, id, &c, e);
	if (!rc) {
		if (c.is_template || strcmp(c.sandbox_id, sandbox_id))
			rc = err_set(e, -ENOENT, "checkpoint not found");
		if (!rc)
			rc = check_ready(&c, e);
		if (!rc)
			rc = restore_locked(s, &c, cold, e);
		checkpoint_unpin(m, &c);
		checkpoint_row_fini(&c);
	}
	give_back(s);
	return rc;
}

/* --- forks ---------------------------------------------------------------------------------- */

/* @over wins. Return: a new object, or NULL without memory. */
static json_t *merge(json_t *under, json_t *over)
{
	json_t *merged = json_deep_copy(under);

	if (merged && over && json_object_update(merged, over)) {
		json_decref(merged);
		return NULL;
	}
	return merged;
}

static int fork_pinned(struct manager *m, struct checkpoint_row *c, const struct fork_spec *f,
		       struct sandbox **out, struct err *e)
{
	const int64_t memory = c->scaled_mib ? c->scaled_mib : c->memory_mib;
	const int64_t asked = (f->memory_mib + 1) & ~1LL; /* the VMM takes even sizes */
	struct sandbox_spec spec = {
	    .template = c->template,
	    .alias = f->alias,
	    .cpus = f->cpus ? f->cpus : c->cpus,
	    .memory_mib = asked > memory ? asked : memory,
	    .disk_mib = c->disk_mib,
	    .timeout_s = f->timeout_s,
	    .port = c->port,
	    .network = c->network,
	    .envs = merge(c->envs, f->envs),
	    .metadata = merge(c->metadata, f->metadata),
	    .preview_hash = f->preview_hash,
	    .workdir = c->workdir,
	};
	struct sandbox_origin origin = {.checkpoint = c};
	int rc = sandbox_check_spec(m, &spec, e);

	/* Memory has the machine's shape, which can only grow: another one begins with its disk. */
	c->full &= spec.cpus == c->cpus;
	if (c->full && spec.memory_mib > memory)
		origin.grow_mib = spec.memory_mib;
	if (c->full)
		spec.memory_mib = c->memory_mib;
	if (rc)
		goto out;
	rc = -ENOMEM;
	if (spec.envs && spec.metadata && checkpoint_is_image(c))
		rc = sandbox_create_of_image(m, &spec, c, out, e);
	else if (spec.envs && spec.metadata)
		rc = sandbox_create_from(m, &spec, &origin, out, e);
	else
		err_set(e, rc, "out of memory");
out:
	json_decref(spec.envs);
	json_decref(spec.metadata);
	return rc;
}

int checkpoint_fork(struct manager *m, const char *id, const struct fork_spec *spec,
		    struct sandbox **out, struct err *e)
{
	struct checkpoint_row c;
	int rc = checkpoint_wait(m, id, FORK_WAIT_MS, &c, e);

	if (rc == -EAGAIN)
		return err_wrap(e, -EINVAL, "checkpoint is not ready");
	if (rc)
		return rc;
	checkpoint_row_fini(&c);
	rc = checkpoint_pin(m, id, &c, e);
	if (rc)
		return rc;
	rc = c.is_template ? err_set(e, -ENOENT, "checkpoint not found") : check_ready(&c, e);
	if (!rc)
		rc = fork_pinned(m, &c, spec, out, e);
	checkpoint_unpin(m, &c);
	checkpoint_row_fini(&c);
	return rc;
}
