/* SPDX-License-Identifier: Apache-2.0 */
/* Drawing the tree of the checkpoints of a sandbox; see tree.h. */
#include "tools/cli/tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fd.h"
#include "tools/cli/output.h"
#include "tools/cli/table.h"

struct glyphs {
	const char *branch, *last, *pass, *blank; /* three columns each */
	const char *here, *other;
};

static const struct glyphs lines = {"├─ ", "└─ ", "│  ", "   ", "● ", "○ "};
static const struct glyphs ascii = {"|- ", "`- ", "|  ", "   ", "* ", "o "};

/* Longest prefix: a glyph is at most 7 bytes. */
#define MAX_PREFIX (TREE_MAX_DEPTH * 7 + 1)

struct tree {
	const json_t *nodes; /* an array */
	const char *current; /* or "" */
	const struct glyphs *g;
	struct table table;
	size_t n;
	size_t *parent; /* index of the parent of each, or its own for a root */
	bool *drawn;
};

static const char *field(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text ? text : "";
}

static size_t find(const struct tree *t, const char *id, size_t otherwise)
{
	for (size_t i = 0; *id && i < t->n; i++) {
		if (!strcmp(field(json_array_get(t->nodes, i), "id"), id))
			return i;
	}
	return otherwise;
}

static int add_row(struct tree *t, size_t i, const char *prefix, const char *glyph)
{
	const json_t *node = json_array_get(t->nodes, i);
	bool here = *t->current && !strcmp(field(node, "id"), t->current);
	bool ready = !strcmp(field(node, "status"), "ready") || !*field(node, "status");
	cleanup_free char *size = output_size(json_object_get(node, "sizeBytes"));
	cleanup_free char *age = output_age(json_object_get(node, "createdAt"));
	cleanup_free char *text = NULL;

	if (asprintf(&text, "%s%s%s%s", prefix, glyph, here ? t->g->here : t->g->other,
		     *field(node, "name") ? field(node, "name") : "(no name)") < 0) {
		text = NULL;
		return -ENOMEM;
	}
	return table_add_row(&t->table, (const char *[]){text, field(node, "kind"),
							 ready ? size : field(node, "status"), age,
							 field(node, "id")});
}

static bool is_child(const struct tree *t, size_t i, size_t parent, bool roots)
{
	return !t->drawn[i] && (roots ? t->parent[i] == i : t->parent[i] == parent && i != parent);
}

/* Draw the children of @parent, or the roots. @prefix has room for MAX_PREFIX bytes. */
static int draw_children(struct tree *t, size_t parent, bool roots, char *prefix, int depth)
{
	size_t len = strlen(prefix), last = t->n;
	int rc = 0;

	for (size_t i = 0; i < t->n; i++) {
		if (is_child(t, i, parent, roots))
			last = i;
	}
	for (size_t i = 0; i < t->n && rc == 0; i++) {
		bool deeper = depth + 1 < TREE_MAX_DEPTH;

		if (!is_child(t, i, parent, roots))
			continue;
		t->drawn[i] = true;
		rc = add_row(t, i, prefix, i == last ? t->g->last : t->g->branch);
		if (deeper)
			strcpy(prefix + len, i == last ? t->g->blank : t->g->pass);
		if (rc == 0)
			rc = draw_children(t, i, false, prefix, depth + deeper);
		prefix[len] = '\0';
	}
	return rc;
}

static int draw_all(struct tree *t)
{
	char prefix[MAX_PREFIX] = "";
	int rc;

	for (size_t i = 0; i < t->n; i++)
		t->parent[i] = find(t, field(json_array_get(t->nodes, i), "parentId"), i);
	rc = draw_children(t, 0, true, prefix, 0);
	/* What is left hangs on a cycle: break it at its first one. */
	for (size_t i = 0; i < t->n && rc == 0; i++) {
		if (t->drawn[i])
			continue;
		t->parent[i] = i;
		rc = draw_children(t, 0, true, prefix, 0);
	}
	return rc;
}

int tree_draw(const json_t *answer, bool utf8, FILE *out)
{
	struct tree t = {.nodes = json_object_get(answer, "nodes"),
			 .current = field(answer, "current"),
			 .g = utf8 ? &lines : &ascii};
	cleanup_free char *title = NULL;
	int rc = -ENOMEM;

	if (!json_is_array(t.nodes))
		return -EINVAL;
	t.n = json_array_size(t.nodes);
	t.parent = calloc(t.n + 1, sizeof(*t.parent));
	t.drawn = calloc(t.n + 1, sizeof(*t.drawn));
	table_init(&t.table, 5);
	if (asprintf(&title, "%s %s", field(answer, "sandboxId"), field(answer, "status")) < 0)
		title = NULL;
	if (title && t.parent && t.drawn)
		rc = table_add_row(&t.table,
				   t.n ? (const char *[]){title, "KIND", "SIZE", "AGE", "ID"}
				       : (const char *[]){title, "(no checkpoints)", "", "", ""});
	if (rc == 0)
		rc = draw_all(&t);
	if (rc == 0)
		table_print(&t.table, out);
	table_fini(&t.table);
	free(t.parent);
	free(t.drawn);
	return rc;
}
