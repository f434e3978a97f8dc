/* SPDX-License-Identifier: Apache-2.0 */
/* Which addresses are public, and what a policy makes of them. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdlib.h>
#include <string.h>

#include "server/net/policy.h"

static struct net_addr addr(const char *text)
{
	struct net_addr a = {.family = strchr(text, ':') ? AF_INET6 : AF_INET};

	cr_assert_eq(inet_pton(a.family, text, a.b), 1, "%s", text);
	return a;
}

static const char *const public[] = {
    "1.1.1.1",	       "8.8.8.8",	   "9.255.255.255",   "11.0.0.0",
    "100.63.255.255",  "100.128.0.0",	   "126.255.255.255", "128.0.0.0",
    "169.253.255.255", "169.255.0.0",	   "172.15.255.255",  "172.32.0.0",
    "192.0.1.0",       "192.0.3.0",	   "192.167.255.255", "192.169.0.0",
    "198.17.255.255",  "198.20.0.0",	   "198.51.99.255",   "203.0.114.0",
    "223.255.255.255", "2a00::1",	   "2606:4700::1111", "2001:200::1",
    "3ffe:ffff::1",    "64:ff9b::808:808", "2002:808:808::1", "2a00::5efe:808:808",
};

static const char *const closed[] = {
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.0",
    "10.255.255.255",
    "100.64.0.0",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.255",
    "169.254.0.1",
    "169.254.169.254",
    "172.16.0.0",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.0",
    "192.168.255.255",
    "198.18.0.0",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.255",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::808:808",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:8.8.8.8",
    "64:ff9b::a00:1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::808:808",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "3fff::1",
    "2002:a00:1::1",
    "2002:7f00:1::1",
    "2002:c0a8:101::",
    "2a00::5efe:10.0.0.1",
    "2a00::200:5efe:192.168.0.1",
    "fc00::1",
    "fd00:6f63::2",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "4000::1",
    "5f00::1",
};

Test(addr, public_ones)
{
	for (size_t i = 0; i < sizeof(public) / sizeof(public[0]); i++) {
		struct net_addr a = addr(public[i]);

		cr_expect(net_addr_is_public(&a), "%s", public[i]);
	}
}

Test(addr, closed_ones)
{
	for (size_t i = 0; i < sizeof(closed) / sizeof(closed[0]); i++) {
		struct net_addr a = addr(closed[i]);

		cr_expect_not(net_addr_is_public(&a), "%s", closed[i]);
	}
}

Test(addr, prefixes)
{
	static const struct {
		const char *prefix, *addr;
		bool covers;
	} cases[] = {
	    {"0.0.0.0/0", "255.255.255.255", true},
	    {"0.0.0.0/0", "::1", false},
	    {"10.0.0.0/8", "10.255.0.1", true},
	    {"10.0.0.0/8", "11.0.0.0", false},
	    {"10.1.2.3", "10.1.2.3", true},
	    {"10.1.2.3", "10.1.2.2", false},
	    {"10.1.2.2/31", "10.1.2.3", true},
	    {"10.1.2.4/31", "10.1.2.3", false},
	    {"::/0", "ffff::", true},
	    {"2001:db8::/33", "2001:db8:7fff::", true},
	    {"2001:db8::/33", "2001:db8:8000::", false},
	    {"::1", "::1", true},
	};
	static const char *const wrong[] = {"",		 "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1",
					    "10.0.0/8",	 "::/129",	"a",	     "10.0.0.0/8x",
					    "1.1.1.1/ 8"};
	struct net_prefix p;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct net_addr a = addr(cases[i].addr);

		cr_assert_eq(net_prefix_parse(cases[i].prefix, &p), 0, "%s", cases[i].prefix);
		cr_expect_eq(net_prefix_covers(&p, &a), cases[i].covers, "%s in %s", cases[i].addr,
			     cases[i].prefix);
	}
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		cr_expect(net_prefix_parse(wrong[i], &p), "%s", wrong[i]);
}

/* --- policies -------------------------------------------------------------------------------- */

static struct policy policy(const char *text)
{
	json_t *obj = json_loads(text, 0, NULL);
	struct policy p;
	struct err e;

