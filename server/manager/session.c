/* SPDX-License-Identifier: Apache-2.0 */
/* Commands in sandboxes: their making, and what is known of them; see session.h. */
#include "server/manager/session.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/session_int.h"

#define RETAIN_MS      (10 * 60 * 1000) /* results are kept so long after the end */
#define READER_HOLD_MS 60000		/* a follower that stays away longer loses bytes */
#define SIGNAL_WAIT_MS 20000		/* for a session that is being attached to again */

/* --- life --------------------------------------------------------------------------------- */

struct exec_session *session_new(const struct exec_spec *spec)
{
	struct exec_session *x = calloc(1, sizeof(*x));
	pthread_condattr_t attr;

	if (!x)
		return NULL;
	x->refs = 1;
	x->kind = spec->kind;
	x->keep = spec->keep ? spec->keep : EXEC_KEEP_BYTES;
	x->max_alone_s = spec->max_alone_s;
	x->rows = (uint16_t)spec->rows;
	x->cols = (uint16_t)spec->cols;
	x->foreground = spec->foreground;
	/* A tunnel always has two directions. */
	x->has_stdin = x->in_open = spec->with_stdin || spec->kind == EXEC_TUNNEL;
	x->in_known = true;
	x->cmd = strdup(spec->cmd ? spec->cmd : "");
	x->args = spec->args ? json_deep_copy(spec->args) : json_array();
	x->started_ms = clock_wall_ms();
	pthread_mutex_init(&x->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&x->changed, &attr);
	pthread_condattr_destroy(&attr);
	return x;
}

void exec_put(struct exec_session *x)
{
	if (!x || __atomic_sub_fetch(&x->refs, 1, __ATOMIC_ACQ_REL))
		return;
	/* Not running any more: who drives holds a reference. */
	if (x->conn)
		agent_pool_put(x->sandbox->pool, x->conn);
	if (x->leased)
		sandbox_unuse(x->sandbox);
	session_release_idle(x);
	sandbox_put(x->sandbox);
	free(x->cmd);
	json_decref(x->args);
	outbuf_fini(&x->out[0]);
	outbuf_fini(&x->out[1]);
	outbuf_fini(&x->in);
	order_fini(&x->order);
	pthread_mutex_destroy(&x->lock);
	pthread_cond_destroy(&x->changed);
	free(x);
}

/* --- start --------------------------------------------------------------------------------- */

static const char **argv_of(const struct exec_spec *spec)
{
	size_t n = json_array_size(spec->args), i;
	const char **argv = calloc(n + 5, sizeof(*argv));
	json_t *arg;

	if (!argv)
		return NULL;
	if (spec->or_sh) {
		argv[0] = "/bin/sh";
		argv[1] = "-c";
		argv[2] = "[ ! -x \"$0\" ] || exec \"$0\"; exec /bin/sh";
		argv[3] = spec->cmd;
		return argv;
	}
	if (!n && spec->kind != EXEC_TERMINAL) {
		argv[0] = "/bin/sh";
		argv[1] = "-c";
		argv[2] = spec->cmd;
		return argv;
	}
	argv[0] = spec->cmd;
	json_array_foreach(spec->args, i, arg) argv[i + 1] = json_string_value(arg);
	return argv;
}

static void free_strings(char **list)
{
	for (size_t i = 0; list && list[i]; i++)
		free(list[i]);
	free(list);
}

static char **env_of(json_t *envs)
{
	char **list = calloc(json_object_size(envs) + 1, sizeof(*list));
	const char *name;
	json_t *value;
	size_t n = 0;

	if (!list)
		return NULL;
	json_object_foreach(envs, name, value) if (asprintf(&list[n++], "%s=%s", name,
							    json_string_value(value)) < 0)
	{
		list[n - 1] = NULL;
		free_strings(list);
		return NULL;
	}
	return list;
}

