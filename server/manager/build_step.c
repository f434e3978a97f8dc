/* SPDX-License-Identifier: Apache-2.0 */
/* One step of a build, in the guest; see build.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "server/manager/build_int.h"

#define LOOK_MS	      500
#define PATIENCE_MS   30000 /* beyond a time-out, for the agent to say so */
#define TAIL_BYTES    1200  /* of the output, for the reason of a failure */
#define LOG_LINE_MAX  2000
#define ETC_MAX	      (1u << 20)
#define CHMOD_AT_ONCE 200

#define ENVIRONMENT "/etc/environment"
#define PROFILE	    "/etc/profile.d/image-env.sh"

/* --- a command ------------------------------------------------------------------------------- */

/* What a command prints: lines for the log, and the end of it. */
struct output {
	struct build *b;
	int step;
	const char *type;
	uint64_t deadline_ms;	    /* of the step, or of the build if that is sooner */
	char line[2][LOG_LINE_MAX]; /* what has no end yet, of stdout and stderr */
	size_t line_len[2];
	char tail[TAIL_BYTES + 1];
	size_t tail_len;
};

static void flush_line(struct output *o, int which)
{
	size_t len = o->line_len[which];

	while (len && o->line[which][len - 1] == '\r')
		len--;
	if (len)
		build_log_bytes(o->b, o->step, o->type, o->line[which], len);
	o->line_len[which] = 0;
}

static void keep_tail(struct output *o, const uint8_t *data, size_t len)
{
	if (len > TAIL_BYTES) {
		data += len - TAIL_BYTES;
		len = TAIL_BYTES;
	}
	if (o->tail_len + len > TAIL_BYTES) {
		size_t drop = o->tail_len + len - TAIL_BYTES;

		o->tail_len -= drop;
		memmove(o->tail, o->tail + drop, o->tail_len);
	}
	memcpy(o->tail + o->tail_len, data, len);
	o->tail_len += len;
}

static void take_output(struct output *o, int which, const uint8_t *data, size_t len)
{
	keep_tail(o, data, len);
	for (size_t i = 0; i < len; i++) {
		if (data[i] == '\n' || o->line_len[which] == LOG_LINE_MAX)
			flush_line(o, which);
		if (data[i] != '\n')
			o->line[which][o->line_len[which]++] = (char)data[i];
	}
}

/* What it printed last, for a message: NULs would end that. */
static const char *tail_text(struct output *o)
{
	while (o->tail_len && strchr(" \r\n", o->tail[o->tail_len - 1]))
		o->tail_len--;
	for (size_t i = 0; i < o->tail_len; i++)
		o->tail[i] = o->tail[i] ? o->tail[i] : ' ';
	o->tail[o->tail_len] = '\0';
	return o->tail;
}

/* Until its end. Return: 0 and *@exit; -ETIMEDOUT; -ECANCELED; of the connection */
static int drive(struct output *o, struct agent_conn *conn, uint64_t deadline_ms,
		 struct agent_exit *exit, struct err *e)
{
	struct agent_event ev;

	for (;;) {
		int rc = agent_exec_next(conn, LOOK_MS, &ev, e);

		if (manager_interrupted(o->b->m))
			return err_set(e, -ECANCELED, "the server stops");
		if (rc == -EAGAIN && clock_mono_ms() > deadline_ms)
			return err_set(e, -ETIMEDOUT, "the guest does not answer");
		if (rc && rc != -EAGAIN)
			return rc;
		if (rc)
			continue;
		if (ev.type == AGENT_STDOUT || ev.type == AGENT_STDERR)
			take_output(o, ev.type == AGENT_STDERR, ev.data, ev.len);
		if (ev.type == AGENT_EXIT) {
			*exit = ev.exit;
			flush_line(o, 0);
			flush_line(o, 1);
			return 0;
		}
	}
}

