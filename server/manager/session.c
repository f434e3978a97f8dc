/* SPDX-License-Identifier: Apache-2.0 */
/* Commands in sandboxes; see session.h. */
#include "server/manager/session.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/internal.h"
#include "server/manager/outbuf.h"

#define RETAIN_MS	(10 * 60 * 1000) /* results are kept so long after the end */
#define READER_HOLD_MS	60000		 /* a follower that stays away longer loses bytes */
#define EVENTS_PER_TURN 16		 /* of one session on the loop, before others get a turn */
#define DRIVE_SLICE_MS	1000

struct exec_session {
	unsigned int refs;	 /* atomic */
	struct sandbox *sandbox; /* a reference while it runs; never NULL before the end */
	char id[9];
	char *cmd;	    /* owned */
	json_t *args;	    /* owned; an array */
	int64_t started_ms; /* wall clock */

	pthread_mutex_t lock; /* everything below but where said otherwise */
	pthread_cond_t changed;
	struct agent_conn *conn; /* owned; NULL after the end. Only the driver reads from it */
	struct outbuf out[2];
	enum exec_state state;
	int exit_code, rc;
	bool timed_out;
	char error[256];
	uint64_t ended_ms;	   /* monotonic */
	uint64_t read_offsets[2];  /* of the follower */
	uint64_t hold_until_ms;	   /* monotonic; 0: nobody follows */
	struct exec_session *next; /* in sandbox->sessions, under its lock; holds a reference */

	/* Under loop_lock. */
	struct loop_source source; /* in the loop: holds a reference */
	struct exec_session *again_next;
	bool in_again, paused;
};

/* --- life --------------------------------------------------------------------------------- */

static struct exec_session *session_new(const struct exec_spec *spec)
{
	struct exec_session *x = calloc(1, sizeof(*x));
	pthread_condattr_t attr;

	if (!x)
		return NULL;
	x->refs = 1;
	x->cmd = strdup(spec->cmd);
	x->args = spec->args ? json_deep_copy(spec->args) : json_array();
	x->started_ms = wall_ms();
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
		sandbox_agent_put(x->sandbox, x->conn);
	sandbox_put(x->sandbox);
	free(x->cmd);
	json_decref(x->args);
	outbuf_fini(&x->out[0]);
	outbuf_fini(&x->out[1]);
	pthread_mutex_destroy(&x->lock);
	pthread_cond_destroy(&x->changed);
	free(x);
}

static struct exec_session *get(struct exec_session *x)
{
	__atomic_add_fetch(&x->refs, 1, __ATOMIC_RELAXED);
	return x;
}

/* --- start --------------------------------------------------------------------------------- */

