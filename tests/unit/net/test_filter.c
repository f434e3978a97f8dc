/* SPDX-License-Identifier: Apache-2.0 */
/* What gets through the filter, in each direction. */
#include "server/net/filter.h"
#include "tests/unit/net/frames.h"

#define G4 "10.0.2.15"
#define G6 "fd00:6f63::15"

static struct filter filter;

static void open_filter(void)
{
	memset(&filter, 0, sizeof(filter));
	filter.policy.internet = filter.policy.has_dns = filter.metadata = true;
	filter.policy.dns = addr_of("9.9.9.9");
}

static enum filter_verdict out(struct made m)
{
	struct frame f = parsed(&m);

	return filter_from_guest(&filter, &f);
}

static enum filter_verdict in(struct made m)
{
	struct frame f = parsed(&m);

	return filter_to_guest(&filter, &f);
}

Test(filter, the_internet_and_nothing_else, .init = open_filter)
{
	cr_expect_eq(out(made_tcp(G4, "1.1.1.1", 1, 443, TCP_F_SYN)), FILTER_PASS);
	cr_expect_eq(out(made_udp(G6, "2a00::1", 1, 443)), FILTER_PASS);
	cr_expect_eq(out(made_icmp(G4, "1.1.1.1", ICMP4_ECHO)), FILTER_PASS);
	cr_expect_eq(out(made_tcp(G4, "127.0.0.1", 1, 80, TCP_F_SYN)), FILTER_ANSWER);
	cr_expect_eq(out(made_tcp(G4, "192.168.1.1", 1, 80, TCP_F_SYN)), FILTER_ANSWER);
	cr_expect_eq(out(made_udp(G4, "100.64.0.1", 1, 80)), FILTER_ANSWER);
	cr_expect_eq(out(made_tcp(G6, "::1", 1, 80, TCP_F_SYN)), FILTER_ANSWER);
	cr_expect_eq(out(made_tcp(G6, "::ffff:127.0.0.1", 1, 80, TCP_F_SYN)), FILTER_ANSWER);
	cr_expect_eq(out(made_icmp(G6, "2a00::1", ICMP6_ECHO)), FILTER_ANSWER, "libslirp cannot");
	cr_expect_eq(filter.stats.refused, 6);
}

Test(filter, the_names_of_the_host_on_the_wire, .init = open_filter)
{
	cr_expect_eq(out(made_tcp(G4, "10.0.2.2", 1, 80, TCP_F_SYN)), FILTER_ANSWER);
	cr_expect_eq(out(made_udp(G4, "10.0.2.2", 1, 69)), FILTER_ANSWER, "TFTP");
	cr_expect_eq(out(made_udp(G4, "255.255.255.255", 68, 67)), FILTER_DROP, "DHCP");
	cr_expect_eq(out(made_tcp(G4, "10.0.2.4", 1, 80, TCP_F_SYN)), FILTER_ANSWER);
	cr_expect_eq(out(made_tcp(G6, "fd00:6f63::2", 1, 80, TCP_F_SYN)), FILTER_ANSWER);
	cr_expect_eq(out(made_udp(G6, "fd00:6f63::2", 1, 69)), FILTER_ANSWER);
	cr_expect_eq(out(made_udp(G6, "ff02::1:2", 546, 547)), FILTER_DROP, "DHCP");
	cr_expect_eq(out(made_tcp(G4, "10.0.2.3", 1, 80, TCP_F_SYN)), FILTER_ANSWER);
	cr_expect_eq(out(made_icmp(G4, "10.0.2.2", ICMP4_ECHO)), FILTER_PASS);
	cr_expect_eq(out(made_icmp(G6, "fd00:6f63::2", ICMP6_ECHO)), FILTER_PASS);
	cr_expect_eq(out(made_icmp(G4, "10.0.2.2", 5)), FILTER_ANSWER, "a redirect");
}

Test(filter, spoofed_ones, .init = open_filter)
{
	struct made m = made_udp("10.0.2.16", "1.1.1.1", 1, 2);

	cr_expect_eq(out(m), FILTER_DROP);
	cr_expect_eq(out(made_udp("1.1.1.1", "1.1.1.1", 1, 2)), FILTER_DROP);
	cr_expect_eq(out(made_udp("fd00:6f63::16", "2a00::1", 1, 2)), FILTER_DROP);
	cr_expect_eq(out(made_udp("fe80::1", "2a00::1", 1, 2)), FILTER_DROP);
	m = made_udp(G4, "1.1.1.1", 1, 2);
	m.data[11] ^= 1;
	cr_expect_eq(out(m), FILTER_DROP, "another card");
	cr_expect_eq(filter.stats.spoofed, 5);
}

