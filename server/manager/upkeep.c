/* SPDX-License-Identifier: Apache-2.0 */
/* Flattening chains, packing and unpacking images; see upkeep.h. */
#include "server/manager/upkeep.h"

#include <dirent.h>
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
#include "server/manager/checkpoint_int.h"
#include "server/manager/gc.h"
#include "server/manager/layers_int.h"
#include "server/manager/tool.h"

#define EVERY_TICKS 60

struct upkeep {
	bool kicked;	      /* atomic: a pass is due */
	pthread_mutex_t lock; /* one pass at a time */
	/* Atomic; for the report. */
	int64_t flattened, packed, unpacked, failed;
	bool kicks_gc;	     /* of the pass: something was held, or rows name less than before */
	struct chain wanted; /* cold images that were used; under layers->lock */
};

static void count(int64_t *counter)
{
	__atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
}

static void failed(struct manager *m, const char *what, const char *id, const struct err *e)
{
	if (e->code == -ECANCELED)
		return;
	count(&m->upkeep->failed);
	log_warn("%s %s: %s", what, id, e->msg);
}

/* --- what chains are made of ---------------------------------------------------------------- */

/* A chain as its files are: without the layers that a flattened one above them contains. */
struct effective {
	struct chain ids;
	struct chain unsealed; /* those that a crash left so, or that are being sealed */
};

static int add_layers(struct tool *t, struct manager *m, const struct chain *c, size_t from,
		      size_t to, char **paths)
{
	for (size_t i = from; i < to; i++) {
		paths[i] = layer_path(m, c->ids[i]);
		tool_add(t, paths[i]);
		if (!paths[i])
			return -ENOMEM;
	}
	return 0;
}

static void free_paths(char **paths, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(paths[i]);
	free(paths);
}

/* Return: the index of the lowest layer that layer @i contains, or -EINVAL. */
static ssize_t reach(json_t *infos, size_t i)
{
	const char *parent = json_string_value(json_object_get(json_array_get(infos, i), "parent"));

	if (!parent)
		return 0;
	for (size_t k = i; k-- > 0;) {
		const char *id = json_string_value(json_object_get(json_array_get(infos, k), "id"));

		if (id && !strcmp(id, parent))
			return (ssize_t)k + 1;
	}
	return -EINVAL;
}

/* From the top down: what a flattened layer contains is passed over. */
static int find_effective(const struct chain *c, json_t *infos, struct effective *f, struct err *e)
{
	bool *used = calloc(c->n + 1, sizeof(*used));
	int rc = used ? 0 : -ENOMEM;

	for (size_t i = c->n; !rc && i-- > 0;) {
		json_t *info = json_array_get(infos, i);
		ssize_t lowest = (ssize_t)i;

		used[i] = true;
		if (!json_is_true(json_object_get(info, "sealed")))
			rc = chain_push(&f->unsealed, c->ids[i]);
		if (json_is_true(json_object_get(info, "flat")))
			lowest = reach(infos, i);
		if (lowest < 0)
			rc = -EINVAL;
		else
			i = (size_t)lowest;
	}
	for (size_t i = 0; !rc && i < c->n; i++)
		if (used[i])
			rc = chain_push(&f->ids, c->ids[i]);
	free(used);
	return rc ? err_set(e, rc, rc == -ENOMEM ? "out of memory" : "its layers do not fit") : 0;
}

static void effective_fini(struct effective *f)
{
	chain_fini(&f->ids);
	chain_fini(&f->unsealed);
}

/* @c: immutable layers. effective_fini() is due in each case. */
static int look_at_chain(struct manager *m, const struct chain *c, struct effective *f,
			 struct err *e)
{
	char **paths = calloc(c->n + 1, sizeof(*paths));
	struct tool_result r = {0};
	json_t *said, *infos;
	struct tool t;
	int rc;

