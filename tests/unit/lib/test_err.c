/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "lib/err.h"

Test(err, set_returns_the_code_and_keeps_the_text)
{
	struct err e;

	cr_assert_eq(err_set(&e, -EINVAL, "drive %s: bad", "a"), -EINVAL);
	cr_assert_eq(e.code, -EINVAL);
	cr_assert_str_eq(e.msg, "drive a: bad");
	cr_assert_eq(err_set(NULL, -EIO, "nobody asks"), -EIO);
}

Test(err, sys_appends_the_text_of_the_errno)
{
	struct err e;

	err_sys(&e, -ENOENT, "open %s", "/x");
	cr_assert_str_eq(e.msg, "open /x: No such file or directory");
}

Test(err, wrap_puts_context_first_and_never_overflows)
{
	char longest[400];
	struct err e;

	err_set(&e, -EIO, "inner");
	err_wrap(&e, -EIO, "outer %d", 1);
	cr_assert_str_eq(e.msg, "outer 1: inner");

	memset(longest, 'x', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	err_set(&e, -EIO, "%s", longest);
	err_wrap(&e, -EIO, "context");
	cr_assert_eq(strncmp(e.msg, "context: xxx", 12), 0);
	cr_assert_lt(strlen(e.msg), sizeof(e.msg));
}
