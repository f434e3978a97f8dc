/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which image of an archive is meant, and what it is made of: the JSON of OCI image layouts (image
 * specification 1.1) and of `docker save`.
 */
#ifndef SERVER_OCI_CHOOSE_H
#define SERVER_OCI_CHOOSE_H

#include <jansson.h>

#include "server/oci/outer.h"

#define IMAGE_LAYERS_MAX 512
#define IMAGE_JSON_MAX	 (4u << 20)
#define IMAGE_DEPTH_MAX	 4 /* of indexes within indexes */

struct image_layer {
	char *member;		/* owned; its name in the archive */
	char blob[DIGEST_SIZE]; /* SHA-256 of the member; "": not known */
	char diff[DIGEST_SIZE]; /* of what it unpacks to */
	int64_t size;		/* of the member as the manifest has it; -1: not known */
};

struct image {
	struct image_layer *layers; /* owned; the lowest first */
	size_t n;
	json_t *config; /* owned; the whole */
};

/**
 * choose_image() - Find an image, and check what can be checked without reading layers
 * @ref:	A name or tag; NULL: the only one there is
 * @image:	image_fini() is due, also after a failure
 *
 * Of an index for several platforms, Linux on this machine's kind is taken.
 *
 * Return: 0; -EINVAL; -ENOENT: no such name; -ENOMEM
 */
int choose_image(const struct outer *o, const char *ref, struct image *image, struct err *e);
void image_fini(struct image *image);

/* "sha256:" and 64 digits. Return: 0 or -EINVAL */
int digest_parse(const char *text, char digest[DIGEST_SIZE], struct err *e);

/* Does a name that an archive gives an image match what was asked for? Also without
 * "docker.io/library/", and by the tag alone. */
bool ref_matches(const char *name, const char *ref);

#endif
