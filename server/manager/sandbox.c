/* SPDX-License-Identifier: Apache-2.0 */
/* A sandbox in memory: references, table, state, and the way to its agent. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/net.h"

#define AGENT_TIMEOUT_MS 10000
#define AGENT_MAX_IDLE	 16
#define USE_WAIT_MS	 120000 /* requests wait so long for a guest that comes back */
#define DEATH_WAIT_MS	 500	/* after a broken connection, for the news of the VM's end */

/* --- making and freeing --------------------------------------------------------------- */

/* Rows come and go; this stays. */
static int copy_workdir(const struct sandbox_row *row, char **out)
{
	bool given = row->workdir && *row->workdir;

	*out = given ? strdup(row->workdir) : NULL;
	return given && !*out ? -ENOMEM : 0;
}

static char **env_strings(const json_t *envs)
{
	char **list = calloc(json_object_size(envs) + 1, sizeof(*list));
	const char *name;
	json_t *value;
	size_t n = 0;

	if (!list)
		return NULL;
	json_object_foreach((json_t *)envs, name, value)
	{
		if (asprintf(&list[n], "%s=%s", name, json_string_value(value)) < 0) {
			list[n] = NULL;
			for (size_t i = 0; i < n; i++)
				free(list[i]);
			free(list);
			return NULL;
		}
		n++;
	}
	return list;
}

static void free_strings(char **list)
{
	for (size_t i = 0; list && list[i]; i++)
		free(list[i]);
	free(list);
}

static void sandbox_free(struct sandbox *s)
{
	net_free(s);
	agent_pool_destroy(s->pool);
	vm_waits_free(s);
	free_strings(s->envs);
	free(s->workdir);
	free(s->dir);
	free(s->given);
	sandbox_row_fini(&s->row);
	pthread_mutex_destroy(&s->lifecycle);
	pthread_mutex_destroy(&s->lock);
	pthread_mutex_destroy(&s->settle_lock);
	pthread_cond_destroy(&s->changed);
	free(s);
}

static int make_parts(struct sandbox *s)
{
	cleanup_free char *vsock = NULL;
	struct agent_addr addr = {.vsock_port = PROTO_AGENT_PORT, .timeout_ms = AGENT_TIMEOUT_MS};

	if (asprintf(&s->dir, "%s/sandboxes/%s", s->m->state_dir, s->id) < 0) {
		s->dir = NULL;
		return -ENOMEM;
	}
	vsock = sandbox_path(s, "vsock.sock");
	s->envs = env_strings(s->row.envs);
	if (copy_workdir(&s->row, &s->workdir))
		return -ENOMEM;
	if (!vsock || !s->envs)
		return -ENOMEM;
	addr.path = vsock;
	s->pool = agent_pool_create(&addr, AGENT_MAX_IDLE);
	return s->pool ? 0 : -ENOMEM;
}

int sandbox_set_row(struct sandbox *s, struct sandbox_row *row)
{
	char **envs = env_strings(row->envs), *workdir;

	if (!envs || copy_workdir(row, &workdir)) {
		free_strings(envs);
		return -ENOMEM;
	}
	free_strings(s->envs);
	s->envs = envs;
	free(s->workdir);
	s->workdir = workdir;
	pthread_mutex_lock(&s->lock);
	row->vmm_pid = s->row.vmm_pid;
	sandbox_row_fini(&s->row);
	s->row = *row;
	pthread_mutex_unlock(&s->lock);
	memset(row, 0, sizeof(*row));
	return 0;
}

/**
 * sandbox_new() - The object for a row; not in the table yet
 * @row:	Taken over, also on failure
 *
 * Return: with one reference, or NULL
 */
struct sandbox *sandbox_new(struct manager *m, struct sandbox_row *row, struct err *e)
{
	struct sandbox *s = calloc(1, sizeof(*s));
	pthread_condattr_t attr;