static int check_strings(const struct exec_spec *spec, struct err *e)
{
	const char *name;
	json_t *v;
	size_t i;

	json_array_foreach(
	    spec->args, i,
	    v) if (strlen(json_string_value(v)) !=
		   json_string_length(v)) return err_set(e, -EINVAL, "args: item %zu contains NUL",
							 i);
	json_object_foreach(spec->envs, name, v)
	{
		if (!*name || strchr(name, '='))
			return err_set(e, -EINVAL, "envs: \"%.64s\" is not a variable name", name);
		if (strlen(json_string_value(v)) != json_string_length(v))
			return err_set(e, -EINVAL, "envs: %.64s contains NUL", name);
	}
	if (spec->timeout_s < 0 || spec->timeout_s > UINT32_MAX / 1000)
		return err_set(e, -EINVAL, "timeout: %lld is not within 0 to %u",
			       (long long)spec->timeout_s, UINT32_MAX / 1000);
	return 0;
}

static int send_start(struct exec_session *x, const struct exec_spec *spec,
		      struct agent_exec_spec *a, struct err *e)
{
	cleanup_free char *label = NULL;
	const char **argv;
	char **env;
	int rc;

	if (spec->kind == EXEC_TUNNEL)
		return agent_tunnel_start(x->conn, a->session, spec->port, false, e);
	if (spec->listed) {
		label = label_make(x, x->sandbox->id);
		a->label = label;
		a->label_len = label ? strlen(label) : 0;
	}
	argv = argv_of(spec);
	env = env_of(spec->envs);
	a->argv = argv;
	a->env = (const char *const *)env;
	rc = argv && env ? agent_exec_start(x->conn, a, e) : err_set(e, -ENOMEM, "out of memory");
	free(argv);
	free_strings(env);
	return rc;
}

static int send_command(struct exec_session *x, struct sandbox *s, const struct exec_spec *spec,
			struct err *e)
{
	struct agent_exec_spec a = {
	    .sandbox_env = (const char *const *)s->envs,
	    .cwd = spec->cwd && *spec->cwd ? spec->cwd : s->workdir,
	    .timeout_ms = (uint32_t)spec->timeout_s * 1000,
	    .flags = spec->with_stdin ? PROTO_EXEC_STDIN : 0,
	    .rows = (uint16_t)spec->rows,
	    .cols = (uint16_t)spec->cols,
	};
	int rc = 0;

	if (spec->kind == EXEC_TERMINAL)
		a.flags = PROTO_EXEC_PTY;
	if (getrandom(&a.session, sizeof(a.session), 0) != sizeof(a.session))
		rc = err_sys(e, -errno, "getrandom");
	if (spec->listed)
		snprintf(x->id, sizeof(x->id), "%08x", (uint32_t)(a.session >> 32));
	a.session = (a.session >> 32 << 32) | s->m->life;
	a.session |= !a.session;
	x->agent_id = a.session;
	sandbox_touch(s);
	if (!rc)
		rc = sandbox_agent_get(s, &x->conn, e);
	if (!rc) {
		/* These cannot change while the sandbox has a user. */
		x->leased = true;
		x->holds = spec->foreground;
		if (x->holds)
			idle_hold(&s->idle);
		x->epoch = sandbox_epoch(s);
		x->boots = sandbox_boots(s);
		x->rewinds = sandbox_rewinds(s);
		rc = send_start(x, spec, &a, e);
		if (rc)
			rc = sandbox_explain(s, x->conn, rc, e);
	}
	return rc;
}

int exec_start(struct sandbox *s, const struct exec_spec *spec, struct exec_session **out,
	       struct err *e)
{
	struct exec_session *x;
	int rc = check_strings(spec, e);

	if (rc)
		return rc;
	x = session_new(spec);
	if (!x)
		return err_set(e, -ENOMEM, "out of memory");
	__atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
	x->sandbox = s;
	rc = x->cmd && x->args ? send_command(x, s, spec, e) : err_set(e, -ENOMEM, "out of memory");
	if (rc) {
		exec_put(x);
		return rc;
	}
	*out = x;
	return 0;
}

/* --- looking at it
 * ----------------------------------------------------------------------------------- */

void exec_each(struct sandbox *s, void (*fn)(void *arg, struct exec_session *x), void *arg)
{
	pthread_mutex_lock(&s->lock);
	for (struct exec_session *x = s->sessions; x; x = x->next)
		fn(arg, x);
	pthread_mutex_unlock(&s->lock);
}

