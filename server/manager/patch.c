/* SPDX-License-Identifier: Apache-2.0 */
/* Patches: scripts that forks of a checkpoint run, in order, before they are handed out. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "lib/clock.h"
#include "lib/log.h"
#include "server/manager/checkpoint.h"
#include "server/manager/internal.h"

#define PATCH_TIMEOUT_MS 300000
#define OUTPUT_MAX	 4096 /* of each stream: the end of it tells why */
#define SCRIPT_MAX	 (256u << 10)

int patch_add(struct manager *m, struct patch_row *row, struct err *e)
{
	struct checkpoint_row checkpoint;
	int rc;

	if (strlen(row->script) > SCRIPT_MAX)
		return err_set(e, -EINVAL, "script: longer than %u KiB", SCRIPT_MAX >> 10);
	rc = store_checkpoint_get(m->store, row->checkpoint_id, &checkpoint, e);
	if (rc)
		return rc;
	if (checkpoint.is_template)
		rc = err_set(e, -ENOENT, "checkpoint not found");
	else if (checkpoint.status != CHECKPOINT_READY)
		rc = err_set(e, -EINVAL, "checkpoint is not ready: it is %s",
			     checkpoint_status_name(checkpoint.status));
	checkpoint_row_fini(&checkpoint);
	if (!rc)
		rc = uuid_make(row->id, e);
	row->created_ms = clock_wall_ms();
	return rc ? rc : store_patch_insert(m->store, row, e);
}

static int check_checkpoint(struct manager *m, const char *id, struct err *e)
{
	struct checkpoint_row row;
	int rc = store_checkpoint_get(m->store, id, &row, e);

	if (rc)
		return rc;
	if (row.is_template)
		rc = err_set(e, -ENOENT, "checkpoint not found");
	checkpoint_row_fini(&row);
	return rc;
}

int patch_each(struct manager *m, const char *checkpoint_id,
	       void (*fn)(void *arg, struct patch_row *row), void *arg, struct err *e)
{
	int rc = check_checkpoint(m, checkpoint_id, e);

	return rc ? rc : store_patch_each(m->store, checkpoint_id, fn, arg, e);
}

int patch_delete(struct manager *m, const char *checkpoint_id, const char *id, struct err *e)
{
	int rc = check_checkpoint(m, checkpoint_id, e);

	return rc ? rc : store_patch_delete(m->store, checkpoint_id, id, e);
}

/* The last line that is not empty. */
static const char *last_line(char *text, size_t len)
{
	char *line;

	while (len && (text[len - 1] == '\n' || text[len - 1] == ' '))
		text[--len] = '\0';
	line = len ? memrchr(text, '\n', len) : NULL;
	return line ? line + 1 : text;
}

static int judge(const struct patch_row *p, struct agent_output *out, struct err *e)
{
	const char *why = last_line(out->err, out->err_len);
	int rc = -EREMOTEIO;

	if (out->exit.timed_out)
		err_set(e, rc, "patch %lld: not done after %d s", (long long)p->sequence,
			PATCH_TIMEOUT_MS / 1000);
	else if (out->exit.signal)
		err_set(e, rc, "patch %lld: ended by signal %d%s%s", (long long)p->sequence,
			out->exit.signal, *why ? ": " : "", why);
	else if (out->exit.code)
		err_set(e, rc, "patch %lld: exit code %d%s%s", (long long)p->sequence,
			out->exit.code, *why ? ": " : "", why);
	else
		rc = 0;
	return rc;
}

static int run_patch(struct sandbox *s, const struct patch_row *p, struct err *e)
{
	const char *const argv[] = {"sh", "-c", RUN_IN_BASH_OR_SH, "sh", p->script, NULL};
	struct agent_exec_spec spec = {
	    .argv = argv,
	    .sandbox_env = (const char *const *)s->envs,
	    .user = "root",
	    .timeout_ms = PATCH_TIMEOUT_MS,
	};
	struct agent_output out;
	struct agent_conn *conn;
	int rc;

	if (getrandom(&spec.session, sizeof(spec.session), 0) != sizeof(spec.session))
		return err_set(e, -EIO, "getrandom");
	spec.session |= !spec.session;
	rc = agent_pool_get(s->pool, &conn, e);
	if (rc)
		return rc;
	rc = agent_exec_run(conn, &spec, OUTPUT_MAX, &out, e);
	agent_pool_put(s->pool, conn);
	if (rc)
		return err_wrap(e, rc, "patch %lld", (long long)p->sequence);
	rc = judge(p, &out, e);
	free(out.out);
	free(out.err);
	return rc;
}

/* In memory and, if it has a row there, in the store. */
static int note(struct sandbox *s, int64_t sequence, const char *error, struct err *e)
{
	char *copy = error ? strdup(error) : NULL;

	if (error && !copy)
		return err_set(e, -ENOMEM, "out of memory");
	pthread_mutex_lock(&s->lock);
	s->row.patch_sequence = sequence;
	free(s->row.patch_error);
	s->row.patch_error = copy;
	pthread_mutex_unlock(&s->lock);
	return store_sandbox_set_patched(s->m->store, s->id, sequence, error, e);
}

static int run_pending(struct sandbox *s, struct err *e)
{
	int64_t done = s->row.patch_sequence;
	struct patch_row p;
	struct err ignored;
	int rc;

	for (;;) {
		rc = store_patch_next(s->m->store, s->row.from_checkpoint, done, &p, e);
		if (rc)
			break;
		rc = run_patch(s, &p, e);
		if (!rc)
			rc = note(s, p.sequence, NULL, e);
		done = rc ? done : p.sequence;
		patch_row_fini(&p);
		if (rc) {
			note(s, done, e->msg, &ignored);
			return rc;
		}
	}
	if (rc != -ENOENT)
		return rc;
	/* The one that had failed may have been deleted. */
	return s->row.patch_error ? note(s, done, NULL, e) : 0;
}

void patches_apply(struct sandbox *s)
{
	struct err e;

	if (s->row.from_checkpoint[0] && run_pending(s, &e))
		log_warn("sandbox %s: %s", s->id, e.msg);
}