	if (!s) {
		sandbox_row_fini(row);
		err_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	s->m = m;
	s->refs = 1;
	s->row = *row;
	memcpy(s->id, row->id, sizeof(s->id));
	memset(row, 0, sizeof(*row));
	s->vm.pidfd = -1;
	sandbox_touch(s);
	pthread_mutex_init(&s->lifecycle, NULL);
	pthread_mutex_init(&s->lock, NULL);
	pthread_mutex_init(&s->settle_lock, NULL);
	net_begin(s);
	s->settled = true;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->changed, &attr);
	pthread_condattr_destroy(&attr);
	if (make_parts(s)) {
		sandbox_free(s);
		err_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	return s;
}

void sandbox_put(struct sandbox *s)
{
	if (s && !__atomic_sub_fetch(&s->refs, 1, __ATOMIC_ACQ_REL))
		sandbox_free(s);
}

const char *sandbox_id(const struct sandbox *s)
{
	return s->id;
}

/* A path in the sandbox's directory; the caller frees it. */
char *sandbox_path(const struct sandbox *s, const char *name)
{
	char *path;

	return asprintf(&path, "%s/%s", s->dir, name) < 0 ? NULL : path;
}

int sandbox_open_console(struct sandbox *s)
{
	cleanup_free char *path = sandbox_path(s, "console.log");
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;

	return fd < 0 ? -errno : fd;
}

/* --- the table ---------------------------------------------------------------------------- */

static struct sandbox **bucket_of(struct manager *m, const char *id)
{
	uint32_t hash = 2166136261u; /* FNV-1a */

	for (; *id; id++)
		hash = (hash ^ (uint8_t)*id) * 16777619u;
	return &m->buckets[hash & (TABLE_BUCKETS - 1)];
}

/* Takes over the caller's reference. */
void table_insert(struct manager *m, struct sandbox *s)
{
	struct sandbox **bucket = bucket_of(m, s->id);

	pthread_mutex_lock(&m->table_lock);
	s->next = *bucket;
	*bucket = s;
	pthread_mutex_unlock(&m->table_lock);
}

/* Drops the table's reference. The caller has one of its own. */
void table_remove(struct manager *m, struct sandbox *s)
{
	bool found = false;

	pthread_mutex_lock(&m->table_lock);
	for (struct sandbox **p = bucket_of(m, s->id); *p; p = &(*p)->next)
		if (*p == s) {
			*p = s->next;
			found = true;
			break;
		}
	pthread_mutex_unlock(&m->table_lock);
	if (found)
		sandbox_put(s);
}

struct sandbox *sandbox_find_any(struct manager *m, const char *id)
{
	struct sandbox *s;

