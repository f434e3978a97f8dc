/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "lib/base64.h"

Test(base64, the_examples_of_rfc_4648)
{
	static const char *const cases[][2] = {
	    {"", ""},
	    {"Zg==", "f"},
	    {"Zm8=", "fo"},
	    {"Zm9v", "foo"},
	    {"Zm9vYg==", "foob"},
	    {"Zm9vYmE=", "fooba"},
	    {"Zm9vYmFy", "foobar"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		unsigned char out[9] = {0};

		cr_expect_eq(base64_decode(cases[i][0], strlen(cases[i][0]), out),
			     (ssize_t)strlen(cases[i][1]));
		cr_expect_str_eq((char *)out, cases[i][1]);
	}
}

Test(base64, every_byte_comes_through)
{
	unsigned char out[3];

	cr_assert_eq(base64_decode("AP/+", 4, out), 3);
	cr_assert_eq(memcmp(out, "\0\xff\xfe", 3), 0);
}

Test(base64, anything_else_is_refused)
{
	static const char *const bad[] = {
	    "Zg", "Zg=", "Z===", "====", "Zg=a", "Zm 9", "Zm9v\n", "Zm9*"};
	unsigned char out[9];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_expect_eq(base64_decode(bad[i], strlen(bad[i]), out), -EINVAL, "%s", bad[i]);
}
