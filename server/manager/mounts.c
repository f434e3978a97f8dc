/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mounts in sandboxes; see mounts.h.
 *
 * A script that runs as root in the guest starts the daemon, in a session of its own, waits until
 * something is mounted, and otherwise ends it and says what it has said. It is told everything by
 * its arguments and its environment, so nothing is quoted.
 */
#include "server/manager/mounts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/checkpoint_int.h"
#include "server/manager/internal.h"

#define MOUNT_TIMEOUT_MS 60000
#define OUTPUT_MAX	 4096

/* Exit codes of the scripts. */
enum { EXIT_BUSY = 40, EXIT_NO_RCLONE, EXIT_NO_FUSE, EXIT_NO_MOUNT, EXIT_NOT_MOUNTED };

/*
 * $1: what its files are called; $2: the mount point; $3: "rclone" or "command"; then the daemon.
 * OC_MOUNTS_DIR, OC_FUSE_DEVICE, OC_MOUNT_TRIES: for tests.
 */
#define SCRIPT_COMMON                                                                              \
	"umask 077; n=$1; mp=$2; driver=$3; shift 3\n"                                             \
	"d=${OC_MOUNTS_DIR:-/run/oc-agent/mounts}\n"
static const char add_script[] = SCRIPT_COMMON
    "mountpoint -q \"$mp\" && exit 40\n"
    "mkdir -p \"$d\" || exit 43\n"
    "if [ \"$driver\" = rclone ]; then\n"
    "  command -v rclone >/dev/null || exit 41\n"
    "  [ -e \"${OC_FUSE_DEVICE:-/dev/fuse}\" ] && command -v fusermount3 >/dev/null || exit 42\n"
    "  printf '%s\\n' \"$OC_RCLONE_CONFIG\" >\"$d/$n.conf\" || exit 43\n"
    "  rclone version 2>/dev/null | head -n 1\n"
    "  set -- \"$@\" \"--config=$d/$n.conf\"\n"
    "fi\n"
    "unset OC_RCLONE_CONFIG\n"
    "made=; [ -d \"$mp\" ] || { (umask 022; mkdir -p \"$mp\") || exit 43; made=1; }\n"
    /* The umask is what rclone makes the modes of all files from. */
    "(umask 022; exec setsid \"$@\") >\"$d/$n.log\" 2>&1 </dev/null &\n"
    "pid=$!; echo $pid >\"$d/$n.pid\"\n"
    "i=0\n"
    "while [ $i -lt ${OC_MOUNT_TRIES:-300} ]; do\n"
    "  mountpoint -q \"$mp\" && exit 0\n"
    /* One that goes to the background has ended with 0: it may still come. */
    "  if [ -n \"$pid\" ] && ! kill -0 $pid 2>/dev/null; then\n"
    "    wait $pid || break\n"
    "    pid=\n"
    "  fi\n"
    "  i=$((i + 1)); sleep 0.1\n"
    "done\n"
    "[ -n \"$pid\" ] && kill -TERM -$pid 2>/dev/null\n"
    "tail -c 2000 \"$d/$n.log\" >&2\n"
    "rm -f \"$d/$n.\"*\n"
    "[ -n \"$made\" ] && rmdir \"$mp\"\n"
    "exit 43\n";
static const char remove_script[] =
    SCRIPT_COMMON "if mountpoint -q \"$mp\"; then\n"
		  "  why=$(umount \"$mp\" 2>&1) || fusermount3 -u \"$mp\" 2>/dev/null ||\n"
		  "    { echo \"$why\" >&2; exit 43; }\n"
		  "fi\n"
		  "pid=$(cat \"$d/$n.pid\" 2>/dev/null) && kill -TERM -$pid 2>/dev/null\n"
		  "rm -f \"$d/$n.\"*\n"
		  "exit 0\n";

/* --- running scripts ------------------------------------------------------------------------- */

/* A list of strings that grows; failed: out of memory, sticks. */
struct words {
	char **list; /* owned, each too; NULL-terminated */
	size_t n;
	bool failed;
};

static void words_fini(struct words *w)
{
	for (size_t i = 0; i < w->n; i++) {
		/* It may be a secret. */
		explicit_bzero(w->list[i], strlen(w->list[i]));
		free(w->list[i]);
	}
	free(w->list);
	*w = (struct words){0};
}

/* @text is taken over; NULL: there was no memory for it. */
static void words_take(struct words *w, char *text)
{
	char **grown = text ? realloc(w->list, (w->n + 2) * sizeof(*grown)) : NULL;

	if (!grown) {
		free(text);
		w->failed = true;
		return;
	}
	w->list = grown;
	w->list[w->n++] = text;
	w->list[w->n] = NULL;
}

static void words_add(struct words *w, const char *text)
{
	words_take(w, strdup(text));
}

static void words_add_env(struct words *w, const char *name, const char *value)
{
	char *text;

	words_take(w, asprintf(&text, "%s=%s", name, value) < 0 ? NULL : text);
}

static void words_add_map(struct words *w, const json_t *map)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)map, key, value)
	    words_add_env(w, key, json_string_value(value));
}

