/* SPDX-License-Identifier: Apache-2.0 */
/* Builds and their logs; see build.h. */
#include <errno.h>
#include <openssl/evp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/build_int.h"
#include "server/manager/checkpoint.h"
#include "server/manager/gc.h"
#include "server/manager/template.h"

#define BUILDS_MAX   8 /* at once; others wait */
#define BUILDER_CPUS 2
#define LOOK_MS	     500 /* how often what waits looks whether the server stops */

/* --- checkpoints of the builder's disk ------------------------------------------------------ */

/* The builder: a sandbox that is in no store, and the layers that only it names. */
struct builder {
	struct sandbox *s;
	struct chain pins;		       /* of layers that are sealed */
	const struct checkpoint_row *template; /* that it is a fork of; NULL: of none */
	const char *workdir;
};

static void fill_checkpoint(struct checkpoint_row *row, const struct build *b,
			    const struct builder *w, char *name)
{
	memset(row, 0, sizeof(*row));
	row->status = CHECKPOINT_READY;
	row->name = name;
	row->base_image = (char *)b->base_image;
	row->template = (char *)b->base;
	row->layers = w->s->row.layers;
	row->cpus = SANDBOX_DEFAULT_CPUS;
	row->memory_mib =
	    b->manifest.runtime_mib ? b->manifest.runtime_mib : SANDBOX_DEFAULT_MEMORY_MIB;
	row->disk_mib = SANDBOX_DEFAULT_DISK_MIB;
	row->timeout_s = 300;
	row->port = 80;
	row->network = true;
	row->workdir = (char *)(w->workdir ? w->workdir : "");
	row->created_ms = row->done_ms = clock_wall_ms();
}

/* The disk as it is now gets its row. All of @w's chain is sealed but for what @new_layer is. */
static int record(struct build *b, const struct builder *w, const char *id, size_t steps,
		  uint64_t bytes, struct err *e)
{
	struct image_row image = {.base_version = b->base_version, .steps = (int64_t)steps};
	struct checkpoint_row row;

	fill_checkpoint(&row, b, w, b->keys[steps]);
	row.disk_bytes = (int64_t)bytes;
	snprintf(row.id, sizeof(row.id), "%s", id);
	snprintf(image.key, sizeof(image.key), "%s", b->keys[steps]);
	snprintf(image.checkpoint_id, sizeof(image.checkpoint_id), "%s", id);
	image.created_ms = image.used_ms = row.created_ms;
	return store_image_insert(b->m->store, &image, &row, e);
}

static int take_disk(struct builder *w, const char *id, const char *new_layer, uint64_t *bytes,
		     struct err *e)
{
	cleanup_free char *overlay = layer_path(w->s->m, new_layer);
	struct vm_checkpoint c = {.name = id, .overlay = overlay, .resume = true};
	uint64_t ram;
	struct err thaw;
	int rc;

	if (!overlay)
		return err_set(e, -ENOMEM, "out of memory");
	rc = guest_freeze(w->s, true, e);
	if (rc)
		return rc;
	rc = vm_checkpoint_begin(w->s, &c, e);
	if (guest_thaw(w->s, &thaw))
		log_warn("a build: after a checkpoint: %s", thaw.msg);
	return rc ? rc : vm_checkpoint_wait(w->s, id, &ram, bytes, e);
}

/* The layer that was written to is a part of the image from now on; the builder writes to another.
 */
static int seal_layer(struct build *b, struct builder *w, size_t steps, char id[UUID_SIZE],
		      struct err *e)
{
	struct chain *layers = &w->s->row.layers;
	char new_layer[UUID_SIZE];
	uint64_t bytes = 0;
	int rc = uuid_make(id, e);

	if (!rc)
		rc = layer_new(b->m, new_layer, e);
	if (rc)
		return rc;
	rc = take_disk(w, id, new_layer, &bytes, e);
	if (!rc)
		rc = record(b, w, id, steps, bytes, e);
	/* Somebody was faster with the same steps: those are as good, and these stay pinned. */
	if (rc == -EEXIST)
		rc = 0;
	if (!rc &&
	    (chain_push(&w->pins, layers->ids[layers->n - 1]) || chain_push(layers, new_layer)))
		rc = err_set(e, -ENOMEM, "out of memory");
	if (rc) {
		cleanup_free char *path = layer_path(b->m, new_layer);

		if (path)
			unlink(path);
		layer_unpin(b->m, new_layer);
	}
	return rc;
}