/* A step's time, or what is left of the build's. */
static uint64_t deadline_of(const struct build *b)
{
	uint64_t step = clock_mono_ms() + (uint64_t)b->m->config->build_step_timeout_s * 1000;

	return b->deadline_ms < step ? b->deadline_ms : step;
}

static int too_late(const struct build *b, char *why)
{
	bool whole = clock_mono_ms() >= b->deadline_ms;
	int64_t s = whole ? b->m->config->build_timeout_s : b->m->config->build_step_timeout_s;

	snprintf(why, BUILD_ERROR_MAX, "%s took longer than %lld s", whole ? "the build" : "it",
		 (long long)s);
	return -EREMOTEIO;
}

static int judge(struct output *o, const struct agent_exit *exit, char *why)
{
	const char *tail = tail_text(o);

	if (exit->timed_out)
		return too_late(o->b, why);
	if (exit->signal)
		snprintf(why, BUILD_ERROR_MAX, "ended by signal %d%s%s", exit->signal,
			 *tail ? ": " : "", tail);
	else if (exit->code)
		snprintf(why, BUILD_ERROR_MAX, "exit code %d%s%s", exit->code, *tail ? ": " : "",
			 tail);
	else
		return 0;
	return -EREMOTEIO;
}

/* Run @spec in the guest. Its session and its timeout are set here. */
static int run(struct output *o, struct sandbox *s, struct agent_exec_spec *spec, char *why)
{
	uint64_t now = clock_mono_ms();
	uint64_t left = o->deadline_ms > now ? o->deadline_ms - now : 0;
	struct agent_conn *conn;
	struct agent_exit exit = {0};
	struct err e;
	int rc;

	if (!left)
		return too_late(o->b, why);
	spec->timeout_ms = (uint32_t)left;
	if (getrandom(&spec->session, sizeof(spec->session), 0) != sizeof(spec->session))
		return -EIO;
	spec->session |= !spec->session;
	rc = agent_pool_get(s->pool, &conn, &e);
	if (!rc) {
		rc = agent_exec_start(conn, spec, &e);
		if (!rc)
			rc = drive(o, conn, clock_mono_ms() + left + PATIENCE_MS, &exit, &e);
		agent_pool_put(s->pool, conn);
	}
	if (!rc)
		return judge(o, &exit, why);
	snprintf(why, BUILD_ERROR_MAX, "%s", e.msg);
	return rc == -ECANCELED ? rc : -EREMOTEIO;
}

/* As root: a script of ours for sh, with arguments that are a list of strings, or one. */
static int run_script(struct output *o, const struct build_at *at, const char *script,
		      const char *const *env, const json_t *list, const char *one, char *why)
{
	size_t n = list ? json_array_size(list) : 1;
	cleanup_free const char **argv = calloc(n + 5, sizeof(*argv));
	struct agent_exec_spec spec = {.argv = argv, .env = env, .user = "root", .cwd = "/"};

	if (!argv)
		return -ENOMEM;
	argv[0] = "sh";
	argv[1] = "-c";
	argv[2] = script;
	argv[3] = "sh";
	for (size_t i = 0; i < n; i++)
		argv[4 + i] = list ? json_string_value(json_array_get(list, i)) : one;
	return run(o, at->s, &spec, why);
}

/* --- files ------------------------------------------------------------------------------------ */

static int fail(char *why, const char *what, int rc, const struct err *e)
{
	(void)rc;
	snprintf(why, BUILD_ERROR_MAX, "%s: %s", what, e->msg);
	return -EREMOTEIO;
}

static int write_file(struct agent_conn *conn, const char *path, const void *data, size_t len,
		      struct err *e)
{
	int rc = agent_write_open(conn, path, e);

	if (!rc && len)
		rc = agent_write(conn, data, len, e);
	return rc ? rc : agent_write_commit(conn, e);
}

/* A file that was there keeps its mode, but the image says 0644. */
static int needs_chmod(struct agent_conn *conn, const char *path)
{
	struct agent_stat st;
	struct err e;

	return !agent_stat(conn, path, &st, &e) && (st.mode & 07777) != 0644;
}