/* Return: true if there was nothing to be done, or it was. */
static bool try_control(struct exec_session *x, struct sandbox *s,
			int (*fn)(struct exec_session *x, void *arg, struct err *e), void *arg,
			int *rc, struct err *e)
{
	bool done = true;

	pthread_mutex_lock(&x->lock);
	if (x->state == EXEC_RUNNING) {
		done = x->conn && x->epoch == sandbox_epoch(s);
		if (done)
			*rc = fn(x, arg, e);
	}
	pthread_mutex_unlock(&x->lock);
	return done;
}

static void wait_changed(struct exec_session *x, int timeout_ms)
{
	uint64_t until = clock_mono_ms() + (uint64_t)timeout_ms;
	struct timespec t = {.tv_sec = (time_t)(until / 1000),
			     .tv_nsec = (long)(until % 1000) * 1000000};

	pthread_mutex_lock(&x->lock);
	if (x->state == EXEC_RUNNING)
		pthread_cond_timedwait(&x->changed, &x->lock, &t);
	pthread_mutex_unlock(&x->lock);
}

struct sandbox *session_sandbox(struct exec_session *x)
{
	struct sandbox *s;

	pthread_mutex_lock(&x->lock);
	s = x->sandbox;
	if (s)
		__atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&x->lock);
	return s;
}

int session_control(struct exec_session *x,
		    int (*fn)(struct exec_session *x, void *arg, struct err *e), void *arg,
		    struct err *e)
{
	uint64_t deadline = clock_mono_ms() + SIGNAL_WAIT_MS;
	struct sandbox *s = session_sandbox(x);
	bool done = false;
	int rc = 0;

	if (!s)
		return 0;
	while (!done) {
		rc = sandbox_use(s, e);
		if (rc)
			break;
		done = try_control(x, s, fn, arg, &rc, e);
		sandbox_unuse(s);
		if (!done && clock_mono_ms() > deadline) {
			rc = err_set(e, -EHOSTDOWN, "the command cannot be reached");
			break;
		}
		if (!done)
			wait_changed(x, 100);
		else if (rc != -EINVAL)
			rc = 0; /* a broken connection: the driver will notice */
	}
	sandbox_put(s);
	return rc;
}

static int send_signal(struct exec_session *x, void *arg, struct err *e)
{
	return agent_exec_signal(x->conn, *(int *)arg, e);
}

int exec_signal(struct exec_session *x, int signo, struct err *e)
{
	return session_control(x, send_signal, &signo, e);
}

int exec_wake(struct exec_session *x, struct err *e)
{
	struct sandbox *s = session_sandbox(x);
	int rc = 0;

	if (s && sandbox_hibernated(s)) {
		rc = sandbox_use(s, e);
		if (!rc)
			sandbox_unuse(s);
	}
	sandbox_put(s);
	return rc;
}

void exec_note_reader(struct exec_session *x, const uint64_t offsets[2])
{
	struct manager *m = NULL;

	pthread_mutex_lock(&x->lock);
	memcpy(x->read_offsets, offsets, sizeof(x->read_offsets));
	x->hold_until_ms = clock_mono_ms() + READER_HOLD_MS;
	if (x->sandbox)
		m = x->sandbox->m;
	pthread_mutex_unlock(&x->lock);
	if (!m)
		return;
	pthread_mutex_lock(&m->loop_lock);
	session_unpause(m, x);
	pthread_mutex_unlock(&m->loop_lock);
}

void exec_wait(struct exec_session *x, int timeout_ms, const uint64_t *from)
{
	uint64_t deadline = clock_mono_ms() + (uint64_t)timeout_ms;
	struct timespec t = {.tv_sec = (time_t)(deadline / 1000),
			     .tv_nsec = (long)(deadline % 1000) * 1000000};

	pthread_mutex_lock(&x->lock);
	while (x->state == EXEC_RUNNING &&
	       !(from && (outbuf_end(&x->out[0]) > from[0] || outbuf_end(&x->out[1]) > from[1])) &&
	       !__atomic_load_n(&x->sandbox->m->interrupted, __ATOMIC_RELAXED))
		if (pthread_cond_timedwait(&x->changed, &x->lock, &t))
			break;
	pthread_mutex_unlock(&x->lock);
}