/* --- the builder --------------------------------------------------------------------------------
 */

static int start_once(struct builder *w, const struct sandbox_spec *spec,
		      const struct sandbox_origin *origin, struct manager *m, struct err *e)
{
	int rc = sandbox_make_shell(m, &w->s, e);

	if (rc)
		return rc;
	rc = sandbox_start(w->s, spec, origin, e);
	if (rc) {
		sandbox_discard(w->s);
		w->s = NULL;
	}
	return rc;
}

/* From the base: a fork of its template. Else the disk of @from is booted. */
static int start_builder(struct build *b, const struct checkpoint_row *from, struct builder *w,
			 struct err *e)
{
	struct sandbox_spec spec = {
	    .template = b->base,
	    .alias = "",
	    .cpus = BUILDER_CPUS < b->m->config->max_cpus ? BUILDER_CPUS : b->m->config->max_cpus,
	    .memory_mib = b->builder_mib,
	    .disk_mib = SANDBOX_DEFAULT_DISK_MIB,
	    .port = 80,
	    .network = true,
	};
	struct sandbox_origin origin = {.base_image = b->base_image, .checkpoint = from};
	int rc = 0;

	if (!from) {
		rc = template_get(b->m, &spec, b->base_image, NULL, &w->template, e);
		origin.checkpoint = w->template;
	}
	if (!rc)
		rc = start_once(w, &spec, &origin, b->m, e);
	if (!rc || !w->template || lifecycle_passes(rc))
		return rc;
	/* It cannot be used: boot what it was made of. */
	log_warn("a build: template %s: %s", b->base, e->msg);
	template_drop(b->m, w->template->id);
	origin.checkpoint = NULL;
	return start_once(w, &spec, &origin, b->m, e);
}

static void end_builder(struct build *b, struct builder *w)
{
	if (w->s)
		sandbox_discard(w->s);
	chain_unpin(b->m, &w->pins);
	chain_fini(&w->pins);
	template_put(b->m, w->template);
}

