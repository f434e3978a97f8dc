/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scaling of sandboxes; see scale.h.
 *
 * The VMM is asked for a size and the guest's drivers get there. What they cannot unplug in time
 * goes into the balloon. The row has the size before anybody is told, and what boots anew is given
 * it again; a saved machine has it in its state.
 */
#include "server/manager/scale.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/log.h"
#include "server/manager/autoscale.h"
#include "server/manager/checkpoint_int.h"
#include "server/manager/cpu_limit.h"
#include "server/manager/internal.h"

#define MEMORY_MIN_MIB 64
#define WAIT_MS	       1000 /* for the drivers; and again, for the balloon alone */
#define POLL_MS	       10
#define FLOOR_MIB      64 /* that a guest needs beside what it uses */
#define GUEST_LIMIT    "/sys/fs/cgroup/sandbox/memory.max"
#define MEMINFO	       "/proc/meminfo"

/* --- what the guest says --------------------------------------------------------------------- */

static int64_t field_of(const char *text, const char *name)
{
	const char *at = strstr(text, name);
	long long v;

	return at && sscanf(at + strlen(name), "%lld", &v) == 1 ? v : 0;
}

/* In tests, which have no guest, another file stands for it. */
static const char *meminfo_path(void)
{
	const char *other = getenv("DORMOUSE_GUEST_MEMINFO");

	return other ? other : MEMINFO;
}

static int read_meminfo(struct agent_conn *conn, struct memory_use *u, struct err *e)
{
	struct agent_stat st;
	char text[4096];
	size_t len = 0;
	ssize_t n = 0;
	int rc = agent_read_open(conn, meminfo_path(), &st, e);

	while (!rc && len < sizeof(text) - 1 &&
	       (n = agent_read(conn, text + len, sizeof(text) - 1 - len, e)) > 0)
		len += (size_t)n;
	if (rc || n < 0)
		return rc ? rc : (int)n;
	text[len] = '\0';
	u->guest_total_kib = field_of(text, "MemTotal:");
	u->guest_available_kib = field_of(text, "MemAvailable:");
	return u->guest_total_kib ? 0 : err_set(e, -EPROTO, "the guest's %s", MEMINFO);
}

static int guest_memory(struct sandbox *s, struct memory_use *u, struct err *e)
{
	struct agent_conn *conn;
	int rc = agent_pool_get(s->pool, &conn, e);

	if (rc)
		return rc;
	rc = read_meminfo(conn, u, e);
	agent_pool_put(s->pool, conn);
	return rc;
}

/* The cgroup of all commands has a limit of its own, 90 % of the machine (api.md 18.7). */
static int write_limit(struct agent_conn *conn, int64_t mib, struct err *e)
{
	struct agent_stat st;
	char text[32];
	int rc = agent_stat(conn, GUEST_LIMIT, &st, e);

	if (rc == -ENOENT)
		return 0;
	snprintf(text, sizeof(text), "%lld\n", (long long)(mib << 20) / 10 * 9);
	if (!rc)
		rc = agent_write_open(conn, GUEST_LIMIT, e);
	if (!rc)
		rc = agent_write(conn, text, strlen(text), e);
	return rc ? rc : agent_write_commit(conn, e);
}

static void limit_commands(struct sandbox *s, int64_t mib)
{
	struct agent_conn *conn;
	struct err e;
	int rc = agent_pool_get(s->pool, &conn, &e);

	if (!rc) {
		rc = write_limit(conn, mib, &e);
		agent_pool_put(s->pool, conn);
	}
	if (rc)
		log_warn("sandbox %s: the limit of its commands: %s", s->id, e.msg);
}

/* --- what the VMM says ----------------------------------------------------------------------- */

static int64_t number(const json_t *o, const char *name)
{
	return json_integer_value(json_object_get(o, name));
}

static int vm_memory(struct sandbox *s, bool all, struct memory_use *u, struct err *e)
{
	json_t *info, *memory, *host;
	int rc = vm_call(s, json_pack("{sssb}", "op", "info", "memory", all), VM_CALL_MS, &info, e);

	if (rc)
		return rc;
	memory = json_object_get(info, "memory");
	host = json_object_get(info, "guest_memory");
	u->size_mib = memory ? number(memory, "now_mib") : s->row.memory_mib;
	u->ballooned_kib = number(memory, "ballooned_kib");
	u->resident_kib = number(host, "resident_kib");
	u->free_kib = number(host, "free_kib");
	json_decref(info);
	return 0;
}

static int ask(struct sandbox *s, int64_t mib, bool balloon, struct err *e)
{
	return vm_call(s,
		       json_pack("{sssIsb}", "op", "memory", "target_mib", (json_int_t)mib,
				 "balloon", balloon),
		       VM_CALL_MS, NULL, e);
}

