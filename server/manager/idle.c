/* SPDX-License-Identifier: Apache-2.0 */
/* Idle timeouts; see idle.h. */
#include "server/manager/idle.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/clock.h"
#include "lib/log.h"
#include "server/manager/internal.h"

#define SETTLE_S       30 /* from the start of the daemon; an agent may be out of reach */
#define EXPIRY_SAME_MS 5

/* --- the timer itself -------------------------------------------------------------------- */

void idle_touch(struct idle *i, uint64_t now_ms)
{
	__atomic_store_n(&i->touched_ms, now_ms, __ATOMIC_RELAXED);
}

void idle_hold(struct idle *i)
{
	__atomic_add_fetch(&i->holds, 1, __ATOMIC_ACQ_REL);
}

void idle_release(struct idle *i, uint64_t now_ms)
{
	/* In this order: who sees no hold sees the time, too. */
	idle_touch(i, now_ms);
	__atomic_sub_fetch(&i->holds, 1, __ATOMIC_ACQ_REL);
}

uint64_t idle_left_ms(const struct idle *i, int64_t timeout_s, uint64_t now_ms)
{
	uint64_t touched_ms = __atomic_load_n(&i->touched_ms, __ATOMIC_RELAXED);
	uint64_t timeout_ms = (uint64_t)timeout_s * 1000;
	/* Another thread may have touched it after our caller had looked at the clock. */
	uint64_t past_ms = now_ms > touched_ms ? now_ms - touched_ms : 0;

	return past_ms < timeout_ms ? timeout_ms - past_ms : 0;
}

bool idle_look(struct idle *i, int64_t timeout_s, bool busy, uint64_t now_ms)
{
	if (busy || __atomic_load_n(&i->holds, __ATOMIC_ACQUIRE)) {
		idle_touch(i, now_ms);
		return false;
	}
	return timeout_s && !idle_left_ms(i, timeout_s, now_ms);
}

void idle_resume(struct idle *i, int64_t ago_ms, uint64_t now_ms)
{
	uint64_t ago = ago_ms < 0 ? 0 : (uint64_t)ago_ms;

	idle_touch(i, ago < now_ms ? now_ms - ago : 0);
}

/* --- of a sandbox ----------------------------------------------------------------------------- */

void sandbox_touch(struct sandbox *s)
{
	idle_touch(&s->idle, clock_mono_ms());
}

void idle_save(struct sandbox *s)
{
	uint64_t touched_ms = __atomic_load_n(&s->idle.touched_ms, __ATOMIC_RELAXED);
	int64_t at_ms = clock_wall_ms() - (int64_t)(clock_mono_ms() - touched_ms);
	const struct timespec times[2] = {
	    {.tv_nsec = UTIME_OMIT},
	    {.tv_sec = (time_t)(at_ms / 1000), .tv_nsec = (long)(at_ms % 1000) * 1000000},
	};

	if (touched_ms == __atomic_load_n(&s->idle_saved_ms, __ATOMIC_RELAXED))
		return;
	if (utimensat(AT_FDCWD, s->dir, times, AT_SYMLINK_NOFOLLOW))
		log_warn("sandbox %s: keeping the time of its last use: %s", s->id,
			 strerror(errno));
	__atomic_store_n(&s->idle_saved_ms, touched_ms, __ATOMIC_RELAXED);
}

void idle_load(struct sandbox *s)
{
	struct stat st;

	if (lstat(s->dir, &st))
		return;
	idle_resume(&s->idle,
		    clock_wall_ms() - (int64_t)st.st_mtim.tv_sec * 1000 -
			st.st_mtim.tv_nsec / 1000000,
		    clock_mono_ms());
}

int64_t idle_used_ms(const struct sandbox *s)
{
	if (s->row.status != SANDBOX_RUNNING)
		return 0;
	return clock_wall_ms() -
	       (int64_t)(clock_mono_ms() - __atomic_load_n(&s->idle.touched_ms, __ATOMIC_RELAXED));
}

int64_t idle_expiry_ms(struct sandbox *s)
{
	int64_t at_ms;

	if (s->row.status != SANDBOX_RUNNING || !s->row.timeout_s)
		return 0;
	at_ms =
	    clock_wall_ms() + (int64_t)idle_left_ms(&s->idle, s->row.timeout_s, clock_mono_ms());
	/* Two clocks of whole milliseconds: the same time would be told as one of two. */
	if (at_ms < s->idle_told_ms - EXPIRY_SAME_MS || at_ms > s->idle_told_ms + EXPIRY_SAME_MS)
		s->idle_told_ms = at_ms;
	return s->idle_told_ms;
}