static void set_error(struct build *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void set_error(struct build *b, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(b->error, sizeof(b->error), fmt, ap);
	va_end(ap);
}

static void describe(const struct step *s, char *text, size_t size)
{
	static const char *const lists[] = {[STEP_APT_INSTALL] = "packages",
					    [STEP_PIP_INSTALL] = "packages",
					    [STEP_RUN] = "commands"};
	static const char *const words[] = {[STEP_APT_INSTALL] = "apt-get install",
					    [STEP_PIP_INSTALL] = "pip install",
					    [STEP_RUN] = "run",
					    [STEP_ENV] = "env",
					    [STEP_WORKDIR] = "workdir",
					    [STEP_ADD_FILE] = "add_file",
					    [STEP_ADD_DIR] = "add_dir"};
	size_t used = (size_t)snprintf(text, size, "%s", words[s->type]), i;
	const json_t *item;
	const char *name;

	if (s->type <= STEP_RUN)
		json_array_foreach(json_object_get(s->args, lists[s->type]), i, item)
		{
			if (used < size)
				used += (size_t)snprintf(text + used, size - used, "%s%s",
							 i && s->type == STEP_RUN ? " && " : " ",
							 json_string_value(item));
		}
	else if (s->type == STEP_ENV)
		json_object_foreach(json_object_get(s->args, "vars"), name, item)
		{
			if (used < size)
				used += (size_t)snprintf(text + used, size - used, " %s", name);
		}
	else
		snprintf(text + used, size - used, " %s",
			 json_string_value(json_object_get(s->args, "path")));
}

static const char *workdir_of(const struct step *s)
{
	return s->type == STEP_WORKDIR ? json_string_value(json_object_get(s->args, "path")) : NULL;
}

/* Step @i, and the checkpoint after it. */
static int do_step(struct build *b, struct builder *w, size_t i, char id[UUID_SIZE])
{
	const struct step *step = &b->manifest.steps[i];
	const char *type = step_type_name(step->type);
	struct build_at at = {.s = w->s, .workdir = w->workdir};
	char why[BUILD_ERROR_MAX] = "", what[400];
	int number = (int)i + 1;
	struct err e;
	int rc;

	describe(step, what, sizeof(what));
	build_log(b, number, type, "Step %d/%zu: %s", number, b->manifest.n_steps, what);
	rc = build_run_step(b, &at, i, why);
	if (!rc) {
		w->workdir = workdir_of(step) ? workdir_of(step) : w->workdir;
		rc = seal_layer(b, w, i + 1, id, &e);
		if (rc)
			snprintf(why, sizeof(why), "keeping its result: %s", e.msg);
		b->passes = lifecycle_passes(rc);
	}
	if (rc) {
		set_error(b, "step %d/%zu (%s): %.1900s", number, b->manifest.n_steps, type, why);
		return rc;
	}
	build_log(b, number, type, "Step %d/%zu completed", number, b->manifest.n_steps);
	return 0;
}

/* --- a build from beginning to end ----------------------------------------------------------- */

/* The longest chain of steps that is there. Return: how many; @c is pinned if there is one. */
static int find_start(struct build *b, struct checkpoint_row *c)
{
	for (int n = (int)b->manifest.n_steps; n >= 0; n--) {
		struct err e;

		if (!image_pin(b->m, b->keys[n], c, &e)) {
			if (store_image_used(b->m->store, b->keys[n], "", clock_wall_ms(), &e))
				log_warn("%s", e.msg);
			return n;
		}
	}
	return -1;
}

static int run_steps(struct build *b, struct builder *w, const struct checkpoint_row *from,
		     size_t begin)
{
	struct err e;
	int rc = start_builder(b, from, w, &e);

	if (rc) {
		b->passes = lifecycle_passes(rc);
		set_error(b, "the machine that builds did not come up: %s", e.msg);
		return rc;
	}
	for (size_t i = 0; i < begin; i++)
		w->workdir = workdir_of(&b->manifest.steps[i]) ? workdir_of(&b->manifest.steps[i])
							       : w->workdir;
	for (size_t i = begin; !rc && i < b->manifest.n_steps; i++)
		rc = do_step(b, w, i, b->checkpoint_id);
	if (!rc && !b->manifest.n_steps) {
		rc = seal_layer(b, w, 0, b->checkpoint_id, &e);
		b->passes = lifecycle_passes(rc);
		if (rc)
			set_error(b, "keeping its result: %s", e.msg);
	}
	return rc;
}

/* So that the first create is as fast as the next; and an image that does not boot is none. */
static int warm(struct build *b, const struct checkpoint_row *c)
{
	struct sandbox_spec shape = {
	    .template = b->base, .cpus = b->cpus, .memory_mib = b->memory_mib};
	const struct checkpoint_row *template;
	struct err e;
	int rc = template_get(b->m, &shape, b->base_image, c, &template, &e);

	if (!rc) {
		template_put(b->m, template);
		return 0;
	}
	if (lifecycle_passes(rc)) {
		log_warn("image %.12s: no template of it: %s", b->manifest.hash, e.msg);
		return 0;
	}
	set_error(b, "the image does not boot: %s", e.msg);
	return rc;
}

/* The whole chain is there: say so. */
static void finish(struct build *b)
{
	size_t n = b->manifest.n_steps;
	struct checkpoint_row c;
	struct err e;
	int rc = image_pin(b->m, b->keys[n], &c, &e);

	if (rc) {
		set_error(b, "the image has gone: %s", e.msg);
		return;
	}
	snprintf(b->checkpoint_id, sizeof(b->checkpoint_id), "%s", c.id);
	build_log(b, 0, "checkpoint", "Checkpoint %s", c.id);
	rc = warm(b, &c);
	if (!rc &&
	    store_image_used(b->m->store, b->keys[n], b->manifest.hash, clock_wall_ms(), &e)) {
		b->passes = true;
		set_error(b, "%s", e.msg);
	}
	checkpoint_unpin(b->m, &c);
	checkpoint_row_fini(&c);
	/* What does not boot is worth nothing to others. */
	if (rc && !checkpoint_forget(b->m, b->checkpoint_id, &e))
		gc_kick(b->m);
}

static void build(struct build *b)
{
	size_t n = b->manifest.n_steps;
	struct checkpoint_row c = {0};
	struct builder w = {0};
	struct err e;
	int begin = find_start(b, &c), rc = 0;

	if (begin > 0)
		build_log(b, 0, "cache_hit", "The first %d of %zu steps were built before", begin,
			  n);
	if (begin < (int)n) {
		rc = manager_reserve(b->m, &e);
		if (rc) {
			b->passes = true;
			set_error(b, "%s", e.msg);
		} else {
			rc =
			    run_steps(b, &w, begin >= 0 ? &c : NULL, begin > 0 ? (size_t)begin : 0);
			manager_unreserve(b->m);
		}
	}
	if (!rc)
		finish(b);
	end_builder(b, &w);
	if (begin >= 0) {
		checkpoint_unpin(b->m, &c);
		checkpoint_row_fini(&c);
	}
}

/* --- jobs -----------------------------------------------------------------------------------
 */

/* Until there is room for one more. Return: false if the server stops. */
static bool take_turn(struct build *b)
{
	struct builds *bs = b->m->builds;
	bool told = false;

	pthread_mutex_lock(&bs->lock);
	while (bs->running >= BUILDS_MAX && !manager_interrupted(b->m)) {
		if (!told) {
			pthread_mutex_unlock(&bs->lock);
			build_log(b, 0, "build", "Waiting for %d other builds", BUILDS_MAX);
			pthread_mutex_lock(&bs->lock);
			told = true;
			continue;
		}
		builds_wait_change(bs, LOOK_MS);
	}
	bs->running++;
	pthread_mutex_unlock(&bs->lock);
	return !manager_interrupted(b->m);
}

/* It has ended, whichever way. @counted: as one that runs. */
static void leave_list(struct build *b, bool counted)
{
	struct builds *bs = b->m->builds;
	struct build **p = &bs->list;

	pthread_mutex_lock(&bs->lock);
	while (*p != b)
		p = &(*p)->next;
	*p = b->next;
	b->done = true;
	bs->running -= counted;
	pthread_cond_broadcast(&bs->changed);
	pthread_mutex_unlock(&bs->lock);
}

static void build_job(void *arg)
{
	struct build *b = arg;
	uint64_t start_ms = clock_mono_ms();

	if (take_turn(b)) {
		b->deadline_ms = clock_mono_ms() + (uint64_t)b->m->config->build_timeout_s * 1000;
		build_log(b, 0, "build", "Building image %.12s on %s, %zu steps", b->manifest.hash,
			  b->base, b->manifest.n_steps);
		build(b);
	} else {
		b->passes = true;
		set_error(b, "the server stops");
	}
	if (b->error[0])
		log_warn("image %.12s: %s", b->manifest.hash, b->error);
	else
		log_info("image %.12s: built in %llu ms, checkpoint %s", b->manifest.hash,
			 (unsigned long long)(clock_mono_ms() - start_ms), b->checkpoint_id);
	images_evict(b->m);
	leave_list(b, true);
	build_put(b);
}

/* --- starting one ---------------------------------------------------------------------------- */

static int hash_pair(const char *a, const char *b, char out[HASH_SIZE])
{
	unsigned char bytes[EVP_MAX_MD_SIZE];
	cleanup_free char *text = NULL;
	unsigned int n = 0;

	if (asprintf(&text, "%s\n%s", a, b) < 0) {
		text = NULL;
		return -ENOMEM;
	}
	if (EVP_Digest(text, strlen(text), bytes, &n, EVP_sha256(), NULL) != 1)
		return -ENOMEM;
	for (unsigned int i = 0; i < n && 2 * i + 2 < HASH_SIZE; i++)
		snprintf(out + (size_t)2 * i, 3, "%02x", bytes[i]);
	return 0;
}

static int make_keys(struct build *b)
{
	size_t n = b->manifest.n_steps;

	b->keys = calloc(n + 1, sizeof(*b->keys));
	if (!b->keys || hash_pair("image", b->base_version, b->keys[0]))
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		if (hash_pair(b->keys[i], b->manifest.steps[i].digest, b->keys[i + 1]))
			return -ENOMEM;
	return 0;
}

static int set_sizes(struct build *b, const struct sandbox_spec *shape, struct err *e)
{
	int64_t asked = b->manifest.builder_mib, max = b->m->config->max_memory_mib;

	if (asked > max || (asked && asked < 64))
		return err_set(e, -EINVAL, "image: builderMemoryMB: %lld is not within 64 to %lld",
			       (long long)asked, (long long)max);
	if (b->manifest.runtime_mib > max)
		return err_set(e, -EINVAL, "image: runtimeMemoryMB: %lld is more than %lld",
			       (long long)b->manifest.runtime_mib, (long long)max);
	b->builder_mib = asked ? asked : MANIFEST_BUILDER_MIB;
	if (b->builder_mib > max)
		b->builder_mib = max;
	b->cpus = shape->cpus;
	b->memory_mib = shape->memory_mib > b->manifest.runtime_mib ? shape->memory_mib
								    : b->manifest.runtime_mib;
	return 0;
}

/* Takes @manifest over. */
static int build_new(struct manager *m, struct manifest *manifest, const struct sandbox_spec *shape,
		     struct build **out, struct err *e)
{
	struct build *b = calloc(1, sizeof(*b));
	int rc;

	if (!b) {
		manifest_fini(manifest);
		return err_set(e, -ENOMEM, "out of memory");
	}
	b->m = m;
	b->refs = 1;
	b->manifest = *manifest;
	memset(manifest, 0, sizeof(*manifest));
	b->base_image = images_find(&m->images, b->manifest.base, &b->base);
	if (b->base_image)
		rc = set_sizes(b, shape, e);
	else
		rc = err_set(e, -EINVAL, "image: base: there is no template %.64s",
			     b->manifest.base);
	if (!rc) {
		b->base_version = image_version(b->base_image, e);
		rc = b->base_version ? 0 : e->code;
	}
	if (!rc && make_keys(b))
		rc = err_set(e, -ENOMEM, "out of memory");
	if (rc)
		build_free(b);
	else
		*out = b;
	return rc;
}

static const char *key_of(const struct build *b)
{
	return b->keys[b->manifest.n_steps];
}

/* Under the lock: who builds the same, with another reference, or NULL. */
static struct build *find_same(struct builds *bs, const struct build *b)
{
	struct build *other = bs->list;

	while (other && strcmp(key_of(other), key_of(b)))
		other = other->next;
	if (other)
		other->refs++;
	return other;
}

/* It is there: nothing is left to be done. */
static bool is_built(struct build *b)
{
	struct checkpoint_row c;
	struct err e;

	if (image_pin(b->m, key_of(b), &c, &e))
		return false;
	snprintf(b->checkpoint_id, sizeof(b->checkpoint_id), "%s", c.id);
	checkpoint_unpin(b->m, &c);
	checkpoint_row_fini(&c);
	if (store_image_used(b->m->store, key_of(b), b->manifest.hash, clock_wall_ms(), &e))
		log_warn("%s", e.msg);
	b->cached = true;
	build_log(b, 0, "cache_hit", "Image %.12s was built before", b->manifest.hash);
	return true;
}

/* @b is in the list. */
static int start_job(struct build *b, struct err *e)
{
	int rc = 0;

	if (!is_built(b)) {
		rc = jobs_run(&b->m->jobs, build_job, b);
		if (!rc)
			return 0;
		err_sys(e, rc, "starting a thread");
		b->passes = true;
		set_error(b, "%s", e->msg);
	}
	leave_list(b, false);
	build_put(b);
	return rc;
}

int build_start(struct manager *m, struct manifest *manifest, const struct sandbox_spec *shape,
		struct build **out, struct err *e)
{
	struct builds *bs = m->builds;
	struct build *b = NULL, *same;
	int rc = build_new(m, manifest, shape, &b, e);

	if (rc)
		return rc;
	*out = b;
	pthread_mutex_lock(&bs->lock);
	same = find_same(bs, b);
	if (!same) {
		b->next = bs->list;
		bs->list = b;
		b->refs++; /* the job's */
	}
	pthread_mutex_unlock(&bs->lock);
	if (same) {
		build_free(b);
		*out = same;
		return 0;
	}
	rc = start_job(b, e);
	if (rc)
		build_put(b);
	return rc;
}
