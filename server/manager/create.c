/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making sandboxes.
 *
 * Theory of operation
 * -------------------
 * A create is a fork: of the template's checkpoint (template.h), or of one that the client names.
 *
 *   shell, from the pool or new -> its row filled in, a new top layer named -> restore
 *   -> identity renewed, processes thawed -> patches -> row committed -> answer
 *
 * The id, the directory and the process are the shell's. Nothing is durable before the row, so what
 * fails in between leaves nothing: the directory and the layer are removed here, or at the next
 * start.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/build.h"
#include "server/manager/checkpoint.h"
#include "server/manager/internal.h"
#include "server/manager/jail.h"
#include "server/manager/mounts.h"
#include "server/manager/pool.h"
#include "server/manager/scale.h"
#include "server/manager/template.h"
#include "server/manager/upkeep.h"

#define DISK_MIN_MIB   20480
#define MEMORY_MIN_MIB 64
#define TIMEOUT_MAX_S  (365 * 24 * 3600)

/* --- what was asked for ------------------------------------------------------------------- */

static int check_range(const char *name, int64_t v, int64_t min, int64_t max, struct err *e)
{
	if (v >= min && v <= max)
		return 0;
	return err_set(e, -EINVAL, "%s: %lld is not within %lld to %lld", name, (long long)v,
		       (long long)min, (long long)max);
}

static int check_envs(const json_t *envs, struct err *e)
{
	const char *name;
	json_t *value;

	json_object_foreach((json_t *)envs, name, value)
	{
		if (!*name || strchr(name, '='))
			return err_set(e, -EINVAL, "envs: \"%.64s\" is not a variable name", name);
		if (strlen(json_string_value(value)) != json_string_length(value))
			return err_set(e, -EINVAL, "envs: %.64s contains NUL", name);
	}
	return 0;
}

int sandbox_check_timeout(int64_t timeout_s, struct err *e)
{
	if (timeout_s < 0)
		return err_set(e, -EINVAL, "timeout: must be a non-negative number of seconds");
	return check_range("timeout", timeout_s, 0, TIMEOUT_MAX_S, e);
}

static int check_spec(const struct config *c, const struct sandbox_spec *spec, struct err *e)
{
	int rc = check_range("cpuCount", spec->cpus, 1, c->max_cpus, e);

	if (!rc)
		rc =
		    check_range("memoryMB", spec->memory_mib, MEMORY_MIN_MIB, c->max_memory_mib, e);
	if (!rc)
		rc = check_range("diskMB", spec->disk_mib, DISK_MIN_MIB, c->max_disk_mib, e);
	if (!rc)
		rc = sandbox_check_timeout(spec->timeout_s, e);
	if (!rc)
		rc = check_range("port", spec->port, 1, 65535, e);
	return rc ? rc : check_envs(spec->envs, e);
}

/* --- shells --------------------------------------------------------------------------------- */

static int make_dir(struct manager *m, char id[SANDBOX_ID_SIZE], struct err *e)
{
	for (;;) {
		uint32_t number;

		if (getrandom(&number, sizeof(number), 0) != sizeof(number))
			return err_sys(e, -errno, "getrandom");
		snprintf(id, SANDBOX_ID_SIZE, "sb-%08x", number);
		if (!mkdirat(m->sandboxes_fd, id, 0700)) {
			struct sandbox_row row;
			int rc = store_sandbox_get(m->store, id, &row, e);

			if (rc == -ENOENT)
				return 0;
			remove_dir(m, id);
			if (rc)
				return rc;
			/* An id that was used before still answers as that sandbox: another one. */
			sandbox_row_fini(&row);
		} else if (errno != EEXIST) {
			return err_sys(e, -errno, "making a directory for the sandbox");
		}
	}
}

/* An id, its directory, an object: no process yet. sandbox_discard() is due. */
int sandbox_make_shell(struct manager *m, struct sandbox **out, struct err *e)
{
	struct sandbox_row row = {.status = SANDBOX_RUNNING};
	int rc = make_dir(m, row.id, e);

	if (rc)
		return rc;
	*out = sandbox_new(m, &row, e);
	if (*out)
		return 0;
	remove_dir(m, row.id);
	return -ENOMEM;
}

