/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a client gets to a sandbox: the address it used, and the token that is good for this one
 * sandbox (api.md 2.3, 19.2).
 *
 * A token is a signature over the sandbox's id and the time of its making: nothing is stored, it
 * is good for as long as the sandbox is known, and never for another one that gets the same id.
 */
#include <stdio.h>
#include <string.h>

#include "server/api/api.h"

#define TOKEN_PREFIX "osbt_"
#define TOKEN_SIZE   (sizeof(TOKEN_PREFIX) - 1 + SIGNATURE_SIZE)
#define OF_SANDBOX   "/sandboxes/:id"

static const struct api *api_of(const struct request *r)
{
	return r->app;
}

/* --- addresses ---------------------------------------------------------------------------- */

/* What is echoed into answers must not be able to be more than a host and a port. */
static bool host_is_plain(const char *host)
{
	size_t len = host ? strlen(host) : 0;

	return len && len < 256 &&
	       strspn(host,
		      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_:[]") ==
		   len;
}

bool api_base_url(const struct request *r, char *url, size_t size)
{
	const char *public_url = manager_config(api_manager(r))->public_url;
	const char *host = request_header(r, "Host");
	const char *proto = request_header(r, "X-Forwarded-Proto");

	if (!r->over_socket && host_is_plain(host)) {
		snprintf(url, size, "%s://%s", proto && !strcmp(proto, "https") ? "https" : "http",
			 host);
		return true;
	}
	if (!public_url || !*public_url)
		return false;
	snprintf(url, size, "%s", public_url);
	for (size_t n = strlen(url); n && url[n - 1] == '/'; n--)
		url[n - 1] = '\0';
	return true;
}

/* --- tokens -------------------------------------------------------------------------------- */

static bool make_token(const struct request *r, const char *id, int64_t created_ms,
		       char token[TOKEN_SIZE])
{
	char created[24];
	const char *const texts[] = {id, created, NULL};

	snprintf(created, sizeof(created), "%lld", (long long)created_ms);
	memcpy(token, TOKEN_PREFIX, sizeof(TOKEN_PREFIX));
	return !signer_sign(&api_of(r)->signer, "sandbox token", texts,
			    token + sizeof(TOKEN_PREFIX) - 1);
}

bool api_token_good(const struct request *r, const char *token)
{
	struct sandbox_row row;
	char created[24];
	const char *const texts[] = {r->param[0], created, NULL};
	bool good;

	if (!r->route || (r->route->flags & ROUTE_NO_TOKEN) ||
	    strncmp(r->route->pattern, OF_SANDBOX, strlen(OF_SANDBOX)) ||
	    strncmp(token, TOKEN_PREFIX, strlen(TOKEN_PREFIX)) ||
	    sandbox_get_row(api_manager(r), r->param[0], &row, NULL))
		return false;
	snprintf(created, sizeof(created), "%lld", (long long)row.created_ms);
	good =
	    signer_check(&api_of(r)->signer, "sandbox token", texts, token + strlen(TOKEN_PREFIX));
	sandbox_row_fini(&row);
	return good;
}

void api_write_access(struct strbuf *b, const struct request *r, const struct sandbox_row *row)
{
	char token[TOKEN_SIZE] = "", url[300] = "";

	/* Over a Unix socket there is no address that would lead back. Both, or none. */
	if (!r->over_socket && api_base_url(r, url, sizeof(url)) &&
	    !make_token(r, row->id, row->created_ms, token))
		b->failed = true;
	strbuf_json_str(b, "token", token);
	strbuf_json_name(b, "connectURL");
	strbuf_adds(b, "\"");
	strbuf_adds(b, token[0] ? url : "");
	strbuf_adds(b, token[0] ? "/api\"" : "\"");
}

/* It does not age, so the fresh one is the old one. */
void api_token_refresh(struct request *r)
{
	char token[TOKEN_SIZE];
	struct sandbox_row row;
	struct strbuf b = {0};

	if (!api_row(r, &row))
		return;
	b.failed = !make_token(r, row.id, row.created_ms, token);
	sandbox_row_fini(&row);
	strbuf_adds(&b, "{");
	strbuf_json_str(&b, "token", token);
	strbuf_adds(&b, "}");
	reply_json(r, 200, &b);
}
