/* SPDX-License-Identifier: Apache-2.0 */
/* What the store's files take, and whether they are whole; see gc.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/checkpoint.h"
#include "server/manager/gc.h"
#include "server/manager/internal.h"
#include "server/manager/layers_int.h"
#include "server/manager/tool.h"
#include "server/manager/upkeep.h"

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
	return json_pack("{ss, ss, ss, ss, si, sb, sI, sI}", "id", row->id, "sandboxId",
			 row->sandbox_id, "name", row->name, "status",
			 checkpoint_status_name(row->status), "layers", (int)row->layers.n, "cold",
			 row->cold, "sharedBytes", s.shared, "uniqueBytes", s.unique);
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
	report = json_pack("{sI, sI, sI, sI, sI, sI, so, so, so, so}", "totalBytes",
			   layers + images + hibernated, "layerBytes", layers, "imageBytes", images,
			   "hibernationBytes", hibernated, "layerCount",
			   (json_int_t)json_object_size(v.sizes), "availableBytes", available,
			   "checkpoints", checkpoints, "templates", templates, "sandboxes",
			   sandboxes, "upkeep", upkeep_report(m));
	inventory_fini(&v);
	if (!report)
		err_set(e, -ENOMEM, "out of memory");
	return report;
}

/* --- POST /store/verify ------------------------------------------------------------------------
 */

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
static int check_file(struct verification *v, const char *kind, const char *id,
		      const struct tool *t, struct err *e)
{
	struct tool_result r;
	int rc = tool_run(t, v->m, &r, e);

	if (rc)
		return rc;
	free(r.out);
	if (r.status)
		add_problem(v, kind, id, *r.said ? r.said : "it is damaged");
	return 0;
}

/* Layers that are sealed: not the top ones, which their VMs are writing to. */
static int verify_layer(struct verification *v, const char *id, struct err *e)
{
	cleanup_free char *path = layer_path(v->m, id);
	struct tool t;
	int rc = tool_init(&t, v->m, "dormouse-img", e);

	v->layers++;
	tool_add(&t, "check");
	tool_add(&t, path);
	if (!rc && path && access(path, F_OK))
		add_problem(v, "layer", id, "its file is missing");
	else if (!rc)
		rc = check_file(v, "layer", id, &t, e);
	tool_fini(&t);
	return rc;
}

static int verify_image(struct verification *v, const struct checkpoint_row *row, struct err *e)
{
	cleanup_free char *ram = checkpoint_ram_path(v->m, row);
	cleanup_free char *state = checkpoint_path(v->m, row->id, "state");
	struct tool t;
	int rc = tool_init(&t, v->m, "dormouse-ram", e);

	v->images++;
	tool_add(&t, "verify");
	tool_add(&t, "--format");
	tool_add(&t, row->cold ? "cold" : "raw");
	tool_add(&t, ram);
	if (!rc && (!ram || !state))
		rc = err_set(e, -ENOMEM, "out of memory");
	else if (!rc && (access(ram, F_OK) || access(state, F_OK)))
		add_problem(v, "image", row->id, "its files are missing");
	else if (!rc)
		rc = check_file(v, "image", row->id, &t, e);
	tool_fini(&t);
	return rc;
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