	memset(f, 0, sizeof(*f));
	rc = tool_init(&t, m, "dormouse-img", e);
	if (!rc && !paths)
		rc = err_set(e, -ENOMEM, "out of memory");
	if (!rc) {
		tool_add(&t, "info");
		tool_add(&t, "--json");
		add_layers(&t, m, c, 0, c->n, paths);
		rc = tool_run(&t, m, &r, e);
	}
	if (!rc) {
		said = r.out ? json_loads(r.out, 0, NULL) : NULL;
		infos = json_object_get(said, "layers");
		if (r.status || json_array_size(infos) != c->n)
			rc = err_set(e, -EIO, "reading its layers: %.300s", r.said);
		else
			rc = find_effective(c, infos, f, e);
		json_decref(said);
	}
	free(r.out);
	free_paths(paths, paths ? c->n : 0);
	tool_fini(&t);
	return rc;
}

/* --- flattening ------------------------------------------------------------------------------ */

static bool is_in(const struct chain *c, const char *id)
{
	for (size_t i = 0; i < c->n; i++)
		if (!strcmp(c->ids[i], id))
			return true;
	return false;
}

/* Layers @from to @to of the chain, which are pinned. @out: NULL: they are sealed */
static int change_run(struct manager *m, const struct chain *c, size_t from, size_t to,
		      const char *out, struct err *e)
{
	char **paths = calloc(to + 1, sizeof(*paths));
	struct tool t;
	int rc = tool_init(&t, m, "dormouse-img", e);

	if (!rc && !paths)
		rc = err_set(e, -ENOMEM, "out of memory");
	if (!rc) {
		tool_add(&t, out ? "flatten" : "seal");
		tool_add(&t, "--background");
		if (out) {
			tool_add(&t, "--replace");
			tool_add(&t, "--out");
			tool_add(&t, out);
		}
		add_layers(&t, m, c, from, to, paths);
		rc = tool_must(&t, m, e);
	}
	free_paths(paths, paths ? to : 0);
	tool_fini(&t);
	return rc;
}

/*
 * Not the lowest one, which sandboxes of a template share; and not the newest half of what is
 * allowed, so that the same content is not copied at each checkpoint.
 */
static int flatten_chain(struct manager *m, const struct effective *f, struct err *e)
{
	size_t keep = (size_t)m->config->flatten_above / 2;
	const struct chain *c = &f->ids;
	cleanup_free char *out = NULL;
	int rc = 0;

	if (c->n < keep + 3)
		return 0;
	out = layer_path(m, c->ids[c->n - keep - 1]);
	if (!out || chain_pin(m, c))
		return err_set(e, -ENOMEM, "out of memory");
	/* One at a time: those that are sealed may be in use. */
	for (size_t i = 1; !rc && i < c->n - keep; i++)
		if (is_in(&f->unsealed, c->ids[i]))
			rc = change_run(m, c, i, i + 1, NULL, e);
	if (!rc)
		rc = change_run(m, c, 1, c->n - keep, out, e);
	chain_unpin(m, c);
	m->upkeep->kicks_gc = true; /* they may have been deleted meanwhile */
	if (!rc) {
		count(&m->upkeep->flattened);
		log_info("layers: %zu have become one, %s", c->n - keep - 1,
			 c->ids[c->n - keep - 1]);
	}
	return rc;
}

/* What the files say already; then one flattening more, if that is due. Return: @f is valid */
static bool shorten(struct manager *m, const struct chain *c, struct effective *f, const char *what,
		    const char *id)
{
	struct err e;
	int rc = look_at_chain(m, c, f, &e);

	if (!rc && f->ids.n > (size_t)m->config->flatten_above) {
		rc = flatten_chain(m, f, &e);
		if (!rc) {
			effective_fini(f);
			rc = look_at_chain(m, c, f, &e);
		}
	}
	if (rc) {
		failed(m, what, id, &e);
		effective_fini(f);
	}
	return !rc;
}

/* --- rows ------------------------------------------------------------------------------------ */

