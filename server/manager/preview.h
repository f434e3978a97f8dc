/* SPDX-License-Identifier: Apache-2.0 */
/* Preview URLs of sandboxes and the token that they may ask for (api.md 11). */
#ifndef SERVER_MANAGER_PREVIEW_H
#define SERVER_MANAGER_PREVIEW_H

#include "server/manager/manager.h"

#define PREVIEW_TOKEN_SIZE 44 /* 32 random bytes in base64url and a NUL */
#define PREVIEW_TOKEN_MIN  16
#define PREVIEW_TOKEN_MAX  512

/* SHA-256 in hexadecimal: all that is kept of a token. */
void preview_hash(const char *token, size_t len, char hash[HASH_SIZE]);
int preview_token_make(char token[PREVIEW_TOKEN_SIZE], struct err *e);

/**
 * preview_create() - Make a preview URL, or find the one that the port has
 * @want:	sandbox_id, port, custom, auth_config; borrowed
 * @row:	Set; preview_row_fini() after success
 *
 * Return: 0; -EEXIST: @row is the one that was there; -EINVAL for a sandbox that is unknown or
 *	   does not run (hibernated ones are fine)
 */
int preview_create(struct manager *m, const struct preview_row *want, struct preview_row *row,
		   struct err *e);
/* By port. -ENOENT for an unknown sandbox. */
int preview_each(struct manager *m, const char *sandbox_id,
		 void (*fn)(void *arg, struct preview_row *row), void *arg, struct err *e);
/* -ENOENT */
int preview_delete(struct manager *m, const char *sandbox_id, int64_t port, struct err *e);

/* A new token, from now on the only one. -ENOENT; -ESHUTDOWN */
int preview_rotate(struct manager *m, const char *sandbox_id, char token[PREVIEW_TOKEN_SIZE],
		   struct err *e);

/**
 * preview_admit() - The sandbox of a preview, for a request with this token
 * @token:	@len bytes; NULL: none came
 * @out:	A reference: sandbox_put()
 *
 * Wakes nobody. Return: 0; -ENOENT, with --strict also for ports without a preview URL;
 *	   -ESHUTDOWN stopped; -EACCES wrong token; -EHOSTDOWN
 */
int preview_admit(struct manager *m, const char *id, int64_t port, const char *token, size_t len,
		  struct sandbox **out, struct err *e);

/* Does it ask for a token at all? */
bool sandbox_has_preview_token(struct sandbox *s);

#endif