static const char **argv_of(const struct exec_spec *spec)
{
	size_t n = json_array_size(spec->args), i;
	const char **argv = calloc(n + 4, sizeof(*argv));
	json_t *arg;

	if (!argv)
		return NULL;
	if (!n) {
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

static int send_command(struct exec_session *x, struct sandbox *s, const struct exec_spec *spec,
			struct err *e)
{
	struct agent_exec_spec a = {
	    .sandbox_env = (const char *const *)s->envs,
	    .cwd = spec->cwd && *spec->cwd ? spec->cwd : NULL,
	    .timeout_ms = (uint32_t)spec->timeout_s * 1000,
	    .flags = spec->with_stdin ? PROTO_EXEC_STDIN : 0,
	};
	const char **argv = argv_of(spec);
	char **env = env_of(spec->envs);
	int rc = 0;

	a.argv = argv;
	a.env = (const char *const *)env;
	if (!argv || !env || getrandom(&a.session, sizeof(a.session), 0) != sizeof(a.session))
		rc = err_set(e, -ENOMEM, "out of memory");
	a.session |= !a.session;
	if (!rc)
		rc = sandbox_agent_get(s, &x->conn, e);
	if (!rc) {
		rc = agent_exec_start(x->conn, &a, e);
		if (rc)
			rc = sandbox_explain(s, x->conn, rc, e);
	}
	free(argv);
	free_strings(env);
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

/* --- events ---------------------------------------------------------------------------------- */

/* The connection goes back to the pool; the sandbox's reference is given up. */
static void finish(struct exec_session *x, enum exec_state state)
{
	struct sandbox *s = x->sandbox;
	struct agent_conn *conn;

	pthread_mutex_lock(&x->lock);
	conn = x->conn;
	x->conn = NULL;
	x->state = state;
	x->ended_ms = clock_mono_ms();
	x->sandbox = NULL;
	pthread_cond_broadcast(&x->changed);
	pthread_mutex_unlock(&x->lock);
	sandbox_agent_put(s, conn);
	sandbox_put(s);
}

static void take_exit(struct exec_session *x, const struct agent_exit *end)
{
	static const char text[] = "Process timed out\n";
	struct outbuf *err = &x->out[1];

	pthread_mutex_lock(&x->lock);
	x->exit_code = end->signal ? 128 + end->signal : end->code;
	x->timed_out = end->timed_out;
	if (end->timed_out) {
		x->exit_code = -1;
		if (err->len && err->data[err->len - 1] != '\n')
			outbuf_append(err, "\n", 1, EXEC_KEEP_BYTES);
		outbuf_append(err, text, sizeof(text) - 1, EXEC_KEEP_BYTES);
	}
	pthread_mutex_unlock(&x->lock);
	finish(x, EXEC_ENDED);
}

static void take_failure(struct exec_session *x, int rc, struct err *e)
{
	bool refused = !agent_conn_broken(x->conn);

	rc = sandbox_explain(x->sandbox, x->conn, rc, e);
	pthread_mutex_lock(&x->lock);
	x->rc = rc;
	x->exit_code = -1;
	snprintf(x->error, sizeof(x->error), "%s", e->msg);
	pthread_mutex_unlock(&x->lock);
	finish(x, refused ? EXEC_REFUSED : EXEC_LOST);
}

/* Return: true if that was the end. */
static bool take_event(struct exec_session *x, int rc, const struct agent_event *ev, struct err *e)
{
	if (rc) {
		take_failure(x, rc, e);
		return true;
	}
	if (ev->type == AGENT_EXIT) {
		take_exit(x, &ev->exit);
		return true;
	}
	if (ev->type == AGENT_STDOUT || ev->type == AGENT_STDERR) {
		pthread_mutex_lock(&x->lock);
		rc = outbuf_append(&x->out[ev->type == AGENT_STDERR], ev->data, ev->len,
				   EXEC_KEEP_BYTES);
		pthread_cond_broadcast(&x->changed);
		pthread_mutex_unlock(&x->lock);
		if (rc)
			log_guest("no memory for the output of a command: bytes are lost");
	}
	return false;
}

/* Would the next bytes push out some that a follower has not read? */
static bool must_wait_for_reader(struct exec_session *x)
{
	bool wait = false;

	pthread_mutex_lock(&x->lock);
	if (x->hold_until_ms > clock_mono_ms())
		for (int i = 0; i < 2; i++)
			wait |= outbuf_end(&x->out[i]) + PROTO_DATA_MAX >
				x->read_offsets[i] + EXEC_KEEP_BYTES;
	pthread_mutex_unlock(&x->lock);
	return wait;
}

bool exec_drive(struct exec_session *x, int timeout_ms)
{
	uint64_t deadline = clock_mono_ms() + (uint64_t)timeout_ms;
	const bool *interrupted = &x->sandbox->m->interrupted;

	for (;;) {
		uint64_t now = clock_mono_ms();
		struct agent_event ev;
		struct err e;
		int left, rc;

		if (now >= deadline || must_wait_for_reader(x) ||
		    __atomic_load_n(interrupted, __ATOMIC_RELAXED))
			return false;
		left = deadline - now < DRIVE_SLICE_MS ? (int)(deadline - now) : DRIVE_SLICE_MS;
		rc = agent_exec_next(x->conn, left, &ev, &e);
		if (rc != -EAGAIN && take_event(x, rc, &ev, &e))
			return true;
	}
}

/* --- on the loop ---------------------------------------------------------------------------------
 */

/* Events that the client has read ahead raise no EPOLLIN: come back without one. */
static void pump_again(struct manager *m, struct exec_session *x)
{
	uint64_t one = 1;

	if (x->in_again)
		return;
	x->in_again = true;
	x->again_next = m->again;
	m->again = x;
	if (write(m->again_fd, &one, sizeof(one)) < 0)
		log_error("waking the background loop: %s", strerror(errno));
}

static void leave_loop(struct manager *m, struct exec_session *x)
{
	loop_remove(&m->loop, &x->source);
	for (struct exec_session **p = &m->again; *p; p = &(*p)->again_next)
		if (*p == x) {
			*p = x->again_next;
			break;
		}
	__atomic_sub_fetch(&m->background, 1, __ATOMIC_RELEASE);
	exec_put(x);
}

/* Under loop_lock. */
static void pump(struct manager *m, struct exec_session *x)
{
	for (int i = 0; i < EVENTS_PER_TURN; i++) {
		struct agent_event ev;
		struct err e;
		int rc;

		if (must_wait_for_reader(x)) {
			x->paused = true;
			loop_modify(&m->loop, &x->source, 0);
			return;
		}
		rc = agent_exec_next(x->conn, 0, &ev, &e);
		if (rc == -EAGAIN)
			return;
		if (take_event(x, rc, &ev, &e)) {
			leave_loop(m, x);
			return;
		}
	}
	pump_again(m, x);
}

static void unpause(struct manager *m, struct exec_session *x)
{
	if (!x->paused || !x->source.handler)
		return;
	x->paused = false;
	loop_modify(&m->loop, &x->source, EPOLLIN);
	pump_again(m, x);
}

static void on_readable(struct loop_source *source, uint32_t events)
{
	struct exec_session *x = container_of(source, struct exec_session, source);

	/* An error is reported even to a source that waits for nothing. */
	if ((events & (EPOLLHUP | EPOLLERR)) && x->paused) {
		pthread_mutex_lock(&x->lock);
		x->hold_until_ms = 0;
		pthread_mutex_unlock(&x->lock);
		x->paused = false;
	}
	pump(x->sandbox->m, x);
}

static void on_again(struct loop_source *source, uint32_t events)
{
	struct manager *m = container_of(source, struct manager, again_source);
	struct exec_session *list;
	uint64_t count;

	(void)events;
	if (read(m->again_fd, &count, sizeof(count)) < 0)
		return;
	list = m->again;
	m->again = NULL;
	while (list) {
		struct exec_session *x = list;

		list = x->again_next;
		x->in_again = false;
		x->again_next = NULL;
		pump(m, x);
	}
}

int sessions_start(struct manager *m)
{
	m->again_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->again_fd < 0)
		return -errno;
	return loop_add(&m->loop, &m->again_source, m->again_fd, EPOLLIN, on_again);
}

void sessions_drain(struct manager *m)
{
	uint64_t deadline = clock_mono_ms() + 2000;

	while (__atomic_load_n(&m->background, __ATOMIC_ACQUIRE) && clock_mono_ms() < deadline)
		poll(NULL, 0, 1);
}

static void list_session(struct sandbox *s, struct exec_session *x)
{
	bool taken;

	pthread_mutex_lock(&s->lock);
	do {
		uint32_t number = 0;

		if (getrandom(&number, sizeof(number), 0) != sizeof(number))
			number = (uint32_t)clock_mono_ns();
		snprintf(x->id, sizeof(x->id), "%08x", number);
		taken = false;
		for (struct exec_session *o = s->sessions; o; o = o->next)
			taken |= !strcmp(o->id, x->id);
	} while (taken);
	x->next = s->sessions;
	s->sessions = get(x);
	pthread_mutex_unlock(&s->lock);
}

int exec_background(struct exec_session *x, bool listed, struct err *e)
{
	struct manager *m = x->sandbox->m;
	int rc;

	if (listed)
		list_session(x->sandbox, x);
	pthread_mutex_lock(&m->loop_lock);
	rc = loop_add(&m->loop, &x->source, agent_conn_fd(x->conn), EPOLLIN, on_readable);
	if (!rc) {
		get(x);
		__atomic_add_fetch(&m->background, 1, __ATOMIC_RELAXED);
		pump_again(m, x);
	}
	pthread_mutex_unlock(&m->loop_lock);
	if (rc) {
		err_sys(e, rc, "watching the command");
		take_failure(x, rc, e);
	}
	return rc;
}

/* --- looking at it
 * ----------------------------------------------------------------------------------- */

struct exec_session *exec_find(struct sandbox *s, const char *id)
{
	struct exec_session *x;

	pthread_mutex_lock(&s->lock);
	for (x = s->sessions; x; x = x->next)
		if (!strcmp(x->id, id)) {
			get(x);
			break;
		}
	pthread_mutex_unlock(&s->lock);
	return x;
}

void exec_each(struct sandbox *s, void (*fn)(void *arg, struct exec_session *x), void *arg)
{
	pthread_mutex_lock(&s->lock);
	for (struct exec_session *x = s->sessions; x; x = x->next)
		fn(arg, x);
	pthread_mutex_unlock(&s->lock);
}

int exec_signal(struct exec_session *x, int signo, struct err *e)
{
	int rc = 0;

	pthread_mutex_lock(&x->lock);
	if (x->conn)
		rc = agent_exec_signal(x->conn, signo, e);
	pthread_mutex_unlock(&x->lock);
	/* A broken connection: the driver will notice, and the process is beyond reach. */
	return rc == -EINVAL ? rc : 0;
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
	unpause(m, x);
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

/* On the loop's thread, under loop_lock. */
void sessions_tick(struct sandbox *s)
{
	uint64_t now = clock_mono_ms();
	struct exec_session *old = NULL;

	pthread_mutex_lock(&s->lock);
	for (struct exec_session **p = &s->sessions; *p;) {
		struct exec_session *x = *p;
		bool expired;

		pthread_mutex_lock(&x->lock);
		expired = x->state != EXEC_RUNNING && now - x->ended_ms > RETAIN_MS;
		if (x->paused && x->hold_until_ms < now)
			unpause(s->m, x);
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
		exec_put(x);
	}
}

void sessions_drop(struct sandbox *s)
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

void sessions_interrupt(struct sandbox *s)
{
	pthread_mutex_lock(&s->lock);
	for (struct exec_session *x = s->sessions; x; x = x->next) {
		pthread_mutex_lock(&x->lock);
		pthread_cond_broadcast(&x->changed);
		pthread_mutex_unlock(&x->lock);
	}
	pthread_mutex_unlock(&s->lock);
}
