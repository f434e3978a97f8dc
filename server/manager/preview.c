/* SPDX-License-Identifier: Apache-2.0 */
/* Preview URLs of sandboxes; see preview.h. */
#include "server/manager/preview.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "lib/clock.h"
#include "server/manager/internal.h"

void preview_hash(const char *token, size_t len, char hash[HASH_SIZE])
{
	uint8_t digest[SHA256_DIGEST_LENGTH];

	SHA256((const uint8_t *)token, len, digest);
	for (size_t i = 0; i < sizeof(digest); i++)
		snprintf(hash + 2 * i, 3, "%02x", digest[i]);
}

int preview_token_make(char token[PREVIEW_TOKEN_SIZE], struct err *e)
{
	uint8_t bytes[32];
	char text[48];

	if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
		return err_sys(e, -errno, "getrandom");
	EVP_EncodeBlock((uint8_t *)text, bytes, sizeof(bytes));
	for (size_t i = 0; i < PREVIEW_TOKEN_SIZE - 1; i++)
		token[i] = text[i] == '+' ? '-' : text[i] == '/' ? '_' : text[i];
	token[PREVIEW_TOKEN_SIZE - 1] = '\0';
	return 0;
}

static int check_runs(struct manager *m, const char *id, struct err *e)
{
	struct sandbox *s = sandbox_find_any(m, id);
	int rc;

	if (!s)
		return err_set(e, -EINVAL, "sandbox not found, or not running");
	pthread_mutex_lock(&s->lock);
	rc = sandbox_status_error(s, e);
	pthread_mutex_unlock(&s->lock);
	sandbox_put(s);
	return rc ? err_wrap(e, -EINVAL, "no preview") : 0;
}

int preview_create(struct manager *m, const struct preview_row *want, struct preview_row *row,
		   struct err *e)
{
	struct preview_row new = *want;
	int rc = check_runs(m, want->sandbox_id, e);

	if (!rc)
		rc = uuid_make(new.id, e);
	if (rc)
		return rc;
	new.created_ms = clock_wall_ms();
	rc = store_preview_insert(m->store, &new, e);
	if (rc == -ENOENT)
		return err_set(e, -EINVAL, "sandbox not found, or not running");
	if (!rc || rc == -EEXIST) {
		int got = store_preview_get(m->store, want->sandbox_id, want->port, row, e);

		return got ? got : rc;
	}
	return rc;
}

int preview_each(struct manager *m, const char *sandbox_id,
		 void (*fn)(void *arg, struct preview_row *row), void *arg, struct err *e)
{
	struct sandbox_row row;
	int rc = sandbox_get_row(m, sandbox_id, &row, e);

	if (rc)
		return rc;
	sandbox_row_fini(&row);
	return store_preview_each(m->store, sandbox_id, fn, arg, e);
}

int preview_delete(struct manager *m, const char *sandbox_id, int64_t port, struct err *e)
{
	struct sandbox_row row;
	int rc = sandbox_get_row(m, sandbox_id, &row, e);

	if (rc)
		return rc;
	sandbox_row_fini(&row);
	return store_preview_delete(m->store, sandbox_id, port, e);
}

static void set_hash(struct sandbox_row *row, const void *arg)
{
	snprintf(row->preview_hash, sizeof(row->preview_hash), "%s", (const char *)arg);
}

int preview_rotate(struct manager *m, const char *sandbox_id, char token[PREVIEW_TOKEN_SIZE],
		   struct err *e)
{
	char hash[HASH_SIZE];
	struct sandbox *s;
	int rc = sandbox_find_known(m, sandbox_id, &s, e);

	if (rc)
		return rc;
	pthread_mutex_lock(&s->lock);
	rc = sandbox_status_error(s, e);
	pthread_mutex_unlock(&s->lock);
	/* One that has failed may be woken, and then its old token would be good again. */
	if (rc == -EHOSTDOWN)
		rc = 0;
	if (!rc)
		rc = preview_token_make(token, e);
	if (!rc) {
		preview_hash(token, strlen(token), hash);
		rc = sandbox_update_settings(s, set_hash, hash, e);
	}
	sandbox_put(s);
	return rc;
}

/* Under s->lock. */
static bool allowed(const struct sandbox *s, const char *token, size_t len)
{
	char hash[HASH_SIZE];

	if (!s->row.preview_hash[0])
		return true;
	if (!token)
		return false;
	preview_hash(token, len, hash);
	return !CRYPTO_memcmp(s->row.preview_hash, hash, HASH_SIZE);
}

/* With --strict: is there a preview URL of this port? */
static int check_listed(struct manager *m, const char *id, int64_t port, struct err *e)
{
	struct preview_row row;
	int rc;

	if (!m->config->strict)
		return 0;
	rc = store_preview_get(m->store, id, port, &row, e);
	if (!rc)
		preview_row_fini(&row);
	return rc;
}

int preview_admit(struct manager *m, const char *id, int64_t port, const char *token, size_t len,
		  struct sandbox **out, struct err *e)
{
	struct sandbox *s;
	int rc = sandbox_find_known(m, id, &s, e);

	if (rc)
		return rc;
	pthread_mutex_lock(&s->lock);
	rc = sandbox_status_error(s, e);
	if (rc != -ESHUTDOWN && !allowed(s, token, len))
		rc = err_set(e, -EACCES, token ? "invalid preview token" : "missing preview token");
	pthread_mutex_unlock(&s->lock);
	if (!rc)
		rc = check_listed(m, id, port, e);
	if (rc)
		sandbox_put(s);
	else
		*out = s;
	return rc;
}

bool sandbox_has_preview_token(struct sandbox *s)
{
	bool has;

	pthread_mutex_lock(&s->lock);
	has = s->row.preview_hash[0] != '\0';
	pthread_mutex_unlock(&s->lock);
	return has;
}
