/* SPDX-License-Identifier: Apache-2.0 */
/* The files of an image in memory; see tree.h. */
#include "server/oci/tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define WHITEOUT ".wh."
#define OPAQUE	 WHITEOUT WHITEOUT ".opq"

/* --- files and nodes ------------------------------------------------------------------------- */

struct tree_file *tree_file_new(uint32_t mode)
{
	struct tree_file *f = calloc(1, sizeof(*f));

	if (f)
		f->mode = mode;
	return f;
}

void tree_file_free(struct tree_file *f)
{
	if (!f)
		return;
	for (size_t i = 0; i < f->xattrs_n; i++) {
		free(f->xattrs[i].name);
		free(f->xattrs[i].value);
	}
	free(f->xattrs);
	free(f->target);
	free(f);
}

static bool is_dir(const struct tree_file *f)
{
	return S_ISDIR(f->mode);
}

static size_t bucket_of(const struct tree *t, const struct tree_node *dir, const char *name)
{
	uint64_t h = (uintptr_t)dir * 0x9e3779b97f4a7c15ull;

	for (; *name; name++)
		h = (h ^ (unsigned char)*name) * 0x100000001b3ull;
	return (h ^ h >> 32) & (t->n_buckets - 1);
}

static struct tree_node *child_of(const struct tree *t, const struct tree_node *dir,
				  const char *name)
{
	struct tree_node *n = t->buckets[bucket_of(t, dir, name)];

	while (n && (n->parent != dir || strcmp(n->name, name)))
		n = n->chain;
	return n;
}

static struct tree_node *node_new(const char *name, struct tree_file *f)
{
	size_t len = strlen(name) + 1;
	struct tree_node *n = calloc(1, sizeof(*n) + len);

	if (!n)
		return NULL;
	memcpy(n->name, name, len);
	n->file = f;
	f->links++;
	return n;
}

/* Twice as many buckets as there are nodes, or so. Without memory for them it is slower. */
static void grow(struct tree *t)
{
	struct tree_node **old = t->buckets;
	size_t n = t->n_buckets;

	if (t->n < n)
		return;
	t->buckets = calloc(n * 4, sizeof(struct tree_node *));
	if (!t->buckets) {
		t->buckets = old;
		return;
	}
	t->n_buckets = n * 4;
	for (size_t i = 0; i < n; i++)
		while (old[i]) {
			struct tree_node *node = old[i], **place;

			old[i] = node->chain;
			place = &t->buckets[bucket_of(t, node->parent, node->name)];
			node->chain = *place;
			*place = node;
		}
	free(old);
}

static void insert(struct tree *t, struct tree_node *dir, struct tree_node *n)
{
	struct tree_node **place;

	grow(t);
	n->parent = dir;
	n->depth = dir->depth + 1;
	n->next = dir->children;
	n->prev = &dir->children;
	if (n->next)
		n->next->prev = &n->next;
	dir->children = n;
	place = &t->buckets[bucket_of(t, dir, n->name)];
	n->chain = *place;
	*place = n;
	t->n++;
}

static void put_file(struct tree *t, struct tree_file *f)
{
	if (--f->links)
		return;
	if (t->drop)
		t->drop(t->ctx, f);
	tree_file_free(f);
}

/* One without children. */
static void remove_node(struct tree *t, struct tree_node *n)
{
	struct tree_node **p = &t->buckets[bucket_of(t, n->parent, n->name)];

	while (*p != n)
		p = &(*p)->chain;
	*p = n->chain;
	*n->prev = n->next;
	if (n->next)
		n->next->prev = n->prev;
	t->n--;
	put_file(t, n->file);
	free(n);
}

/* All of it that no layer from @layer on has named. As deep as the tree: TREE_DEPTH_MAX */
/* NOLINTNEXTLINE(misc-no-recursion) */
static void remove_older(struct tree *t, struct tree_node *n, unsigned int layer)
{
	for (struct tree_node *c = n->children, *next; c; c = next) {
		next = c->next;
		remove_older(t, c, layer);
	}
	if (!n->children && n->layer < layer && n->parent)
		remove_node(t, n);
}

int tree_init(struct tree *t, void (*drop)(void *ctx, struct tree_file *f), void *ctx)
{
	struct tree_file *f = tree_file_new(S_IFDIR | 0755);

	*t = (struct tree){.n_buckets = 256, .drop = drop, .ctx = ctx};
	t->buckets = calloc(t->n_buckets, sizeof(struct tree_node *));
	t->root = f ? node_new("", f) : NULL;
	if (t->root && t->buckets)
		return 0;
	if (!t->root)
		tree_file_free(f);
	tree_fini(t);
	return -ENOMEM;
}

void tree_fini(struct tree *t)
{
	t->drop = NULL;
	if (t->root && t->buckets)
		remove_older(t, t->root, ~0u);
	if (t->root) {
		put_file(t, t->root->file);
		free(t->root);
	}
	free(t->buckets);
	memset(t, 0, sizeof(*t));
}

