/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/http/signer.h"

static char dir[] = "/tmp/dm-signer-XXXXXX";
static char path[64];

static void setup(void)
{
	cr_assert_not_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/secret", dir);
}

static void teardown(void)
{
	unlink(path);
	cr_assert_eq(rmdir(dir), 0);
}

TestSuite(signer, .init = setup, .fini = teardown);

#define TEXTS(...) ((const char *const[]){__VA_ARGS__, NULL})

Test(signer, signatures_hold_with_the_key_of_the_file)
{
	struct signer a, b;
	char signature[SIGNATURE_SIZE], again[SIGNATURE_SIZE];
	struct err e = {0};
	struct stat st;

	cr_assert_eq(signer_open(&a, dir, &e), 0, "%s", e.msg);
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_mode & 07777, 0600);
	cr_assert_eq(signer_open(&b, dir, &e), 0, "%s", e.msg);
	cr_assert_eq(signer_sign(&a, "k", TEXTS("one", "two"), signature), 0);
	cr_assert_eq(strlen(signature), 64);
	cr_assert_eq(signer_sign(&b, "k", TEXTS("one", "two"), again), 0);
	cr_assert_str_eq(signature, again);
	cr_assert(signer_check(&b, "k", TEXTS("one", "two"), signature));
	cr_assert_not(signer_check(&b, "K", TEXTS("one", "two"), signature), "another kind");
	cr_assert_not(signer_check(&b, "k", TEXTS("one", "tow"), signature));
	cr_assert_not(signer_check(&b, "k", TEXTS("one"), signature));
	cr_assert_not(signer_check(&b, "k", TEXTS("onetwo"), signature));
	cr_assert_not(signer_check(&b, "k", TEXTS("one", "two"), ""));
	signature[63] ^= 1;
	cr_assert_not(signer_check(&b, "k", TEXTS("one", "two"), signature));
	unlink(path);
	cr_assert_eq(signer_open(&b, dir, &e), 0);
	cr_assert_not(signer_check(&b, "k", TEXTS("one", "two"), again), "another key");
}

Test(signer, a_file_that_is_no_key_is_left_alone)
{
	struct signer s;
	struct err e = {0};
	FILE *f = fopen(path, "w");

	cr_assert(fputs("short", f) >= 0 && !fclose(f));
	cr_assert_eq(signer_open(&s, dir, &e), -EINVAL);
	cr_assert_not_null(strstr(e.msg, path));
	cr_assert_eq(signer_open(&s, "/nonexistent", &e), -ENOENT);
}

/* RFC 4231, test case 2 is shorter than our keys; the second half of this key is zeros, as HMAC
 * pads it. */
Test(signer, is_hmac_sha_256)
{
	struct signer s = {.key = "Jefe"};
	char signature[SIGNATURE_SIZE];

	cr_assert_eq(
	    signer_sign(&s, "what do ya want for nothing?", (const char *const[]){NULL}, signature),
	    0);
	cr_assert_str_eq(signature,
			 "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}
