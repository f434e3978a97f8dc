/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "server/config.h"
#include "server/http/request.h"

static int parse(struct config *c, struct err *e, const char *a, const char *b)
{
	char *argv[] = {(char *)"dormoused", (char *)a, (char *)b, NULL};

	return config_parse(c, b ? 3 : a ? 2 : 1, argv, e);
}

Test(config, without_options_everything_has_a_default)
{
	struct config c;

	cr_assert_eq(parse(&c, NULL, NULL, NULL), 0);
	cr_assert_eq(c.listen.n, 1);
	cr_assert_str_eq(c.listen.items[0], "unix:/run/dormouse/dormouse.sock");
	cr_assert(c.state && c.kernel && c.vmm && c.image_dirs.n == 1);
	cr_assert(c.max_cpus == 4 && c.max_memory_mib == 8192 && c.max_disk_mib == 262144);
	config_fini(&c);
}

Test(config, both_forms_of_an_option)
{
	struct config c;

	cr_assert_eq(parse(&c, NULL, "--max-cpus=3", NULL), 0);
	cr_assert_eq(c.max_cpus, 3);
	config_fini(&c);
	cr_assert_eq(parse(&c, NULL, "--max-cpus", "2"), 0);
	cr_assert_eq(c.max_cpus, 2);
	config_fini(&c);
}

Test(config, a_tcp_listener_needs_keys_or_a_word)
{
	struct config c;
	struct err e;

	cr_assert_eq(parse(&c, &e, "--listen=tcp:[::1]:80", NULL), -EINVAL);
	cr_assert_not_null(strstr(e.msg, "--api-key-file"));
	config_fini(&c);
	cr_assert_eq(parse(&c, &e, "--listen=tcp:[::1]:80", "--no-auth"), 0);
	config_fini(&c);
}

Test(json_body, only_objects_of_modest_depth)
{
	char deep[200];
	struct err e;
	json_t *j;

	memset(deep, '[', sizeof(deep));
	cr_assert_null(json_parse_object(deep, sizeof(deep), &e));
	cr_assert_not_null(strstr(e.msg, "nested"));
	cr_assert_null(json_parse_object("[]", 2, &e));
	cr_assert_null(json_parse_object("", 0, &e));
	cr_assert_null(json_parse_object("{\"a\":\"\\", 7, &e));
	/* Brackets in strings do not nest. */
	memset(deep, '[', sizeof(deep));
	memcpy(deep, "{\"a\":\"\\\"", 8);
	memcpy(deep + sizeof(deep) - 2, "\"}", 2);
	j = json_parse_object(deep, sizeof(deep), &e);
	cr_assert_not_null(j, "%s", e.msg);
	json_decref(j);
}
