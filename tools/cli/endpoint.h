/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the server is, from the environment:
 *
 *   DORMOUSE_URL, DORMOUSE_API_KEY                  unix:/path or http://host:port
 *   OPENCOMPUTER_API_URL, OPENCOMPUTER_API_KEY      if DORMOUSE_URL is not set
 *   unix:/run/dormouse/dormouse.sock                if neither is
 *
 * A key of one pair is never sent to the address of the other.
 */
#ifndef TOOLS_CLI_ENDPOINT_H
#define TOOLS_CLI_ENDPOINT_H

#include "lib/err.h"

#define ENDPOINT_DEFAULT "unix:/run/dormouse/dormouse.sock"

struct endpoint {
	char name[256];	     /* as the user wrote it, for messages */
	char base[300];	     /* what paths are appended to: scheme, host and "/api" */
	char unix_path[108]; /* the socket; empty for TCP */
	char api_key[256];   /* empty: none */
};

/**
 * endpoint_parse() - Read unix:/path, unix:///path, http://... or https://...
 *
 * Return: 0, or -EINVAL with a message that shows the forms
 */
int endpoint_parse(const char *text, const char *api_key, struct endpoint *ep, struct err *e);

/* From the environment, as above; an empty variable counts as not set. */
int endpoint_from_env(struct endpoint *ep, struct err *e);

#endif
