/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <string.h>

#include "server/http/strbuf.h"

struct text_case {
	char bytes[16], json[48];
	size_t len;
};

/* The boundaries of RFC 3629, table 3-7 of Unicode. */
ParameterizedTestParameters(strbuf, bytes_become_a_json_string)
{
	static struct text_case cases[] = {
	    {"", "\"\"", 0},
	    {"a\"b\\c", "\"a\\\"b\\\\c\"", 5},
	    {"\n\r\t", "\"\\n\\r\\t\"", 3},
	    {"\x00\x1f", "\"\\u0000\\u001f\"", 2},
	    {"\x7f", "\"\\u007f\"", 1},
	    {"\xc2\x80\xdf\xbf", "\"\xc2\x80\xdf\xbf\"", 4},
	    {"\xc0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\"", 2},
	    {"\xc1\xbf", "\"\xef\xbf\xbd\xef\xbf\xbd\"", 2},
	    {"\xe0\xa0\x80", "\"\xe0\xa0\x80\"", 3},
	    {"\xe0\x9f\xbf", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"", 3},
	    {"\xed\x9f\xbf", "\"\xed\x9f\xbf\"", 3},
	    {"\xed\xa0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"", 3},
	    {"\xf0\x90\x80\x80", "\"\xf0\x90\x80\x80\"", 4},
	    {"\xf0\x8f\xbf\xbf", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"", 4},
	    {"\xf4\x8f\xbf\xbf", "\"\xf4\x8f\xbf\xbf\"", 4},
	    {"\xf4\x90\x80\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"", 4},
	    {"\xf5", "\"\xef\xbf\xbd\"", 1},
	    {"a\xe2\x82", "\"a\xef\xbf\xbd\xef\xbf\xbd\"", 3},
	    {"\xe2\x82z", "\"\xef\xbf\xbd\xef\xbf\xbdz\"", 3},
	};
	return cr_make_param_array(struct text_case, cases, sizeof(cases) / sizeof(cases[0]));
}

ParameterizedTest(struct text_case *c, strbuf, bytes_become_a_json_string)
{
	struct strbuf b = {0};

	strbuf_json_string(&b, c->bytes, c->len);
	cr_assert_str_eq(b.data, c->json);
	strbuf_fini(&b);
}

Test(strbuf, every_pair_of_bytes_gives_json_that_a_strict_parser_takes)
{
	for (unsigned int i = 0; i < 65536; i++) {
		const uint8_t bytes[2] = {(uint8_t)(i >> 8), (uint8_t)i};
		struct strbuf b = {0};
		json_t *parsed;

		strbuf_json_string(&b, bytes, 2);
		parsed = json_loadb(b.data, b.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
		cr_assert(json_is_string(parsed), "%02x %02x: %s", bytes[0], bytes[1], b.data);
		json_decref(parsed);
		strbuf_fini(&b);
	}
}

Test(strbuf, commas_stand_between_members_only)
{
	struct strbuf b = {0};

	strbuf_adds(&b, "[{");
	strbuf_json_str(&b, "a", "x");
	strbuf_json_int(&b, "b", -5);
	strbuf_json_bool(&b, "c", true);
	strbuf_json_value(&b, "d", NULL);
	strbuf_adds(&b, "}");
	strbuf_json_next(&b);
	strbuf_adds(&b, "{}]");
	cr_assert_str_eq(b.data, "[{\"a\":\"x\",\"b\":-5,\"c\":true,\"d\":null},{}]");
	strbuf_fini(&b);
}

Test(strbuf, times_are_utc_with_milliseconds)
{
	struct strbuf b = {0};

	strbuf_json_time(&b, "t", 1767322445678);
	cr_assert_str_eq(b.data, "\"t\":\"2026-01-02T02:54:05.678Z\"");
	strbuf_fini(&b);
}

Test(strbuf, grows_over_any_length)
{
	struct strbuf b = {0};

	for (int i = 0; i < 10000; i++)
		strbuf_addf(&b, "%d,", i);
	cr_assert_eq(b.len, 48890);
	cr_assert_eq(b.data[b.len], '\0');
	cr_assert_not(b.failed);
	strbuf_fini(&b);
}
