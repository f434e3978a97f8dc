/* SPDX-License-Identifier: Apache-2.0 */
/* scale: what it asks, what it prints. */
#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <stdlib.h>
#include <string.h>

#include "fake_server.h"
#include "tools/cli/cli.h"

static struct fake_server server;

static void answer(struct fake_server *s, const struct fake_request *r, int fd)
{
	(void)s;
	if (strstr(r->body, "50"))
		fake_reply(fd, 200, "{\"memoryMB\":2048,\"degraded\":\"no cgroup\"}");
	else
		fake_reply(fd, 200, "{\"sandboxID\":\"sb-1\",\"memoryMB\":2048}");
}

static void start(void)
{
	fake_start(&server, false, answer);
	cr_redirect_stdout();
	cr_redirect_stderr();
}

Test(scale, asks_one_thing_of_the_server, .timeout = 30)
{
	start();
	cr_assert_eq(fake_dormouse("scale", "sb-1", "2048", NULL), 0);
	cr_assert_eq(fake_dormouse("scale", "--cpu", "50", "sb-1", "2048", "--json", NULL), 0);
	cr_assert_eq(fake_dormouse("scale", "--auto", "1024:4096", "sb-1", "--json", NULL), 0);
	cr_assert_eq(fake_dormouse("scale", "--auto", "off", "sb-1", "--json", NULL), 0);
	cr_assert_eq(fake_dormouse("scale", "--lock", "sb-1", "--json", NULL), 0);
	cr_assert_eq(fake_dormouse("scale", "--unlock", "sb-1", "--json", NULL), 0);
	cr_assert_eq(fake_dormouse("scale", "sb-1", "--json", NULL), 0);
	fake_stop(&server);
	cr_assert_str_eq(server.log,
			 "POST /api/sandboxes/sb-1/scale {\"memoryMB\":2048}\n"
			 "PUT /api/sandboxes/sb-1/limits {\"memoryMB\":2048,\"cpuPercent\":50}\n"
			 "PUT /api/sandboxes/sb-1/autoscale "
			 "{\"enabled\":true,\"minMemoryMB\":1024,\"maxMemoryMB\":4096}\n"
			 "PUT /api/sandboxes/sb-1/autoscale {\"enabled\":false}\n"
			 "PUT /api/sandboxes/sb-1/scaling-lock {\"locked\":true}\n"
			 "PUT /api/sandboxes/sb-1/scaling-lock {\"locked\":false}\n"
			 "GET /api/sandboxes/sb-1/limits \n");
}

Test(scale, what_could_not_be_done_is_said, .timeout = 30)
{
	start();
	cr_assert_eq(fake_dormouse("scale", "--cpu", "50", "sb-1", "2048", NULL), 0);
	fake_stop(&server);
	fflush(stdout);
	fflush(stderr);
	cr_assert_stderr_eq_str("dormouse scale: no cgroup\n");
}

Test(scale, wrong_usage_is_2)
{
	static const char *const wrong[][5] = {
	    {"scale"},
	    {"scale", "sb-1", "x"},
	    {"scale", "sb-1", "0"},
	    {"scale", "sb-1", "1", "2"},
	    {"scale", "../x", "1024"},
	    {"scale", "--cpu", "50", "sb-1"},
	    {"scale", "--cpu", "0", "sb-1", "1024"},
	    {"scale", "--auto", "1024", "sb-1"},
	    {"scale", "--auto", "x:2", "sb-1"},
	    {"scale", "--auto", "off", "sb-1", "1024"},
	    {"scale", "--lock", "--unlock", "sb-1"},
	};

	cr_redirect_stdout();
	cr_redirect_stderr();
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		cr_expect_eq(fake_dormouse(wrong[i][0], wrong[i][1], wrong[i][2], wrong[i][3],
					   wrong[i][4], NULL),
			     EXIT_USAGE, "%zu", i);
}
