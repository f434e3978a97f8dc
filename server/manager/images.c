/* SPDX-License-Identifier: Apache-2.0 */
/* Templates by name; see images.h. */
#include "server/manager/images.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SUFFIX ".ext4"

size_t images_find_name(const struct images *im, const char *name)
{
	size_t i = 0, n = images_count(im);

	while (i < n && strcmp(im->items[i]->name, name) != 0)
		i++;
	return i;
}

size_t images_count(const struct images *im)
{
	return __atomic_load_n(&im->n, __ATOMIC_ACQUIRE);
}

static const char *find_exact(const struct images *im, const char *name)
{
	size_t i = images_find_name(im, name);

	return i < images_count(im) ? im->items[i]->path : NULL;
}

/*
 * What is recorded of an image has to hold wherever the next daemon is started, and when a link
 * with its name leads to a newer one: what lies on this one stays there.
 */
static char *absolute(const char *dir, const char *file)
{
	char cwd[PATH_MAX] = "", *path, *real;

	if (*(*dir ? dir : file) != '/' && !getcwd(cwd, sizeof(cwd)))
		return NULL;
	if (asprintf(&path, "%s%s%s%s%s", cwd, *cwd ? "/" : "", dir, *dir ? "/" : "", file) < 0)
		return NULL;
	real = realpath(path, NULL);
	if (!real)
		return path; /* whoever opens it hears why it is not there */
	free(path);
	return real;
}

static int add(struct images *im, const char *name, size_t name_len, const char *dir,
	       const char *file)
{
	struct image *item;

	if (im->n == IMAGES_LIMIT)
		return -ENFILE;
	item = calloc(1, sizeof(*item));
	if (!item)
		return -ENOMEM;
	item->name = strndup(name, name_len);
	item->path = absolute(dir, file);
	if (item->name && item->path) {
		im->items[im->n] = item;
		__atomic_store_n(&im->n, im->n + 1, __ATOMIC_RELEASE);
		return 0;
	}
	free(item->name);
	free(item->path);
	free(item);
	return -ENOMEM;
}

static int add_failed(int rc, struct err *e)
{
	if (rc == -ENFILE)
		return err_set(e, rc, "there are more than %d images", IMAGES_LIMIT);
	return rc ? err_set(e, rc, "out of memory") : 0;
}

int images_load_dir(struct images *im, const char *dir, struct err *e)
{
	DIR *d = opendir(dir);
	struct dirent *entry;
	int rc = 0;

	if (!d)
		return err_sys(e, -errno, "images of %s", dir);
	while (!rc && (entry = readdir(d))) {
		size_t len = strlen(entry->d_name), suffix = strlen(SUFFIX);

		if (len <= suffix || strcmp(entry->d_name + len - suffix, SUFFIX))
			continue;
		rc = add(im, entry->d_name, len - suffix, dir, entry->d_name);
	}
	closedir(d);
	return add_failed(rc, e);
}

int images_add(struct images *im, const char *name, const char *path, struct err *e)
{
	int rc;

	pthread_mutex_lock(&im->lock);
	if (images_find_name(im, name) < im->n)
		rc = err_set(e, -EEXIST, "there is a template %.128s already", name);
	else
		rc = add_failed(add(im, name, strlen(name), "", path), e);
	pthread_mutex_unlock(&im->lock);
	return rc;
}

int images_load(struct images *im, const struct config *c, struct err *e)
{
	int rc = 0;

	memset(im, 0, sizeof(*im));
	pthread_mutex_init(&im->lock, NULL);
	for (size_t i = 0; !rc && i < c->images.n; i++) {
		const char *text = c->images.items[i], *equals = strchr(text, '=');

		rc = add_failed(add(im, text, (size_t)(equals - text), "", equals + 1), e);
	}
	for (size_t i = 0; !rc && i < c->image_dirs.n; i++)
		rc = images_load_dir(im, c->image_dirs.items[i], e);
	return rc;
}

void images_fini(struct images *im)
{
	for (size_t i = 0; i < im->n; i++) {
		free(im->items[i]->name);
		free(im->items[i]->path);
		free(im->items[i]);
	}
	memset(im, 0, sizeof(*im));
}

const char *images_find(const struct images *im, const char *template, const char **name)
{
	const char *path = find_exact(im, template);

	*name = template;
	if (path || (*template && strcmp(template, "default") && strcmp(template, "ubuntu")))
		return path;
	*name = "base";
	return find_exact(im, "base");
}