/* {mountpoint} and {path} stand for @path, wherever they are in it. */
static char *filled_in(const char *word, const char *path)
{
	static const char *const names[] = {"{mountpoint}", "{path}"};
	char *out = NULL;
	size_t size;
	FILE *f = open_memstream(&out, &size);

	while (f && *word) {
		size_t len = 0;

		for (int i = 0; i < 2; i++)
			if (!strncmp(word, names[i], strlen(names[i])))
				len = strlen(names[i]);
		if (len)
			fputs(path, f);
		else
			fputc(*word, f);
		word += len ? len : 1;
	}
	if (f && fclose(f)) {
		free(out);
		out = NULL;
	}
	return out;
}

/* What the files of a mount are called in the guest. */
static void file_name(const char *path, char name[17])
{
	uint64_t h = 14695981039346656037ull;

	for (; *path; path++)
		h = (h ^ (unsigned char)*path) * 1099511628211ull;
	snprintf(name, 17, "%016llx", (unsigned long long)h);
}

static void words_add_script(struct words *w, const char *script, const char *path,
			     const char *driver)
{
	char name[17];

	file_name(path, name);
	words_add(w, "bash");
	words_add(w, "-c");
	words_add(w, script);
	words_add(w, "mount");
	words_add(w, name);
	words_add(w, path);
	words_add(w, driver);
}

static int run(struct sandbox *s, const struct words *argv, const struct words *env,
	       struct agent_output *out, struct err *e)
{
	struct agent_exec_spec spec = {
	    .argv = (const char *const *)argv->list,
	    .sandbox_env = (const char *const *)s->envs,
	    .env = (const char *const *)env->list,
	    .user = "root",
	    .cwd = "/",
	    .timeout_ms = MOUNT_TIMEOUT_MS,
	};
	struct agent_conn *conn;
	int rc;

	if (argv->failed || env->failed)
		return err_set(e, -ENOMEM, "out of memory");
	if (getrandom(&spec.session, sizeof(spec.session), 0) != sizeof(spec.session))
		return err_set(e, -EIO, "getrandom");
	spec.session |= !spec.session;
	rc = sandbox_agent_get(s, &conn, e);
	if (rc)
		return rc;
	rc = agent_exec_run(conn, &spec, OUTPUT_MAX, out, e);
	sandbox_agent_put(s, conn);
	return rc ? err_wrap(e, lifecycle_errno(rc), "mounting") : 0;
}

static void output_fini(struct agent_output *out)
{
	free(out->out);
	free(out->err);
}

static int judge(const struct agent_output *out, const char *path, struct err *e)
{
	size_t len = strlen(out->err);

	switch (out->exit.code) {
	case 0:
		return 0;
	case EXIT_BUSY:
		return err_set(e, -EEXIST, "something is mounted at %.100s", path);
	case EXIT_NO_RCLONE:
		return err_set(e, -ENOSYS, "rclone is not in this sandbox's image");
	case EXIT_NO_FUSE:
		return err_set(e, -ENOSYS, "FUSE (fusermount3) is not in this sandbox's image");
	default:
		while (len && out->err[len - 1] == '\n')
			len--;
		/* The end says most. */
		return err_set(e, MOUNT_FAILED, "nothing was mounted at %.80s: %.*s", path,
			       (int)(len > 140 ? 140 : len),
			       out->err + (len > 140 ? len - 140 : 0));
	}
}

/* --- the list -------------------------------------------------------------------------------- */

static json_t *find(const json_t *list, const char *path, size_t *at)
{
	json_t *m;
	size_t i;

	json_array_foreach((json_t *)list, i, m)
	{
		if (strcmp(json_string_value(json_object_get(m, "path")), path) != 0)
			continue;
		if (at)
			*at = i;
		return m;
	}
	return NULL;
}

static void set_mounts(struct sandbox_row *row, const void *arg)
{
	json_decref(row->mounts);
	row->mounts = json_incref((json_t *)arg);
}

/* Rows are shared: a list is replaced and never changed. */
static json_t *copy_list(struct sandbox *s)
{
	json_t *copy;

	pthread_mutex_lock(&s->lock);
	copy = json_copy(s->row.mounts);
	pthread_mutex_unlock(&s->lock);
	return copy;
}

static json_t *entry_of(const struct mount_spec *spec, const char *version)
{
	json_t *m = json_pack("{sssssb}", "path", spec->path, "driver", spec->driver, "readOnly",
			      spec->read_only);
	int rc = !m;

	if (!rc && spec->remote)
		rc |= json_object_set_new(m, "remote", json_string(spec->remote));
	if (!rc && spec->backend)
		rc |= json_object_set_new(m, "backend", json_string(spec->backend));
	if (!rc && *version)
		rc |= json_object_set_new(m, "rcloneVersion", json_string(version));
	if (!rc && spec->command)
		rc |= json_object_set_new(m, "command", json_deep_copy(spec->command));
	if (!rc && spec->env)
		rc |= json_object_set_new(m, "env", json_deep_copy(spec->env));
	if (!rc)
		return m;
	json_decref(m);
	return NULL;
}

/* --- operations ------------------------------------------------------------------------------ */

