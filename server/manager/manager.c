/* SPDX-License-Identifier: Apache-2.0 */
/* Start and stop of the manager, and its background loop; see manager.h. */
#include "server/manager/manager.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/build.h"
#include "server/manager/gc.h"
#include "server/manager/import.h"
#include "server/manager/internal.h"
#include "server/manager/net.h"
#include "server/manager/pool.h"
#include "server/manager/scale.h"
#include "server/manager/template.h"
#include "server/manager/upkeep.h"

const struct config *manager_config(const struct manager *m)
{
	return m->config;
}

const struct images *manager_images(const struct manager *m)
{
	return &m->images;
}

unsigned int manager_running_count(struct manager *m)
{
	return __atomic_load_n(&m->running, __ATOMIC_RELAXED);
}

const struct operation_stats *manager_operations(const struct manager *m)
{
	return m->ops;
}

void manager_figures(struct manager *m, struct manager_figures *f)
{
	memset(f, 0, sizeof(*f));
	pthread_mutex_lock(&m->table_lock);
	for (size_t i = 0; i < TABLE_BUCKETS; i++)
		for (struct sandbox *s = m->buckets[i]; s; s = s->next) {
			pthread_mutex_lock(&s->lock);
			f->by_status[s->row.status]++;
			pthread_mutex_unlock(&s->lock);
		}
	pthread_mutex_unlock(&m->table_lock);
	f->background = __atomic_load_n(&m->background, __ATOMIC_RELAXED);
	f->shells = pool_count(m);
}

/* --- the loop -------------------------------------------------------------------------- */

static size_t table_count(struct manager *m)
{
	size_t n = 0;

	for (size_t i = 0; i < TABLE_BUCKETS; i++)
		for (struct sandbox *s = m->buckets[i]; s; s = s->next)
			n++;
	return n;
}

void for_each_sandbox(struct manager *m, void (*fn)(struct sandbox *s))
{
	struct sandbox **all;
	size_t n = 0;

	pthread_mutex_lock(&m->table_lock);
	all = calloc(table_count(m) + 1, sizeof(struct sandbox *));
	for (size_t i = 0; all && i < TABLE_BUCKETS; i++)
		for (struct sandbox *s = m->buckets[i]; s; s = s->next) {
			__atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
			all[n++] = s;
		}
	pthread_mutex_unlock(&m->table_lock);
	while (n) {
		fn(all[--n]);
		sandbox_put(all[n]);
	}
	free(all);
}

static void tick_sandbox(struct sandbox *s)
{
	vm_check_overdue(s);
	sessions_tick(s);
	sessions_kick(s);
	idle_tick(s);
	scale_tick(s);
}

static void on_tick(struct loop_source *source, uint32_t events)
{
	struct manager *m = container_of(source, struct manager, tick);
	uint64_t expired;

	(void)events;
	if (read(m->tick_fd, &expired, sizeof(expired)) < 0)
		return;
	for_each_sandbox(m, tick_sandbox);
	pool_check(m);
	store_settle(m->store);
	upkeep_tick(m);
	net_tick(m);
	if (++m->ticks % 3600 == 0) {
		struct err e;

		if (store_sandbox_prune(m->store, clock_wall_ms() - 24LL * 3600 * 1000, 10000, &e))
			log_warn("%s", e.msg);
		gc_kick(m);
	}
}

static void *loop_main(void *arg)
{
	struct manager *m = arg;
	int rc = loop_run(&m->loop);

	if (rc)
		log_error("the background loop ended: %s", strerror(-rc));
	return NULL;
}

static int start_loop(struct manager *m, struct err *e)
{
	const struct itimerspec every = {.it_interval = {.tv_sec = TICK_MS / 1000},
					 .it_value = {.tv_sec = TICK_MS / 1000}};
	int rc;

	m->tick_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (m->tick_fd < 0 || timerfd_settime(m->tick_fd, 0, &every, NULL) < 0)
		return err_sys(e, -errno, "timer");
	rc = loop_add(&m->loop, &m->tick, m->tick_fd, EPOLLIN, on_tick);
	if (!rc)
		rc = sessions_start(m);
	if (!rc)
		rc = -pthread_create(&m->loop_thread, NULL, loop_main, m);
	m->loop_running = !rc;
	return rc ? err_sys(e, rc, "starting the background loop") : 0;
}

/* --- the state directory ------------------------------------------------------------------ */

