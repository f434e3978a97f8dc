/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Request targets: path segments and query parameters, percent-decoded once.
 *
 * A target is cut first and decoded afterwards, so that "%2F" stays inside its segment.
 * NUL bytes and broken escapes are refused: they would mean another thing here than in the guest.
 */
#ifndef SERVER_HTTP_URL_H
#define SERVER_HTTP_URL_H

#include <stddef.h>

#include "lib/err.h"

#define URL_MAX_SEGMENTS 12
#define URL_MAX_QUERY	 24

struct url_param {
	const char *name, *value; /* borrowed from the url's text; value "" if there is no '=' */
};

struct url {
	char *text; /* owned; the decoded pieces */
	const char *segments[URL_MAX_SEGMENTS];
	size_t n_segments;
	struct url_param query[URL_MAX_QUERY];
	size_t n_query; /* further parameters are ignored, as unknown ones are */
};

/**
 * url_parse() - Cut and decode a request target
 * @target:	As on the request line, "/api/sandboxes?x=y"; borrowed
 *
 * A leading "/api" segment is dropped: every route is served with and without it. Empty segments
 * in the middle are kept (they match no route); one trailing slash is dropped.
 *
 * Return: 0; -EINVAL for a target that is not a path or has a broken escape; -ENAMETOOLONG;
 *	   -ENOMEM. url_fini() is due in each case.
 */
int url_parse(struct url *u, const char *target, struct err *e);
void url_fini(struct url *u);

/* Return: the value of the first parameter with that name, or NULL. */
const char *url_query(const struct url *u, const char *name);

/**
 * url_decode() - Percent-decode in place
 * @plus_is_space: As in query strings
 *
 * Return: 0, or -EINVAL for a broken escape or a NUL
 */
int url_decode(char *text, int plus_is_space);

#endif
