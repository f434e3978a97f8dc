/* SPDX-License-Identifier: Apache-2.0 */
/* Signatures; see signer.h. */
#include "server/http/signer.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "lib/fd.h"
#include "server/http/strbuf.h"

#define FILE_NAME "secret"

static int make_key(struct signer *s, int dir_fd, struct err *e)
{
	int rc;

	if (getrandom(s->key, sizeof(s->key), 0) != sizeof(s->key))
		return err_sys(e, -errno, "getrandom");
	rc = fd_write_file_atomic(dir_fd, FILE_NAME, s->key, sizeof(s->key), 0600);
	return rc ? err_sys(e, rc, "making the file %s", FILE_NAME) : 0;
}

int signer_open(struct signer *s, const char *dir, struct err *e)
{
	cleanup_close int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_free char *text = NULL;
	size_t len;
	int rc;

	if (dir_fd < 0)
		return err_sys(e, -errno, "%s", dir);
	rc = fd_read_file(dir_fd, FILE_NAME, 4096, &text, &len);
	if (rc == -ENOENT)
		return make_key(s, dir_fd, e);
	if (rc)
		return err_sys(e, rc, "%s/%s", dir, FILE_NAME);
	if (len != sizeof(s->key))
		return err_set(e, -EINVAL, "%s/%s: not a key of %zu bytes", dir, FILE_NAME,
			       sizeof(s->key));
	memcpy(s->key, text, len);
	return 0;
}

int signer_sign(const struct signer *s, const char *what, const char *const *texts,
		char signature[SIGNATURE_SIZE])
{
	unsigned char hash[EVP_MAX_MD_SIZE];
	struct strbuf b = {0};
	unsigned int len = 0;
	int rc = -ENOMEM;

	strbuf_adds(&b, what);
	for (; *texts; texts++) {
		strbuf_adds(&b, "\n");
		strbuf_adds(&b, *texts);
	}
	if (!b.failed && HMAC(EVP_sha256(), s->key, sizeof(s->key), (const unsigned char *)b.data,
			      b.len, hash, &len)) {
		for (unsigned int i = 0; i < len && i < (SIGNATURE_SIZE - 1) / 2; i++)
			snprintf(signature + 2 * i, 3, "%02x", hash[i]);
		rc = 0;
	}
	strbuf_fini(&b);
	return rc;
}

bool signer_check(const struct signer *s, const char *what, const char *const *texts,
		  const char *signature)
{
	char right[SIGNATURE_SIZE];

	return strlen(signature) == SIGNATURE_SIZE - 1 && !signer_sign(s, what, texts, right) &&
	       !CRYPTO_memcmp(right, signature, SIGNATURE_SIZE - 1);
}