void exec_view(struct exec_session *x, struct exec_view *v)
{
	pthread_mutex_lock(&x->lock);
	v->state = x->state;
	v->exit_code = x->exit_code;
	v->timed_out = x->timed_out;
	v->rc = x->rc;
	v->error = x->error;
	for (int i = 0; i < 2; i++) {
		v->stream[i].data = x->out[i].data;
		v->stream[i].len = x->out[i].len;
		v->stream[i].start = x->out[i].start;
	}
}

void exec_view_end(struct exec_session *x)
{
	pthread_mutex_unlock(&x->lock);
}

enum exec_kind exec_kind(const struct exec_session *x)
{
	return x->kind;
}

const char *exec_id(const struct exec_session *x)
{
	return x->id;
}

const char *exec_command(const struct exec_session *x)
{
	return x->cmd;
}

const json_t *exec_args(const struct exec_session *x)
{
	return x->args;
}

int64_t exec_started_ms(const struct exec_session *x)
{
	return x->started_ms;
}

/* --- for the manager
 * ------------------------------------------------------------------------------------ */

/* Is its time over, with nobody attached (api.md 4.5)? That stands still with the sandbox. */
static bool left_alone(struct sandbox *s, struct exec_session *x, uint64_t now)
{
	if (x->kind == EXEC_TERMINAL || !x->max_alone_s || !x->alone_since_ms ||
	    x->state != EXEC_RUNNING)
		return false;
	if (s->row.status != SANDBOX_RUNNING) {
		x->alone_since_ms = now;
		return false;
	}
	return now - x->alone_since_ms >= (uint64_t)x->max_alone_s * 1000;
}

/* On the loop's thread, under loop_lock. */
void sessions_tick(struct sandbox *s)
{
	uint64_t now = clock_mono_ms();
	struct exec_session *old = NULL;
	struct err e;

	pthread_mutex_lock(&s->lock);
	for (struct exec_session **p = &s->sessions; *p;) {
		struct exec_session *x = *p;
		bool expired;

		pthread_mutex_lock(&x->lock);
		expired = (x->state != EXEC_RUNNING && now - x->ended_ms > RETAIN_MS) ||
			  terminal_abandoned(x, s->row.status == SANDBOX_HIBERNATED, now);
		if (x->paused && !session_must_wait(x))
			session_unpause(s->m, x);
		if (left_alone(s, x, now) && x->conn)
			agent_exec_signal(x->conn, SIGKILL, &e);
		/* For when the socket to the guest had no room. */
		if (x->state == EXEC_RUNNING)
			stdin_pump(x);
		pthread_mutex_unlock(&x->lock);
		if (!expired) {
			p = &x->next;
			continue;
		}
		*p = x->next;
		x->next = old;
		old = x;
	}
	pthread_mutex_unlock(&s->lock);
	while (old) {
		struct exec_session *x = old;

		old = x->next;
		if (x->kind == EXEC_TERMINAL)
			terminal_end(s->m, x);
		exec_put(x);
	}
}

void sessions_unlist(struct sandbox *s)
{
	struct exec_session *list;

	pthread_mutex_lock(&s->lock);
	list = s->sessions;
	s->sessions = NULL;
	pthread_mutex_unlock(&s->lock);
	while (list) {
		struct exec_session *x = list;

		list = x->next;
		exec_put(x);
	}
}

void sessions_drop(struct sandbox *s)
{
	struct exec_session *list;

	sessions_unlist(s);
	pthread_mutex_lock(&s->lock);
	list = s->detached;
	s->detached = NULL;
	pthread_mutex_unlock(&s->lock);
	while (list) {
		struct exec_session *x = list;

		list = x->detached_next;
		exec_put(x);
	}
}

void sessions_interrupt(struct sandbox *s)
{
	pthread_mutex_lock(&s->lock);
	for (struct exec_session *x = s->sessions; x; x = x->next) {
		pthread_mutex_lock(&x->lock);
		session_notify(x);
		pthread_mutex_unlock(&x->lock);
	}
	pthread_mutex_unlock(&s->lock);
}