	cr_assert_eq(policy_parse(obj, &p, &e), 0, "%s", e.msg);
	json_decref(obj);
	return p;
}

static bool allows(const struct policy *p, const struct host_addrs *h, const char *text)
{
	struct net_addr a = addr(text);

	return policy_allows(p, h, &a);
}

Test(policy, closed_unless_it_says_otherwise)
{
	struct policy p = policy("{}");

	cr_expect_not(allows(&p, NULL, "1.1.1.1"));
	p = policy("{\"internet\": true}");
	cr_expect(allows(&p, NULL, "1.1.1.1"));
	cr_expect_not(allows(&p, NULL, "10.0.0.1"));
	cr_expect_not(p.has_dns);
}

Test(policy, exceptions)
{
	struct policy p =
	    policy("{\"internet\": true, \"allow\": [\"10.0.0.0/8\", \"fd01::/16\", "
		   "\"0.0.0.0/0\", \"::/0\"], \"deny\": [\"10.1.0.0/16\", \"9.9.9.9\"]}");

	cr_expect(allows(&p, NULL, "10.2.0.1"));
	cr_expect(allows(&p, NULL, "fd01::1"));
	cr_expect(allows(&p, NULL, "192.168.1.1"));
	cr_expect_not(allows(&p, NULL, "10.1.0.1"));
	cr_expect_not(allows(&p, NULL, "9.9.9.9"));
	cr_expect_not(allows(&p, NULL, "64:ff9b::909:909"), "nor by NAT64");
	cr_expect_not(allows(&p, NULL, "2002:a01:1::1"), "nor by 6to4");
	/* Whatever is allowed: never the host, nor what is nobody. */
	cr_expect_not(allows(&p, NULL, "127.0.0.1"));
	cr_expect_not(allows(&p, NULL, "::1"));
	cr_expect_not(allows(&p, NULL, "::ffff:10.2.0.1"));
	cr_expect_not(allows(&p, NULL, "64:ff9b::7f00:1"));
	cr_expect_not(allows(&p, NULL, "10.0.2.2"));
	cr_expect_not(allows(&p, NULL, "fd00:6f63::2"));
	cr_expect_not(allows(&p, NULL, "169.254.169.254"));
	cr_expect_not(allows(&p, NULL, "255.255.255.255"));
}

Test(policy, of_the_wrong_form)
{
	static const char *const wrong[] = {"[]",
					    "{\"internet\": 1}",
					    "{\"dns\": \"fe80::1%eth0\"}",
					    "{\"dns\": \"x\"}",
					    "{\"allow\": [\"x\"]}",
					    "{\"deny\": [1]}",
					    "{\"allow\": \"10.0.0.0/8\"}"};
	struct policy p = {.internet = true};
	struct err e;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		json_t *obj = json_loads(wrong[i], 0, NULL);

		cr_expect(policy_parse(obj, &p, &e), "%s", wrong[i]);
		json_decref(obj);
	}
	cr_expect(p.internet, "it stays what it was");
}

/* Every machine has a loopback with its address, but in a network of its own before it is up. */
Test(policy, the_host_has_itself)
{
	struct policy p = policy("{\"internet\": true, \"allow\": [\"0.0.0.0/0\"]}");
	struct net_addr loopback = addr("127.0.0.1");
	struct net_prefix one = {.addr = addr("8.8.8.8"), .len = 32};
	struct host_addrs h;
	struct err e;

	cr_assert_eq(host_addrs_open(&h, &e), 0, "%s", e.msg);
	cr_expect(host_addrs_have(&h, &loopback));
	cr_expect_eq(host_addrs_refresh(&h, &e), 0, "%s", e.msg);
	cr_expect(host_addrs_have(&h, &loopback));
	cr_expect(allows(&p, &h, "8.8.8.8"));
	h.list[0] = one;
	cr_expect_not(allows(&p, &h, "8.8.8.8"));
	cr_expect_not(allows(&p, &h, "64:ff9b::808:808"));
	host_addrs_close(&h);
	host_addrs_close(&h);
}
