/* SPDX-License-Identifier: Apache-2.0 */
/* Ids, paths, pins and sizes of what the store keeps; see layers.h. */
#include "server/manager/layers.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/internal.h"
#include "server/manager/layers_int.h"

/* --- ids and paths ------------------------------------------------------------------------ */

int uuid_make(char id[UUID_SIZE], struct err *e)
{
	uint8_t b[16];

	if (getrandom(b, sizeof(b), 0) != sizeof(b))
		return err_set(e, -EIO, "getrandom");
	b[6] = (uint8_t)((b[6] & 0x0f) | 0x40); /* version 4 */
	b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
	for (int i = 0, at = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			id[at++] = '-';
		at += snprintf(id + at, UUID_SIZE - (size_t)at, "%02x", b[i]);
	}
	return 0;
}

bool uuid_valid(const char *text)
{
	size_t i;

	for (i = 0; text[i]; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;

		if (dash ? text[i] != '-'
			 : !isxdigit((unsigned char)text[i]) || isupper((unsigned char)text[i]))
			return false;
	}
	return i == 36;
}

char *layer_path(const struct manager *m, const char *id)
{
	char *path;

	return asprintf(&path, "%s/layers/%s.layer", m->state_dir, id) < 0 ? NULL : path;
}

char *checkpoint_path(const struct manager *m, const char *id, const char *file)
{
	char *path;

	return asprintf(&path, "%s/checkpoints/%s%s%s", m->state_dir, id, *file ? "/" : "", file) <
		       0
		   ? NULL
		   : path;
}

char *checkpoint_ram_path(const struct manager *m, const struct checkpoint_row *row)
{
	return checkpoint_path(m, row->id, row->cold ? "ram.cold" : "ram");
}

static int open_dir(const struct manager *m, const char *name, int *fd, struct err *e)
{
	cleanup_free char *path = NULL;

	if (asprintf(&path, "%s/%s", m->state_dir, name) < 0) {
		path = NULL;
		return err_set(e, -ENOMEM, "out of memory");
	}
	if (mkdir(path, 0700) && errno != EEXIST)
		return err_sys(e, -errno, "%s", path);
	*fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return *fd < 0 ? err_sys(e, -errno, "%s", path) : 0;
}

