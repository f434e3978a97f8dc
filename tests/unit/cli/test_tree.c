/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cli/output.h"
#include "tools/cli/tree.h"

/* Draw @text. Return: what was printed, to be freed, or NULL if it was refused. */
static char *draw(const char *text, bool utf8)
{
	json_t *answer = json_loads(text, 0, NULL);
	char *out = NULL;
	size_t len;
	FILE *f = open_memstream(&out, &len);
	int rc;

	cr_assert_not_null(answer, "%s", text);
	rc = tree_draw(answer, utf8, f);
	fclose(f);
	json_decref(answer);
	if (rc == 0)
		return out;
	cr_assert_eq(rc, -EINVAL);
	free(out);
	return NULL;
}

#define NODE(id, parent, name)                                                                     \
	"{\"id\":\"" id "\",\"parentId\":\"" parent "\",\"name\":\"" name "\",\"kind\":\"full\","  \
	"\"status\":\"ready\",\"sizeBytes\":1536}"

#define FAMILY                                                                                     \
	"{\"sandboxId\":\"sb-1\",\"status\":\"running\",\"current\":\"c\",\"nodes\":[" NODE(       \
	    "a", "",                                                                               \
	    "first") "," NODE("b", "a",                                                            \
			      "second") "," NODE("c", "b",                                         \
						 "deep") "," NODE("d", "a",                        \
								  "try") "," NODE("e", "gone",     \
										  "orphan") "]}"

Test(tree, is_drawn_with_lines)
{
	char *out = draw(FAMILY, true);

	cr_assert_str_eq(out, "sb-1 running     KIND  SIZE     AGE  ID\n"
			      "├─ ○ first       full  1.5 KiB  -    a\n"
			      "│  ├─ ○ second   full  1.5 KiB  -    b\n"
			      "│  │  └─ ● deep  full  1.5 KiB  -    c\n"
			      "│  └─ ○ try      full  1.5 KiB  -    d\n"
			      "└─ ○ orphan      full  1.5 KiB  -    e\n");
	free(out);
}

Test(tree, is_drawn_in_ascii)
{
	char *out = draw(FAMILY, false);

	cr_assert_not_null(strstr(out, "\n|  |  `- * deep "), "%s", out);
	for (const char *p = out; *p; p++)
		cr_assert_lt((unsigned char)*p, 0x80);
	free(out);
}

Test(tree, shows_what_is_not_ready_and_no_escape_sequences)
{
	char *out =
	    draw("{\"sandboxId\":\"sb-1\",\"nodes\":[{\"id\":\"a\",\"name\":\"x\\u001b[2J\","
		 "\"status\":\"failed\",\"sizeBytes\":0}]}",
		 false);

	cr_assert_not_null(strstr(out, "x?[2J"), "%s", out);
	cr_assert_not_null(strstr(out, "failed"), "%s", out);
	cr_assert_null(strchr(out, '\x1b'));
	free(out);
}

static size_t count(const char *text, const char *what)
{
	size_t n = 0;

	for (; (text = strstr(text, what)); text++)
		n++;
	return n;
}

Test(tree, draws_each_node_of_a_cycle_once)
{
	char *out = draw("{\"nodes\":[" NODE("a", "c", "n1") "," NODE("b", "a", "n2") "," NODE(
			     "c", "b", "n3") "," NODE("a", "a", "n4") "," NODE("", "", "n5") "]}",
			 true);

	for (char name[] = "n1"; name[1] <= '5'; name[1]++)
		cr_expect_eq(count(out, name), 1, "%s: %s", name, out);
	free(out);
}

Test(tree, deeper_than_the_terminal_is_drawn_flat)
{
	json_t *nodes = json_array(), *answer = json_pack("{s:o}", "nodes", nodes);
	char id[32], parent[32], *text, *out;

	for (int i = 0; i < 300; i++) {
		snprintf(id, sizeof(id), "id%d.", i);
		snprintf(parent, sizeof(parent), "id%d.", i - 1);
		json_array_append_new(
		    nodes, json_pack("{s:s, s:s, s:s}", "id", id, "parentId", parent, "name", "n"));
	}
	text = json_dumps(answer, 0);
	out = draw(text, true);
	cr_assert_eq(count(out, "\n"), 301);
	cr_assert_not_null(strstr(out, "id299."));
	free(out);
	free(text);
	json_decref(answer);
}

Test(tree, refuses_what_is_no_tree)
{
	cr_assert_null(draw("{}", true));
	cr_assert_null(draw("[]", true));
	cr_assert_null(draw("{\"nodes\":{}}", true));
}

Test(output, sizes_have_a_unit)
{
	static const struct {
		int64_t bytes;
		const char *text;
	} cases[] = {
	    {0, "0 B"},
	    {1023, "1023 B"},
	    {1024, "1.0 KiB"},
	    {1536, "1.5 KiB"},
	    {1048575, "1.0 MiB"},
	    {20ll << 30, "20.0 GiB"},
	    {INT64_MAX, "8192.0 PiB"},
	};
	char text[32];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		cr_expect_str_eq(output_bytes(cases[i].bytes, text, sizeof(text)), cases[i].text);
}

Test(output, ages_have_one_number)
{
	static const struct {
		int64_t seconds;
		const char *text;
	} cases[] = {{-3, "0 s"},	{0, "0 s"},    {119, "119 s"},	{120, "2 min"},
		     {7199, "119 min"}, {7200, "2 h"}, {172800, "2 d"}, {86400 * 400, "400 d"}};
	char text[32];
	time_t t;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		cr_expect_str_eq(output_duration(cases[i].seconds, text, sizeof(text)),
				 cases[i].text);
	cr_assert_eq(output_parse_time("1970-01-02T00:00:01.678Z", &t), 0);
	cr_assert_eq(t, 86401);
	cr_assert_eq(output_parse_time("1970-01-02T00:00:01Z", &t), 0);
	cr_assert_eq(output_parse_time("yesterday", &t), -EINVAL);
	cr_assert_eq(output_parse_time("1970-01-02T00:00:01+01:00", &t), -EINVAL);
}