/* Return: whether it has come to be */
static bool wait_for(struct sandbox *s, int64_t mib)
{
	uint64_t deadline_ms = clock_mono_ms() + WAIT_MS;
	struct memory_use u;
	struct err e;

	while (!vm_memory(s, false, &u, &e)) {
		if (u.size_mib == mib)
			return true;
		if (clock_mono_ms() >= deadline_ms || manager_interrupted(s->m))
			break;
		poll(NULL, 0, POLL_MS);
	}
	return false;
}

/* Under `lifecycle`. */
static int resize(struct sandbox *s, int64_t mib, bool *reached, struct err *e)
{
	struct err why;
	int rc = ask(s, mib, false, e);

	*reached = false;
	if (rc)
		return err_wrap(e, rc == -ENOTSUP || rc == -EINVAL ? -EINVAL : lifecycle_errno(rc),
				"its memory cannot be scaled");
	*reached = wait_for(s, mib);
	if (!*reached && !ask(s, mib, true, &why))
		*reached = wait_for(s, mib);
	limit_commands(s, mib);
	return 0;
}

/* --- scaling --------------------------------------------------------------------------------- */

int scale_check(const struct manager *m, const struct scale_request *r, struct err *e)
{
	const struct config *c = manager_config(m);

	if (r->memory_mib <= 0)
		return err_set(e, -EINVAL, "memoryMB is required, a positive number");
	if (r->memory_mib < MEMORY_MIN_MIB || r->memory_mib > c->max_memory_mib)
		return err_set(e, -EINVAL, "memoryMB: %lld is not within %d to %lld",
			       (long long)r->memory_mib, MEMORY_MIN_MIB,
			       (long long)c->max_memory_mib);
	if (r->cpu_percent < 0 || r->cpu_percent > 100 * c->max_cpus)
		return err_set(e, -EINVAL, "cpuPercent: %lld is not within 1 to %lld",
			       (long long)r->cpu_percent, (long long)(100 * c->max_cpus));
	return 0;
}

/* What a smaller guest must still hold: what it uses, and what its kernel keeps for itself. */
static int check_floor(struct sandbox *s, int64_t mib, struct err *e)
{
	struct memory_use u = {0};
	int64_t floor_mib, kernel_mib;
	int rc = vm_memory(s, false, &u, e);

	if (!rc && mib >= u.size_mib)
		return 0;
	if (!rc)
		rc = guest_memory(s, &u, e);
	if (rc)
		return err_wrap(e, lifecycle_errno(rc), "finding out what it uses");
	kernel_mib = u.size_mib - (u.guest_total_kib >> 10);
	floor_mib = ((u.guest_total_kib - u.guest_available_kib) >> 10) + FLOOR_MIB +
		    (kernel_mib > 0 ? kernel_mib : 0);
	if (mib >= floor_mib)
		return 0;
	return err_set(e, SCALE_FLOOR, "memoryMB: it uses %lld MB, so it needs %lld at least",
		       (long long)((u.guest_total_kib - u.guest_available_kib) >> 10),
		       (long long)floor_mib);
}

static void set_size(struct sandbox_row *row, const void *arg)
{
	int64_t mib = *(const int64_t *)arg;

	row->scaled_mib = mib == row->memory_mib ? 0 : mib;
}

/* Under `lifecycle`; it runs. @manual: somebody has asked for it */
static int scale(struct sandbox *s, int64_t mib, bool *reached, struct err *e)
{
	int64_t before = sandbox_row_memory(&s->row);
	struct err undo;
	int rc = check_floor(s, mib, e);

	/* The row first: a daemon that dies in between gives the guest what it says. */
	if (!rc)
		rc = sandbox_update_row(s, set_size, &mib, e);
	if (rc)
		return rc;
	rc = resize(s, mib, reached, e);
	if (rc && sandbox_update_row(s, set_size, &before, &undo))
		log_error("sandbox %s: %s", s->id, undo.msg);
	if (rc)
		return rc;
	pthread_mutex_lock(&s->lock);
	autoscale_changed(&s->autoscale, clock_mono_ms());
	pthread_mutex_unlock(&s->lock);
	log_info("sandbox %s: %lld MiB, was %lld%s", s->id, (long long)mib, (long long)before,
		 *reached ? "" : "; it gets there yet");
	return 0;
}

static void set_scaling(struct sandbox_row *row, const void *arg)
{
	row->scaling = *(const struct scaling *)arg;
}

static struct scaling scaling_of(struct sandbox *s)
{
	struct scaling scaling;

