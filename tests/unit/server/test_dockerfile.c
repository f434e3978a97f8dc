/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/manager/dockerfile.h"

static void expect(const char *text, const char *steps)
{
	json_t *manifest;
	struct err e;
	char *got;

	cr_assert_eq(dockerfile_parse(text, &manifest, &e), 0, "%s: %s", text, e.msg);
	cr_assert_str_eq(json_string_value(json_object_get(manifest, "base")), "base");
	got = json_dumps(json_object_get(manifest, "steps"), JSON_COMPACT);
	cr_assert_str_eq(got, steps, "%s", got);
	free(got);
	json_decref(manifest);
}

static void refuse(const char *text, const char *why)
{
	json_t *manifest;
	struct err e;

	cr_assert_eq(dockerfile_parse(text, &manifest, &e), -EINVAL, "%s", text);
	cr_assert_not_null(strstr(e.msg, why), "%s: %s", text, e.msg);
}

#define RUN(command)                                                                               \
	"{\"type\":\"run\",\"args\":{\"commands\":[\"" command "\"],\"user\":\"root\"}}"
#define ENV(vars) "{\"type\":\"env\",\"args\":{\"vars\":{" vars "}}}"

Test(dockerfile, instructions_are_steps)
{
	expect("FROM base", "[]");
	expect("# x\r\n\r\n  from base:latest as y\r\n", "[]");
	expect("FROM base\nRUN a && b", "[" RUN("a && b") "]");
	expect("FROM base\nRUN a \\\n# c\n  && b\nRUN c", "[" RUN("a   && b") "," RUN("c") "]");
	expect("FROM base\nRUN [\"a b\", \"it's\"]", "[" RUN("'a b' 'it'\\\\''s'") "]");
	expect("FROM base\nRUN <<E\na\n#b\nE\nRUN c", "[" RUN("a\\n#b\\n") "," RUN("c") "]");
	expect("FROM base\nENV A=b C=\"d e\" D='$x' E=a\\ b F=",
	       "[" ENV("\"A\":\"b\",\"C\":\"d e\",\"D\":\"$x\",\"E\":\"a b\",\"F\":\"\"") "]");
	expect("FROM base\nENV A b  c", "[" ENV("\"A\":\"b  c\"") "]");
	expect("FROM base\nWORKDIR /a\nWORKDIR b",
	       "[{\"type\":\"workdir\",\"args\":{\"path\":\"/a\"}},"
	       "{\"type\":\"workdir\",\"args\":{\"path\":\"/a/b\"}}]");
	expect("FROM base\nCOPY <<'E' /f\n$a\nE",
	       "[{\"type\":\"add_file\",\"args\":{\"path\":\"/f\",\"content\":\"$a\\n\"}}]");
	expect("FROM base\nUSER me\nRUN a",
	       "[{\"type\":\"run\",\"args\":{\"commands\":[\"a\"],\"user\":\"me\"}}]");
}

Test(dockerfile, what_cannot_be_had_is_refused_with_its_line)
{
	refuse("", "FROM is required");
	refuse("RUN a", "line 1: FROM must come first");
	refuse("FROM base\nFROM base", "line 2: FROM: one");
	refuse("FROM base\n\nCMD a", "line 3: CMD: only");
	refuse("FROM base\nCOPY a /b", "no files to copy");
	refuse("FROM base\nCOPY <<E b\nE", "absolute");
	refuse("FROM base\nCOPY <<E /b\n$x\nE", "not expanded");
	refuse("FROM base\nCOPY <<E /b\nx", "no end");
	refuse("FROM base\nCOPY --chown=a <<E /b\nE", "flags");
	refuse("FROM base\nRUN --mount=type=cache,target=/x a", "flags");
	refuse("FROM base\nRUN", "RUN: something");
	refuse("FROM base\nRUN []", "a command");
	refuse("FROM base\nRUN [1]", "strings");
	refuse("FROM base\nENV A=$B", "not expanded");
	refuse("FROM base\nENV A=\"b", "no end");
	refuse("FROM base\nENV =b", "NAME=value");
	refuse("FROM base\nENV A", "NAME=value");
	refuse("FROM base\nWORKDIR b$", "WORKDIR");
	refuse("FROM --platform=x base", "flags");
	refuse("FROM base x", "one template");
}
