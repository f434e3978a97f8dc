/* SPDX-License-Identifier: Apache-2.0 */
/* What a VMM process may reach; see jail.h. */
#include "server/manager/jail.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

/* A file that is not there has an id that no file has. */
static struct file_id id_of(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return (struct file_id){0};
	return (struct file_id){st.st_dev, st.st_ino};
}

static int set_readable(struct jail *j, const struct manager *m, const char *image)
{
	size_t n = 0, images = images_count(&m->images);

	j->readable = calloc(images + 3, sizeof(*j->readable));
	j->given = calloc(images + 2, sizeof(*j->given));
	if (!j->readable || !j->given)
		return -ENOMEM;
	j->readable[n++] = m->config->kernel;
	if (image)
		j->readable[n++] = image;
	for (size_t i = 0; !image && i < images; i++)
		j->readable[n++] = m->images.items[i]->path;
	/* Before it is started: what is put in place of a file after this is not what was given. */
	for (j->given_n = 0; j->given_n < n; j->given_n++)
		j->given[j->given_n] = id_of(j->readable[j->given_n]);
	return 0;
}

int jail_init(struct jail *j, const struct sandbox *s, const char *image)
{
	const char *state = s->m->state_dir;

	*j = (struct jail){0};
	if (asprintf(&j->layers, "%s/layers", state) < 0)
		j->layers = NULL;
	if (asprintf(&j->checkpoints, "%s/checkpoints", state) < 0)
		j->checkpoints = NULL;
	if (!j->layers || !j->checkpoints)
		return -ENOMEM;
	j->writable[0] = s->dir;
	j->writable[1] = j->layers;
	j->writable[2] = j->checkpoints;
	return set_readable(j, s->m, image);
}

void jail_fini(struct jail *j)
{
	free(j->readable);
	free(j->given);
	free(j->layers);
	free(j->checkpoints);
}

void jail_record(struct sandbox *s, struct jail *j)
{
	free(s->given);
	s->given = j->given;
	s->given_n = j->given_n;
	j->given = NULL;
}

static bool was_given(const struct sandbox *s, const char *path)
{
	struct file_id id = id_of(path);

	for (size_t i = 0; id.ino && i < s->given_n; i++)
		if (s->given[i].dev == id.dev && s->given[i].ino == id.ino)
			return true;
	return false;
}

bool jail_covers(const struct sandbox *s, const char *image)
{
	return was_given(s, s->m->config->kernel) && was_given(s, image);
}