static int make_path(const char *path)
{
	char copy[PATH_MAX];

	if ((size_t)snprintf(copy, sizeof(copy), "%s", path) >= sizeof(copy))
		return -ENAMETOOLONG;
	for (char *p = copy + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		if (mkdir(copy, 0755) && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	return mkdir(copy, 0700) && errno != EEXIST ? -errno : 0;
}

static int open_state_dir(struct manager *m, struct err *e)
{
	const char *path = m->config->state;
	cleanup_close int dir_fd = -1;
	int rc = make_path(path);

	if (rc)
		return err_sys(e, rc, "state directory %s", path);
	m->state_dir = realpath(path, NULL);
	if (!m->state_dir)
		return err_sys(e, -errno, "state directory %s", path);
	/* "/sandboxes/sb-01234567/vsock.sock_1024" and the like must fit into a socket address. */
	if (strlen(m->state_dir) + 40 > sizeof(((struct sockaddr_un *)NULL)->sun_path))
		return err_set(
		    e, -ENAMETOOLONG,
		    "state directory %s: longer than %zu bytes, sockets in it would have "
		    "too long names",
		    m->state_dir, sizeof(((struct sockaddr_un *)NULL)->sun_path) - 40);
	dir_fd = open(m->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir_fd < 0)
		return err_sys(e, -errno, "state directory %s", path);
	m->lock_fd = openat(dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (m->lock_fd < 0)
		return err_sys(e, -errno, "state directory %s: lock", path);
	if (flock(m->lock_fd, LOCK_EX | LOCK_NB))
		return errno == EWOULDBLOCK
			   ? err_set(e, -EBUSY, "state directory %s is in use by another dormoused",
				     path)
			   : err_sys(e, -errno, "state directory %s: lock", path);
	if (mkdirat(dir_fd, "sandboxes", 0700) && errno != EEXIST)
		return err_sys(e, -errno, "state directory %s", path);
	m->sandboxes_fd = openat(dir_fd, "sandboxes", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return m->sandboxes_fd < 0 ? err_sys(e, -errno, "state directory %s", path) : 0;
}

static int open_store(struct manager *m, struct err *e)
{
	cleanup_free char *path = NULL;

	if (asprintf(&path, "%s/dormouse.db", m->state_dir) < 0) {
		path = NULL;
		return err_set(e, -ENOMEM, "out of memory");
	}
	return store_open(path, &m->store, e);
}

/* --- start and stop --------------------------------------------------------------------------- */

int manager_start(const struct config *c, struct manager **out, struct err *e)
{
	struct manager *m = calloc(1, sizeof(*m));
	int rc;

	if (!m)
		return err_set(e, -ENOMEM, "out of memory");
	m->config = c;
	m->lock_fd = m->sandboxes_fd = m->tick_fd = m->again_fd = -1;
	if (getrandom(&m->life, sizeof(m->life), 0) != sizeof(m->life))
		m->life = (uint32_t)clock_mono_ns();
	pthread_mutex_init(&m->table_lock, NULL);
	pthread_mutex_init(&m->loop_lock, NULL);
	jobs_init(&m->jobs);
	rc = loop_init(&m->loop, &m->loop_lock);
	if (rc) {
		pthread_mutex_destroy(&m->table_lock);
		pthread_mutex_destroy(&m->loop_lock);
		jobs_fini(&m->jobs);
		free(m);
		return err_sys(e, rc, "starting the background loop");
	}
	rc = images_load(&m->images, c, e);
	if (!rc)
		rc = open_state_dir(m, e);
	if (!rc)
		rc = imports_load(m, e);
	if (!rc)
		rc = open_store(m, e);
	if (!rc)
		rc = layers_init(m, e);
	if (!rc)
		rc = upkeep_init(m, e);
	if (!rc)
		rc = net_init(m, e);
	if (!rc)
		rc = pool_init(m, e);
	if (!rc)
		rc = templates_init(m, e);
	if (!rc)
		rc = builds_init(m, e);
	if (!rc)
		rc = start_loop(m, e);
	if (!rc)
		rc = recover(m, e);
	if (rc) {
		manager_stop(m);
		return rc;
	}
	templates_start(m);
	pool_refill(m);
	*out = m;
	return 0;
}

static void interrupt_sandbox(struct sandbox *s)
{
	pthread_mutex_lock(&s->lock);
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	sessions_interrupt(s);
}

void manager_interrupt(struct manager *m)
{
	__atomic_store_n(&m->interrupted, true, __ATOMIC_RELAXED);
	for_each_sandbox(m, interrupt_sandbox);
}

bool manager_interrupted(const struct manager *m)
{
	return __atomic_load_n(&m->interrupted, __ATOMIC_RELAXED);
}

static void stop_sandbox(struct sandbox *s)
{
	bool running;

	pthread_mutex_lock(&s->lock);
	running = s->row.status == SANDBOX_RUNNING;
	s->announced = false;
	pthread_mutex_unlock(&s->lock);
	if (!running)
		return;
	if (store_sandbox_set_ended(s->m->store, s->id, SANDBOX_STOPPED, NULL, clock_wall_ms(),
				    NULL))
		log_error("sandbox %s: its end could not be recorded", s->id);
	vm_kill(s);
}

static void leave_sandbox(struct sandbox *s)
{
	agent_pool_abort(s->pool);
	sessions_drop(s);
	idle_save(s);
	vm_leave(s);
	table_remove(s->m, s);
}

void manager_stop(struct manager *m)
{
	if (!m)
		return;
	manager_interrupt(m);
	jobs_wait(&m->jobs);
	pool_fini(m);
	if (m->config->stop_sandboxes_on_exit)
		for_each_sandbox(m, stop_sandbox);
	for_each_sandbox(m, leave_sandbox);
	if (m->loop_running) {
		sessions_drain(m);
		loop_stop(&m->loop);
		pthread_join(m->loop_thread, NULL);
	}
	jobs_wait(&m->jobs);
	loop_fini(&m->loop);
	fd_close(&m->tick_fd);
	fd_close(&m->again_fd);
	templates_fini(m);
	builds_fini(m);
	upkeep_fini(m);
	net_fini(m);
	layers_fini(m);
	store_close(m->store);
	images_fini(&m->images);
	fd_close(&m->sandboxes_fd);
	fd_close(&m->lock_fd);
	free(m->state_dir);
	pthread_mutex_destroy(&m->table_lock);
	pthread_mutex_destroy(&m->loop_lock);
	jobs_fini(&m->jobs);
	free(m);
}
