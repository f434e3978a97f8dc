/* SPDX-License-Identifier: Apache-2.0 */
/* Making, ending and listing sandboxes; see manager.h for the order of things. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/internal.h"

#define DISK_MIN_MIB   20480
#define MEMORY_MIN_MIB 64
#define TIMEOUT_MAX_S  (365 * 24 * 3600)

/* --- create ------------------------------------------------------------------------------ */

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

static int check_spec(const struct config *c, const struct sandbox_spec *spec, struct err *e)
{
	int rc = check_range("cpuCount", spec->cpus, 1, c->max_cpus, e);

	if (!rc)
		rc =
		    check_range("memoryMB", spec->memory_mib, MEMORY_MIN_MIB, c->max_memory_mib, e);
	if (!rc)
		rc = check_range("diskMB", spec->disk_mib, DISK_MIN_MIB, c->max_disk_mib, e);
	if (!rc && spec->timeout_s < 0)
		rc = err_set(e, -EINVAL, "timeout: must be a non-negative number of seconds");
	if (!rc)
		rc = check_range("timeout", spec->timeout_s, 0, TIMEOUT_MAX_S, e);
	if (!rc)
		rc = check_range("port", spec->port, 1, 65535, e);
	return rc ? rc : check_envs(spec->envs, e);
}

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

static int fill_row(struct sandbox_row *row, const struct sandbox_spec *spec, const char *template)
{
	row->status = SANDBOX_RUNNING;
	row->template = strdup(template);
	row->alias = strdup(spec->alias ? spec->alias : "");
	row->cpus = spec->cpus;
	row->memory_mib = (spec->memory_mib + 1) & ~1LL; /* the VMM takes even sizes */
	row->disk_mib = spec->disk_mib;
	row->timeout_s = spec->timeout_s;
	row->port = spec->port;
	row->network = spec->network;
	row->envs = spec->envs ? json_deep_copy(spec->envs) : json_object();
	row->metadata = spec->metadata ? json_deep_copy(spec->metadata) : json_object();
	row->created_ms = wall_ms();
	return row->template && row->alias && row->envs && row->metadata ? 0 : -ENOMEM;
}

static int wait_for_guest(struct sandbox *s, struct err *e)
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
	rc = agent_pool_get(s->pool, &conn, e);
	if (rc)
		return err_wrap(e, -EIO, "the guest's agent does not answer");
	agent_pool_put(s->pool, conn);
	return 0;
}

/* Commit, then make it findable. From here on the end of the VM is a story of its own. */
static int announce(struct sandbox *s, struct err *e)
{
	int rc = store_sandbox_insert(s->m->store, &s->row, e);

	if (rc)
		return rc;
	rc = vm_watch(s);
	if (rc)
		err_sys(e, rc, "watching the VMM process");
	pthread_mutex_lock(&s->lock);
	if (!rc && s->vm.closed_ms)
		rc = err_set(e, -EIO, "the guest did not stay up: %s", s->exit_reason);
	s->announced = !rc;
	pthread_mutex_unlock(&s->lock);
	if (rc) {
		store_sandbox_set_deleted(s->m->store, s->row.id, wall_ms(), NULL);
		return rc;
	}
	__atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
	table_insert(s->m, s);
	return 0;
}

static int create_in_dir(struct manager *m, const char *id, const struct sandbox_spec *spec,
			 const char *template, const char *image, struct sandbox **out,
			 struct err *e)
{
	struct sandbox_row row = {0};
	struct sandbox *s;
	int rc;

	if (fill_row(&row, spec, template)) {
		sandbox_row_fini(&row);
		return err_set(e, -ENOMEM, "out of memory");
	}
	snprintf(row.id, sizeof(row.id), "%s", id);
	s = sandbox_new(m, &row, e);
	if (!s)
		return -ENOMEM;
	rc = vm_start(s, image, e);
	if (!rc)
		rc = wait_for_guest(s, e);
	if (!rc)
		rc = announce(s, e);
	if (rc) {
		agent_pool_abort(s->pool);
		vm_kill(s);
		sandbox_put(s);
		return rc;
	}
	*out = s;
	return 0;
}

int sandbox_create(struct manager *m, const struct sandbox_spec *spec, struct sandbox **out,
		   struct err *e)
{
	uint64_t start_ms = clock_mono_ms();
	const char *template, *image = images_find(&m->images, spec->template, &template);
	char id[SANDBOX_ID_SIZE];
	int rc = check_spec(m->config, spec, e);

	if (rc)
		return rc;
	if (!image)
		return err_set(e, -ENOENT, "template not found: %.64s", spec->template);
	if (__atomic_add_fetch(&m->running, 1, __ATOMIC_RELAXED) > m->config->max_sandboxes)
		rc = err_set(e, -EAGAIN, "no room: %lld sandboxes run already",
			     (long long)m->config->max_sandboxes);
	if (!rc)
		rc = make_dir(m, id, e);
	if (!rc) {
		rc = create_in_dir(m, id, spec, template, image, out, e);
		if (rc) {
			remove_dir(m, id);
			/* Causes that lie with the request were ruled out above: do not let an
			 * errno of the VMM look like one. */
			if (rc == -EINVAL || rc == -ENOENT || rc == -EEXIST)
				rc = err_wrap(e, -EIO, "creating the sandbox");
		}
	}
	if (rc) {
		__atomic_sub_fetch(&m->running, 1, __ATOMIC_RELAXED);
		return rc;
	}
	log_info("sandbox %s: running after %llu ms (template %s)", id,
		 (unsigned long long)(clock_mono_ms() - start_ms), template);
	return 0;
}

/* --- delete -------------------------------------------------------------------------------- */

static int delete_known(struct manager *m, struct sandbox *s, struct err *e)
{
	bool was_running;
	int rc = store_sandbox_set_deleted(m->store, s->row.id, wall_ms(), e);

	/* On a full disk the files have to go first, or no deletion could ever free it. */
	if (rc && rc != -ENOSPC && rc != -EIO)
		return rc;
	pthread_mutex_lock(&s->lock);
	was_running = s->row.status == SANDBOX_RUNNING;
	s->row.status = SANDBOX_STOPPED;
	if (!s->row.ended_ms)
		s->row.ended_ms = wall_ms();
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	if (was_running)
		__atomic_sub_fetch(&m->running, 1, __ATOMIC_RELAXED);
	agent_pool_abort(s->pool);
	vm_kill(s);
	sessions_drop(s);
	remove_dir(m, s->row.id);
	if (rc)
		rc = store_sandbox_set_deleted(m->store, s->row.id, wall_ms(), e);
	if (rc)
		return rc;
	table_remove(m, s);
	log_info("sandbox %s: deleted", s->row.id);
	return 0;
}

int sandbox_delete(struct manager *m, const char *id, struct err *e)
{
	struct sandbox *s = sandbox_find_any(m, id);
	struct sandbox_row row;
	int rc;

	if (s) {
		pthread_mutex_lock(&s->lifecycle);
		rc = delete_known(m, s, e);
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

	if (place && sandbox_row_copy(place, &s->row)) {
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
