/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signatures that this server, and no one else, can make and check: HMAC-SHA-256 with a key of
 * its own, which lies beside what it protects. So they hold across restarts, and nothing has to
 * be stored for each.
 */
#ifndef SERVER_HTTP_SIGNER_H
#define SERVER_HTTP_SIGNER_H

#include <stdbool.h>

#include "lib/err.h"

#define SIGNER_KEY_BYTES 32
#define SIGNATURE_SIZE	 65 /* hexadecimal, and a NUL */

struct signer {
	unsigned char key[SIGNER_KEY_BYTES];
};

/**
 * signer_open() - Read the key from a file, or make it
 * @dir:	Where the file `secret` is, for its owner only
 *
 * Return: 0; -EINVAL for a file that is none of ours; -errno
 */
int signer_open(struct signer *s, const char *dir, struct err *e);

/**
 * signer_sign() - Sign a list of texts
 * @what:	What kind of thing is signed: one kind is never taken for another
 * @texts:	NULL-terminated; all but the last without newlines
 *
 * Any thread. Return: 0 or -ENOMEM
 */
int signer_sign(const struct signer *s, const char *what, const char *const *texts,
		char signature[SIGNATURE_SIZE]);

/* Takes as long for a wrong signature as for a right one. */
bool signer_check(const struct signer *s, const char *what, const char *const *texts,
		  const char *signature);

#endif
