/* SPDX-License-Identifier: Apache-2.0 */
/* Garbage collection; see gc.h and layers.h. */
#include "server/manager/gc.h"

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
#include "server/manager/checkpoint.h"
#include "server/manager/internal.h"
#include "server/manager/layers_int.h"

#define AUTOMATIC_KEEP_MS (10 * 60 * 1000) /* more forks of the same instant may be asked for */

/* --- what is there --------------------------------------------------------------------------- */

/* The id in the name of a file, or "": not ours to judge. */
static void id_of_name(const char *name, char id[UUID_SIZE])
{
	snprintf(id, UUID_SIZE, "%.36s", name);
	if (!uuid_valid(id))
		id[0] = '\0';
}

static int list_dir(int dir_fd, const char *what, struct chain *names, struct err *e)
{
	DIR *d = fd_opendir(dir_fd, ".");
	struct dirent *entry;
	int rc = 0;

	if (!d)
		return err_sys(e, -errno, "reading %s", what);
	while (!rc && (entry = readdir(d))) {
		char id[UUID_SIZE];

		id_of_name(entry->d_name, id);
		if (id[0] && chain_push(names, id))
			rc = err_set(e, -ENOMEM, "out of memory");
	}
	closedir(d);
	return rc;
}

/* --- what is kept ------------------------------------------------------------------------------
 */

struct kept {
	struct chain ids;
	bool failed;
};

static void keep(struct kept *k, const char *id)
{
	k->failed |= chain_push(&k->ids, id) != 0;
}

static void keep_chain(struct kept *k, const struct chain *c)
{
	for (size_t i = 0; i < c->n; i++)
		keep(k, c->ids[i]);
}

static void keep_sandbox(void *arg, struct sandbox_row *row)
{
	keep_chain(arg, &row->layers);
	keep_chain(arg, &row->pending);
}

static void keep_checkpoint(void *arg, struct checkpoint_row *row)
{
	/* A failed one has nothing of use; its layers are the sandbox's, if anybody's. */
	if (row->status == CHECKPOINT_FAILED)
		return;
	keep(arg, row->id);
	keep_chain(arg, &row->layers);
}

static int by_id(const void *a, const void *b)
{
	return strcmp(a, b);
}

static bool is_kept(const struct kept *k, const char *id)
{
	return k->ids.n && bsearch(id, k->ids.ids, k->ids.n, sizeof(*k->ids.ids), by_id);
}

/*
 * The order matters: a file that was listed first was, at that time, either pinned or named by
 * a row, or garbage; pins are dropped only after the row is there. Under the pins' lock nobody pins
 * what a row names. What is garbage once stays so: new names are random.
 */
static int find_kept(struct manager *m, struct kept *k, struct chain *layers, struct chain *images,
		     struct err *e)
{
	struct layers *l = m->layers;
	int rc;

	pthread_mutex_lock(&l->lock);
	rc = list_dir(l->layers_fd, "layers", layers, e);
	if (!rc)
		rc = list_dir(l->checkpoints_fd, "checkpoints", images, e);
	for (size_t i = 0; i < l->n; i++)
		keep(k, l->pins[i].id);
	if (!rc)
		rc = store_sandbox_each(m->store, false, -1, keep_sandbox, k, e);
	if (!rc)
		rc = store_checkpoint_each(m->store, NULL, keep_checkpoint, k, e);
	pthread_mutex_unlock(&l->lock);
	if (!rc && k->failed)
		rc = err_set(e, -ENOMEM, "out of memory");
	if (!rc && k->ids.n)
		qsort(k->ids.ids, k->ids.n, sizeof(*k->ids.ids), by_id);
	return rc;
}

/* --- removing -----------------------------------------------------------------------------------
 */

static void remove_file(int dir_fd, const char *name, struct gc_result *r)
{
	struct stat st;
	bool known = !fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW);

	if (unlinkat(dir_fd, name, 0)) {
		if (errno != ENOENT)
			log_warn("removing %s: %s", name, strerror(errno));
		return;
	}
	r->files++;
	r->bytes += known ? (int64_t)st.st_blocks * 512 : 0;
}

