/* SPDX-License-Identifier: Apache-2.0 */
/* Images that were built: finding, creating from them, listing, forgetting. See build.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/build_int.h"
#include "server/manager/checkpoint.h"
#include "server/manager/gc.h"
#include "server/manager/template.h"

#define IMAGES_MAX  256 /* with the steps on the way to them */
#define HASH_PREFIX 8

bool checkpoint_is_image(const struct checkpoint_row *c)
{
	return !c->is_template && !c->sandbox_id[0];
}

char *image_version(const char *path, struct err *e)
{
	struct stat st;
	char *text;

	if (stat(path, &st)) {
		err_sys(e, -errno, "%s", path);
		return NULL;
	}
	if (asprintf(&text, "%s %lld %lld.%09ld", path, (long long)st.st_size,
		     (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec) >= 0)
		return text;
	err_set(e, -ENOMEM, "out of memory");
	return NULL;
}

/* --- finding -------------------------------------------------------------------------------- */

bool image_is_whole(struct manager *m, const struct checkpoint_row *c)
{
	for (size_t i = 0; i < c->layers.n; i++) {
		cleanup_free char *path = layer_path(m, c->layers.ids[i]);

		if (path && access(path, F_OK))
			return false;
	}
	return true;
}

/* What sandboxes of it fork goes, too. */
static int forget(struct manager *m, const struct checkpoint_row *c, struct err *e)
{
	int rc = checkpoint_forget(m, c->id, e);

	templates_forget_unused(m);
	return rc;
}

int image_pin(struct manager *m, const char *key, struct checkpoint_row *c, struct err *e)
{
	struct image_row row;
	struct err ignored;
	int rc = store_image_get(m->store, key, &row, e);

	if (rc)
		return rc;
	rc = checkpoint_pin(m, row.checkpoint_id, c, e);
	image_row_fini(&row);
	if (rc || image_is_whole(m, c))
		return rc;
	log_warn("image %s: files of its disk have vanished", c->id);
	if (forget(m, c, &ignored))
		log_warn("%s", ignored.msg);
	checkpoint_unpin(m, c);
	checkpoint_row_fini(c);
	gc_kick(m);
	return err_set(e, -ENOENT, "image not found");
}

int image_create(struct manager *m, const struct sandbox_spec *spec, const char *checkpoint_id,
		 struct sandbox **out, struct err *e)
{
	struct sandbox_spec full = *spec;
	struct checkpoint_row c;
	int rc = checkpoint_pin(m, checkpoint_id, &c, e);

	if (rc)
		return rc;
	if (!*full.template)
		full.template = c.template;
	full.workdir = c.workdir;
	if (image_is_whole(m, &c))
		rc = sandbox_create_of_image(m, &full, &c, out, e);
	else
		rc = err_set(e, -EIO, "files of the image's disk have vanished");
	checkpoint_unpin(m, &c);
	checkpoint_row_fini(&c);
	return rc;
}

/* --- lists ------------------------------------------------------------------------------------
 */

/* All rows, with their disks. */
struct entry {
	struct image_row row;
	struct checkpoint_row checkpoint;
	bool doomed;
};

struct entries {
	struct entry *items; /* owned */
	size_t n, cap;
	bool failed;
};

static void entries_fini(struct entries *all)
{
	for (size_t i = 0; i < all->n; i++) {
		image_row_fini(&all->items[i].row);
		checkpoint_row_fini(&all->items[i].checkpoint);
	}
	free(all->items);
}

static void collect(void *arg, struct image_row *row)
{
	struct entries *all = arg;

	if (all->n == all->cap) {
		size_t cap = all->cap ? all->cap * 2 : 16;
		struct entry *grown = realloc(all->items, cap * sizeof(*grown));

		if (!grown) {
			all->failed = true;
			return;
		}
		all->items = grown;
		all->cap = cap;
	}
	memset(&all->items[all->n], 0, sizeof(*all->items));
	all->items[all->n++].row = *row;
	memset(row, 0, sizeof(*row));
}

static int load(struct manager *m, struct entries *all, struct err *e)
{
	int rc;

	memset(all, 0, sizeof(*all));
	rc = store_image_each(m->store, collect, all, e);
	if (!rc && all->failed)
		rc = err_set(e, -ENOMEM, "out of memory");
	for (size_t i = 0; !rc && i < all->n; i++) {
		struct entry *en = &all->items[i];

		rc = store_checkpoint_get(m->store, en->row.checkpoint_id, &en->checkpoint, e);
		/* It may have gone since. */
		if (rc == -ENOENT) {
			en->doomed = true;
			rc = 0;
		}
	}
	if (rc)
		entries_fini(all);
	return rc;
}

int image_list(struct manager *m, struct image_list *l, struct err *e)
{
	struct entries all;
	int rc = load(m, &all, e);

	memset(l, 0, sizeof(*l));
	if (rc)
		return rc;
	l->items = calloc(all.n + 1, sizeof(*l->items));
	for (size_t i = 0; l->items && i < all.n; i++) {
		struct entry *en = &all.items[i];
		struct image_info *info = &l->items[l->n];

		if (en->doomed || !en->row.hash[0])
			continue;
		info->row = en->row;
		memset(&en->row, 0, sizeof(en->row));
		for (size_t k = 0; k < en->checkpoint.layers.n; k++)
			info->bytes += layer_bytes(m, en->checkpoint.layers.ids[k]);
		l->n++;
	}
	entries_fini(&all);
	return l->items ? 0 : err_set(e, -ENOMEM, "out of memory");
}

void image_list_fini(struct image_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		image_row_fini(&l->items[i].row);
	free(l->items);
	memset(l, 0, sizeof(*l));
}

/* --- forgetting ------------------------------------------------------------------------------ */

static int find_entry(const struct entries *all, const char *hash, struct entry **out,
		      struct err *e)
{
	size_t len = strlen(hash);

	*out = NULL;
	for (size_t i = 0; len >= HASH_PREFIX && i < all->n; i++) {
		struct entry *en = &all->items[i];

		if (en->doomed || !en->row.hash[0] || strncmp(en->row.hash, hash, len))
			continue;
		if (*out && strcmp((*out)->row.hash, en->row.hash))
			return err_set(e, -EINVAL, "more than one image begins with %s", hash);
		/* The same text on another version of the base: the last one used counts. */
		if (!*out)
			*out = en;
	}
	return *out ? 0 : err_set(e, -ENOENT, "image not found: %.64s", hash);
}

int image_find(struct manager *m, const char *hash, char checkpoint_id[UUID_SIZE], struct err *e)
{
	struct entries all;
	struct entry *en;
	int rc = load(m, &all, e);

	if (rc)
		return rc;
	rc = find_entry(&all, hash, &en, e);
	if (!rc)
		memcpy(checkpoint_id, en->checkpoint.id, UUID_SIZE);
	entries_fini(&all);
	return rc;
}

static bool chain_has(const struct chain *c, const char *id)
{
	for (size_t i = 0; i < c->n; i++)
		if (!strcmp(c->ids[i], id))
			return true;
	return false;
}

static const char *top_of(const struct entry *en)
{
	const struct chain *c = &en->checkpoint.layers;

	return c->n ? c->ids[c->n - 1] : "";
}

/* Does an image that stays lie on this step? */
static bool is_needed(const struct entries *all, const struct entry *step)
{
	for (size_t i = 0; i < all->n; i++) {
		const struct entry *en = &all->items[i];

		if (!en->doomed && en->row.hash[0] &&
		    chain_has(&en->checkpoint.layers, top_of(step)))
			return true;
	}
	return false;
}

/* @gone and the steps that were only on the way to it. */
static void doom(struct entries *all, struct entry *gone)
{
	for (size_t i = 0; i < all->n; i++) {
		struct entry *en = &all->items[i];

		if (!strcmp(en->row.hash, gone->row.hash))
			en->doomed = en->doomed || en->row.hash[0];
	}
	for (size_t i = 0; i < all->n; i++) {
		struct entry *en = &all->items[i];

		if (!en->doomed && !en->row.hash[0] &&
		    chain_has(&gone->checkpoint.layers, top_of(en)) && !is_needed(all, en))
			en->doomed = true;
	}
}

static int forget_doomed(struct manager *m, const struct entries *all, struct err *e)
{
	int rc = 0, one;

	for (size_t i = 0; i < all->n; i++) {
		const struct entry *en = &all->items[i];

		if (!en->doomed || !en->checkpoint.id[0])
			continue;
		one = forget(m, &en->checkpoint, e);
		rc = one && one != -ENOENT ? one : rc;
	}
	gc_kick(m);
	return rc;
}

int image_delete(struct manager *m, const char *hash, struct err *e)
{
	struct entries all;
	struct entry *en;
	int rc = load(m, &all, e);

	if (rc)
		return rc;
	rc = find_entry(&all, hash, &en, e);
	if (!rc) {
		doom(&all, en);
		rc = forget_doomed(m, &all, e);
	}
	entries_fini(&all);
	return rc;
}

void images_evict(struct manager *m)
{
	struct entries all;
	size_t left;
	struct err e;

	if (load(m, &all, &e)) {
		log_warn("%s", e.msg);
		return;
	}
	/* The last used first. */
	left = all.n;
	for (size_t i = all.n; left > IMAGES_MAX && i--;) {
		struct entry *en = &all.items[i];
		bool in_use = true;

		if (en->doomed ||
		    store_checkpoint_in_use(m->store, en->checkpoint.id, &in_use, &e) || in_use)
			continue;
		en->doomed = true;
		left--;
	}
	if (left < all.n && forget_doomed(m, &all, &e))
		log_warn("%s", e.msg);
	entries_fini(&all);
}