Test(filter, neighbours, .init = open_filter)
{
	struct made m = made_icmp("fe80::1", "ff02::1:ff00:2", ICMP6_NS);

	memcpy(m.data + 14 + 40 + 8, net_gateway6.b, 16);
	cr_expect_eq(out(m), FILTER_PASS);
	m.data[14 + 40 + 8 + 15] = 3;
	cr_expect_eq(out(m), FILTER_DROP, "nobody has that");
	cr_expect_eq(out(made_icmp("fe80::1", "ff02::2", 133)), FILTER_DROP, "no routers");
	cr_expect_eq(out(made_icmp(G6, "fd00:6f63::2", ICMP6_NA)), FILTER_PASS);
	cr_expect_eq(in(made_icmp("fe80::2", "ff02::1", 134)), FILTER_DROP);
	cr_expect_eq(in(made_icmp("fd00:6f63::2", G6, ICMP6_NA)), FILTER_PASS);
}

Test(filter, odd_and_malformed_ones, .init = open_filter)
{
	struct made m = made_udp(G4, "1.1.1.1", 1, 2);

	put_be16(m.data + 20, 0x2000);
	cr_expect_eq(out(m), FILTER_ANSWER);
	m.len = 20;
	cr_expect_eq(out(m), FILTER_DROP);
	cr_expect_eq(filter.stats.malformed, 1);
}

Test(filter, without_the_internet_there_is_the_metadata, .init = open_filter)
{
	filter.policy.internet = false;
	cr_expect_eq(out(made_tcp(G4, "1.1.1.1", 1, 443, TCP_F_SYN)), FILTER_ANSWER);
	cr_expect_eq(out(made_udp(G4, "10.0.2.3", 1, 53)), FILTER_ANSWER);
	cr_expect_eq(out(made_tcp(G4, "169.254.169.254", 1, 80, TCP_F_SYN)), FILTER_PASS);
	cr_expect_eq(out(made_tcp(G4, "169.254.169.254", 1, 81, TCP_F_SYN)), FILTER_ANSWER);
	cr_expect_eq(in(made_tcp("1.1.1.1", G4, 443, 1, TCP_F_ACK)), FILTER_DROP);
	cr_expect_eq(in(made_tcp("1.1.1.1", G4, 443, 1, TCP_F_RST)), FILTER_PASS, "it has to know");
	filter.metadata = false;
	cr_expect_eq(out(made_tcp(G4, "169.254.169.254", 1, 80, TCP_F_SYN)), FILTER_ANSWER);
}

Test(filter, the_metadata_has_its_name_on_the_wire, .init = open_filter)
{
	struct made m = made_tcp(G4, "169.254.169.254", 7, 80, TCP_F_SYN);
	struct frame f = parsed(&m);

	cr_expect_eq(filter_from_guest(&filter, &f), FILTER_PASS);
	cr_expect(net_addr_equal(&reparsed(&m)->dst, &net_metadata_inside));
	expect_sums(m.data, m.len);
	m = made_tcp("10.0.2.4", G4, 80, 7, TCP_F_SYN | TCP_F_ACK);
	f = parsed(&m);
	cr_expect_eq(filter_to_guest(&filter, &f), FILTER_PASS);
	cr_expect(net_addr_equal(&reparsed(&m)->src, &net_metadata4));
	expect_sums(m.data, m.len);
}

Test(filter, the_name_server, .init = open_filter)
{
	struct net_addr dns = addr_of("9.9.9.9");
	struct made m = made_udp(G4, "10.0.2.3", 4000, 53);
	struct frame f = parsed(&m);

	cr_expect_eq(filter_from_guest(&filter, &f), FILTER_PASS);
	cr_expect(net_addr_equal(&reparsed(&m)->dst, &dns));
	expect_sums(m.data, m.len);
	m = made_udp("9.9.9.9", G4, 53, 4000);
	f = parsed(&m);
	cr_expect_eq(filter_to_guest(&filter, &f), FILTER_PASS);
	cr_expect(net_addr_equal(&reparsed(&m)->src, &net_dns4));
	expect_sums(m.data, m.len);
	/* Who asks that server itself is answered by it. */
	cr_expect_eq(out(made_udp(G4, "9.9.9.9", 4001, 53)), FILTER_PASS);
	m = made_udp("9.9.9.9", G4, 53, 4001);
	f = parsed(&m);
	cr_expect_eq(filter_to_guest(&filter, &f), FILTER_PASS);
	cr_expect(net_addr_equal(&reparsed(&m)->src, &dns));
}