	pthread_mutex_lock(&s->lock);
	scaling = s->row.scaling;
	pthread_mutex_unlock(&s->lock);
	return scaling;
}

static int64_t all_percent(const struct sandbox *s)
{
	return 100 * s->row.cpus;
}

static int limit_cpu(struct sandbox *s, int64_t percent, struct err *e)
{
	return cpu_limit_set(s->m->config->cgroup, s->id, s->row.vmm_pid,
			     percent >= all_percent(s) ? 0 : percent, e);
}

/* As asked, and without autoscaling. Under `lifecycle`. */
static int scale_as_asked(struct sandbox *s, const struct scale_request *r,
			  struct scale_result *out, struct err *e)
{
	struct scaling now = scaling_of(s);
	bool reached = false;
	struct err why;
	int rc;

	if (now.locked)
		return err_set(e, SCALE_LOCKED, "scaling is locked on this sandbox");
	rc = scale(s, (r->memory_mib + 1) & ~1LL, &reached, e);
	if (rc)
		return rc;
	if (r->cpu_percent && limit_cpu(s, r->cpu_percent, &why))
		snprintf(out->degraded, sizeof(out->degraded), "cpuPercent is not limited: %.150s",
			 why.msg);
	else if (r->cpu_percent)
		now.cpu_percent = r->cpu_percent >= all_percent(s) ? 0 : r->cpu_percent;
	out->autoscale_disabled = now.auto_max_mib;
	now.auto_min_mib = now.auto_max_mib = 0;
	rc = sandbox_update_settings(s, set_scaling, &now, e);
	out->memory_mib = sandbox_row_memory(&s->row);
	out->cpu_percent = now.cpu_percent ? now.cpu_percent : all_percent(s);
	out->pending = !reached;
	return rc;
}

int sandbox_scale(struct manager *m, const char *id, const struct scale_request *r,
		  struct scale_result *out, struct err *e)
{
	struct sandbox *s;
	int rc = take_running(m, id, &s, e);

	*out = (struct scale_result){0};
	if (rc)
		return rc;
	rc = scale_as_asked(s, r, out, e);
	give_back(s);
	return rc;
}

/* --- settings -------------------------------------------------------------------------------- */

static int change_settings(struct manager *m, const char *id,
			   int (*change)(struct scaling *scaling, const void *arg, struct err *e),
			   const void *arg, struct sandbox_row *row, struct err *e)
{
	struct scaling scaling;
	struct sandbox *s;
	int rc = sandbox_find_known(m, id, &s, e);

	if (rc)
		return rc;
	/* Against a scale that is under way. */
	pthread_mutex_lock(&s->lifecycle);
	scaling = scaling_of(s);
	rc = change(&scaling, arg, e);
	if (!rc)
		rc = sandbox_update_settings(s, set_scaling, &scaling, e);
	pthread_mutex_unlock(&s->lifecycle);
	if (!rc && sandbox_copy_row(s, row))
		rc = err_set(e, -ENOMEM, "out of memory");
	sandbox_put(s);
	return rc;
}

static int change_autoscale(struct scaling *scaling, const void *arg, struct err *e)
{
	const struct scaling *wanted = arg;

	if (scaling->locked && wanted->auto_max_mib)
		return err_set(e, SCALE_LOCKED, "scaling is locked on this sandbox");
	scaling->auto_min_mib = wanted->auto_min_mib;
	scaling->auto_max_mib = wanted->auto_max_mib;
	return 0;
}

int sandbox_set_autoscale(struct manager *m, const char *id, int64_t min_mib, int64_t max_mib,
			  struct sandbox_row *row, struct err *e)
{
	const struct scaling wanted = {.auto_min_mib = max_mib ? min_mib : 0,
				       .auto_max_mib = max_mib};

	return change_settings(m, id, change_autoscale, &wanted, row, e);
}

static int change_lock(struct scaling *scaling, const void *arg, struct err *e)
{
	(void)e;
	scaling->locked = *(const bool *)arg;
	if (scaling->locked)
		scaling->auto_min_mib = scaling->auto_max_mib = 0;
	return 0;
}

int sandbox_set_scaling_lock(struct manager *m, const char *id, bool locked,
			     struct sandbox_row *row, struct err *e)
{
	return change_settings(m, id, change_lock, &locked, row, e);
}

