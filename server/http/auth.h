/* SPDX-License-Identifier: Apache-2.0 */
/* API keys, and the credentials of a request (api.md 2.3). */
#ifndef SERVER_HTTP_AUTH_H
#define SERVER_HTTP_AUTH_H

#include "lib/err.h"
#include "server/http/request.h"

struct auth_keys;

/**
 * auth_keys_load() - Read a file with one key a line; blank lines and lines with '#' first are
 * skipped
 *
 * Return: 0; -EINVAL for a file without keys, or -errno
 */
int auth_keys_load(const char *path, struct auth_keys **out, struct err *e);
void auth_keys_free(struct auth_keys *k);

/* Takes as long for a wrong key as for a right one of the same length. */
bool auth_key_known(const struct auth_keys *k, const char *key);

/* Is @token one that allows what @r asks for? */
typedef bool auth_token_fn(const struct request *r, const char *token);

/**
 * auth_check() - Look for credentials, and check the first ones that are there
 *
 * A key or a token in X-API-Key or ?api_key=, a token as `Authorization: Bearer` or in ?token=.
 * A key as Bearer is refused: a leaked client setting would turn it into a token.
 *
 * Return: true; false after having replied 401 or 403
 */
bool auth_check(struct request *r, const struct auth_keys *k, auth_token_fn *token_good);

#endif