int layers_init(struct manager *m, struct err *e)
{
	struct layers *l = calloc(1, sizeof(*l));
	pthread_condattr_t attr;
	int rc;

	if (!l)
		return err_set(e, -ENOMEM, "out of memory");
	l->layers_fd = l->checkpoints_fd = -1;
	pthread_mutex_init(&l->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&l->done, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_init(&l->gc_lock, NULL);
	m->layers = l;
	rc = open_dir(m, "layers", &l->layers_fd, e);
	return rc ? rc : open_dir(m, "checkpoints", &l->checkpoints_fd, e);
}

void layers_fini(struct manager *m)
{
	struct layers *l = m->layers;

	if (!l)
		return;
	fd_close(&l->layers_fd);
	fd_close(&l->checkpoints_fd);
	pthread_mutex_destroy(&l->lock);
	pthread_cond_destroy(&l->done);
	pthread_mutex_destroy(&l->gc_lock);
	free(l->pins);
	free(l);
	m->layers = NULL;
}

/* --- pins ---------------------------------------------------------------------------------- */

static int pin_locked(struct layers *l, const char *id)
{
	struct pin *p;

	for (size_t i = 0; i < l->n; i++)
		if (!strcmp(l->pins[i].id, id)) {
			l->pins[i].count++;
			return 0;
		}
	if (l->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 16;

		p = realloc(l->pins, cap * sizeof(*p));
		if (!p)
			return -ENOMEM;
		l->pins = p;
		l->cap = cap;
	}
	p = &l->pins[l->n++];
	snprintf(p->id, sizeof(p->id), "%s", id);
	p->count = 1;
	return 0;
}

static void unpin_locked(struct layers *l, const char *id)
{
	for (size_t i = 0; i < l->n; i++)
		if (!strcmp(l->pins[i].id, id)) {
			if (!--l->pins[i].count)
				l->pins[i] = l->pins[--l->n];
			return;
		}
}

static int pin_chain_locked(struct layers *l, const struct chain *c)
{
	for (size_t i = 0; i < c->n; i++)
		if (pin_locked(l, c->ids[i])) {
			while (i--)
				unpin_locked(l, c->ids[i]);
			return -ENOMEM;
		}
	return 0;
}

int layer_pin(struct manager *m, const char *id)
{
	int rc;

	pthread_mutex_lock(&m->layers->lock);
	rc = pin_locked(m->layers, id);
	pthread_mutex_unlock(&m->layers->lock);
	return rc;
}

void layer_unpin(struct manager *m, const char *id)
{
	pthread_mutex_lock(&m->layers->lock);
	unpin_locked(m->layers, id);
	pthread_mutex_unlock(&m->layers->lock);
}

bool layer_pinned(struct manager *m, const char *id)
{
	for (size_t i = 0; i < m->layers->n; i++)
		if (!strcmp(m->layers->pins[i].id, id))
			return true;
	return false;
}

int chain_pin(struct manager *m, const struct chain *c)
{
	int rc;

	pthread_mutex_lock(&m->layers->lock);
	rc = pin_chain_locked(m->layers, c);
	pthread_mutex_unlock(&m->layers->lock);
	return rc;
}

void chain_unpin(struct manager *m, const struct chain *c)
{
	pthread_mutex_lock(&m->layers->lock);
	for (size_t i = 0; i < c->n; i++)
		unpin_locked(m->layers, c->ids[i]);
	pthread_mutex_unlock(&m->layers->lock);
}

int layer_new(struct manager *m, char id[UUID_SIZE], struct err *e)
{
	int rc = uuid_make(id, e);

	if (!rc && layer_pin(m, id))
		rc = err_set(e, -ENOMEM, "out of memory");
	if (rc)
		id[0] = '\0';
	return rc;
}

int checkpoint_pin(struct manager *m, const char *id, struct checkpoint_row *row, struct err *e)
{
	struct layers *l = m->layers;
	int rc;

	pthread_mutex_lock(&l->lock);
	rc = store_checkpoint_get(m->store, id, row, e);
	if (!rc) {
		rc = pin_chain_locked(l, &row->layers);
		if (!rc && pin_locked(l, id)) {
			rc = -ENOMEM;
			for (size_t i = 0; i < row->layers.n; i++)
				unpin_locked(l, row->layers.ids[i]);
		}
		if (rc) {
			checkpoint_row_fini(row);
			err_set(e, rc, "out of memory");
		}
	}
	pthread_mutex_unlock(&l->lock);
	return rc;
}

void checkpoint_unpin(struct manager *m, const struct checkpoint_row *row)
{
	chain_unpin(m, &row->layers);
	layer_unpin(m, row->id);
}

/* --- sandboxes ------------------------------------------------------------------------------- */

static int stat_layer(struct manager *m, const char *id, struct stat *st)
{
	char name[UUID_SIZE + 8];

	snprintf(name, sizeof(name), "%s.layer", id);
	return fstatat(m->layers->layers_fd, name, st, AT_SYMLINK_NOFOLLOW);
}

bool layers_settle(struct manager *m, struct sandbox_row *row)
{
	struct stat st;

	if (!row->pending.n)
		return false;
	if (stat_layer(m, row->pending.ids[row->pending.n - 1], &st)) {
		chain_fini(&row->pending);
	} else {
		chain_fini(&row->layers);
		row->layers = row->pending;
		memset(&row->pending, 0, sizeof(row->pending));
		memcpy(row->current_checkpoint, row->pending_checkpoint,
		       sizeof(row->current_checkpoint));
	}
	row->pending_checkpoint[0] = '\0';
	return true;
}

void layer_remove_top(struct manager *m, const struct chain *c)
{
	char name[UUID_SIZE + 8];

	if (!c->n)
		return;
	snprintf(name, sizeof(name), "%s.layer", c->ids[c->n - 1]);
	if (unlinkat(m->layers->layers_fd, name, 0) && errno != ENOENT)
		log_warn("removing %s: %s", name, strerror(errno));
}

/* --- sizes --------------------------------------------------------------------------------------
 */

int64_t layer_bytes(struct manager *m, const char *id)
{
	struct stat st;

	return stat_layer(m, id, &st) ? 0 : (int64_t)st.st_blocks * 512;
}

int64_t checkpoint_image_bytes(struct manager *m, const char *id)
{
	static const char *const files[] = {"ram", "ram.cold", "state"};
	int64_t sum = 0;

	for (int i = 0; i < 3; i++) {
		char name[UUID_SIZE + 8];
		struct stat st;

		snprintf(name, sizeof(name), "%s/%s", id, files[i]);
		if (!fstatat(m->layers->checkpoints_fd, name, &st, AT_SYMLINK_NOFOLLOW))
			sum += (int64_t)st.st_blocks * 512;
	}
	return sum;
}
