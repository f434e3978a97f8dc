/* SPDX-License-Identifier: Apache-2.0 */
/* Request targets; see url.h. */
#include "server/http/url.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int url_decode(char *text, int plus_is_space)
{
	char *out = text;

	for (const char *in = text; *in; in++) {
		if (*in == '+' && plus_is_space) {
			*out++ = ' ';
		} else if (*in == '%') {
			int high = hex_digit(in[1]);
			int low = high < 0 ? -1 : hex_digit(in[2]);

			if (low < 0 || (high == 0 && low == 0))
				return -EINVAL;
			*out++ = (char)(high << 4 | low);
			in += 2;
		} else {
			*out++ = *in;
		}
	}
	*out = '\0';
	return 0;
}

static int cut_path(struct url *u, char *path, struct err *e)
{
	bool prefixed = false;
	char *p = path + 1;

	for (;;) {
		char *slash = strchr(p, '/');

		if (slash)
			*slash = '\0';
		if (!slash && !*p)
			return 0; /* a trailing slash, or "/" */
		if (u->n_segments == URL_MAX_SEGMENTS)
			return err_set(e, -ENAMETOOLONG, "the path has too many segments");
		if (url_decode(p, 0))
			return err_set(e, -EINVAL, "the path has a broken percent escape");
		/* Dropped once: "/api/api/x" is no route. */
		if (!prefixed && !u->n_segments && !strcmp(p, "api"))
			prefixed = true;
		else
			u->segments[u->n_segments++] = p;
		if (!slash)
			return 0;
		p = slash + 1;
	}
}

static int cut_query(struct url *u, char *query, struct err *e)
{
	char *save = NULL;

	for (char *p = strtok_r(query, "&", &save); p; p = strtok_r(NULL, "&", &save)) {
		char *equals = strchr(p, '=');
		const char *value = "";

		if (u->n_query == URL_MAX_QUERY)
			return 0;
		if (equals) {
			*equals = '\0';
			value = equals + 1;
		}
		if (url_decode(p, 1) || (equals && url_decode(equals + 1, 1)))
			return err_set(e, -EINVAL, "the query has a broken percent escape");
		u->query[u->n_query++] = (struct url_param){p, value};
	}
	return 0;
}

int url_parse(struct url *u, const char *target, struct err *e)
{
	char *mark;
	int rc;

	memset(u, 0, sizeof(*u));
	if (target[0] != '/')
		return err_set(e, -EINVAL, "the request target is not a path");
	u->text = strdup(target);
	if (!u->text)
		return err_set(e, -ENOMEM, "out of memory");
	mark = strchr(u->text, '#');
	if (mark)
		*mark = '\0';
	mark = strchr(u->text, '?');
	if (mark)
		*mark++ = '\0';
	rc = cut_path(u, u->text, e);
	if (!rc && mark)
		rc = cut_query(u, mark, e);
	return rc;
}

void url_fini(struct url *u)
{
	free(u->text);
	memset(u, 0, sizeof(*u));
}

const char *url_query(const struct url *u, const char *name)
{
	for (size_t i = 0; i < u->n_query; i++)
		if (!strcmp(u->query[i].name, name))
			return u->query[i].value;
	return NULL;
}