int sandbox_memory_use(struct manager *m, const char *id, struct memory_use *out, struct err *e)
{
	struct sandbox *s;
	int rc = sandbox_find(m, id, &s, e);

	*out = (struct memory_use){0};
	if (rc)
		return rc;
	pthread_mutex_lock(&s->lock);
	if (s->row.status != SANDBOX_RUNNING)
		rc = err_set(e, -EINVAL, "sandbox %s does not run", id);
	pthread_mutex_unlock(&s->lock);
	if (!rc)
		rc = vm_memory(s, true, out, e);
	/* A guest that has too much to do is no reason to say nothing. */
	if (!rc && guest_memory(s, out, e))
		out->guest_total_kib = out->guest_available_kib = 0;
	sandbox_put(s);
	return rc;
}

/* --- what else changes a machine ------------------------------------------------------------- */

void scale_after_boot(struct sandbox *s)
{
	bool reached;
	struct err e;

	if (s->row.scaled_mib && resize(s, s->row.scaled_mib, &reached, &e))
		log_warn("sandbox %s: it has booted with %lld MiB: %s", s->id,
			 (long long)s->row.memory_mib, e.msg);
}

int scale_forked(struct sandbox *s, struct err *e)
{
	bool reached;

	return resize(s, sandbox_row_memory(&s->row), &reached, e);
}

void scale_adopted(struct sandbox *s)
{
	int64_t mib = sandbox_row_memory(&s->row);
	json_t *info, *memory;
	struct err e;

	if (vm_call(s, json_pack("{sssb}", "op", "info", "memory", 0), VM_CALL_MS, &info, &e))
		return;
	memory = json_object_get(info, "memory");
	if (memory && number(memory, "target_mib") != mib && ask(s, mib, false, &e))
		log_warn("sandbox %s: it does not get its %lld MiB: %s", s->id, (long long)mib,
			 e.msg);
	json_decref(info);
}

void scale_restored(struct sandbox *s, const struct checkpoint_row *c)
{
	int64_t mib = c->scaled_mib ? c->scaled_mib : c->memory_mib;
	struct err e;

	/* Without its memory it boots, with what it has now. */
	if (c->full && sandbox_row_memory(&s->row) != mib &&
	    sandbox_update_row(s, set_size, &mib, &e))
		log_error("sandbox %s: %s", s->id, e.msg);
}

void scale_cpu(struct sandbox *s)
{
	struct scaling scaling = scaling_of(s);
	struct err e;

	if (scaling.cpu_percent && limit_cpu(s, scaling.cpu_percent, &e))
		log_warn("sandbox %s: its processor time is not limited: %s", s->id, e.msg);
}

/* --- autoscaling ----------------------------------------------------------------------------- */

/* Return: the size that it should have, or 0 */
static int64_t sample(struct sandbox *s)
{
	struct memory_use u = {0};
	int64_t size, want;
	struct err e;

	if (guest_memory(s, &u, &e))
		return 0;
	pthread_mutex_lock(&s->lock);
	autoscale_sample(&s->autoscale, clock_mono_ms(),
			 (u.guest_total_kib - u.guest_available_kib) >> 10);
	size = sandbox_row_memory(&s->row);
	want = s->row.scaling.auto_max_mib
		   ? autoscale_decide(&s->autoscale, clock_mono_ms(), size,
				      s->row.scaling.auto_min_mib, s->row.scaling.auto_max_mib)
		   : size;
	pthread_mutex_unlock(&s->lock);
	return want == size ? 0 : want;
}

static void autoscale_job(void *arg)
{
	struct sandbox *s = arg;
	int64_t want = sample(s);
	bool reached;
	struct err e;

	if (want) {
		pthread_mutex_lock(&s->lifecycle);
		/* It may have been locked, or put to sleep, meanwhile. */
		if (scaling_of(s).auto_max_mib && !sandbox_check_running(s, &e) &&
		    scale(s, want, &reached, &e))
			log_info("sandbox %s: autoscaling: %s", s->id, e.msg);
		pthread_mutex_unlock(&s->lifecycle);
	}
	pthread_mutex_lock(&s->lock);
	s->sampling = false;
	pthread_mutex_unlock(&s->lock);
	sandbox_put(s);
}

void scale_tick(struct sandbox *s)
{
	bool due;

	pthread_mutex_lock(&s->lock);
	due = s->m->ticks % AUTOSCALE_SAMPLE_S == 0 && s->row.scaling.auto_max_mib &&
	      s->announced && s->row.status == SANDBOX_RUNNING && s->ready && !s->changing &&
	      !s->sampling && !manager_interrupted(s->m);
	if (due)
		s->sampling = true;
	pthread_mutex_unlock(&s->lock);
	if (!due)
		return;
	__atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
	if (jobs_run(&s->m->jobs, autoscale_job, s)) {
		pthread_mutex_lock(&s->lock);
		s->sampling = false;
		pthread_mutex_unlock(&s->lock);
		sandbox_put(s);
	}
}
