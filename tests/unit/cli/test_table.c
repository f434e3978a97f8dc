/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cli/table.h"

static char *printed(const struct table *t)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	table_print(t, f);
	fclose(f);
	return text;
}

Test(table, columns_are_as_wide_as_their_widest_cell)
{
	struct table t;
	char *text;

	table_init(&t, 3);
	table_add_row(&t, (const char *[]){"ID", "X", "LAST"});
	table_add_row(&t, (const char *[]){"a-long-one", NULL, "b"});
	table_add_row(&t, (const char *[]){"s", "h\xc3\xa4h", ""});
	text = printed(&t);
	cr_assert_str_eq(text, "ID          X    LAST\n"
			       "a-long-one  -    b\n"
			       "s           h\xc3\xa4h  \n");
	free(text);
	table_fini(&t);
	table_fini(&t);
}

Test(table, control_characters_do_not_reach_the_terminal)
{
	char out[40];

	cr_assert_str_eq(table_clean("a\x1b[31mb\nc\x7f\xc2\x9b"
				     "d\xc3\xa4",
				     out, sizeof(out)),
			 "a?[31mb?c??d\xc3\xa4");
	cr_assert_str_eq(table_clean("abcdef", out, 4), "abc");
}
