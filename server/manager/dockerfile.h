/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dockerfiles as manifests: FROM a template, RUN, ENV, WORKDIR, USER, COPY of inline content.
 *
 * What cannot be had here is refused with its line, rather than built as something else: other
 * instructions, flags, files of a context, variables that would have to be expanded.
 */
#ifndef SERVER_MANAGER_DOCKERFILE_H
#define SERVER_MANAGER_DOCKERFILE_H

#include <jansson.h>

#include "lib/err.h"

#define DOCKERFILE_MAX (1u << 20)

/**
 * dockerfile_parse() - Make a manifest
 * @manifest:	A new reference, for manifest_parse()
 *
 * Return: 0; -EINVAL and @e names the line; -ENOMEM
 */
int dockerfile_parse(const char *text, json_t **manifest, struct err *e);

#endif
