/* SPDX-License-Identifier: Apache-2.0 */
/* API keys, and the credentials of a request; see auth.h. */
#include "server/http/auth.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "lib/fd.h"

#define KEY_FILE_MAX (1u << 20)

struct auth_keys {
	char *text;  /* owned; the lines, each NUL-terminated */
	char **keys; /* owned; point into text */
	size_t n;
};

void auth_keys_free(struct auth_keys *k)
{
	if (!k)
		return;
	free(k->text);
	free(k->keys);
	free(k);
}

static int keys_add(struct auth_keys *k, char *line)
{
	char **grown;

	line += strspn(line, " \t\r");
	line[strcspn(line, " \t\r")] = '\0';
	if (!*line || *line == '#')
		return 0;
	grown = realloc(k->keys, (k->n + 1) * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	k->keys = grown;
	k->keys[k->n++] = line;
	return 0;
}

int auth_keys_load(const char *path, struct auth_keys **out, struct err *e)
{
	struct auth_keys *k = calloc(1, sizeof(*k));
	char *save = NULL;
	int rc;

	if (!k)
		return err_set(e, -ENOMEM, "out of memory");
	rc = fd_read_file(AT_FDCWD, path, KEY_FILE_MAX, &k->text, NULL);
	if (rc) {
		auth_keys_free(k);
		return err_sys(e, rc, "API key file %s", path);
	}
	for (char *line = strtok_r(k->text, "\n", &save); line && !rc;
	     line = strtok_r(NULL, "\n", &save))
		rc = keys_add(k, line);
	if (!rc && !k->n)
		rc = err_set(e, -EINVAL, "API key file %s: no key in it", path);
	else if (rc)
		err_sys(e, rc, "API key file %s", path);
	if (rc) {
		auth_keys_free(k);
		return rc;
	}
	*out = k;
	return 0;
}

bool auth_key_known(const struct auth_keys *k, const char *key)
{
	size_t len = strlen(key);
	bool known = false;

	for (size_t i = 0; i < k->n; i++)
		if (strlen(k->keys[i]) == len && !CRYPTO_memcmp(k->keys[i], key, len))
			known = true;
	return known;
}

/* The credentials of "Authorization: Bearer X", or NULL. */
static const char *bearer(const struct request *r)
{
	static const char scheme[] = "Bearer ";
	const char *value = request_header(r, "Authorization");

	if (!value || strncasecmp(value, scheme, strlen(scheme)))
		return NULL;
	value += strlen(scheme);
	return value + strspn(value, " ");
}

static bool has_text(const char *text)
{
	return text && *text;
}

bool auth_check(struct request *r, const struct auth_keys *k, auth_token_fn *token_good)
{
	const char *key = request_header(r, "X-API-Key"), *token = bearer(r);

	if (!has_text(key))
		key = url_query(&r->url, "api_key");
	if (has_text(key)) {
		if (auth_key_known(k, key) || token_good(r, key))
			return true;
		reply_error(r, 403, "invalid API key");
		return false;
	}
	if (!has_text(token))
		token = url_query(&r->url, "token");
	if (has_text(token) && token_good(r, token))
		return true;
	if (has_text(token) || request_header(r, "Authorization"))
		reply_error(r, 403, "invalid token (an API key belongs into X-API-Key)");
	else
		reply_error(r, 401, "missing API key");
	return false;
}
