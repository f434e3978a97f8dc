/* SPDX-License-Identifier: Apache-2.0 */
/* Images with names; see snapshot.h. */
#include "server/manager/snapshot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/build_int.h"
#include "server/manager/checkpoint.h"
#include "server/manager/checkpoint_int.h"
#include "server/manager/gc.h"
#include "server/manager/layers_int.h"
#include "server/manager/template.h"

/* --- its end --------------------------------------------------------------------------------- */

struct job {
	struct manager *m;
	struct build *build; /* a reference */
	char id[UUID_SIZE];
};

/* The image's disk, under a name of its own. */
static int end_ready(const struct job *j, const struct build_result *r, struct err *e)
{
	char name[UUID_SIZE + 16];
	struct checkpoint_row image, own;
	int rc = checkpoint_pin(j->m, r->checkpoint_id, &image, e);

	if (rc)
		return rc == -ENOENT ? err_set(e, -EIO, "the image was deleted meanwhile") : rc;
	own = image;
	snprintf(name, sizeof(name), "snapshot %s", j->id);
	own.name = name;
	own.parent[0] = '\0';
	own.is_public = false;
	own.created_ms = own.done_ms = clock_wall_ms();
	rc = uuid_make(own.id, e);
	if (!rc)
		rc = store_snapshot_end(j->m->store, j->id, &own, r->base_version, NULL, e);
	checkpoint_unpin(j->m, &image);
	checkpoint_row_fini(&image);
	return rc;
}

static int end_once(const struct job *j, const struct build_result *r, struct err *e)
{
	int rc = r->error ? 0 : end_ready(j, r, e);

	if (!r->error && (!rc || rc == -ENOENT || lifecycle_passes(rc)))
		return rc;
	return store_snapshot_end(j->m->store, j->id, NULL, "", r->error ? r->error : e->msg, e);
}

static void wait_turn(struct manager *m)
{
	pthread_mutex_lock(&m->layers->lock);
	checkpoint_wait_turn(m->layers);
	pthread_mutex_unlock(&m->layers->lock);
}

static void tell(struct manager *m)
{
	pthread_mutex_lock(&m->layers->lock);
	pthread_cond_broadcast(&m->layers->done);
	pthread_mutex_unlock(&m->layers->lock);
}

/* Whoever waits for it is to hear of its end once there is room again. */
static void end_job(void *arg)
{
	struct job *j = arg;
	struct build_result r;
	struct err e;
	int rc;

	/* When the server stops, the next one decides. */
	if (!build_wait(j->build, &r)) {
		while ((rc = end_once(j, &r, &e)) && rc != -ENOENT && !manager_interrupted(j->m)) {
			log_error("snapshot %s: %s", j->id, e.msg);
			wait_turn(j->m);
		}
		tell(j->m);
	}
	build_put(j->build);
	free(j);
}

/* --- making one ------------------------------------------------------------------------------ */