/* --- paths ----------------------------------------------------------------------------------- */

static int check_path(const char *path, struct err *e)
{
	const char *p = path;

	if (strlen(path) >= TREE_PATH_MAX)
		return err_set(e, -ENAMETOOLONG, "%.64s...: the name is too long", path);
	while (*p) {
		size_t len = strcspn(p, "/");

		if (len == 2 && !memcmp(p, "..", 2))
			return err_set(e, -EINVAL, "%.128s: \"..\" is in the name", path);
		if (len > TREE_NAME_MAX)
			return err_set(e, -ENAMETOOLONG, "%.64s...: the name is too long", path);
		p += len + (p[len] == '/');
	}
	return 0;
}

/* A walk from the root. */
struct walk {
	struct tree *t;
	const char *path; /* of the archive, for messages */
	unsigned int layer;
	bool make; /* what is missing */
	unsigned int hops;
	struct tree_node *at;
	char rest[2 * TREE_PATH_MAX + 2]; /* of the path */
};

static int make_dir(struct walk *w, const char *name, struct tree_node **out, struct err *e)
{
	struct tree_file *f = tree_file_new(S_IFDIR | 0755);

	*out = f ? node_new(name, f) : NULL;
	if (!*out) {
		tree_file_free(f);
		return err_set(e, -ENOMEM, "out of memory");
	}
	(*out)->layer = w->layer;
	insert(w->t, w->at, *out);
	return 0;
}

static int check_room(const struct tree *t, const struct tree_node *dir, const char *path,
		      struct err *e)
{
	if (t->n >= TREE_ENTRIES_MAX)
		return err_set(e, -EFBIG, "%.128s: more than %u files", path, TREE_ENTRIES_MAX);
	if (dir->depth >= TREE_DEPTH_MAX)
		return err_set(e, -ENAMETOOLONG, "%.64s...: more than %d folders deep", path,
			       TREE_DEPTH_MAX);
	return 0;
}

/* What is left of the path goes behind the link's target. */
static int follow(struct walk *w, const char *target, const char *rest, struct err *e)
{
	char *joined;
	size_t a = strlen(target), b = strlen(rest);

	if (++w->hops > TREE_HOPS_MAX)
		return err_set(e, -ELOOP, "%.128s: too many symbolic links", w->path);
	if (a + b + 2 > sizeof(w->rest))
		return err_set(e, -ENAMETOOLONG, "%.64s...: the name is too long", w->path);
	joined = malloc(a + b + 2);
	if (!joined)
		return err_set(e, -ENOMEM, "out of memory");
	memcpy(joined, target, a);
	joined[a] = '/';
	memcpy(joined + a + 1, rest, b + 1);
	if (*target == '/')
		w->at = w->t->root;
	memcpy(w->rest, joined, a + b + 2);
	free(joined);
	return 0;
}

static int enter(struct walk *w, const char *name, const char *rest, struct err *e)
{
	struct tree_node *n = child_of(w->t, w->at, name);
	int rc = 0;

	if (!n && !w->make)
		return err_set(e, -ENOENT, "%.128s: not there", w->path);
	if (!n) {
		rc = check_room(w->t, w->at, w->path, e);
		if (!rc)
			rc = make_dir(w, name, &n, e);
		if (rc)
			return rc;
	}
	if (S_ISLNK(n->file->mode))
		return follow(w, n->file->target, rest, e);
	if (!is_dir(n->file))
		return err_set(e, -ENOTDIR, "%.128s: %.64s is no directory", w->path, name);
	w->at = n;
	memmove(w->rest, rest, strlen(rest) + 1);
	return 0;
}

/* To the directory that w->rest is. */
static int walk(struct walk *w, struct err *e)
{
	int rc = 0;

	while (!rc && w->rest[0]) {
		char name[TREE_NAME_MAX + 1];
		size_t len = strcspn(w->rest, "/");
		const char *rest = w->rest + len + (w->rest[len] == '/');

		if (len > TREE_NAME_MAX)
			return err_set(e, -ENAMETOOLONG, "%.64s...: the name is too long", w->path);
		memcpy(name, w->rest, len);
		name[len] = '\0';
		if (!len || !strcmp(name, ".")) {
			memmove(w->rest, rest, strlen(rest) + 1);
		} else if (!strcmp(name, "..")) {
			/* Of a link's target. Above the root there is the root. */
			if (w->at->parent)
				w->at = w->at->parent;
			memmove(w->rest, rest, strlen(rest) + 1);
		} else {
			rc = enter(w, name, rest, e);
		}
	}
	return rc;
}