static const char *top_layer(const struct sandbox *s)
{
	return s->row.layers.n ? s->row.layers.ids[s->row.layers.n - 1] : "";
}

/* End a sandbox that was never announced, and remove what it has. */
void sandbox_discard(struct sandbox *s)
{
	cleanup_free char *top = layer_path(s->m, top_layer(s));

	agent_pool_abort(s->pool);
	vm_kill(s);
	if (*top_layer(s)) {
		if (top && unlink(top) && errno != ENOENT)
			log_warn("removing %s: %s", top, strerror(errno));
		layer_unpin(s->m, top_layer(s));
	}
	remove_dir(s->m, s->id);
	sandbox_put(s);
}

/* --- rows ------------------------------------------------------------------------------------- */

/* The new top layer stays pinned until the row is in the store, or the layer is removed. */
static int set_origin(struct manager *m, struct sandbox_row *row, const struct sandbox_origin *o,
		      struct err *e)
{
	const struct checkpoint_row *c = o->checkpoint, *from = o->image ? o->image : c;
	char id[UUID_SIZE];
	int rc = layer_new(m, id, e);

	if (rc)
		return rc;
	row->base_image = strdup(c ? c->base_image : o->base_image);
	if (!row->base_image || (c && chain_copy(&row->layers, &c->layers)) ||
	    chain_push(&row->layers, id)) {
		layer_unpin(m, id);
		chain_fini(&row->layers);
		return err_set(e, -ENOMEM, "out of memory");
	}
	if (c && c->full)
		row->scaled_mib = o->grow_mib ? o->grow_mib : c->scaled_mib;
	if (row->scaled_mib == row->memory_mib)
		row->scaled_mib = 0;
	if (from && !from->is_template) {
		snprintf(row->from_checkpoint, sizeof(row->from_checkpoint), "%s", from->id);
		snprintf(row->current_checkpoint, sizeof(row->current_checkpoint), "%s", from->id);
	}
	return 0;
}

static int fill_row(struct manager *m, struct sandbox_row *row, const struct sandbox_spec *spec,
		    const struct sandbox_origin *o, struct err *e)
{
	memset(row, 0, sizeof(*row));
	row->status = SANDBOX_RUNNING;
	row->template = strdup(spec->template);
	row->alias = strdup(spec->alias ? spec->alias : "");
	row->workdir = strdup(spec->workdir ? spec->workdir : "");
	row->cpus = spec->cpus;
	row->memory_mib = (spec->memory_mib + 1) & ~1LL; /* the VMM takes even sizes */
	row->disk_mib = spec->disk_mib;
	row->timeout_s = spec->timeout_s;
	row->port = spec->port;
	row->network = spec->network;
	if (spec->preview_hash)
		snprintf(row->preview_hash, sizeof(row->preview_hash), "%s", spec->preview_hash);
	row->envs = spec->envs ? json_deep_copy(spec->envs) : json_object();
	row->metadata = spec->metadata ? json_deep_copy(spec->metadata) : json_object();
	row->tags = json_object();
	row->mounts = json_array();
	row->created_ms = clock_wall_ms();
	if (!row->template || !row->alias || !row->workdir || !row->envs || !row->metadata ||
	    !row->tags || !row->mounts)
		return err_set(e, -ENOMEM, "out of memory");
	return set_origin(m, row, o, e);
}

static int give_row(struct sandbox *s, const struct sandbox_spec *spec,
		    const struct sandbox_origin *o, struct err *e)
{
	struct sandbox_row row;
	int rc = fill_row(s->m, &row, spec, o, e);

	memcpy(row.id, s->id, sizeof(row.id));
	if (!rc && sandbox_set_row(s, &row)) {
		layer_unpin(s->m, row.layers.ids[row.layers.n - 1]);
		rc = err_set(e, -ENOMEM, "out of memory");
	}
	if (rc)
		sandbox_row_fini(&row);
	return rc;
}