Test(filter, a_name_server_of_the_host_is_reached_by_its_name_on_the_wire_only, .init = open_filter)
{
	filter.policy.dns = addr_of("127.0.0.53");
	cr_expect_eq(out(made_udp(G4, "127.0.0.53", 4000, 53)), FILTER_ANSWER);
	cr_expect_eq(in(made_udp("127.0.0.53", G4, 53, 4000)), FILTER_DROP);
	cr_expect_eq(out(made_udp(G4, "10.0.2.3", 4000, 53)), FILTER_PASS);
	cr_expect_eq(in(made_udp("127.0.0.53", G4, 53, 4000)), FILTER_PASS);
	filter.policy.has_dns = false;
	cr_expect_eq(out(made_udp(G4, "10.0.2.3", 4000, 53)), FILTER_ANSWER);
}

/* As libslirp makes it: the gateway quotes what it got. */
static struct made error_about(const struct made *query, const char *from, const char *to,
			       uint8_t type, uint8_t code)
{
	uint8_t icmp[8 + 60] = {[0] = type, [1] = code};
	size_t len = query->len - 14;

	cr_assert_leq(len, sizeof(icmp) - 8);
	memcpy(icmp + 8, query->data + 14, len);
	return made_ip(from, to, type == 1 ? 58 : 1, icmp, 8 + len);
}

/* What the guest hears: type 3 and @code about its datagram from @sport to the name server. */
static void expect_error(const struct frame *f, uint8_t code, uint16_t sport)
{
	const uint8_t *ip = f->data + f->l4 + 8, *udp = ip + 20;

	cr_assert(f->kind == FRAME_WHOLE && f->proto == PROTO_ICMP4);
	cr_expect(f->icmp_type == 3 && f->data[f->l4 + 1] == code);
	cr_expect(net_addr_equal(&f->dst, &net_guest4));
	expect_sums(f->data, f->len);
	cr_expect(!memcmp(ip + 12, net_guest4.b, 4) && !memcmp(ip + 16, net_dns4.b, 4));
	cr_expect_eq(frame_sum(ip, 20, 0) & 0xffff, 0xffff, "the quoted header");
	cr_expect((udp[0] << 8 | udp[1]) == sport && udp[3] == 53 && ip[9] == 17);
}

Test(filter, errors_about_queries_name_the_name_server, .init = open_filter)
{
	struct made m = made_udp(G4, "10.0.2.3", 4000, 53), other;
	struct frame f = parsed(&m);

	cr_assert_eq(filter_from_guest(&filter, &f), FILTER_PASS);
	other = error_about(&m, "10.0.2.2", G4, 3, 3);
	f = parsed(&other);
	cr_assert_eq(filter_to_guest(&filter, &f), FILTER_PASS);
	expect_error(&f, 3, 4000);
	/* About one that was sent to that server itself, or that is cut short: as it is. */
	m = made_udp(G4, "9.9.9.9", 4001, 53);
	other = error_about(&m, "10.0.2.2", G4, 3, 3);
	f = parsed(&other);
	cr_assert_eq(filter_to_guest(&filter, &f), FILTER_PASS);
	cr_expect(f.data == other.data && f.data[14 + 20 + 8 + 16] == 9);
	for (size_t cut = 14 + 20 + 8; cut < 14 + 20 + 8 + 28; cut++) {
		struct made m4 = made_udp(G4, "9.9.9.9", 4000, 53);

		other = error_about(&m4, "10.0.2.2", G4, 3, 3);
		put_be16(other.data + 16, (uint32_t)cut - 14);
		other.len = cut;
		f = parsed(&other);
		cr_assert_eq(filter_to_guest(&filter, &f), FILTER_PASS);
		cr_expect(f.data == other.data, "%zu bytes", cut);
	}
}

