/* SPDX-License-Identifier: Apache-2.0 */
/* What the store's files take, and whether they are whole; see gc.h. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/checkpoint.h"
#include "server/manager/gc.h"
#include "server/manager/internal.h"
#include "server/manager/layers_int.h"

extern char **environ;

/* --- everything that has files ------------------------------------------------------------------
 */

struct inventory {
	struct checkpoint_list checkpoints;
	struct sandbox_row *sandboxes; /* owned */
	size_t n_sandboxes, cap;
	json_t *refs;  /* layer id -> how many rows name it; owned */
	json_t *sizes; /* layer id -> bytes; owned */
	bool failed;
};

static void inventory_fini(struct inventory *v)
{
	checkpoint_list_fini(&v->checkpoints);
	for (size_t i = 0; i < v->n_sandboxes; i++)
		sandbox_row_fini(&v->sandboxes[i]);
	free(v->sandboxes);
	json_decref(v->refs);
	json_decref(v->sizes);
}

static void add_sandbox(void *arg, struct sandbox_row *row)
{
	struct inventory *v = arg;

	if (v->n_sandboxes == v->cap) {
		size_t cap = v->cap ? v->cap * 2 : 16;
		struct sandbox_row *grown = realloc(v->sandboxes, cap * sizeof(*grown));

		if (!grown) {
			v->failed = true;
			return;
		}
		v->sandboxes = grown;
		v->cap = cap;
	}
	v->sandboxes[v->n_sandboxes++] = *row;
	memset(row, 0, sizeof(*row));
}

static void count_chain(struct manager *m, struct inventory *v, const struct chain *c)
{
	for (size_t i = 0; i < c->n; i++) {
		json_int_t refs = json_integer_value(json_object_get(v->refs, c->ids[i]));

		json_object_set_new(v->refs, c->ids[i], json_integer(refs + 1));
		if (!refs)
			json_object_set_new(v->sizes, c->ids[i],
					    json_integer(layer_bytes(m, c->ids[i])));
	}
}

static int take_inventory(struct manager *m, struct inventory *v, struct err *e)
{
	int rc;

	memset(v, 0, sizeof(*v));
	v->refs = json_object();
	v->sizes = json_object();
	rc = checkpoint_list(m, NULL, &v->checkpoints, e);
	if (!rc)
		rc = store_sandbox_each(m->store, false, -1, add_sandbox, v, e);
	if (!rc && (v->failed || !v->refs || !v->sizes))
		rc = err_set(e, -ENOMEM, "out of memory");
	for (size_t i = 0; !rc && i < v->checkpoints.n; i++)
		if (v->checkpoints.rows[i].status != CHECKPOINT_FAILED)
			count_chain(m, v, &v->checkpoints.rows[i].layers);
	for (size_t i = 0; !rc && i < v->n_sandboxes; i++)
		count_chain(m, v, &v->sandboxes[i].layers);
	if (rc)
		inventory_fini(v);
	return rc;
}

/* --- GET /store ------------------------------------------------------------------------------- */

struct shares {
	json_int_t shared, unique;
};

static void share_chain(const struct inventory *v, const struct chain *c, struct shares *s)
{
	for (size_t i = 0; i < c->n; i++) {
		json_int_t bytes = json_integer_value(json_object_get(v->sizes, c->ids[i]));

		if (json_integer_value(json_object_get(v->refs, c->ids[i])) > 1)
			s->shared += bytes;
		else
			s->unique += bytes;
	}
}

static json_t *report_checkpoint(struct manager *m, const struct inventory *v,
				 const struct checkpoint_row *row, json_int_t *images)
{
	struct shares s = {.unique = checkpoint_image_bytes(m, row->id)};

	*images += s.unique;
	if (row->status != CHECKPOINT_FAILED)
		share_chain(v, &row->layers, &s);
	return json_pack("{ss, ss, ss, ss, sI, sI}", "id", row->id, "sandboxId", row->sandbox_id,
			 "name", row->name, "status", checkpoint_status_name(row->status),
			 "sharedBytes", s.shared, "uniqueBytes", s.unique);
}

