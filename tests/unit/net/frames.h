/* SPDX-License-Identifier: Apache-2.0 */
/* Frames for tests, made by hand. */
#ifndef TESTS_UNIT_NET_FRAMES_H
#define TESTS_UNIT_NET_FRAMES_H

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <string.h>

#include "server/net/frame.h"

struct made {
	uint8_t data[2048];
	size_t len;
};

static inline struct net_addr addr_of(const char *text)
{
	struct net_addr a = {.family = strchr(text, ':') ? AF_INET6 : AF_INET};

	cr_assert_eq(inet_pton(a.family, text, a.b), 1, "%s", text);
	return a;
}

static inline void put_be16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

/* Checksums, as the sender has to make them. */
static inline void made_sum(struct made *m)
{
	uint8_t *ip = m->data + 14;
	bool four = ip[0] >> 4 == 4;
	size_t head = four ? 20 : 40, alen = four ? 4 : 16;
	uint8_t *l4 = ip + head, proto = four ? ip[9] : ip[6];
	size_t len = m->len - 14 - head;
	size_t at = proto == 6 ? 16 : proto == 17 ? 6 : 2;
	uint32_t sum = 0;

	if (four) {
		put_be16(ip + 10, 0);
		put_be16(ip + 10, ~frame_sum(ip, 20, 0));
	}
	put_be16(l4 + at, 0);
	if (proto != 1)
		sum = frame_sum(ip + (four ? 12 : 8), 2 * alen, (uint32_t)len + proto);
	put_be16(l4 + at, ~frame_sum(l4, len, sum));
}

static inline struct made made_ip(const char *src, const char *dst, uint8_t proto, const void *l4,
				  size_t len)
{
	struct made m = {.len = 0};
	struct net_addr s = addr_of(src), d = addr_of(dst);
	bool four = s.family == AF_INET;
	uint8_t *ip = m.data + 14;

	memcpy(m.data, net_gateway_mac, 6);
	memcpy(m.data + 6, net_guest_mac, 6);
	put_be16(m.data + 12, four ? 0x0800 : 0x86dd);
	if (four) {
		ip[0] = 0x45;
		put_be16(ip + 2, (uint32_t)len + 20);
		ip[8] = 64;
		ip[9] = proto;
		memcpy(ip + 12, s.b, 4);
		memcpy(ip + 16, d.b, 4);
	} else {
		ip[0] = 0x60;
		put_be16(ip + 4, (uint32_t)len);
		ip[6] = proto;
		ip[7] = 255;
		memcpy(ip + 8, s.b, 16);
		memcpy(ip + 24, d.b, 16);
	}
	memcpy(ip + (four ? 20 : 40), l4, len);
	m.len = 14 + (four ? 20 : 40) + len;
	made_sum(&m);
	return m;
}

static inline struct made made_tcp(const char *src, const char *dst, uint16_t sport, uint16_t dport,
				   uint8_t flags)
{
	uint8_t tcp[20] = {
	    [4] = 1, [7] = 9, [8] = 2, [11] = 7, [12] = 0x50, [13] = flags, [14] = 255};

	put_be16(tcp, sport);
	put_be16(tcp + 2, dport);
	return made_ip(src, dst, 6, tcp, sizeof(tcp));
}

static inline struct made made_udp(const char *src, const char *dst, uint16_t sport, uint16_t dport)
{
	uint8_t udp[12] = {[5] = 12, [8] = 'a', 'b', 'c', 'd'};

	put_be16(udp, sport);
	put_be16(udp + 2, dport);
	return made_ip(src, dst, 17, udp, sizeof(udp));
}

static inline struct made made_icmp(const char *src, const char *dst, uint8_t type)
{
	uint8_t icmp[32] = {[0] = type};

	return made_ip(src, dst, strchr(src, ':') ? 58 : 1, icmp, sizeof(icmp));
}

static inline struct frame parsed(struct made *m)
{
	struct frame f;

	frame_parse(&f, m->data, m->len);
	return f;
}

/* As it is by now. Good until the next call. */
static inline const struct frame *reparsed(struct made *m)
{
	static struct frame f;

	f = parsed(m);
	return &f;
}

/* Are all its checksums right? */
static inline void expect_sums(const uint8_t *data, size_t len)
{
	struct made m = {.len = len};

	memcpy(m.data, data, len);
	made_sum(&m);
	cr_expect_eq(memcmp(m.data, data, len), 0, "a checksum is wrong");
}

#endif
