/* SPDX-License-Identifier: Apache-2.0 */
/* Making and finding templates; see template.h. */
#include "server/manager/template.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/gc.h"
#include "server/manager/internal.h"

#define RETRY_MS (60 * 1000) /* after a checkpoint failed, creates boot for so long */

enum state { MAKING, READY, FAILED };

struct template
{
	struct template *next;
	char *key; /* owned */
	enum state state;
	struct checkpoint_row row; /* of a ready one; never changes */
	unsigned int users;	   /* it goes when it is dropped and has none */
	uint64_t used, failed_ms;
	struct err err; /* why the guest did not come up; code 0: it did */
};

struct templates {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct template *list;
	struct template *dropped; /* somebody still uses them */
	uint64_t uses;
};

int templates_init(struct manager *m, struct err *e)
{
	m->templates = calloc(1, sizeof(*m->templates));
	if (!m->templates)
		return err_set(e, -ENOMEM, "out of memory");
	pthread_mutex_init(&m->templates->lock, NULL);
	pthread_cond_init(&m->templates->changed, NULL);
	return 0;
}

static void free_one(struct manager *m, struct template *t)
{
	if (t->row.id[0]) {
		checkpoint_unpin(m, &t->row);
		checkpoint_row_fini(&t->row);
	}
	free(t->key);
	free(t);
}

static void free_list(struct manager *m, struct template *t)
{
	while (t) {
		struct template *next = t->next;

		free_one(m, t);
		t = next;
	}
}

void templates_fini(struct manager *m)
{
	struct templates *ts = m->templates;

	if (!ts)
		return;
	free_list(m, ts->list);
	free_list(m, ts->dropped);
	pthread_mutex_destroy(&ts->lock);
	pthread_cond_destroy(&ts->changed);
	free(ts);
	m->templates = NULL;
}

/* --- names -------------------------------------------------------------------------------------
 */

