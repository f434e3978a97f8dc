/* SPDX-License-Identifier: Apache-2.0 */
/* Where the server is; see endpoint.h. */
#include "tools/cli/endpoint.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool ends_with(const char *s, const char *tail)
{
	size_t n = strlen(s), t = strlen(tail);

	return n >= t && !strcmp(s + n - t, tail);
}

static int parse_unix(const char *path, struct endpoint *ep, struct err *e)
{
	if (!strncmp(path, "///", 3))
		path += 2;
	if (path[0] != '/' || path[1] == '\0' || path[1] == '/')
		return err_set(e, -EINVAL, "%s: a Unix socket is written unix:/absolute/path",
			       ep->name);
	if (strlen(path) >= sizeof(ep->unix_path))
		return err_set(e, -EINVAL, "%s: longer than the %zu bytes a socket path may have",
			       ep->name, sizeof(ep->unix_path) - 1);
	snprintf(ep->unix_path, sizeof(ep->unix_path), "%s", path);
	snprintf(ep->base, sizeof(ep->base), "http://localhost/api");
	return 0;
}

static int parse_http(const char *text, struct endpoint *ep, struct err *e)
{
	const char *host = strstr(text, "://") + 3;
	char *end;

	if (!*host || *host == '/' || *host == ':' || strpbrk(host, " ?#@"))
		return err_set(e, -EINVAL, "%s: an address is written http://host:port", ep->name);
	snprintf(ep->base, sizeof(ep->base), "%s", text);
	for (end = ep->base + strlen(ep->base); end[-1] == '/'; end--)
		end[-1] = '\0';
	/* The same rule as the clients of the API have. */
	if (!ends_with(ep->base, "/api"))
		snprintf(end, sizeof(ep->base) - (size_t)(end - ep->base), "/api");
	return 0;
}

int endpoint_parse(const char *text, const char *api_key, struct endpoint *ep, struct err *e)
{
	memset(ep, 0, sizeof(*ep));
	if (strlen(text) >= sizeof(ep->name))
		return err_set(e, -EINVAL, "the server address is too long");
	snprintf(ep->name, sizeof(ep->name), "%s", text);
	if (api_key && (strlen(api_key) >= sizeof(ep->api_key) || strpbrk(api_key, "\r\n")))
		return err_set(e, -EINVAL, "the API key is too long or has line breaks");
	snprintf(ep->api_key, sizeof(ep->api_key), "%s", api_key ? api_key : "");
	if (!strncmp(text, "unix:", 5))
		return parse_unix(text + 5, ep, e);
	if (!strncmp(text, "http://", 7) || !strncmp(text, "https://", 8))
		return parse_http(text, ep, e);
	return err_set(e, -EINVAL, "%s: not a server address; use unix:/path or http://host:port",
		       text);
}

static const char *env(const char *name)
{
	const char *v = getenv(name);

	return v && *v ? v : NULL;
}

int endpoint_from_env(struct endpoint *ep, struct err *e)
{
	const char *url = env("DORMOUSE_URL"), *compat = env("OPENCOMPUTER_API_URL");

	if (!url && compat)
		return endpoint_parse(compat, env("OPENCOMPUTER_API_KEY"), ep, e);
	return endpoint_parse(url ? url : ENDPOINT_DEFAULT, env("DORMOUSE_API_KEY"), ep, e);
}