/* --- the guest -------------------------------------------------------------------------------- */

int sandbox_wait_guest(struct sandbox *s, struct err *e)
{
	uint64_t deadline = clock_mono_ms() + (uint64_t)s->m->config->boot_timeout_s * 1000;
	struct agent_conn *conn;
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	while (!s->ready && !s->vm.closed_ms && !rc)
		if (sandbox_wait(s, deadline))
			rc = err_set(e, -ETIMEDOUT, "the guest did not come up within %lld s",
				     (long long)s->m->config->boot_timeout_s);
	if (s->vm.closed_ms)
		rc = err_set(e, -EIO, "the guest did not come up: %s", s->exit_reason);
	pthread_mutex_unlock(&s->lock);
	if (rc)
		return rc;
	/* The first request finds this connection in the pool. */
	rc = guest_reach(s, &conn, e);
	if (rc)
		return err_wrap(e, -EIO, "the guest's agent does not answer");
	agent_pool_put(s->pool, conn);
	return 0;
}

int sandbox_finish_boot(struct sandbox *s, struct err *e)
{
	int rc = sandbox_wait_guest(s, e);

	if (!rc)
		rc = guest_renew(s, e);
	/* An image of one's own may have an older agent: it boots all the same, as a VMM without
	 * generations does. What booted just now is nobody's copy. */
	if (rc == -EOPNOTSUPP || rc == -EPROTO) {
		log_warn("sandbox %s: %s", s->id, e->msg);
		rc = 0;
	}
	if (!rc)
		scale_after_boot(s);
	if (!rc)
		mounts_after_boot(s);
	return rc;
}

