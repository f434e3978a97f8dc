/* SPDX-License-Identifier: Apache-2.0 */
/* Templates by name: which root image a new sandbox starts from. */
#ifndef SERVER_MANAGER_IMAGES_H
#define SERVER_MANAGER_IMAGES_H

#include <stddef.h>

#include "lib/err.h"
#include "server/config.h"

struct image {
	char *name, *path; /* owned */
};

struct images {
	struct image *items; /* owned */
	size_t n;
};

/* Explicit ones first; the first of a name counts. Files are looked at when they are used. */
int images_load(struct images *im, const struct config *c, struct err *e);
void images_fini(struct images *im);

/* "", "default" and "ubuntu" mean "base". @name: set to the real name. NULL if unknown. */
const char *images_find(const struct images *im, const char *template, const char **name);

/* The index of the first one of that name, no alias; n if there is none. */
size_t images_find_name(const struct images *im, const char *name);

#endif
