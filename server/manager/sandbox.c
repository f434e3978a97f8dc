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
#include "server/manager/internal.h"

#define AGENT_TIMEOUT_MS 10000
#define AGENT_MAX_IDLE	 16
#define REBOOT_WAIT_MS	 30000 /* requests wait so long for a guest that reboots */
#define DEATH_WAIT_MS	 500   /* after a broken connection, for the news of the VM's end */

int64_t wall_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* --- making and freeing --------------------------------------------------------------- */

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

static void sandbox_free(struct sandbox *s)
{
	agent_pool_destroy(s->pool);
	for (size_t i = 0; s->envs && s->envs[i]; i++)
		free(s->envs[i]);
	free(s->envs);
	free(s->dir);
	sandbox_row_fini(&s->row);
	pthread_mutex_destroy(&s->lifecycle);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->changed);
	free(s);
}

static int make_parts(struct sandbox *s)
{
	cleanup_free char *vsock = NULL;
	struct agent_addr addr = {.vsock_port = PROTO_AGENT_PORT, .timeout_ms = AGENT_TIMEOUT_MS};

	if (asprintf(&s->dir, "%s/sandboxes/%s", s->m->state_dir, s->row.id) < 0) {
		s->dir = NULL;
		return -ENOMEM;
	}
	vsock = sandbox_path(s, "vsock.sock");
	s->envs = env_strings(s->row.envs);
	if (!vsock || !s->envs)
		return -ENOMEM;
	addr.path = vsock;
	s->pool = agent_pool_create(&addr, AGENT_MAX_IDLE);
	return s->pool ? 0 : -ENOMEM;
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
	memset(row, 0, sizeof(*row));
	s->vm.pidfd = -1;
	pthread_mutex_init(&s->lifecycle, NULL);
	pthread_mutex_init(&s->lock, NULL);
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
	return s->row.id;
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
	struct sandbox **bucket = bucket_of(m, s->row.id);

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
	for (struct sandbox **p = bucket_of(m, s->row.id); *p; p = &(*p)->next)
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
		if (!strcmp(s->row.id, id)) {
			__atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
			break;
		}
	pthread_mutex_unlock(&m->table_lock);
	return s;
}

/* Under s->lock. Return: 0 for a running one, else what sandbox_find() returns for it. */
int sandbox_status_error(struct sandbox *s, struct err *e)
{
	switch (s->row.status) {
	case SANDBOX_RUNNING:
		return 0;
	case SANDBOX_STOPPED:
		return err_set(e, -ESHUTDOWN, "sandbox %s has been stopped", s->row.id);
	case SANDBOX_HIBERNATED:
	case SANDBOX_ERROR:
		break;
	}
	return err_set(e, -EHOSTDOWN, "sandbox %s has failed: %s", s->row.id,
		       s->row.error ? s->row.error : "unknown reason");
}

int sandbox_find(struct manager *m, const char *id, struct sandbox **out, struct err *e)
{
	struct sandbox *s = sandbox_find_any(m, id);
	struct sandbox_row row;
	int rc;

	if (s) {
		pthread_mutex_lock(&s->lock);
		rc = sandbox_status_error(s, e);
		pthread_mutex_unlock(&s->lock);
		if (rc)
			sandbox_put(s);
		else
			*out = s;
		return rc;
	}
	rc = store_sandbox_get(m->store, id, &row, e);
	if (rc)
		return rc;
	sandbox_row_fini(&row);
	return err_set(e, -ESHUTDOWN, "sandbox %s has been stopped", id);
}

int sandbox_copy_row(struct sandbox *s, struct sandbox_row *row)
{
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = sandbox_row_copy(row, &s->row);
	pthread_mutex_unlock(&s->lock);
	return rc;
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

static int wait_until_ready(struct sandbox *s, struct err *e)
{
	uint64_t deadline = clock_mono_ms() + REBOOT_WAIT_MS;
	int rc;

	pthread_mutex_lock(&s->lock);
	while (!(rc = sandbox_status_error(s, e)) && !s->ready)
		if (sandbox_wait(s, deadline)) {
			rc = err_set(e, -EHOSTDOWN, "sandbox %s: its guest is still booting",
				     s->row.id);
			break;
		}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

int sandbox_agent_get(struct sandbox *s, struct agent_conn **out, struct err *e)
{
	int rc = wait_until_ready(s, e);

	if (rc)
		return rc;
	rc = agent_pool_get(s->pool, out, e);
	return rc ? sandbox_explain(s, NULL, rc, e) : 0;
}

void sandbox_agent_put(struct sandbox *s, struct agent_conn *conn)
{
	agent_pool_put(s->pool, conn);
}

int sandbox_explain(struct sandbox *s, const struct agent_conn *conn, int rc, struct err *e)
{
	uint64_t deadline = clock_mono_ms() + DEATH_WAIT_MS;
	int status;

	if (conn && !agent_conn_broken(conn))
		return rc;
	/* The connection often breaks a moment before it is known that the VM has ended. */
	pthread_mutex_lock(&s->lock);
	while (!(status = sandbox_status_error(s, e)))
		if (sandbox_wait(s, deadline))
			break;
	pthread_mutex_unlock(&s->lock);
	if (status)
		return status;
	return err_wrap(e, -EHOSTDOWN, "sandbox %s: its agent cannot be reached", s->row.id);
}