Test(filter, a_name_server_with_an_ipv6_address_only, .init = open_filter)
{
	struct made m = made_udp(G4, "10.0.2.3", 4000, 53), query;
	struct frame f = parsed(&m);
	struct net_addr dns;

	filter.policy.dns = dns = addr_of("2a00::53");
	cr_assert_eq(filter_from_guest(&filter, &f), FILTER_PASS);
	cr_expect(f.kind == FRAME_WHOLE && f.sport == 4000 && f.dport == 53);
	cr_expect(net_addr_equal(&f.src, &net_guest6) && net_addr_equal(&f.dst, &dns));
	expect_sums(f.data, f.len);
	memcpy(query.data, f.data, query.len = f.len);
	m = made_udp("2a00::53", G6, 53, 4000);
	f = parsed(&m);
	cr_assert_eq(filter_to_guest(&filter, &f), FILTER_PASS);
	cr_expect(net_addr_equal(&f.src, &net_dns4) && net_addr_equal(&f.dst, &net_guest4));
	cr_expect(f.kind == FRAME_WHOLE && !memcmp(f.data + f.l4 + 8, "abcd", 4));
	expect_sums(f.data, f.len);
	m = error_about(&query, "fd00:6f63::2", G6, 1, 4);
	f = parsed(&m);
	cr_assert_eq(filter_to_guest(&filter, &f), FILTER_PASS);
	expect_error(&f, 3, 4000);
	/* TCP, too; who has not asked is none of its clients. */
	m = made_tcp(G4, "10.0.2.3", 4001, 53, TCP_F_SYN);
	f = parsed(&m);
	cr_assert_eq(filter_from_guest(&filter, &f), FILTER_PASS);
	cr_expect(net_addr_equal(&f.dst, &dns) && f.tcp_flags == TCP_F_SYN);
	expect_sums(f.data, f.len);
	m = made_udp("2a00::53", G6, 53, 4002);
	f = parsed(&m);
	cr_assert_eq(filter_to_guest(&filter, &f), FILTER_PASS);
	cr_expect(net_addr_equal(&f.src, &dns));
}

Test(filter, queries_too_long_for_ipv6_are_refused, .init = open_filter)
{
	static uint8_t data[FRAME_MAX];
	struct made m = made_udp(G4, "10.0.2.3", 4000, 53);
	struct frame f;

	filter.policy.dns = addr_of("2a00::53");
	memcpy(data, m.data, m.len);
	put_be16(data + 16, FRAME_MTU);
	put_be16(data + 14 + 20 + 4, FRAME_MTU - 20);
	frame_parse(&f, data, sizeof(data));
	cr_assert_eq(f.kind, FRAME_WHOLE);
	cr_expect_eq(filter_from_guest(&filter, &f), FILTER_ANSWER);
}

/* A name that leads into a closed network: the answer is the guest's to read, its address is
 * closed. */
Test(filter, rebinding, .init = open_filter)
{
	static const char *const inside[] = {"127.0.0.1", "192.168.7.1", "169.254.169.254",
					     "10.0.2.2"};
	struct made answer;

	cr_expect_eq(out(made_udp(G4, "10.0.2.3", 4000, 53)), FILTER_PASS);
	for (size_t i = 0; i < 4; i++) {
		struct net_addr a = addr_of(inside[i]);

		answer = made_udp("9.9.9.9", G4, 53, 4000);
		memcpy(answer.data + 14 + 20 + 8, a.b, 4);
		made_sum(&answer);
		cr_expect_eq(in(answer), FILTER_PASS);
		cr_expect_eq(out(made_tcp(G4, inside[i], 1, 443, TCP_F_SYN)), FILTER_ANSWER, "%s",
			     inside[i]);
	}
}

Test(filter, nothing_comes_from_where_nothing_may_go, .init = open_filter)
{
	cr_expect_eq(in(made_udp("1.1.1.1", G4, 1, 2)), FILTER_PASS);
	cr_expect_eq(in(made_udp("192.168.1.1", G4, 1, 2)), FILTER_DROP);
	cr_expect_eq(in(made_udp("127.0.0.1", G4, 1, 2)), FILTER_DROP);
	cr_expect_eq(in(made_icmp("10.1.1.1", G4, 11)), FILTER_DROP);
	cr_expect_eq(in(made_icmp("10.0.2.2", G4, 3)), FILTER_PASS, "libslirp's own");
	cr_expect_eq(filter.stats.unasked, 3);
}