/* A sandbox without a VMM: nobody was told of its layers. */
static void forget_in_sandbox(struct sandbox *s, const struct chain *was, const struct effective *f)
{
	struct sandbox_row row;
	struct err e;

	if (pthread_mutex_trylock(&s->lifecycle))
		return;
	if (!sandbox_copy_row(s, &row)) {
		bool same = row.layers.n == was->n + 1 && !row.pending.n &&
			    row.status != SANDBOX_RUNNING && !row.deleted &&
			    chain_begins(&row.layers, was);
		struct chain shorter = {0};

		if (same && !chain_copy(&shorter, &f->ids) &&
		    !chain_push(&shorter, row.layers.ids[was->n])) {
			chain_fini(&row.layers);
			row.layers = shorter;
			if (store_sandbox_update(s->m->store, &row, &e)) {
				failed(s->m, "sandbox", row.id, &e);
				sandbox_row_fini(&row);
			} else {
				take_chains(s, &row);
				s->m->upkeep->kicks_gc = true;
			}
		} else {
			chain_fini(&shorter);
			sandbox_row_fini(&row);
		}
	}
	pthread_mutex_unlock(&s->lifecycle);
}

static void upkeep_sandbox(struct manager *m, const char *id, struct chain *c)
{
	struct sandbox *s = sandbox_find_any(m, id);
	struct effective f;

	if (!s)
		return;
	c->n--; /* the top is written to */
	if (shorten(m, c, &f, "sandbox", id)) {
		if (f.ids.n < c->n)
			forget_in_sandbox(s, c, &f);
		effective_fini(&f);
	}
	c->n++;
	sandbox_put(s);
}

static void upkeep_checkpoint(struct manager *m, const char *id, const struct chain *c)
{
	struct effective f;
	struct err e;
	int rc;

	if (!shorten(m, c, &f, "checkpoint", id))
		return;
	if (f.ids.n < c->n) {
		rc = store_checkpoint_set_layers(m->store, id, &f.ids, &e);
		if (rc && rc != -ENOENT)
			failed(m, "checkpoint", id, &e);
		m->upkeep->kicks_gc |= !rc;
	}
	effective_fini(&f);
}

struct long_chain {
	char id[UUID_SIZE];
	struct chain chain;
};

struct long_chains {
	struct long_chain *list; /* owned */
	size_t n, above;
};

static void add_long(struct long_chains *l, const char *id, struct chain *c, size_t n)
{
	struct long_chain *grown;

	if (n <= l->above)
		return;
	grown = realloc(l->list, (l->n + 1) * sizeof(*grown));
	if (!grown)
		return; /* the next pass finds it */
	l->list = grown;
	snprintf(grown[l->n].id, UUID_SIZE, "%s", id);
	grown[l->n++].chain = *c;
	memset(c, 0, sizeof(*c));
}

static void add_long_sandbox(void *arg, struct sandbox_row *row)
{
	if (row->layers.n && !row->pending.n)
		add_long(arg, row->id, &row->layers, row->layers.n - 1);
}

static void add_long_checkpoint(void *arg, struct checkpoint_row *row)
{
	if (row->status == CHECKPOINT_READY)
		add_long(arg, row->id, &row->layers, row->layers.n);
}

static void flatten_all(struct manager *m)
{
	struct long_chains boxes = {.above = (size_t)m->config->flatten_above}, points = boxes;
	struct err e;

	if (!boxes.above)
		return;
	if (store_checkpoint_each(m->store, NULL, add_long_checkpoint, &points, &e) ||
	    store_sandbox_each(m->store, false, -1, add_long_sandbox, &boxes, &e))
		failed(m, "store:", "", &e);
	for (size_t i = 0; i < points.n; i++) {
		if (!manager_interrupted(m))
			upkeep_checkpoint(m, points.list[i].id, &points.list[i].chain);
		chain_fini(&points.list[i].chain);
	}
	for (size_t i = 0; i < boxes.n; i++) {
		if (!manager_interrupted(m))
			upkeep_sandbox(m, boxes.list[i].id, &boxes.list[i].chain);
		chain_fini(&boxes.list[i].chain);
	}
	free(points.list);
	free(boxes.list);
}

/* --- images -------------------------------------------------------------------------------- */