	pthread_mutex_lock(&m->table_lock);
	for (s = *bucket_of(m, id); s; s = s->next)
		if (!strcmp(s->id, id)) {
			__atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
			break;
		}
	pthread_mutex_unlock(&m->table_lock);
	return s;
}

/* Under s->lock. Return: 0 if it runs or can be woken, else what sandbox_find() returns for it. */
int sandbox_status_error(struct sandbox *s, struct err *e)
{
	/* What a deletion interrupts fails because of it: that is no news of the sandbox. */
	switch (s->doomed ? SANDBOX_STOPPED : s->row.status) {
	case SANDBOX_RUNNING:
	case SANDBOX_HIBERNATED:
		return 0;
	case SANDBOX_STOPPED:
		return err_set(e, -ESHUTDOWN, "sandbox %s has been stopped", s->id);
	case SANDBOX_ERROR:
		break;
	}
	return err_set(e, -EHOSTDOWN, "sandbox %s has failed: %s", s->id,
		       s->row.error ? s->row.error : "unknown reason");
}

int sandbox_find(struct manager *m, const char *id, struct sandbox **out, struct err *e)
{
	struct sandbox *s;
	int rc = sandbox_find_known(m, id, &s, e);

	if (rc)
		return rc;
	pthread_mutex_lock(&s->lock);
	rc = sandbox_status_error(s, e);
	pthread_mutex_unlock(&s->lock);
	if (rc)
		sandbox_put(s);
	else
		*out = s;
	return rc;
}

int sandbox_copy_row_locked(struct sandbox *s, struct sandbox_row *row)
{
	int rc = sandbox_row_copy(row, &s->row);

	if (!rc) {
		row->expires_ms = idle_expiry_ms(s);
		row->used_ms = idle_used_ms(s);
	}
	return rc;
}

int sandbox_copy_row(struct sandbox *s, struct sandbox_row *row)
{
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = sandbox_copy_row_locked(s, row);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

const char *sandbox_cold_reason(const struct sandbox *s)
{
	return s->cold_reason;
}

int sandbox_get_row(struct manager *m, const char *id, struct sandbox_row *row, struct err *e)
{
	struct sandbox *s = sandbox_find_any(m, id);
	int rc;

	if (!s)
		return store_sandbox_get(m->store, id, row, e);
	rc = sandbox_copy_row(s, row);
	sandbox_put(s);
	return rc ? err_set(e, rc, "out of memory") : 0;
}

/* --- changes of the row --------------------------------------------------------------------- */

typedef void change_row(struct sandbox_row *row, const void *arg);

static void take_row(struct sandbox *s, struct sandbox_row *row)
{
	struct sandbox_row old = s->row;

	s->row = *row;
	*row = old;
	pthread_cond_broadcast(&s->changed);
}

static void take_settings(struct sandbox *s, struct sandbox_row *row)
{
	json_t *old = s->row.tags;

	s->row.timeout_s = row->timeout_s;
	s->row.network = row->network;
	s->row.tags = row->tags;
	row->tags = old;
	s->row.tagged_ms = row->tagged_ms;
	memcpy(s->row.preview_hash, row->preview_hash, sizeof(row->preview_hash));
	s->row.scaling = row->scaling;
	old = s->row.mounts;
	s->row.mounts = row->mounts;
	row->mounts = old;
}

/* In a copy, then with @save in the store, then with @take, which leaves what it replaced in the
 * copy, in memory. */
static int update(struct sandbox *s, change_row *change, const void *arg,
		  int (*save)(struct store *st, const struct sandbox_row *row, struct err *e),
		  void (*take)(struct sandbox *s, struct sandbox_row *row), struct err *e)
{
	struct sandbox_row row;
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = sandbox_row_copy(&row, &s->row);
	if (rc) {
		err_set(e, rc, "out of memory");
	} else {
		change(&row, arg);
		rc = save(s->m->store, &row, e);
		if (!rc)
			take(s, &row);
		sandbox_row_fini(&row);
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

int sandbox_update_row(struct sandbox *s, change_row *change, const void *arg, struct err *e)
{
	return update(s, change, arg, store_sandbox_update, take_row, e);
}

int sandbox_update_settings(struct sandbox *s, change_row *change, const void *arg, struct err *e)
{
	return update(s, change, arg, store_sandbox_set_settings, take_settings, e);
}

void sandbox_set_status(struct sandbox *s, enum sandbox_status status)
{
	pthread_mutex_lock(&s->lock);
	s->row.status = status;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

void sandbox_set_failed(struct sandbox *s, const char *why)
{
	struct err e;

	pthread_mutex_lock(&s->lock);
	s->row.status = SANDBOX_ERROR;
	s->row.ended_ms = clock_wall_ms();
	free(s->row.error);
	s->row.error = strdup(why);
	log_warn("sandbox %s: %s", s->id, why);
	if (store_sandbox_set_ended(s->m->store, s->id, SANDBOX_ERROR, s->row.error,
				    s->row.ended_ms, &e))
		log_error("sandbox %s: %s", s->id, e.msg);
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

int sandbox_check_running(struct sandbox *s, struct err *e)
{
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = sandbox_status_error(s, e);
	if (rc == -EHOSTDOWN)
		rc = err_set(e, -EINVAL, "sandbox %s is not running: it has failed", s->id);
	else if (!rc && s->row.status == SANDBOX_HIBERNATED)
		rc = err_set(e, -EINVAL, "sandbox %s is not running: it is hibernated", s->id);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

int sandbox_find_known(struct manager *m, const char *id, struct sandbox **out, struct err *e)
{
	struct sandbox_row row;
	int rc;

	*out = sandbox_find_any(m, id);
	if (*out)
		return 0;
	rc = store_sandbox_get(m->store, id, &row, e);
	if (rc)
		return rc;
	sandbox_row_fini(&row);
	return err_set(e, -ESHUTDOWN, "sandbox %s has been stopped", id);
}

/* --- the agent ---------------------------------------------------------------------------- */

/* Return: 0, or -ETIMEDOUT when the deadline is over or the daemon stops. */
int sandbox_wait(struct sandbox *s, uint64_t deadline_ms)
{
	uint64_t now = clock_mono_ms();
	uint64_t until = now + TICK_MS < deadline_ms ? now + TICK_MS : deadline_ms;
	struct timespec t = {.tv_sec = (time_t)(until / 1000),
			     .tv_nsec = (long)(until % 1000) * 1000000};

	if (now >= deadline_ms || __atomic_load_n(&s->m->interrupted, __ATOMIC_RELAXED))
		return -ETIMEDOUT;
	pthread_cond_timedwait(&s->changed, &s->lock, &t);
	return 0;
}

uint32_t sandbox_epoch(const struct sandbox *s)
{
	return __atomic_load_n(&s->epoch, __ATOMIC_ACQUIRE);
}

uint32_t sandbox_boots(const struct sandbox *s)
{
	return __atomic_load_n(&s->boots, __ATOMIC_ACQUIRE);
}

uint32_t sandbox_rewinds(const struct sandbox *s)
{
	return __atomic_load_n(&s->rewinds, __ATOMIC_ACQUIRE);
}

bool sandbox_hibernated(struct sandbox *s)
{
	bool is;

	pthread_mutex_lock(&s->lock);
	is = s->row.status == SANDBOX_HIBERNATED;
	pthread_mutex_unlock(&s->lock);
	return is;
}

/* Under s->lock. */
static bool usable(const struct sandbox *s)
{
	return s->row.status == SANDBOX_RUNNING && s->ready && !s->changing && !s->doomed;
}

/* Until it is usable, with the count taken; asleep if @asleep_too. Under s->lock. */
static int wait_usable(struct sandbox *s, uint64_t deadline_ms, bool asleep_too, struct err *e)
{
	for (;;) {
		int rc = sandbox_status_error(s, e);

		if (rc)
			return rc;
		if (usable(s)) {
			s->users++;
			return 0;
		}
		if (asleep_too && !s->changing && s->row.status == SANDBOX_HIBERNATED)
			return 1;
		if (sandbox_wait(s, deadline_ms))
			return -EAGAIN;
	}
}

int sandbox_await(struct sandbox *s, uint64_t deadline_ms, struct err *e)
{
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = wait_usable(s, deadline_ms, false, e);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

int sandbox_use(struct sandbox *s, struct err *e)
{
	uint64_t deadline = clock_mono_ms() + USE_WAIT_MS;

	for (;;) {
		int rc;

		pthread_mutex_lock(&s->lock);
		rc = wait_usable(s, deadline, true, e);
		pthread_mutex_unlock(&s->lock);
		if (rc == -EAGAIN)
			return err_set(e, -EHOSTDOWN, "sandbox %s: its guest is still booting",
				       s->id);
		if (rc <= 0)
			return rc;
		rc = sandbox_wake_implicitly(s, e);
		if (rc)
			return rc;
	}
}

void sandbox_unuse(struct sandbox *s)
{
	pthread_mutex_lock(&s->lock);
	if (!--s->users && s->changing)
		pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

int sandbox_change_begin(struct sandbox *s, int patience_ms, struct err *e)
{
	uint64_t deadline = clock_mono_ms() + (uint64_t)patience_ms;
	int rc;

	pthread_mutex_lock(&s->lock);
	s->changing = true;
	while (!(rc = sandbox_status_error(s, e)) && s->users)
		if (sandbox_wait(s, deadline))
			break;
	if (rc) {
		s->changing = false;
		pthread_cond_broadcast(&s->changed);
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

void sandbox_change_end(struct sandbox *s)
{
	pthread_mutex_lock(&s->lock);
	s->changing = false;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	sessions_kick(s);
}

int sandbox_agent_get(struct sandbox *s, struct agent_conn **out, struct err *e)
{
	int rc = sandbox_use(s, e);

	if (rc)
		return rc;
	rc = agent_pool_get(s->pool, out, e);
	if (rc) {
		rc = sandbox_explain(s, NULL, rc, e);
		sandbox_unuse(s);
	}
	return rc;
}

void sandbox_agent_put(struct sandbox *s, struct agent_conn *conn)
{
	if (!conn)
		return;
	agent_pool_put(s->pool, conn);
	sandbox_unuse(s);
}

int sandbox_explain(struct sandbox *s, const struct agent_conn *conn, int rc, struct err *e)
{
	uint64_t deadline = clock_mono_ms() + DEATH_WAIT_MS;
	bool moved;
	int status;

	if (conn && !agent_conn_broken(conn))
		return rc;
	/* The connection often breaks a moment before it is known that the VM has ended. */
	pthread_mutex_lock(&s->lock);
	while (!(status = sandbox_status_error(s, e)) && !s->changing && usable(s))
		if (sandbox_wait(s, deadline))
			break;
	moved = !usable(s);
	pthread_mutex_unlock(&s->lock);
	if (status)
		return status;
	/* It had its time before that: see sandbox_change_begin(). */
	if (moved)
		return err_set(e, -EAGAIN,
			       "sandbox %s: the request was cut short by a change of "
			       "the sandbox's state; try again",
			       s->id);
	return err_wrap(e, -EHOSTDOWN, "sandbox %s: its agent cannot be reached", s->id);
}
