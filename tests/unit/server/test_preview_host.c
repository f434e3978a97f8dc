/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <string.h>

#include "server/preview/host.h"

static void expect(const char *host, const char *id, unsigned int port)
{
	struct preview_host h;
	bool is = preview_host_parse(host, strlen(host), &h);

	cr_assert_eq(is, id != NULL, "%s", host);
	if (!id)
		return;
	cr_expect_str_eq(h.id, id);
	cr_expect_eq(h.port, port, "%s: %u", host, h.port);
}

Test(preview_host, the_first_label_names_sandbox_and_port)
{
	expect("sb-1a2b3c4d-p3000.localhost:8080", "sb-1a2b3c4d", 3000);
	expect("sb-1a2b3c4d-p1", "sb-1a2b3c4d", 1);
	expect("sb-1a2b3c4d-p65535.x.y.z", "sb-1a2b3c4d", 65535);
	expect("SB-1A2B3C4D-P80.Example.COM", "sb-1a2b3c4d", 80);
	expect("sb-build-00000000-p80.d", "sb-build-00000000", 80);
	expect("sb-x-p1-p80.d", "sb-x-p1", 80);
}

Test(preview_host, nothing_else_is_a_preview)
{
	static const char *const others[] = {
	    "",
	    "localhost",
	    "127.0.0.1:8080",
	    "[::1]:8080",
	    "api-p80.example.org",
	    "sb-1a2b3c4d.example.org",
	    "sb-1a2b3c4d-p.d",
	    "sb-1a2b3c4d-p0.d",
	    "sb-1a2b3c4d-p080.d",
	    "sb-1a2b3c4d-p65536.d",
	    "sb-1a2b3c4d-p999999.d",
	    "sb-1a2b3c4d-p8x.d",
	    "sb-1a2b3c4d-p-1.d",
	    "sb--p80x",
	    "sb-p80.d",
	    "-p80",
	    "p80",
	    "sb-_-p80.d",
	    "sb-a/b-p80.d",
	    "www.sb-1a2b3c4d-p80.d",
	    "sb-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-p80.d",
	};

	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		expect(others[i], NULL, 0);
}