static int64_t last_use_ms(struct manager *m, const struct checkpoint_row *row)
{
	cleanup_free char *path = checkpoint_ram_path(m, row);
	struct stat st;
	int64_t ms = row->done_ms;

	if (path && !stat(path, &st) && st.st_mtim.tv_sec * 1000LL > ms)
		ms = st.st_mtim.tv_sec * 1000LL + st.st_mtim.tv_nsec / 1000000;
	return ms;
}

static int convert(struct manager *m, const struct checkpoint_row *row, bool cold, struct err *e)
{
	cleanup_free char *raw = checkpoint_path(m, row->id, "ram");
	cleanup_free char *packed = checkpoint_path(m, row->id, "ram.cold");
	struct tool t;
	int rc = tool_init(&t, m, "dormouse-ram", e);

	if (!rc) {
		tool_add(&t, cold ? "pack" : "unpack");
		tool_add(&t, "--nice");
		tool_add(&t, "19");
		tool_add(&t, cold ? raw : packed);
		tool_add(&t, cold ? packed : raw);
		rc = tool_must(&t, m, e);
	}
	tool_fini(&t);
	return rc;
}

/* The other form is made durable, then the row says that it is the image. */
static void change_form(struct manager *m, const char *id, bool cold)
{
	struct checkpoint_row row;
	struct err e;
	int rc = checkpoint_pin(m, id, &row, &e);

	if (rc)
		return; /* it was deleted */
	if (row.status == CHECKPOINT_READY && row.full && row.cold != cold) {
		m->upkeep->kicks_gc = true; /* it may be deleted meanwhile */
		rc = convert(m, &row, cold, &e);
		row.cold = cold;
		if (!rc)
			rc = store_checkpoint_update(m->store, &row, NULL, &e);
		if (!rc) {
			count(cold ? &m->upkeep->packed : &m->upkeep->unpacked);
			log_info("checkpoint %s: its memory is %s", id,
				 cold ? "packed" : "unpacked again");
		} else if (rc != -ENOENT) {
			failed(m, "checkpoint", id, &e);
		}
	}
	checkpoint_unpin(m, &row);
	checkpoint_row_fini(&row);
}

struct candidates {
	struct manager *m;
	int64_t before_ms;
	struct chain ids;
};

static void add_candidate(void *arg, struct checkpoint_row *row)
{
	struct candidates *c = arg;

	if (row->status == CHECKPOINT_READY && row->full && !row->is_template && !row->cold &&
	    last_use_ms(c->m, row) <= c->before_ms)
		chain_push(&c->ids, row->id);
}

static void pack_all(struct manager *m)
{
	struct candidates c = {.m = m,
			       .before_ms = clock_wall_ms() - m->config->cold_after_s * 1000};
	struct err e;

	if (!m->config->cold_after_s)
		return;
	if (store_checkpoint_each(m->store, NULL, add_candidate, &c, &e))
		failed(m, "store:", "", &e);
	for (size_t i = 0; i < c.ids.n && !manager_interrupted(m); i++)
		change_form(m, c.ids.ids[i], true);
	chain_fini(&c.ids);
}

static void unpack_wanted(struct manager *m)
{
	struct chain wanted;

	pthread_mutex_lock(&m->layers->lock);
	wanted = m->upkeep->wanted;
	memset(&m->upkeep->wanted, 0, sizeof(wanted));
	pthread_mutex_unlock(&m->layers->lock);
	for (size_t i = 0; i < wanted.n && !manager_interrupted(m); i++)
		change_form(m, wanted.ids[i], false);
	chain_fini(&wanted);
}

void upkeep_image_used(struct manager *m, const struct checkpoint_row *row)
{
	cleanup_free char *path = checkpoint_ram_path(m, row);

	if (row->is_template)
		return;
	if (path)
		utimensat(AT_FDCWD, path, NULL, 0);
	if (!row->cold)
		return;
	pthread_mutex_lock(&m->layers->lock);
	chain_push(&m->upkeep->wanted, row->id);
	pthread_mutex_unlock(&m->layers->lock);
	upkeep_kick(m);
}

/* --- what is left over -------------------------------------------------------------------- */