static int check_name(const char *name, struct err *e)
{
	if (!*name)
		return err_set(e, -EINVAL, "name is required");
	if (strlen(name) > SNAPSHOT_NAME_MAX)
		return err_set(e, -EINVAL, "name: longer than %d bytes", SNAPSHOT_NAME_MAX);
	for (const char *p = name; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			return err_set(e, -EINVAL, "name: contains a control character");
	return 0;
}

static int fill_row(struct snapshot_row *row, const char *name, const struct manifest *manifest,
		    struct err *e)
{
	memset(row, 0, sizeof(*row));
	row->name = strdup(name);
	row->manifest = strdup(manifest->text);
	row->base_version = strdup("");
	row->runtime_mib = manifest->runtime_mib;
	row->created_ms = clock_wall_ms();
	snprintf(row->hash, sizeof(row->hash), "%s", manifest->hash);
	if (row->name && row->manifest && row->base_version)
		return uuid_make(row->id, e);
	return err_set(e, -ENOMEM, "out of memory");
}

/* @build: a reference, taken over. */
static int start_job(struct manager *m, const char *id, struct build *build, struct err *e)
{
	struct job *j = calloc(1, sizeof(*j));
	int rc = j ? 0 : -ENOMEM;

	if (!rc) {
		j->m = m;
		j->build = build;
		snprintf(j->id, sizeof(j->id), "%s", id);
		rc = jobs_run(&m->jobs, end_job, j);
	}
	if (rc) {
		free(j);
		build_put(build);
		return err_sys(e, rc, "starting a thread");
	}
	return 0;
}

/* The row is in the store. */
static int start_build(struct manager *m, const char *id, struct manifest *manifest,
		       struct build **build, struct err *e)
{
	const struct sandbox_spec shape = {.cpus = SANDBOX_DEFAULT_CPUS,
					   .memory_mib = SANDBOX_DEFAULT_MEMORY_MIB};
	int rc = build_start(m, manifest, &shape, build, e);

	if (rc)
		return rc;
	rc = start_job(m, id, build_get(*build), e);
	if (rc)
		build_put(*build);
	return rc;
}

int snapshot_create(struct manager *m, const char *name, struct manifest *manifest,
		    struct snapshot_row *row, struct build **build, struct err *e)
{
	int rc = check_name(name, e);

	memset(row, 0, sizeof(*row));
	if (!rc)
		rc = fill_row(row, name, manifest, e);
	if (!rc)
		rc = store_snapshot_insert(m->store, row, e);
	if (rc) {
		manifest_fini(manifest);
	} else {
		rc = start_build(m, row->id, manifest, build, e);
		if (rc)
			store_snapshot_delete(m->store, name, NULL);
	}
	if (rc)
		snapshot_row_fini(row);
	return rc;
}

int snapshot_wait(struct manager *m, const char *name, const char *id, struct snapshot_row *row,
		  struct err *e)
{
	struct layers *l = m->layers;
	int rc;

	pthread_mutex_lock(&l->lock);
	for (;;) {
		rc = store_snapshot_get(m->store, name, row, e);
		if (rc)
			break;
		if (strcmp(row->id, id)) {
			rc = err_set(e, -ENOENT, "snapshot not found: %.128s", name);
		} else if (row->status != SNAPSHOT_BUILDING) {
			break;
		} else if (manager_interrupted(m)) {
			rc = err_set(e, -ECANCELED, "the server stops");
		}
		snapshot_row_fini(row);
		if (rc)
			break;
		checkpoint_wait_turn(l);
	}
	pthread_mutex_unlock(&l->lock);
	return rc;
}

int snapshots_recover(struct manager *m, struct err *e)
{
	return store_snapshot_fail_building(m->store,
					    "the server was restarted while it was being built", e);
}

/* --- those that are there ----------------------------------------------------------------------
 */

struct collector {
	struct snapshot_list *list;
	bool failed;
};

static void collect(void *arg, struct snapshot_row *row)
{
	struct collector *c = arg;
	struct snapshot_list *l = c->list;
	struct snapshot_row *grown = realloc(l->rows, (l->n + 1) * sizeof(*grown));

	if (!grown) {
		c->failed = true;
		return;
	}
	l->rows = grown;
	l->rows[l->n++] = *row;
	memset(row, 0, sizeof(*row));
}

int snapshot_list(struct manager *m, struct snapshot_list *l, struct err *e)
{
	struct collector c = {.list = l};
	int rc;

	memset(l, 0, sizeof(*l));
	rc = store_snapshot_each(m->store, collect, &c, e);
	if (!rc && c.failed)
		rc = err_set(e, -ENOMEM, "out of memory");
	if (rc)
		snapshot_list_fini(l);
	return rc;
}

void snapshot_list_fini(struct snapshot_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		snapshot_row_fini(&l->rows[i]);
	free(l->rows);
	memset(l, 0, sizeof(*l));
}

int snapshot_get(struct manager *m, const char *name, struct snapshot_row *row, struct err *e)
{
	return store_snapshot_get(m->store, name, row, e);
}

int snapshot_delete(struct manager *m, const char *name, struct err *e)
{
	int rc = store_snapshot_delete(m->store, name, e);

	if (rc)
		return rc;
	log_info("snapshot %s: deleted", name);
	templates_forget_unused(m);
	gc_kick(m);
	tell(m);
	return 0;
}

int snapshot_set_public(struct manager *m, const char *name, bool is_public, struct err *e)
{
	return store_snapshot_set_public(m->store, name, is_public, e);
}

/* Ready, and on the base that is there. @row: snapshot_row_fini() on success */
static int get_ready(struct manager *m, const char *name, struct snapshot_row *row, struct err *e)
{
	int rc = store_snapshot_get(m->store, name, row, e);

	if (rc)
		return rc;
	if (row->status == SNAPSHOT_BUILDING)
		rc = err_set(e, -EINVAL, "snapshot %.100s is not ready: it is being built", name);
	else if (row->status == SNAPSHOT_FAILED)
		rc = err_set(e, -EINVAL, "snapshot %.60s has failed: %.140s", name,
			     row->error ? row->error : "unknown reason");
	if (rc)
		snapshot_row_fini(row);
	return rc;
}

int snapshot_checkpoint(struct manager *m, const char *name, char id[UUID_SIZE], struct err *e)
{
	struct snapshot_row row;
	int rc = get_ready(m, name, &row, e);

	if (rc)
		return rc;
	memcpy(id, row.checkpoint_id, UUID_SIZE);
	snapshot_row_fini(&row);
	return 0;
}

/* Its layers lie on a file that an operator may have replaced: that would be another disk. */
static int check_base(struct manager *m, const struct snapshot_row *row, struct err *e)
{
	cleanup_free char *version = NULL;
	struct checkpoint_row c;
	int rc = store_checkpoint_get(m->store, row->checkpoint_id, &c, e);

	if (rc)
		return rc;
	version = image_version(c.base_image, e);
	if (!version)
		rc = e->code;
	else if (strcmp(version, row->base_version))
		rc = err_set(
		    e, -EINVAL,
		    "snapshot %.100s was built on another version of %.64s: create it again",
		    row->name, c.template);
	checkpoint_row_fini(&c);
	return rc;
}

int snapshot_fork(struct manager *m, const char *name, const struct sandbox_spec *spec,
		  struct sandbox **out, struct err *e)
{
	struct sandbox_spec sized = *spec;
	struct snapshot_row row;
	struct err ignored;
	int rc = get_ready(m, name, &row, e);

	if (rc)
		return rc;
	if (sized.memory_mib < row.runtime_mib)
		sized.memory_mib = row.runtime_mib;
	rc = check_base(m, &row, e);
	if (!rc)
		rc = image_create(m, &sized, row.checkpoint_id, out, e);
	if (!rc && store_snapshot_used(m->store, name, clock_wall_ms(), &ignored) &&
	    ignored.code != -ENOENT)
		log_warn("%s", ignored.msg);
	snapshot_row_fini(&row);
	return rc;
}