static json_t *report_sandbox(const struct inventory *v, const struct sandbox_row *row,
			      json_int_t *hibernated)
{
	struct shares s = {.unique = row->hibernation[0] ? row->hibernation_bytes : 0};

	*hibernated += s.unique;
	share_chain(v, &row->layers, &s);
	return json_pack("{ss, ss, si, sI, sI}", "sandboxId", row->id, "status",
			 sandbox_status_name(row->status), "layers", (int)row->layers.n,
			 "sharedBytes", s.shared, "uniqueBytes", s.unique);
}

json_t *store_report(struct manager *m, struct err *e)
{
	json_t *checkpoints = json_array(), *templates = json_array(), *sandboxes = json_array();
	json_int_t layers = 0, images = 0, hibernated = 0, available = 0;
	struct inventory v;
	struct statvfs fs;
	const char *id;
	json_t *bytes, *report = NULL;

	if (take_inventory(m, &v, e)) {
		json_decref(checkpoints);
		json_decref(templates);
		json_decref(sandboxes);
		return NULL;
	}
	for (size_t i = 0; i < v.checkpoints.n; i++) {
		const struct checkpoint_row *row = &v.checkpoints.rows[i];

		json_array_append_new(row->is_template ? templates : checkpoints,
				      report_checkpoint(m, &v, row, &images));
	}
	for (size_t i = 0; i < v.n_sandboxes; i++)
		json_array_append_new(sandboxes, report_sandbox(&v, &v.sandboxes[i], &hibernated));
	json_object_foreach(v.sizes, id, bytes) layers += json_integer_value(bytes);
	if (!statvfs(m->state_dir, &fs))
		available = (json_int_t)fs.f_bavail * (json_int_t)fs.f_frsize;
	report = json_pack(
	    "{sI, sI, sI, sI, sI, sI, so, so, so}", "totalBytes", layers + images + hibernated,
	    "layerBytes", layers, "imageBytes", images, "hibernationBytes", hibernated,
	    "layerCount", (json_int_t)json_object_size(v.sizes), "availableBytes", available,
	    "checkpoints", checkpoints, "templates", templates, "sandboxes", sandboxes);
	inventory_fini(&v);
	if (!report)
		err_set(e, -ENOMEM, "out of memory");
	return report;
}

/* --- POST /store/verify ------------------------------------------------------------------------
 */