static void remove_name(int dir_fd, const char *format, const char *id)
{
	char name[UUID_SIZE + 32];

	snprintf(name, sizeof(name), format, id);
	if (!faccessat(dir_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) && !unlinkat(dir_fd, name, 0))
		log_debug("removed %s", name);
}

/* The form that is not the image any more, or not yet; and what was cut off in the middle. */
static void tidy_image(void *arg, struct checkpoint_row *row)
{
	struct manager *m = arg;
	int fd = m->layers->checkpoints_fd;

	if (row->status != CHECKPOINT_READY || !row->full || layer_pinned(m, row->id))
		return;
	remove_name(fd, row->cold ? "%s/ram" : "%s/ram.cold", row->id);
	remove_name(fd, "%s/ram.part", row->id);
	remove_name(fd, "%s/ram.cold.part", row->id);
}

static void tidy_layers(struct manager *m)
{
	DIR *d = fd_opendir(m->layers->layers_fd, ".");
	struct dirent *entry;

	if (!d)
		return;
	while ((entry = readdir(d))) {
		char id[UUID_SIZE];

		snprintf(id, sizeof(id), "%.36s", entry->d_name);
		if (uuid_valid(id) && !strcmp(entry->d_name + 36, ".layer.part"))
			remove_name(m->layers->layers_fd, "%s.layer.part", id);
	}
	closedir(d);
}

/* Under the lock of pins: whoever uses an image has read its row under it, and pinned it. */
static void tidy(struct manager *m)
{
	struct err e;

	tidy_layers(m);
	pthread_mutex_lock(&m->layers->lock);
	if (store_checkpoint_each(m->store, NULL, tidy_image, m, &e))
		failed(m, "store:", "", &e);
	pthread_mutex_unlock(&m->layers->lock);
}

/* --- running ------------------------------------------------------------------------------- */

static void pass(void *arg)
{
	struct manager *m = arg;
	bool kicks_gc;

	/* What is wanted from here on kicks again. */
	__atomic_store_n(&m->upkeep->kicked, false, __ATOMIC_RELEASE);
	pthread_mutex_lock(&m->upkeep->lock);
	m->upkeep->kicks_gc = false;
	tidy(m);
	unpack_wanted(m);
	pack_all(m);
	flatten_all(m);
	kicks_gc = m->upkeep->kicks_gc;
	tidy(m);
	pthread_mutex_unlock(&m->upkeep->lock);
	if (kicks_gc)
		gc_kick(m);
}

void upkeep_kick(struct manager *m)
{
	if (manager_interrupted(m) ||
	    __atomic_exchange_n(&m->upkeep->kicked, true, __ATOMIC_ACQ_REL))
		return;
	if (jobs_run(&m->jobs, pass, m))
		__atomic_store_n(&m->upkeep->kicked, false, __ATOMIC_RELEASE);
}

void upkeep_tick(struct manager *m)
{
	if (m->ticks % EVERY_TICKS == EVERY_TICKS - 1)
		upkeep_kick(m);
}

json_t *upkeep_report(struct manager *m)
{
	struct upkeep *u = m->upkeep;

	return json_pack("{sI, sI, sI, sI}", "flattenedRuns",
			 (json_int_t)__atomic_load_n(&u->flattened, __ATOMIC_RELAXED),
			 "packedImages", (json_int_t)__atomic_load_n(&u->packed, __ATOMIC_RELAXED),
			 "unpackedImages",
			 (json_int_t)__atomic_load_n(&u->unpacked, __ATOMIC_RELAXED), "failures",
			 (json_int_t)__atomic_load_n(&u->failed, __ATOMIC_RELAXED));
}

int upkeep_init(struct manager *m, struct err *e)
{
	m->upkeep = calloc(1, sizeof(*m->upkeep));
	if (!m->upkeep)
		return err_set(e, -ENOMEM, "out of memory");
	pthread_mutex_init(&m->upkeep->lock, NULL);
	return 0;
}

void upkeep_fini(struct manager *m)
{
	if (!m->upkeep)
		return;
	pthread_mutex_destroy(&m->upkeep->lock);
	chain_fini(&m->upkeep->wanted);
	free(m->upkeep);
	m->upkeep = NULL;
}
