/* SPDX-License-Identifier: Apache-2.0 */
/* Names and digests in archives of images. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "server/oci/choose.h"

#define HEX "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

Test(choose, digests_are_sha256_and_nothing_else)
{
	static const char *const bad[] = {"",
					  "sha256:",
					  HEX,
					  "sha512:" HEX,
					  "sha256:" HEX "0",
					  "sha256:../../../etc/passwd",
					  "sha256:0123456789ABCDEF0123456789abcdef0123456789abcdef"
					  "0123456789abcdef"};
	char digest[DIGEST_SIZE];
	struct err e;

	cr_assert_eq(digest_parse("sha256:" HEX, digest, &e), 0);
	cr_assert_str_eq(digest, HEX);
	cr_assert_eq(digest_parse(NULL, digest, &e), -EINVAL);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_assert_eq(digest_parse(bad[i], digest, &e), -EINVAL, "%s", bad[i]);
}

Test(choose, an_image_is_found_by_name_and_by_tag)
{
	cr_assert(ref_matches("app:1.0", "app:1.0"));
	cr_assert(ref_matches("app:1.0", "1.0"));
	cr_assert(ref_matches("app:latest", "app"));
	cr_assert(ref_matches("docker.io/library/app:1.0", "app:1.0"));
	cr_assert(ref_matches("docker.io/team/app:1.0", "team/app:1.0"));
	cr_assert(ref_matches("host:5000/app:1.0", "1.0"));
	cr_assert(ref_matches("latest", "latest"));
	cr_assert_not(ref_matches("app:1.0", "app"));
	cr_assert_not(ref_matches("app:1.0", "app:1"));
	cr_assert_not(ref_matches("host:5000/app", "5000/app"));
	cr_assert_not(ref_matches("other/app:1.0", "app:1.0"));
}