/* What a program says, its last line; and its exit status, or -errno. */
static int run_tool(char *const argv[], char *said, size_t size)
{
	posix_spawn_file_actions_t actions;
	size_t len = 0;
	int fds[2], status = 0, rc;
	pid_t pid;
	ssize_t n;

	said[0] = '\0';
	if (pipe2(fds, O_CLOEXEC))
		return -errno;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, fds[1], 2);
	rc = -posix_spawn(&pid, argv[0], &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	close(fds[1]);
	/* More than fits is read and dropped, or it would wait for us. */
	while (!rc &&
	       ((n = read(fds[0], said + len, size - 1 - len)) > 0 || (n < 0 && errno == EINTR))) {
		len += n > 0 ? (size_t)n : 0;
		if (len == size - 1)
			len = size / 2;
	}
	close(fds[0]);
	if (rc)
		return rc;
	said[len] = '\0';
	while (len && said[len - 1] == '\n')
		said[--len] = '\0';
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

struct verification {
	struct manager *m;
	json_t *problems; /* owned by the caller */
	json_int_t layers, images;
};

static void add_problem(struct verification *v, const char *kind, const char *id, const char *text)
{
	/* Bytes that are not UTF-8 make no JSON. */
	json_t *problem = json_string(text);

	json_array_append_new(v->problems,
			      json_pack("{ss, ss, so}", "kind", kind, "id", id, "problem",
					problem ? problem : json_string("unreadable reason")));
}

/* Return: 0, or -errno if the program cannot be run: then nothing is known. */
static int check_file(struct verification *v, const char *kind, const char *id, char *const argv[],
		      struct err *e)
{
	char said[400];
	int rc;

	if (access(argv[0], X_OK))
		return err_sys(e, -errno == -ENOENT ? -ENOSYS : -errno, "%s", argv[0]);
	rc = run_tool(argv, said, sizeof(said));
	if (rc < 0)
		return err_sys(e, rc, "running %s", argv[0]);
	if (rc)
		add_problem(v, kind, id, *said ? said : "it is damaged");
	return 0;
}

static char *tool_path(const struct manager *m, const char *name)
{
	char *path;

	return asprintf(&path, "%s/%s", m->config->tools, name) < 0 ? NULL : path;
}

/* Layers that are sealed: not the top ones, which their VMs are writing to. */
static int verify_layer(struct verification *v, const char *id, struct err *e)
{
	cleanup_free char *tool = tool_path(v->m, "dormouse-img");
	cleanup_free char *path = layer_path(v->m, id);
	char *const argv[] = {tool, (char *)"check", path, NULL};

	if (!tool || !path)
		return err_set(e, -ENOMEM, "out of memory");
	v->layers++;
	if (access(path, F_OK)) {
		add_problem(v, "layer", id, "its file is missing");
		return 0;
	}
	return check_file(v, "layer", id, argv, e);
}

static int verify_image(struct verification *v, const struct checkpoint_row *row, struct err *e)
{
	cleanup_free char *tool = tool_path(v->m, "dormouse-ram");
	cleanup_free char *ram = checkpoint_path(v->m, row->id, "ram");
	cleanup_free char *state = checkpoint_path(v->m, row->id, "state");
	char *const argv[] = {
	    tool, (char *)"verify", (char *)"--format", (char *)(row->cold ? "cold" : "raw"), ram,
	    NULL};

	if (!tool || !ram || !state)
		return err_set(e, -ENOMEM, "out of memory");
	v->images++;
	if (access(ram, F_OK) || access(state, F_OK)) {
		add_problem(v, "image", row->id, "its files are missing");
		return 0;
	}
	return check_file(v, "image", row->id, argv, e);
}

/* Those that checkpoints name, each once. */
static int verify_all(struct verification *v, const struct checkpoint_list *l, struct err *e)
{
	json_t *seen = json_object();
	int rc = seen ? 0 : err_set(e, -ENOMEM, "out of memory");

	for (size_t i = 0; !rc && i < l->n; i++) {
		const struct checkpoint_row *row = &l->rows[i];

		if (row->status != CHECKPOINT_READY)
			continue;
		for (size_t k = 0; !rc && k < row->layers.n; k++) {
			if (json_object_get(seen, row->layers.ids[k]))
				continue;
			json_object_set_new(seen, row->layers.ids[k], json_true());
			rc = verify_layer(v, row->layers.ids[k], e);
		}
		if (!rc && row->full)
			rc = verify_image(v, row, e);
	}
	json_decref(seen);
	return rc;
}

json_t *store_verify(struct manager *m, struct err *e)
{
	struct verification v = {.m = m, .problems = json_array()};
	struct checkpoint_list l, pinned = {0};
	int rc;

	rc = checkpoint_list(m, NULL, &l, e);
	if (rc) {
		json_decref(v.problems);
		return NULL;
	}
	/* Nothing of it is collected while it is read. */
	pinned.rows = calloc(l.n + 1, sizeof(*pinned.rows));
	for (size_t i = 0; pinned.rows && i < l.n; i++)
		if (!checkpoint_pin(m, l.rows[i].id, &pinned.rows[pinned.n], e))
			pinned.n++;
	checkpoint_list_fini(&l);
	rc = pinned.rows ? verify_all(&v, &pinned, e) : err_set(e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < pinned.n; i++)
		checkpoint_unpin(m, &pinned.rows[i]);
	checkpoint_list_fini(&pinned);
	if (rc) {
		json_decref(v.problems);
		return NULL;
	}
	return json_pack("{sb, sI, sI, so}", "ok", !json_array_size(v.problems), "checkedLayers",
			 v.layers, "checkedImages", v.images, "problems", v.problems);
}