static int chmod_files(struct output *o, const struct build_at *at, json_t *paths, char *why)
{
	int rc = json_array_size(paths)
		     ? run_script(o, at, "exec chmod 0644 -- \"$@\"", NULL, paths, NULL, why)
		     : 0;

	json_array_clear(paths);
	return rc;
}

static int add_one(struct agent_conn *conn, const struct step *step, size_t i, json_t *loose,
		   char *why)
{
	struct manifest_file f;
	struct err e = {.msg = "out of memory"};
	int rc = step_file(step, i, &f);

	if (rc)
		return fail(why, "file", rc, &e);
	if (needs_chmod(conn, f.path))
		json_array_append_new(loose, json_string(f.path));
	rc = write_file(conn, f.path, f.data, f.len, &e);
	if (rc)
		fail(why, f.path, rc, &e);
	free(f.path);
	free(f.data);
	return rc ? -EREMOTEIO : 0;
}

static int add_with(struct output *o, const struct build_at *at, const struct step *step,
		    struct agent_conn *conn, json_t *loose, char *why)
{
	struct err e;
	int rc = 0;

	if (step->type == STEP_ADD_DIR) {
		const char *path = json_string_value(json_object_get(step->args, "path"));

		rc = agent_mkdir(conn, path, &e);
		if (rc)
			return fail(why, path, rc, &e);
	}
	for (size_t i = 0; !rc && i < step_files(step); i++) {
		if (manager_interrupted(o->b->m))
			return -ECANCELED;
		if (clock_mono_ms() >= o->deadline_ms)
			return too_late(o->b, why);
		rc = add_one(conn, step, i, loose, why);
		if (!rc && json_array_size(loose) == CHMOD_AT_ONCE)
			rc = chmod_files(o, at, loose, why);
	}
	return rc ? rc : chmod_files(o, at, loose, why);
}

static int add_files(struct output *o, const struct build_at *at, const struct step *step,
		     char *why)
{
	struct agent_conn *conn;
	json_t *loose = json_array();
	struct err e;
	int rc = agent_pool_get(at->s->pool, &conn, &e);

	if (rc) {
		json_decref(loose);
		return fail(why, "the guest's agent", rc, &e);
	}
	rc = add_with(o, at, step, conn, loose, why);
	agent_pool_put(at->s->pool, conn);
	json_decref(loose);
	return rc;
}

/* --- variables -------------------------------------------------------------------------------- */

/* The whole of a small file; NULL if there is none. The caller frees. */
static int read_file(struct agent_conn *conn, const char *path, char **text, struct err *e)
{
	struct agent_stat st;
	size_t len = 0;
	ssize_t n;
	int rc = agent_stat(conn, path, &st, e);

	*text = NULL;
	if (rc)
		return rc == -ENOENT ? 0 : rc;
	rc = agent_read_open(conn, path, &st, e);
	if (rc)
		return rc;
	*text = malloc(ETC_MAX + 1);
	if (!*text)
		return err_set(e, -ENOMEM, "out of memory");
	while ((n = agent_read(conn, *text + len, ETC_MAX - len, e)) > 0) {
		len += (size_t)n;
		if (len == ETC_MAX)
			return err_set(e, -EFBIG, "larger than %u bytes", ETC_MAX);
	}
	(*text)[len] = '\0';
	return (int)n;
}

static int merge_file(struct agent_conn *conn, const char *path, const json_t *vars, bool shell,
		      struct err *e)
{
	cleanup_free char *old = NULL;
	cleanup_free char *merged = NULL;
	int rc = read_file(conn, path, &old, e);

	if (rc)
		return rc;
	merged = environment_merge(old, vars, shell);
	if (!merged)
		return err_set(e, -ENOMEM, "out of memory");
	return write_file(conn, path, merged, strlen(merged), e);
}