void sandbox_set_ready(struct sandbox *s)
{
	pthread_mutex_lock(&s->lock);
	s->ready = !s->vm.closed_ms;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

static int restore(struct sandbox *s, const struct vm_disk *disk, const struct checkpoint_row *c,
		   struct err *e)
{
	cleanup_free char *state = checkpoint_path(s->m, c->id, "state");
	cleanup_free char *ram = checkpoint_ram_path(s->m, c);
	struct vm_image image = {.state = state, .ram = ram, .cold = c->cold};
	int rc;

	if (!state || !ram)
		return err_set(e, -ENOMEM, "out of memory");
	upkeep_image_used(s->m, c);
	rc = vm_restore(s, disk, &image, true, e);
	if (!rc)
		rc = guest_renew(s, e);
	if (!rc)
		sandbox_set_ready(s);
	return rc;
}

static int start_guest(struct sandbox *s, const struct sandbox_origin *o, struct err *e)
{
	struct vm_disk disk;
	int rc = vm_disk_of_row(&disk, s, e);

	if (rc)
		return rc;
	if (o->checkpoint && o->checkpoint->full) {
		rc = restore(s, &disk, o->checkpoint, e);
		if (!rc && o->grow_mib)
			rc = scale_forked(s, e);
	} else {
		rc = vm_boot(s, &disk, e);
		if (!rc)
			rc = sandbox_finish_boot(s, e);
	}
	vm_disk_fini(&disk);
	return rc;
}

static const char *image_of(const struct sandbox_origin *o)
{
	return o->checkpoint ? o->checkpoint->base_image : o->base_image;
}

/* Boot in a process of its own; the steps of a create but for the last. */
int sandbox_start(struct sandbox *s, const struct sandbox_spec *spec,
		  const struct sandbox_origin *origin, struct err *e)
{
	int rc = vm_spawn(s, image_of(origin), e);

	if (!rc)
		rc = give_row(s, spec, origin, e);
	return rc ? rc : start_guest(s, origin, e);
}

/* --- create -------------------------------------------------------------------------------------
 */

int sandbox_go_live(struct sandbox *s, struct err *e)
{
	int rc = vm_watch(s);

	if (rc)
		return err_sys(e, rc, "watching the VMM process");
	pthread_mutex_lock(&s->lock);
	if (s->vm.closed_ms) {
		rc = err_set(e, -EIO, "the guest did not stay up: %s", s->exit_reason);
	} else {
		s->announced = true;
		s->vm.expected = false;
		s->row.status = SANDBOX_RUNNING;
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

/* Commit, then make it findable. */
static int announce(struct sandbox *s, struct err *e)
{
	int rc;

	/* A shell may have waited long for this. */
	sandbox_touch(s);
	idle_save(s);
	rc = store_sandbox_insert(s->m->store, &s->row, e);
	if (rc)
		return rc;
	rc = sandbox_go_live(s, e);
	if (rc) {
		store_sandbox_set_deleted(s->m->store, s->id, clock_wall_ms(), NULL);
		return rc;
	}
	layer_unpin(s->m, top_layer(s));
	__atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
	table_insert(s->m, s);
	return 0;
}

static int new_process(struct manager *m, const struct sandbox_origin *o, struct sandbox **out,
		       struct err *e)
{
	int rc = sandbox_make_shell(m, out, e);

	if (rc)
		return rc;
	rc = vm_spawn(*out, image_of(o), e);
	if (rc)
		sandbox_discard(*out);
	return rc;
}

/* @s: a shell, or NULL: one is made. */
static int create_in(struct manager *m, struct sandbox *s, const struct sandbox_spec *spec,
		     const struct sandbox_origin *o, struct sandbox **out, struct err *e)
{
	int rc = s ? 0 : new_process(m, o, &s, e);

	if (rc)
		return rc;
	rc = give_row(s, spec, o, e);
	if (!rc)
		rc = start_guest(s, o, e);
	if (!rc)
		patches_apply(s);
	if (!rc)
		rc = announce(s, e);
	if (rc)
		sandbox_discard(s);
	else
		*out = s;
	return rc;
}

/* A shell was given files to read when it was made; others may have taken their places. */
static struct sandbox *take_shell(struct manager *m, const struct sandbox_spec *spec,
				  const struct sandbox_origin *o)
{
	struct sandbox *s;

	while ((s = pool_take(m, spec->cpus, (spec->memory_mib + 1) & ~1LL)) &&
	       !jail_covers(s, image_of(o))) {
		log_info("shell %s: the kernel or %s is another file now", s->id, image_of(o));
		sandbox_discard(s);
	}
	return s;
}

static int create_once(struct manager *m, const struct sandbox_spec *spec,
		       const struct sandbox_origin *o, struct sandbox **out, struct err *e)
{
	struct sandbox *shell = NULL;
	int rc;

	if (o->checkpoint && o->checkpoint->full)
		shell = take_shell(m, spec, o);
	if (shell) {
		rc = create_in(m, shell, spec, o, out, e);
		if (rc != -EPIPE)
			return rc;
		log_warn("a shell ended while it was taken: %s", e->msg);
	}
	return create_in(m, NULL, spec, o, out, e);
}

int manager_reserve(struct manager *m, struct err *e)
{
	if (__atomic_add_fetch(&m->running, 1, __ATOMIC_RELAXED) <= m->config->max_sandboxes)
		return 0;
	manager_unreserve(m);
	return err_set(e, -EAGAIN, "no room: %lld sandboxes run already",
		       (long long)m->config->max_sandboxes);
}

void manager_unreserve(struct manager *m)
{
	__atomic_sub_fetch(&m->running, 1, __ATOMIC_RELAXED);
}

bool lifecycle_passes(int rc)
{
	return rc == -EAGAIN || rc == -ENOMEM || rc == -ENOSPC || rc == -EMFILE || rc == -ENFILE ||
	       rc == -ESHUTDOWN;
}

int lifecycle_errno(int rc)
{
	return lifecycle_passes(rc) ? rc : -EIO;
}

/* It could not go on from a template, as *@e says: boot the image. */
static int boot_image(struct manager *m, const struct sandbox_spec *spec,
		      const struct sandbox_origin *origin, int rc, struct sandbox **out,
		      struct err *e)
{
	const struct checkpoint_row *template = origin->checkpoint;
	struct sandbox_origin image = {.base_image = template->base_image,
				       .checkpoint = origin->image,
				       .image = origin->image};

	log_warn("template %s at %lld CPUs, %lld MiB: %s", spec->template, (long long)spec->cpus,
		 (long long)spec->memory_mib, e->msg);
	if (!lifecycle_passes(rc))
		template_drop(m, template->id);
	return create_once(m, spec, &image, out, e);
}

/* It could not go on from memory, as *@e says, and that will not pass: boot the disk. */
static int boot_disk(struct manager *m, const struct sandbox_spec *spec,
		     const struct checkpoint_row *c, int64_t grow_mib, struct sandbox **out,
		     struct err *e)
{
	struct checkpoint_row disk = *c;
	struct sandbox_origin origin = {.checkpoint = &disk};
	struct sandbox_spec sized = *spec;
	struct err why = *e;
	int rc;

	log_warn("a fork of checkpoint %s boots from its disk: %s", c->id, e->msg);
	disk.full = false;
	if (grow_mib)
		sized.memory_mib = grow_mib;
	rc = create_once(m, &sized, &origin, out, e);
	if (!rc)
		snprintf((*out)->cold_reason, sizeof((*out)->cold_reason),
			 "its memory cannot be used: %.160s", why.msg);
	return rc;
}

int sandbox_create_from(struct manager *m, const struct sandbox_spec *spec,
			const struct sandbox_origin *origin, struct sandbox **out, struct err *e)
{
	const struct checkpoint_row *c = origin->checkpoint;
	uint64_t start_ms = clock_mono_ms(), begun_ns = clock_mono_ns();
	bool forked = c && !c->is_template;
	int rc = check_spec(m->config, spec, e);

	if (!rc)
		rc = manager_reserve(m, e);
	if (rc)
		return rc;
	rc = create_once(m, spec, origin, out, e);
	if (rc && c && c->is_template && !manager_interrupted(m))
		rc = boot_image(m, spec, origin, rc, out, e);
	else if (rc && c && c->full && !lifecycle_passes(rc) && !manager_interrupted(m))
		rc = boot_disk(m, spec, c, origin->grow_mib, out, e);
	operation_done(&m->ops[forked ? OP_FORK : OP_CREATE], begun_ns, rc != 0);
	pool_refill(m);
	if (rc) {
		manager_unreserve(m);
		return err_wrap(e, lifecycle_errno(rc), "creating the sandbox");
	}
	log_info("sandbox %s: running after %llu ms (template %s)", (*out)->id,
		 (unsigned long long)(clock_mono_ms() - start_ms), spec->template);
	return 0;
}

int sandbox_create(struct manager *m, const struct sandbox_spec *spec, struct sandbox **out,
		   struct err *e)
{
	struct sandbox_spec named = *spec;
	struct sandbox_origin origin = {0};
	int rc = check_spec(m->config, spec, e);

	if (rc)
		return rc;
	origin.base_image = images_find(&m->images, spec->template, &named.template);
	if (!origin.base_image)
		return err_set(e, -ENOENT, "template not found: %.64s", spec->template);
	rc = template_get(m, &named, origin.base_image, NULL, &origin.checkpoint, e);
	if (rc)
		return err_wrap(e, lifecycle_errno(rc), "creating the sandbox");
	rc = sandbox_create_from(m, &named, &origin, out, e);
	template_put(m, origin.checkpoint);
	return rc;
}

int sandbox_check_spec(struct manager *m, const struct sandbox_spec *spec, struct err *e)
{
	return check_spec(m->config, spec, e);
}

int sandbox_create_of_image(struct manager *m, const struct sandbox_spec *spec,
			    const struct checkpoint_row *c, struct sandbox **out, struct err *e)
{
	struct sandbox_origin origin = {.checkpoint = c, .image = c};
	const struct checkpoint_row *template;
	int rc = check_spec(m->config, spec, e);

	if (rc)
		return rc;
	rc = template_get(m, spec, c->base_image, c, &template, e);
	if (rc)
		return err_wrap(e, lifecycle_errno(rc), "creating the sandbox");
	if (template)
		origin.checkpoint = template;
	rc = sandbox_create_from(m, spec, &origin, out, e);
	template_put(m, template);
	return rc;
}
