/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

#include "lib/log.h"

static size_t logged(char *out, size_t cap, const char *text)
{
	int p[2];
	ssize_t n;

	cr_assert_eq(pipe(p), 0);
	log_init("test", LOG_INFO, p[1]);
	log_warn("%s", text);
	n = read(p[0], out, cap - 1);
	cr_assert_gt(n, 0);
	out[n] = '\0';
	close(p[0]);
	close(p[1]);
	log_init("test", LOG_INFO, 2);
	return (size_t)n;
}

Test(log, a_tenant_cannot_write_lines_of_its_own)
{
	char line[2048];

	logged(line, sizeof(line), "name\n2026-01-01T00:00:00.000Z error x: \x1b[2J\x7f");
	cr_assert_not_null(
	    strstr(line, "warn test: name?2026-01-01T00:00:00.000Z error x: ?[2J?\n"));
	cr_assert_eq(strchr(line, '\n'), strrchr(line, '\n'));
}

Test(log, a_line_that_is_too_long_is_cut)
{
	char text[3000], line[4096];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	cr_assert_eq(logged(line, sizeof(line), text), 1023);
	cr_assert_eq(line[1022], '\n');
}

Test(log, a_json_line_is_one_object_whatever_the_text)
{
	char text[3000], line[4096];

	log_use_json();
	logged(line, sizeof(line), "of sandbox sb-0123abcd: \"quoted\" \\ \n \xc3\xa4 {");
	cr_assert_not_null(
	    strstr(line, "Z\",\"level\":\"warn\",\"name\":\"test\","
			 "\"sandbox\":\"sb-0123abcd\",\"message\":\"of sandbox sb-0123abcd: "
			 "\\\"quoted\\\" \\\\ ? ?? {\"}\n"),
	    "%s", line);
	logged(line, sizeof(line), "sb-0123abc sb-XXXXXXXX sb-");
	cr_assert_null(strstr(line, "\"sandbox\""));
	/* What is cut is cut between characters of JSON. */
	memset(text, '"', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	cr_assert_leq(logged(line, sizeof(line), text), 1200);
	cr_assert_not_null(strstr(line, "\\\"\"}\n"), "%s", line);
}
