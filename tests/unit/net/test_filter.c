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

Test(filter, nothing_comes_from_where_nothing_may_go, .init = open_filter)
{
	cr_expect_eq(in(made_udp("1.1.1.1", G4, 1, 2)), FILTER_PASS);
	cr_expect_eq(in(made_udp("192.168.1.1", G4, 1, 2)), FILTER_DROP);
	cr_expect_eq(in(made_udp("127.0.0.1", G4, 1, 2)), FILTER_DROP);
	cr_expect_eq(in(made_icmp("10.1.1.1", G4, 11)), FILTER_DROP);
	cr_expect_eq(in(made_icmp("10.0.2.2", G4, 3)), FILTER_PASS, "libslirp's own");
	cr_expect_eq(filter.stats.unasked, 3);
}