/* The directory that has it, and its name there: "" is the root itself. */
static int locate(struct tree *t, const char *path, unsigned int layer, bool make,
		  struct tree_node **dir, char name[TREE_NAME_MAX + 1], struct err *e)
{
	struct walk w = {.t = t, .path = path, .layer = layer, .make = make, .at = t->root};
	size_t end = strlen(path), begin;
	int rc = check_path(path, e);

	if (rc)
		return rc;
	while (end && (path[end - 1] == '/' ||
		       (path[end - 1] == '.' && (end == 1 || path[end - 2] == '/'))))
		end--;
	for (begin = end; begin && path[begin - 1] != '/'; begin--)
		;
	memcpy(w.rest, path, begin);
	memcpy(name, path + begin, end - begin);
	name[end - begin] = '\0';
	rc = walk(&w, e);
	*dir = w.at;
	return rc;
}

struct tree_node *tree_find(struct tree *t, const char *path)
{
	char name[TREE_NAME_MAX + 1];
	struct tree_node *dir;
	struct err e;

	if (locate(t, path, 0, false, &dir, name, &e))
		return NULL;
	return *name ? child_of(t, dir, name) : dir;
}

struct tree_node *tree_find_end(struct tree *t, const char *path)
{
	struct tree_node *n = tree_find(t, path);
	char joined[TREE_PATH_MAX * 2];

	/* Another walk for each link, from the folder that has it. */
	for (unsigned int hops = 0; n && S_ISLNK(n->file->mode); hops++) {
		struct walk w = {.t = t, .path = path, .at = n->parent};
		const char *target = n->file->target, *slash = strrchr(target, '/');
		size_t folder = slash ? (size_t)(slash - target) + 1 : 0;
		const char *last = target + folder;
		struct err e;

		if (hops > TREE_HOPS_MAX || strlen(target) >= sizeof(joined))
			return NULL;
		if (*target == '/')
			w.at = t->root;
		/* A target that ends as a folder does is one. */
		if (!*last || !strcmp(last, ".") || !strcmp(last, ".."))
			folder = strlen(target), last = "";
		memcpy(w.rest, target, folder);
		if (walk(&w, &e))
			return NULL;
		n = *last ? child_of(t, w.at, last) : w.at;
	}
	return n;
}

/* --- what layers do -------------------------------------------------------------------------- */

static int set_root(struct tree *t, struct tree_file *f, struct err *e)
{
	if (!is_dir(f))
		return err_set(e, -ENOTDIR, "the root is no directory");
	put_file(t, t->root->file);
	t->root->file = f;
	f->links = 1;
	return 0;
}

int tree_put(struct tree *t, const char *path, unsigned int layer, struct tree_file *f,
	     struct err *e)
{
	char name[TREE_NAME_MAX + 1];
	struct tree_node *dir, *old, *n;
	int rc = locate(t, path, layer, true, &dir, name, e);

	if (rc)
		return rc;
	if (!*name)
		return set_root(t, f, e);
	if (f->links >= TREE_LINKS_MAX || (f->links && is_dir(f)))
		return err_set(e, -EMLINK, "%.128s: too many links to one file", path);
	old = child_of(t, dir, name);
	if (old && is_dir(old->file) && is_dir(f)) {
		put_file(t, old->file);
		old->file = f;
		old->layer = layer;
		f->links = 1;
		return 0;
	}
	rc = check_room(t, dir, path, e);
	n = rc ? NULL : node_new(name, f);
	if (!n)
		return rc ? rc : err_set(e, -ENOMEM, "out of memory");
	if (old)
		remove_older(t, old, ~0u);
	n->layer = layer;
	insert(t, dir, n);
	return 0;
}

static int make_opaque(struct tree *t, struct tree_node *dir, unsigned int layer)
{
	for (struct tree_node *c = dir->children, *next; c; c = next) {
		next = c->next;
		remove_older(t, c, layer);
	}
	return 1;
}

int tree_mark(struct tree *t, const char *path, unsigned int layer, struct err *e)
{
	const char *slash = strrchr(path, '/'), *last = slash ? slash + 1 : path, *gone;
	char name[TREE_NAME_MAX + 1];
	struct tree_node *dir, *n;
	int rc;

	if (strncmp(last, WHITEOUT, strlen(WHITEOUT)))
		return 0;
	gone = last + strlen(WHITEOUT);
	if (!*gone || !strcmp(gone, ".") || !strcmp(gone, ".."))
		return err_set(e, -EINVAL, "%.128s: this removes no file of its folder", path);
	rc = locate(t, path, layer, false, &dir, name, e);
	/* A folder that is not there has nothing that could go. */
	if (rc)
		return rc == -ENOENT ? 1 : rc;
	if (!strcmp(last, OPAQUE))
		return make_opaque(t, dir, layer);
	if (!strncmp(gone, WHITEOUT, strlen(WHITEOUT)))
		return 1;
	n = child_of(t, dir, gone);
	if (n)
		remove_older(t, n, layer);
	return 1;
}
