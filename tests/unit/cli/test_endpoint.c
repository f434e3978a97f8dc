/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cli/endpoint.h"

struct good {
	char text[64], base[64], unix_path[64];
};

ParameterizedTestParameters(endpoint, addresses_are_read)
{
	static struct good cases[] = {
	    {"unix:/run/x.sock", "http://localhost/api", "/run/x.sock"},
	    {"unix:///run/x.sock", "http://localhost/api", "/run/x.sock"},
	    {"http://127.0.0.1:8080", "http://127.0.0.1:8080/api", ""},
	    {"http://h:1/", "http://h:1/api", ""},
	    {"http://h:1/api", "http://h:1/api", ""},
	    {"https://h/api//", "https://h/api", ""},
	};
	return cr_make_param_array(struct good, cases, sizeof(cases) / sizeof(cases[0]));
}

ParameterizedTest(struct good *g, endpoint, addresses_are_read)
{
	struct endpoint ep;
	struct err e;

	cr_assert_eq(endpoint_parse(g->text, NULL, &ep, &e), 0);
	cr_assert_str_eq(ep.base, g->base);
	cr_assert_str_eq(ep.unix_path, g->unix_path);
	cr_assert_str_eq(ep.api_key, "");
}

Test(endpoint, other_addresses_are_refused_with_the_forms_that_work)
{
	static const char *const bad[] = {"",		"h:80",	      "unix:",	      "unix:x",
					  "unix:/",	"unix://h/x", "ftp://h",      "http://",
					  "http://:80", "http://a b", "http://user@h"};
	struct endpoint ep;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct err e = {0};

		cr_expect_eq(endpoint_parse(bad[i], NULL, &ep, &e), -EINVAL, "%s", bad[i]);
		cr_expect(strstr(e.msg, "unix:/") || strstr(e.msg, "http://host:port"), "%s",
			  e.msg);
	}
}

Test(endpoint, a_socket_path_too_long_for_the_kernel_is_refused)
{
	char text[200] = "unix:/";
	struct endpoint ep;
	struct err e;

	memset(text + 6, 'a', 106);
	cr_assert_eq(endpoint_parse(text, NULL, &ep, &e), 0);
	cr_assert_eq(strlen(ep.unix_path), 107);
	text[6 + 106] = 'a';
	cr_assert_eq(endpoint_parse(text, NULL, &ep, &e), -EINVAL);
}

Test(endpoint, a_key_with_a_line_break_is_refused)
{
	struct endpoint ep;
	struct err e;

	cr_assert_eq(endpoint_parse("http://h", "a\r\nX-Evil: 1", &ep, &e), -EINVAL);
}

static void clear(void)
{
	unsetenv("DORMOUSE_URL");
	unsetenv("DORMOUSE_API_KEY");
	unsetenv("OPENCOMPUTER_API_URL");
	unsetenv("OPENCOMPUTER_API_KEY");
}

Test(endpoint, without_an_environment_it_is_the_local_socket, .init = clear)
{
	struct endpoint ep;
	struct err e;

	cr_assert_eq(endpoint_from_env(&ep, &e), 0);
	cr_assert_str_eq(ep.unix_path, "/run/dormouse/dormouse.sock");
}

Test(endpoint, our_variables_win_and_keys_stay_with_their_address, .init = clear)
{
	struct endpoint ep;
	struct err e;

	setenv("OPENCOMPUTER_API_URL", "http://hosted:1", 1);
	setenv("OPENCOMPUTER_API_KEY", "hosted-key", 1);
	cr_assert_eq(endpoint_from_env(&ep, &e), 0);
	cr_assert_str_eq(ep.base, "http://hosted:1/api");
	cr_assert_str_eq(ep.api_key, "hosted-key");

	setenv("DORMOUSE_URL", "http://mine:2", 1);
	cr_assert_eq(endpoint_from_env(&ep, &e), 0);
	cr_assert_str_eq(ep.base, "http://mine:2/api");
	cr_assert_str_eq(ep.api_key, "", "the other key must not leak");

	setenv("DORMOUSE_API_KEY", "my-key", 1);
	setenv("DORMOUSE_URL", "", 1);
	cr_assert_eq(endpoint_from_env(&ep, &e), 0);
	cr_assert_str_eq(ep.base, "http://hosted:1/api", "an empty variable is not set");
	cr_assert_str_eq(ep.api_key, "hosted-key");
}
