/* SPDX-License-Identifier: Apache-2.0 */
/* Which addresses are whose; see addr.h. */
#include "server/net/addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct net_addr net_addr4(const void *bytes)
{
	struct net_addr a = {.family = AF_INET};

	memcpy(a.b, bytes, 4);
	return a;
}

struct net_addr net_addr6(const void *bytes)
{
	struct net_addr a = {.family = AF_INET6};

	memcpy(a.b, bytes, 16);
	return a;
}

bool net_addr_equal(const struct net_addr *a, const struct net_addr *b)
{
	return a->family == b->family && !memcmp(a->b, b->b, sizeof(a->b));
}

bool net_addr_is_group(const struct net_addr *a)
{
	static const uint8_t broadcast[4] = {255, 255, 255, 255};

	if (a->family == AF_INET6)
		return a->b[0] == 0xff;
	return (a->b[0] & 0xf0) == 0xe0 || !memcmp(a->b, broadcast, 4);
}

bool net_prefix_covers(const struct net_prefix *p, const struct net_addr *a)
{
	size_t whole = p->len / 8;
	uint8_t mask = (uint8_t)(0xff00 >> (p->len % 8));

	if (p->addr.family != a->family || memcmp(p->addr.b, a->b, whole))
		return false;
	return whole == sizeof(a->b) || !((p->addr.b[whole] ^ a->b[whole]) & mask);
}

int net_prefix_parse(const char *text, struct net_prefix *p)
{
	char addr[INET6_ADDRSTRLEN], *end;
	const char *slash = strchr(text, '/');
	size_t n = slash ? (size_t)(slash - text) : strlen(text);
	unsigned long max;

	if (n >= sizeof(addr))
		return -EINVAL;
	memcpy(addr, text, n);
	addr[n] = '\0';
	memset(p, 0, sizeof(*p));
	p->addr.family = strchr(addr, ':') ? AF_INET6 : AF_INET;
	if (inet_pton(p->addr.family, addr, p->addr.b) != 1)
		return -EINVAL;
	max = p->addr.family == AF_INET ? 32 : 128;
	p->len = (uint8_t)max;
	if (slash) {
		unsigned long len = strtoul(slash + 1, &end, 10);

		if (slash[1] < '0' || slash[1] > '9' || *end || len > max)
			return -EINVAL;
		p->len = (uint8_t)len;
	}
	return 0;
}

/* --- what is public --------------------------------------------------------------------- */

struct range {
	uint8_t b[16];
	uint8_t len;
};

/* IANA's registry of special-purpose IPv4 addresses. */
static const struct range closed4[] = {
    {{0}, 8},
    {{10}, 8},
    {{100, 64}, 10},
    {{127}, 8},
    {{169, 254}, 16},
    {{172, 16}, 12},
    {{192, 0, 0}, 24},
    {{192, 0, 2}, 24},
    {{192, 88, 99}, 24},
    {{192, 168}, 16},
    {{198, 18}, 15},
    {{198, 51, 100}, 24},
    {{203, 0, 113}, 24},
    {{224}, 4 /* D */},
    {{240}, 4 /* E */},
};

/* Within 2000::/3, outside of which nothing is public but NAT64. 2001::/23 has Teredo in it. */
static const struct range closed6[] = {
    {{0x20, 0x01}, 23},
    {{0x20, 0x01, 0x0d, 0xb8}, 32},
    {{0x3f, 0xff}, 20},
};
static const struct range global6 = {{0x20}, 3};

/* IPv6 addresses with an IPv4 address at byte `at` that they mean. */
static const struct {
	struct range range;
	size_t at;
} embedding[] = {
    {{{0x00, 0x64, 0xff, 0x9b}, 96}, 12}, /* NAT64 */
    {{{0x20, 0x02}, 16}, 2},		  /* 6to4 */
};

static bool in_range(const struct range *r, sa_family_t family, const struct net_addr *a)
{
	struct net_prefix p = {.addr = {.family = family}, .len = r->len};

	memcpy(p.addr.b, r->b, sizeof(p.addr.b));
	return net_prefix_covers(&p, a);
}

static bool is_public4(const struct net_addr *a)
{
	for (size_t i = 0; i < sizeof(closed4) / sizeof(closed4[0]); i++)
		if (in_range(&closed4[i], AF_INET, a))
			return false;
	return true;
}

/* ::0:5efe:a.b.c.d or ::200:5efe:a.b.c.d, under any prefix. */
static bool is_isatap(const struct net_addr *a)
{
	return !(a->b[8] & ~2) && !a->b[9] && a->b[10] == 0x5e && a->b[11] == 0xfe;
}

bool net_addr_inner(const struct net_addr *a, struct net_addr *inner)
{
	if (a->family != AF_INET6)
		return false;
	for (size_t i = 0; i < sizeof(embedding) / sizeof(embedding[0]); i++)
		if (in_range(&embedding[i].range, AF_INET6, a)) {
			*inner = net_addr4(a->b + embedding[i].at);
			return true;
		}
	*inner = net_addr4(a->b + 12);
	return is_isatap(a);
}

bool net_addr_is_public(const struct net_addr *a)
{
	struct net_addr inner;

	if (a->family == AF_INET)
		return is_public4(a);
	if (net_addr_inner(a, &inner) && !is_public4(&inner))
		return false;
	if (in_range(&embedding[0].range, AF_INET6, a))
		return true;
	if (!in_range(&global6, AF_INET6, a))
		return false;
	for (size_t i = 0; i < sizeof(closed6) / sizeof(closed6[0]); i++)
		if (in_range(&closed6[i], AF_INET6, a))
			return false;
	return true;
}