static int add_file(FILE *f, const char *path, struct err *e)
{
	struct stat st;

	if (stat(path, &st))
		return err_sys(e, -errno, "%s", path);
	fprintf(f, "%s %lld %lld.%09ld, ", path, (long long)st.st_size,
		(long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
	return 0;
}

static const char *top_of(const struct chain *c)
{
	return c->n ? c->ids[c->n - 1] : NULL;
}

/* Of the disk that a template of an image or snapshot was booted from; NULL: it is of the base.
 * The last layer is what the guest wrote while it booted. */
static const char *top_below(const struct checkpoint_row *template)
{
	const struct chain *c = &template->layers;

	return c->n >= 2 ? c->ids[c->n - 2] : NULL;
}

/* What a template is made of. @top: of the disk; NULL: @image itself. The caller frees *@key. */
static int make_key(const struct manager *m, const char *image, const char *top, int64_t cpus,
		    int64_t memory_mib, char **key, struct err *e)
{
	const char *files[] = {image, m->config->kernel, m->config->vmm};
	size_t size;
	FILE *f = open_memstream(key, &size);
	int rc = 0;

	if (!f)
		return err_set(e, -ENOMEM, "out of memory");
	for (int i = 0; !rc && i < 3; i++)
		rc = add_file(f, files[i], e);
	if (top)
		fprintf(f, "layer %s, ", top);
	fprintf(f, "%lld CPUs, %lld MiB", (long long)cpus, (long long)memory_mib);
	if (fclose(f) && !rc)
		rc = err_set(e, -ENOMEM, "out of memory");
	if (rc)
		free(*key);
	return rc;
}

/* --- making one --------------------------------------------------------------------------------
 */

/* What every command needs (a shell, the C library, the agent's own ways) is in memory after it. */
static int warm_up(struct sandbox *s, struct err *e)
{
	const char *const argv[] = {"/bin/sh", "-c", ":", NULL};
	struct agent_exec_spec spec = {.session = 1, .argv = argv};
	struct agent_output out;
	struct agent_conn *conn;
	int rc = agent_pool_get(s->pool, &conn, e);

	if (rc)
		return rc;
	rc = agent_exec_run(conn, &spec, 4096, &out, e);
	agent_pool_put(s->pool, conn);
	if (rc)
		return rc;
	free(out.out);
	free(out.err);
	return 0;
}

static int make_image_dir(struct manager *m, const char *id, struct err *e)
{
	cleanup_free char *path = checkpoint_path(m, id, "");

	if (!path)
		return err_set(e, -ENOMEM, "out of memory");
	return mkdir(path, 0700) ? err_sys(e, -errno, "%s", path) : 0;
}

/* The guest is up: write it down. Its layer becomes the template's; it goes on on one that is
 * thrown away with it. */
static int checkpoint_guest(struct sandbox *s, struct checkpoint_row *row, struct err *e)
{
	cleanup_free char *state = checkpoint_path(s->m, row->id, "state");
	cleanup_free char *ram = checkpoint_path(s->m, row->id, "ram");
	cleanup_free char *overlay = sandbox_path(s, "overlay");
	struct vm_checkpoint c = {.name = row->id, .state = state, .ram = ram, .overlay = overlay};
	uint64_t ram_bytes, disk_bytes;
	int rc;

	if (!state || !ram || !overlay)
		return err_set(e, -ENOMEM, "out of memory");
	rc = make_image_dir(s->m, row->id, e);
	if (!rc)
		rc = guest_freeze(s, true, e);
	if (!rc)
		rc = vm_checkpoint_begin(s, &c, e);
	if (!rc)
		rc = vm_checkpoint_wait(s, row->id, &ram_bytes, &disk_bytes, e);
	if (rc)
		return rc;
	row->status = CHECKPOINT_READY;
	row->ram_bytes = (int64_t)ram_bytes;
	row->disk_bytes = (int64_t)disk_bytes;
	row->done_ms = clock_wall_ms();
	return 0;
}

static int fill_row(struct checkpoint_row *row, const char *key, const struct sandbox *s,
		    const char *id)
{
	memset(row, 0, sizeof(*row));
	snprintf(row->id, sizeof(row->id), "%s", id);
	row->is_template = row->full = row->network = true;
	row->status = CHECKPOINT_PROCESSING;
	row->name = strdup(key);
	row->base_image = strdup(s->row.base_image);
	row->template = strdup(s->row.template);
	row->envs = json_object();
	row->metadata = json_object();
	row->cpus = s->row.cpus;
	row->memory_mib = s->row.memory_mib;
	row->disk_mib = s->row.disk_mib;
	row->created_ms = clock_wall_ms();
	if (chain_copy(&row->layers, &s->row.layers) || !row->name || !row->base_image ||
	    !row->template || !row->envs || !row->metadata) {
		checkpoint_row_fini(row);
		return -ENOMEM;
	}
	return 0;
}

static int record(struct sandbox *s, const char *key, const char *id, struct checkpoint_row *row,
		  struct err *e)
{
	int rc = fill_row(row, key, s, id) ? err_set(e, -ENOMEM, "out of memory") : 0;

	if (rc)
		return rc;
	rc = store_checkpoint_insert(s->m->store, row, NULL, e);
	if (!rc) {
		rc = checkpoint_guest(s, row, e);
		if (!rc)
			rc = store_checkpoint_update(s->m->store, row, NULL, e);
		if (rc)
			store_checkpoint_delete(s->m->store, id, NULL);
	}
	if (rc)
		checkpoint_row_fini(row);
	return rc;
}

/* A guest of this shape, up and warm. @s: set, sandbox_discard() is due, also after a failure. */
static int boot_guest(struct manager *m, const struct sandbox_spec *spec, const char *image,
		      const struct checkpoint_row *disk, struct sandbox **s, struct err *e)
{
	struct sandbox_spec plain = {
	    .template = spec->template,
	    .alias = "",
	    .cpus = spec->cpus,
	    .memory_mib = spec->memory_mib,
	    .disk_mib = SANDBOX_DEFAULT_DISK_MIB,
	    .port = 80,
	    .network = true,
	};
	struct sandbox_origin origin = {.base_image = image, .checkpoint = disk};
	int rc = sandbox_make_shell(m, s, e);

	if (rc) {
		*s = NULL;
		return rc;
	}
	rc = sandbox_start(*s, &plain, &origin, e);
	return rc ? rc : warm_up(*s, e);
}

/* The layer that the guest booted on is the template's from now on, with its pin. */
static void take_layers(struct sandbox *s)
{
	pthread_mutex_lock(&s->lock);
	chain_fini(&s->row.layers);
	pthread_mutex_unlock(&s->lock);
}

/* @t->state becomes READY, or FAILED with a code in @t->err if no guest came up. */
static void make(struct manager *m, const struct sandbox_spec *spec, const char *image,
		 const struct checkpoint_row *disk, struct template *t)
{
	uint64_t start_ms = clock_mono_ms();
	char id[UUID_SIZE] = "";
	struct sandbox *s;
	struct err e;
	int rc;

	t->state = FAILED;
	t->err.code = boot_guest(m, spec, image, disk, &s, &t->err);
	if (t->err.code)
		goto discard;
	/* The layers under it are pinned once for the template, as its own is. */
	rc = disk ? chain_pin(m, &disk->layers) : 0;
	if (rc)
		disk = NULL;
	if (!rc)
		rc = layer_new(m, id, &e);
	if (!rc)
		rc = record(s, t->key, id, &t->row, &e);
	if (rc) {
		layer_unpin(m, id);
		if (disk)
			chain_unpin(m, &disk->layers);
		memset(&t->row, 0, sizeof(t->row));
		log_warn("template %s: its checkpoint failed, creates will boot: %s",
			 spec->template, e.msg);
		/* A VMM that died has left what it had written. */
		gc_kick(m);
		goto discard;
	}
	take_layers(s);
	t->state = READY;
	log_info("template %s: ready after %llu ms (%lld CPUs, %lld MiB, %lld bytes)",
		 spec->template, (unsigned long long)(clock_mono_ms() - start_ms),
		 (long long)spec->cpus, (long long)spec->memory_mib,
		 (long long)(t->row.ram_bytes + t->row.disk_bytes));
discard:
	if (s)
		sandbox_discard(s);
}

/* --- finding one ---------------------------------------------------------------------------------
 */

static struct template *find(struct templates *ts, const char *key)
{
	struct template *t = ts->list;

	while (t && strcmp(t->key, key))
		t = t->next;
	return t;
}

/* Those that nobody uses any more. Lock held. */
static void free_dropped(struct manager *m)
{
	struct template **p = &m->templates->dropped;

	while (*p) {
		struct template *t = *p;

		if (t->users) {
			p = &t->next;
			continue;
		}
		*p = t->next;
		free_one(m, t);
		gc_kick(m);
	}
}

/* Out of the list and out of the store; its memory stays for those who use it. Lock held. */
static void drop(struct manager *m, struct template *t)
{
	struct template **p = &m->templates->list;
	struct err e;

	while (*p != t)
		p = &(*p)->next;
	*p = t->next;
	t->next = m->templates->dropped;
	m->templates->dropped = t;
	if (t->row.id[0] && store_checkpoint_delete(m->store, t->row.id, &e) && e.code != -ENOENT)
		log_warn("%s", e.msg);
	free_dropped(m);
}

/* Room for another one. Lock held. */
static void evict(struct manager *m)
{
	struct template *oldest = NULL;
	unsigned int n = 0;

	for (struct template *t = m->templates->list; t; t = t->next) {
		if (t->state != READY)
			continue;
		n++;
		if (!oldest || t->used < oldest->used)
			oldest = t;
	}
	if (n >= TEMPLATES_MAX)
		drop(m, oldest);
}

/* One that was made before the last restart. */
static bool load(struct manager *m, struct template *t)
{
	struct checkpoint_row row;
	char id[UUID_SIZE];
	bool ready;

	if (store_checkpoint_get_template(m->store, t->key, &row, NULL))
		return false;
	snprintf(id, sizeof(id), "%s", row.id);
	ready = row.status == CHECKPOINT_READY;
	checkpoint_row_fini(&row);
	if (ready && !checkpoint_pin(m, id, &t->row, NULL)) {
		t->state = READY;
		return true;
	}
	store_checkpoint_delete(m->store, id, NULL);
	return false;
}

/* Takes @key over. Lock held. */
static struct template *add(struct templates *ts, char *key)
{
	struct template *t = calloc(1, sizeof(*t));

	if (!t) {
		free(key);
		return NULL;
	}
	t->key = key;
	t->state = MAKING;
	t->next = ts->list;
	ts->list = t;
	return t;
}

static void make_or_load(struct manager *m, const struct sandbox_spec *spec, const char *image,
			 const struct checkpoint_row *disk, struct template *t)
{
	struct templates *ts = m->templates;
	struct template made = {.key = t->key};

	pthread_mutex_unlock(&ts->lock);
	if (!load(m, &made))
		make(m, spec, image, disk, &made);
	pthread_mutex_lock(&ts->lock);
	t->row = made.row;
	t->err = made.err;
	t->failed_ms = clock_mono_ms();
	if (made.state == READY)
		evict(m);
	t->state = made.state;
	pthread_cond_broadcast(&ts->changed);
}

static bool worth_another_try(const struct template *t)
{
	return t->state == FAILED && (t->err.code || clock_mono_ms() - t->failed_ms > RETRY_MS);
}

int template_get(struct manager *m, const struct sandbox_spec *spec, const char *image,
		 const struct checkpoint_row *disk, const struct checkpoint_row **out,
		 struct err *e)
{
	struct sandbox_spec even = *spec;
	struct templates *ts = m->templates;
	struct template *t;
	bool waited = false;
	char *key;
	int rc;

	*out = NULL;
	even.memory_mib = (spec->memory_mib + 1) & ~1LL;
	rc = make_key(m, image, disk ? top_of(&disk->layers) : NULL, even.cpus, even.memory_mib,
		      &key, e);
	if (rc)
		return rc;
	pthread_mutex_lock(&ts->lock);
	t = find(ts, key);
	if (!t) {
		t = add(ts, key);
		if (t)
			make_or_load(m, &even, image, disk, t);
	} else {
		free(key);
		for (; t->state == MAKING; waited = true)
			pthread_cond_wait(&ts->changed, &ts->lock);
		/* Who has waited shares the outcome; who comes later tries again. */
		if (!waited && worth_another_try(t)) {
			t->state = MAKING;
			make_or_load(m, &even, image, disk, t);
		}
	}
	if (!t)
		rc = err_set(e, -ENOMEM, "out of memory");
	else if (t->state == READY) {
		*out = &t->row;
		t->users++;
	} else if (t->err.code)
		rc = err_set(e, t->err.code, "%s", t->err.msg);
	if (t)
		t->used = ++ts->uses;
	pthread_mutex_unlock(&ts->lock);
	return rc;
}

void template_put(struct manager *m, const struct checkpoint_row *row)
{
	struct template *t = row ? container_of(row, struct template, row) : NULL;

	if (!t)
		return;
	pthread_mutex_lock(&m->templates->lock);
	t->users--;
	free_dropped(m);
	pthread_mutex_unlock(&m->templates->lock);
}

void template_drop(struct manager *m, const char *id)
{
	struct templates *ts = m->templates;

	pthread_mutex_lock(&ts->lock);
	for (struct template *t = ts->list; t; t = t->next)
		if (t->state == READY && !strcmp(t->row.id, id)) {
			drop(m, t);
			break;
		}
	pthread_mutex_unlock(&ts->lock);
}

/* --- at a start ----------------------------------------------------------------------------------
 */

struct outdated {
	struct manager *m;
	struct chain tops; /* of the disks of images and snapshots */
	struct chain ids;
};

static void find_tops(void *arg, struct checkpoint_row *row)
{
	struct outdated *o = arg;

	if (!row->is_template && !row->sandbox_id[0])
		chain_push(&o->tops, top_of(&row->layers));
}

static bool has_disk(const struct outdated *o, const char *top)
{
	for (size_t i = 0; i < o->tops.n; i++)
		if (!strcmp(o->tops.ids[i], top))
			return true;
	return false;
}

static void find_outdated(void *arg, struct checkpoint_row *row)
{
	struct outdated *o = arg;
	char *key = NULL;

	/* One that is being made is not: those of before the last start have failed. */
	if (!row->is_template || row->status == CHECKPOINT_PROCESSING)
		return;
	if (make_key(o->m, row->base_image, top_below(row), row->cpus, row->memory_mib, &key, NULL))
		key = NULL;
	if (row->status != CHECKPOINT_READY || !key || strcmp(key, row->name) ||
	    (top_below(row) && !has_disk(o, top_below(row))))
		chain_push(&o->ids, row->id);
	free(key);
}

static void forget(struct manager *m, const char *id)
{
	struct err e;

	template_drop(m, id);
	if (store_checkpoint_delete(m->store, id, &e) && e.code != -ENOENT)
		log_warn("%s", e.msg);
}

void templates_forget_unused(struct manager *m)
{
	struct outdated o = {.m = m};
	struct err e;
	int rc = store_checkpoint_each(m->store, NULL, find_tops, &o, &e);

	if (!rc)
		rc = store_checkpoint_each(m->store, NULL, find_outdated, &o, &e);
	if (rc)
		log_warn("%s", e.msg);
	for (size_t i = 0; !rc && i < o.ids.n; i++)
		forget(m, o.ids.ids[i]);
	if (o.ids.n)
		log_info("%zu outdated templates forgotten", o.ids.n);
	chain_fini(&o.tops);
	chain_fini(&o.ids);
}

static void prewarm(void *arg)
{
	struct manager *m = arg;

	for (size_t i = 0; i < m->config->prewarm.n && !manager_interrupted(m); i++) {
		struct sandbox_spec spec = {.cpus = SANDBOX_DEFAULT_CPUS,
					    .memory_mib = SANDBOX_DEFAULT_MEMORY_MIB};
		const char *image =
		    images_find(&m->images, m->config->prewarm.items[i], &spec.template);
		const struct checkpoint_row *row;
		struct err e;

		if (!image)
			log_warn("--prewarm %s: there is no such template",
				 m->config->prewarm.items[i]);
		else if (template_get(m, &spec, image, NULL, &row, &e))
			log_warn("--prewarm %s: %s", spec.template, e.msg);
		else
			template_put(m, row);
	}
}

void templates_start(struct manager *m)
{
	templates_forget_unused(m);
	if (m->config->prewarm.n && jobs_run(&m->jobs, prewarm, m))
		log_warn("prewarming: no thread could be started");
}