static int set_variables(const struct build_at *at, const struct step *step, char *why)
{
	const json_t *vars = json_object_get(step->args, "vars");
	struct agent_conn *conn;
	struct err e;
	int rc = agent_pool_get(at->s->pool, &conn, &e);

	if (rc)
		return fail(why, "the guest's agent", rc, &e);
	rc = merge_file(conn, ENVIRONMENT, vars, false, &e);
	if (rc)
		fail(why, ENVIRONMENT, rc, &e);
	if (!rc) {
		rc = merge_file(conn, PROFILE, vars, true, &e);
		if (rc)
			fail(why, PROFILE, rc, &e);
	}
	agent_pool_put(at->s->pool, conn);
	return rc ? -EREMOTEIO : 0;
}

/* --- the types -------------------------------------------------------------------------------- */

static int install(struct output *o, const struct build_at *at, const struct step *step, char *why)
{
	static const char *const apt_env[] = {"DEBIAN_FRONTEND=noninteractive", NULL};
	static const char *const pip_env[] = {"PIP_ROOT_USER_ACTION=ignore", "PIP_NO_INPUT=1",
					      "PIP_DISABLE_PIP_VERSION_CHECK=1",
					      /* The image is nobody else's. */
					      "PIP_BREAK_SYSTEM_PACKAGES=1", NULL};
	const json_t *packages = json_object_get(step->args, "packages");

	if (step->type == STEP_APT_INSTALL)
		return run_script(o, at,
				  "apt-get -q update && "
				  /* On a terminal of its own dpkg would draw how far it reads. */
				  "apt-get -q -y -o Dpkg::Use-Pty=0 install -- \"$@\" && "
				  "apt-get -q clean",
				  apt_env, packages, NULL, why);
	return run_script(o, at, "exec python3 -m pip install --no-cache-dir -- \"$@\"", pip_env,
			  packages, NULL, why);
}

static int run_commands(struct output *o, const struct build_at *at, const struct step *step,
			char *why)
{
	cleanup_free char *script = step_script(step);
	const char *const argv[] = {"sh", "-c", RUN_IN_BASH_OR_SH, "sh", script, NULL};
	struct agent_exec_spec spec = {
	    .argv = argv,
	    .cwd = at->workdir,
	    .user = json_string_value(json_object_get(step->args, "user")),
	};

	return script ? run(o, at->s, &spec, why) : -ENOMEM;
}

static int make_workdir(struct output *o, const struct build_at *at, const struct step *step,
			char *why)
{
	/* One that was there stays whose it is. */
	return run_script(o, at,
			  "[ -d \"$1\" ] || { mkdir -p -- \"$1\" && "
			  "{ ! id -u sandbox >/dev/null 2>&1 || chown sandbox: -- \"$1\"; }; }",
			  NULL, NULL, json_string_value(json_object_get(step->args, "path")), why);
}

int build_run_step(struct build *b, const struct build_at *at, size_t i, char *why)
{
	const struct step *step = &b->manifest.steps[i];
	cleanup_free struct output *o = calloc(1, sizeof(*o));
	int rc = -ENOMEM;

	if (!o)
		return rc;
	o->b = b;
	o->step = (int)i + 1;
	o->type = step_type_name(step->type);
	o->deadline_ms = deadline_of(b);
	switch (step->type) {
	case STEP_APT_INSTALL:
	case STEP_PIP_INSTALL:
		rc = install(o, at, step, why);
		break;
	case STEP_RUN:
		rc = run_commands(o, at, step, why);
		break;
	case STEP_ENV:
		rc = set_variables(at, step, why);
		break;
	case STEP_WORKDIR:
		rc = make_workdir(o, at, step, why);
		break;
	case STEP_ADD_FILE:
	case STEP_ADD_DIR:
		rc = add_files(o, at, step, why);
		break;
	}
	if (rc && !*why)
		snprintf(why, BUILD_ERROR_MAX, "%s",
			 rc == -ECANCELED ? "the server stops" : "out of memory");
	return rc;
}