static void remove_image(int dir_fd, const char *id, struct gc_result *r)
{
	DIR *d = fd_opendir(dir_fd, id);
	struct dirent *entry;

	if (!d)
		return;
	while ((entry = readdir(d)))
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			remove_file(dirfd(d), entry->d_name, r);
	closedir(d);
	if (unlinkat(dir_fd, id, AT_REMOVEDIR) && errno != ENOENT)
		log_warn("removing checkpoints/%s: %s", id, strerror(errno));
}

/* Everything in layers/ whose name begins with the id: also what was being written beside it. */
static void remove_layers(int dir_fd, const struct kept *k, const struct chain *found,
			  struct gc_result *r)
{
	DIR *d = fd_opendir(dir_fd, ".");
	struct kept listed = {.ids = *found};
	struct dirent *entry;

	if (!d)
		return;
	if (found->n)
		qsort(found->ids, found->n, sizeof(*found->ids), by_id);
	while ((entry = readdir(d))) {
		char id[UUID_SIZE];

		id_of_name(entry->d_name, id);
		if (id[0] && is_kept(&listed, id) && !is_kept(k, id))
			remove_file(dir_fd, entry->d_name, r);
	}
	closedir(d);
}

/* --- automatic checkpoints
 * ------------------------------------------------------------------------ */

struct due {
	struct chain ids;
	int64_t before_ms;
};

static void find_due(void *arg, struct checkpoint_row *row)
{
	struct due *d = arg;

	if (row->automatic && row->status != CHECKPOINT_PROCESSING && row->done_ms < d->before_ms)
		chain_push(&d->ids, row->id);
}

static void delete_automatic(struct manager *m, struct gc_result *r)
{
	struct due d = {.before_ms = clock_wall_ms() - AUTOMATIC_KEEP_MS};
	struct err e;

	if (store_checkpoint_each(m->store, NULL, find_due, &d, &e))
		log_warn("%s", e.msg);
	for (size_t i = 0; i < d.ids.n; i++) {
		bool in_use = true;

		if (!store_checkpoint_in_use(m->store, d.ids.ids[i], &in_use, &e) && !in_use &&
		    !checkpoint_forget(m, d.ids.ids[i], &e))
			r->checkpoints++;
	}
	chain_fini(&d.ids);
}

/* --- running -----------------------------------------------------------------------------------
 */

int gc_run(struct manager *m, struct gc_result *result, struct err *e)
{
	struct chain layers = {0}, images = {0};
	struct gc_result r = {0};
	struct kept k = {0};
	int rc;

	pthread_mutex_lock(&m->layers->gc_lock);
	delete_automatic(m, &r);
	rc = find_kept(m, &k, &layers, &images, e);
	if (!rc) {
		remove_layers(m->layers->layers_fd, &k, &layers, &r);
		for (size_t i = 0; i < images.n; i++)
			if (!is_kept(&k, images.ids[i]))
				remove_image(m->layers->checkpoints_fd, images.ids[i], &r);
	}
	pthread_mutex_unlock(&m->layers->gc_lock);
	if (r.files || r.checkpoints)
		log_info("garbage: %lld files removed, %lld bytes", (long long)r.files,
			 (long long)r.bytes);
	chain_fini(&k.ids);
	chain_fini(&layers);
	chain_fini(&images);
	if (result)
		*result = r;
	return rc;
}

static void gc_job(void *arg)
{
	struct manager *m = arg;
	struct err e;

	/* What becomes garbage from here on kicks again. */
	__atomic_store_n(&m->layers->kicked, false, __ATOMIC_RELEASE);
	if (gc_run(m, NULL, &e))
		log_warn("collecting garbage: %s", e.msg);
}

void gc_kick(struct manager *m)
{
	if (__atomic_exchange_n(&m->layers->kicked, true, __ATOMIC_ACQ_REL))
		return;
	if (jobs_run(&m->jobs, gc_job, m))
		__atomic_store_n(&m->layers->kicked, false, __ATOMIC_RELEASE);
}