static void words_add_rclone(struct words *argv, const struct mount_spec *spec)
{
	json_t *option;
	size_t i;

	words_add(argv, "rclone");
	words_add(argv, "mount");
	words_add(argv, spec->remote);
	words_add(argv, spec->path);
	words_add(argv, "--allow-other");
	if (spec->read_only)
		words_add(argv, "--read-only");
	json_array_foreach((json_t *)spec->options, i, option)
	    words_add(argv, json_string_value(option));
}

static int start(struct sandbox *s, const struct mount_spec *spec, char version[64], struct err *e)
{
	struct words argv = {0}, env = {0};
	struct agent_output out;
	json_t *word;
	size_t i;
	int rc;

	words_add_script(&argv, add_script, spec->path, spec->driver);
	json_array_foreach((json_t *)spec->command, i, word)
	    words_take(&argv, filled_in(json_string_value(word), spec->path));
	if (!spec->command)
		words_add_rclone(&argv, spec);
	words_add_map(&env, spec->env);
	words_add_map(&env, spec->secrets);
	if (spec->read_only)
		words_add(&env, "OC_MOUNT_READONLY=1");
	if (spec->config)
		words_add_env(&env, "OC_RCLONE_CONFIG", spec->config);
	rc = run(s, &argv, &env, &out, e);
	words_fini(&argv);
	words_fini(&env);
	if (rc)
		return rc;
	rc = judge(&out, spec->path, e);
	snprintf(version, 64, "%.*s", (int)strcspn(out.out, "\n"), out.out);
	output_fini(&out);
	return rc;
}

/* Under `lifecycle`. */
static int add(struct sandbox *s, const struct mount_spec *spec, json_t **out, struct err *e)
{
	char version[64] = "";
	json_t *list = copy_list(s), *entry = NULL;
	int rc = list ? 0 : err_set(e, -ENOMEM, "out of memory");

	if (!rc && find(list, spec->path, NULL))
		rc = err_set(e, -EEXIST, "something is mounted at %.100s", spec->path);
	if (!rc)
		rc = start(s, spec, version, e);
	if (!rc) {
		entry = entry_of(spec, spec->config ? version : "");
		if (!entry || json_array_append(list, entry))
			rc = err_set(e, -ENOMEM, "out of memory");
	}
	if (!rc)
		rc = sandbox_update_settings(s, set_mounts, list, e);
	if (!rc)
		*out = json_incref(entry);
	json_decref(entry);
	json_decref(list);
	return rc;
}

int mounts_add(struct manager *m, const char *id, const json_t *body, json_t **out, struct err *e)
{
	struct mount_spec spec;
	struct sandbox *s;
	int rc = take_running(m, id, &s, e);

	if (rc)
		return rc;
	rc = mount_spec_parse(body, &spec, e);
	if (!rc) {
		rc = add(s, &spec, out, e);
		mount_spec_fini(&spec);
	}
	give_back(s);
	return rc;
}

int mounts_list(struct manager *m, const char *id, json_t **out, struct err *e)
{
	struct sandbox_row row;
	int rc = sandbox_get_row(m, id, &row, e);

	if (rc)
		return rc;
	*out = json_incref(row.mounts);
	sandbox_row_fini(&row);
	return 0;
}

static int unmount(struct sandbox *s, const json_t *entry, struct err *e)
{
	const char *path = json_string_value(json_object_get(entry, "path"));
	struct words argv = {0}, env = {0};
	struct agent_output out;
	int rc;

	words_add_script(&argv, remove_script, path, "");
	words_add_map(&env, json_object_get(entry, "env"));
	rc = run(s, &argv, &env, &out, e);
	words_fini(&argv);
	words_fini(&env);
	if (rc)
		return rc;
	if (out.exit.code)
		rc = err_set(e, MOUNT_FAILED, "%.100s is still mounted: %.120s", path, out.err);
	output_fini(&out);
	return rc;
}

/* Under `lifecycle`. */
static int remove_path(struct sandbox *s, const char *path, struct err *e)
{
	json_t *list = copy_list(s), *entry;
	size_t at;
	int rc = list ? 0 : err_set(e, -ENOMEM, "out of memory");

	if (rc)
		return rc;
	entry = find(list, path, &at);
	rc = entry ? unmount(s, entry, e)
		   : err_set(e, -ENOENT, "nothing is mounted at %.100s", path);
	if (!rc) {
		json_array_remove(list, at);
		rc = sandbox_update_settings(s, set_mounts, list, e);
	}
	json_decref(list);
	return rc;
}

int mounts_remove(struct manager *m, const char *id, const char *path, struct err *e)
{
	struct sandbox *s;
	int rc = take_running(m, id, &s, e);

	if (rc)
		return rc;
	rc = remove_path(s, path, e);
	give_back(s);
	return rc;
}

void mounts_after_boot(struct sandbox *s)
{
	json_t *none;
	struct err e;

	if (!json_array_size(s->row.mounts))
		return;
	none = json_array();
	if (!none || sandbox_update_settings(s, set_mounts, none, &e))
		log_error("sandbox %s: its mounts are listed, and gone with its boot", s->id);
	json_decref(none);
}
