/* SPDX-License-Identifier: Apache-2.0 */
/* Templates by name: which root image a new sandbox starts from. */
#ifndef SERVER_MANAGER_IMAGES_H
#define SERVER_MANAGER_IMAGES_H

#include <pthread.h>
#include <stddef.h>

#include "lib/err.h"
#include "server/config.h"

struct image {
	char *name, *path; /* owned */
};

#define IMAGES_LIMIT 4096

/* Any thread may look at the first images_count() items, which never change; more are only added.
 */
struct images {
	struct image *items[IMAGES_LIMIT]; /* owned */
	size_t n;			   /* atomic */
	pthread_mutex_t lock;		   /* of who adds */
};

/* Explicit ones first; the first of a name counts. Files are looked at when they are used. */
int images_load(struct images *im, const struct config *c, struct err *e);
void images_fini(struct images *im);
size_t images_count(const struct images *im);

/* Every NAME.ext4 in @dir. */
int images_load_dir(struct images *im, const char *dir, struct err *e);
/* One more. -EEXIST: there is one of that name; -ENFILE: there are too many */
int images_add(struct images *im, const char *name, const char *path, struct err *e);

/* "", "default" and "ubuntu" mean "base". @name: set to the real name. NULL if unknown. */
const char *images_find(const struct images *im, const char *template, const char **name);

/* The index of the first one of that name, no alias; n if there is none. */
size_t images_find_name(const struct images *im, const char *name);

#endif