/* --- the end of the time ---------------------------------------------------------------------- */

/* Under s->lock. */
static bool is_over(struct sandbox *s)
{
	return idle_look(&s->idle, s->row.timeout_s, s->users > 0, clock_mono_ms());
}

/* Keep data operations off, unless there was one. */
static bool begin(struct sandbox *s, int64_t *timeout_s)
{
	struct err e;
	bool over;

	if (sandbox_check_running(s, &e) || sandbox_change_begin(s, 0, &e))
		return false;
	pthread_mutex_lock(&s->lock);
	over = is_over(s);
	*timeout_s = s->row.timeout_s;
	pthread_mutex_unlock(&s->lock);
	if (!over)
		sandbox_change_end(s);
	return over;
}

/* What files hold is on the disk: then it is as if the guest had powered off. */
static void stop(struct sandbox *s, int rc, const struct err *why)
{
	char text[160];
	struct err e;

	log_warn("sandbox %s: idle, but it cannot hibernate: %s", s->id, why->msg);
	if (rc != -ETIMEDOUT) /* there is no agent to ask */
		guest_freeze(s, true, &e);
	snprintf(text, sizeof(text), "stopped: idle, and it could not hibernate: %.100s", why->msg);
	vm_stop(s, text);
}

static void expire(void *arg)
{
	struct sandbox *s = arg;
	int64_t timeout_s;

	pthread_mutex_lock(&s->lifecycle);
	if (begin(s, &timeout_s)) {
		struct err e;
		int rc;

		log_info("sandbox %s: idle for %lld s", s->id, (long long)timeout_s);
		rc = sandbox_hibernate_now(s, &e);
		/* What dies with the daemon or a deletion is not the sandbox's failure. */
		if (rc && rc != -ESHUTDOWN && !manager_interrupted(s->m))
			stop(s, rc, &e);
		sandbox_change_end(s);
	}
	pthread_mutex_unlock(&s->lifecycle);
	pthread_mutex_lock(&s->lock);
	s->expiring = false;
	pthread_mutex_unlock(&s->lock);
	sandbox_put(s);
}

void idle_tick(struct sandbox *s)
{
	bool over;

	pthread_mutex_lock(&s->lock);
	/* Until its sessions are known again, one of them may be a command that holds it. */
	over = s->announced && s->row.status == SANDBOX_RUNNING && s->ready && !s->changing &&
	       (s->settled || s->m->ticks >= SETTLE_S) && !s->expiring &&
	       !manager_interrupted(s->m) && is_over(s);
	if (over)
		s->expiring = true;
	pthread_mutex_unlock(&s->lock);
	idle_save(s);
	if (!over)
		return;
	__atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
	if (jobs_run(&s->m->jobs, expire, s)) {
		/* The next tick tries again. */
		pthread_mutex_lock(&s->lock);
		s->expiring = false;
		pthread_mutex_unlock(&s->lock);
		sandbox_put(s);
	}
}

/* --- setting it ------------------------------------------------------------------------------- */

static void set_timeout(struct sandbox_row *row, const void *arg)
{
	row->timeout_s = *(const int64_t *)arg;
}

int idle_set_timeout(struct sandbox *s, int64_t timeout_s, struct err *e)
{
	/* First: the time of before must not meet the timeout of now. */
	sandbox_touch(s);
	idle_save(s);
	return sandbox_update_settings(s, set_timeout, &timeout_s, e);
}

int sandbox_set_timeout(struct manager *m, const char *id, int64_t timeout_s, struct err *e)
{
	struct sandbox *s;
	int rc = sandbox_find_known(m, id, &s, e);

	if (!rc)
		rc = sandbox_check_timeout(timeout_s, e);
	else
		return rc;
	pthread_mutex_lock(&s->lock);
	if (!rc && (s->doomed || s->row.status == SANDBOX_STOPPED))
		rc = err_set(e, -ESHUTDOWN, "sandbox %s has been stopped", id);
	pthread_mutex_unlock(&s->lock);
	if (!rc)
		rc = idle_set_timeout(s, timeout_s, e);
	sandbox_put(s);
	return rc;
}
