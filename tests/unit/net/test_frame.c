/* SPDX-License-Identifier: Apache-2.0 */
/* Frames: what is taken for whole, checksums, answers. */
#include <errno.h>

#include "tests/unit/net/frames.h"

#define G4 "10.0.2.15"
#define G6 "fd00:6f63::15"

Test(frame, whole_ones)
{
	struct made m = made_tcp(G4, "1.2.3.4", 1000, 443, TCP_F_SYN);
	struct frame f = parsed(&m);

	cr_expect_eq(f.kind, FRAME_WHOLE);
	cr_expect(f.proto == PROTO_TCP && f.sport == 1000 && f.dport == 443 &&
		  f.tcp_flags == TCP_F_SYN);
	m = made_udp(G6, "2a00::1", 5, 53);
	f = parsed(&m);
	cr_expect(f.kind == FRAME_WHOLE && f.proto == PROTO_UDP && f.dport == 53);
	m = made_icmp(G4, "1.1.1.1", ICMP4_ECHO);
	f = parsed(&m);
	cr_expect(f.kind == FRAME_WHOLE && f.icmp_type == ICMP4_ECHO);
}

Test(frame, every_shorter_one_is_bad)
{
	struct made all[] = {made_tcp(G4, "1.2.3.4", 1, 2, TCP_F_SYN),
			     made_udp(G4, "1.2.3.4", 1, 2),
			     made_icmp(G4, "1.2.3.4", ICMP4_ECHO),
			     made_tcp(G6, "2a00::1", 1, 2, 0),
			     made_udp(G6, "2a00::1", 1, 2),
			     made_icmp(G6, "2a00::1", ICMP6_NS)};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		for (size_t len = 0; len < all[i].len; len++) {
			struct frame f;

			frame_parse(&f, all[i].data, len);
			cr_expect_eq(f.kind, FRAME_BAD, "frame %zu, %zu bytes", i, len);
		}
}

Test(frame, what_lies_behind_is_cut_off)
{
	struct made m = made_udp(G4, "1.2.3.4", 1, 2);
	size_t len = m.len;
	struct frame f;

	m.len += 18;
	f = parsed(&m);
	cr_expect_eq(f.kind, FRAME_WHOLE);
	cr_expect_eq(f.len, len);
}

Test(frame, odd_ones)
{
	struct made m = made_udp(G4, "1.2.3.4", 1, 2);

	m.data[14 + 6] = 0x20; /* more fragments */
	cr_expect_eq(parsed(&m).kind, FRAME_ODD);
	cr_expect(parsed(&m).first);
	put_be16(m.data + 14 + 6, 1); /* a later one */
	cr_expect_eq(parsed(&m).kind, FRAME_ODD);
	cr_expect_not(parsed(&m).first);
	put_be16(m.data + 14 + 6, 0x4000); /* must not be fragmented: fine */
	cr_expect_eq(parsed(&m).kind, FRAME_WHOLE);
	m.data[14 + 6] = 0x80; /* reserved: Linux does not send it, nor is it harmful */
	cr_expect_eq(parsed(&m).kind, FRAME_WHOLE);
	m = made_udp(G4, "1.2.3.4", 1, 2);
	m.data[14] = 0x46; /* options: 4 bytes of what was UDP */
	cr_expect_eq(parsed(&m).kind, FRAME_ODD);
	m = made_udp(G4, "1.2.3.4", 1, 2);
	m.data[14 + 9] = 47; /* GRE */
	cr_expect_eq(parsed(&m).kind, FRAME_ODD);
	m = made_udp(G6, "2a00::1", 1, 2);
	m.data[14 + 6] = 44; /* a fragment header */
	cr_expect_eq(parsed(&m).kind, FRAME_ODD);
	m.data[14 + 6] = 0; /* hop-by-hop options */
	cr_expect_eq(parsed(&m).kind, FRAME_ODD);
}

Test(frame, bad_headers)
{
	struct made m = made_tcp(G4, "1.2.3.4", 1, 2, TCP_F_SYN);

	m.data[14] = 0x44; /* shorter than a header is */
	cr_expect_eq(parsed(&m).kind, FRAME_BAD);
	m.data[14] = 0x65;
	cr_expect_eq(parsed(&m).kind, FRAME_BAD);
	m = made_tcp(G4, "1.2.3.4", 1, 2, TCP_F_SYN);
	put_be16(m.data + 16, 19);
	cr_expect_eq(parsed(&m).kind, FRAME_BAD);
	m = made_tcp(G4, "1.2.3.4", 1, 2, TCP_F_SYN);
	m.data[14 + 20 + 12] = 0x60; /* TCP options that are not there */
	cr_expect_eq(parsed(&m).kind, FRAME_BAD);
	m.data[14 + 20 + 12] = 0x40;
	cr_expect_eq(parsed(&m).kind, FRAME_BAD);
	m = made_udp(G4, "1.2.3.4", 1, 2);
	put_be16(m.data + 14 + 20 + 4, 13);
	cr_expect_eq(parsed(&m).kind, FRAME_BAD);
	m = made_udp(G4, "1.2.3.4", 1, 2);
	put_be16(m.data + 12, 0x88f8); /* NC-SI, which libslirp speaks */
	cr_expect_eq(parsed(&m).kind, FRAME_BAD);
	m = made_icmp(G6, "fd00:6f63::2", ICMP6_NS);
	m.data[14 + 7] = 254; /* from beyond the link */
	cr_expect_eq(parsed(&m).kind, FRAME_BAD);
}

Test(frame, the_sum_is_that_of_rfc_1071)
{
	static const uint8_t bytes[] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};

	cr_expect_eq(frame_sum(bytes, 8, 0), 0xddf2);
	cr_expect_eq(frame_sum(bytes, 7, 0), 0xddf2 - 0xf7);
	cr_expect_eq(frame_sum(bytes, 0, 5), 5);
	cr_expect_eq(frame_sum(bytes, 8, 0xffff), 0xddf2);
}

Test(frame, sums_that_are_left_to_the_card)
{
	struct made m = made_tcp(G4, "1.2.3.4", 1000, 443, TCP_F_SYN), want = m;
	uint8_t hdr[VNET_HDR] = {VNET_CSUM, 0, 0, 0, 0, 0, 34, 0, 16, 0};
	uint8_t *sum = m.data + 34 + 16;

	put_be16(sum, frame_sum(m.data + 26, 8, 20 + 6));
	cr_assert_eq(frame_complete(hdr, m.data, m.len), 0);
	cr_expect_eq(memcmp(m.data, want.data, m.len), 0);
	hdr[0] = 0;
	sum[0] ^= 1;
	cr_assert_eq(frame_complete(hdr, m.data, m.len), 0);
	cr_expect_neq(memcmp(m.data, want.data, m.len), 0, "nothing was asked for");
}

Test(frame, cards_headers_that_ask_for_what_cannot_be)
{
	struct made m = made_tcp(G4, "1.2.3.4", 1000, 443, TCP_F_SYN);
	uint8_t hdr[VNET_HDR] = {VNET_CSUM, 0, 0, 0, 0, 0, 34, 0, 19, 0};

	cr_expect_eq(frame_complete(hdr, m.data, m.len), -EINVAL,
		     "its last byte is behind the end");
	hdr[8] = 18;
	cr_expect_eq(frame_complete(hdr, m.data, m.len), 0);
	hdr[6] = 33;
	cr_expect_eq(frame_complete(hdr, m.data, m.len), -EINVAL, "within the network header");
	hdr[6] = hdr[7] = hdr[8] = hdr[9] = 255;
	cr_expect_eq(frame_complete(hdr, m.data, m.len), -EINVAL);
	memset(hdr, 0, sizeof(hdr));
	hdr[1] = 1;
	cr_expect_eq(frame_complete(hdr, m.data, m.len), -EINVAL, "segmentation is not offered");
}

/* --- other addresses -----------------------------------------------------------------------------
 */

Test(frame, addresses_change_and_sums_stay_right)
{
	struct net_addr other = addr_of("169.254.169.254");
	struct made m = made_tcp(G4, "1.2.3.4", 1000, 80, TCP_F_SYN);
	struct frame f = parsed(&m);

	frame_set_dst(&f, &other, 8080);
	expect_sums(m.data, m.len);
	cr_expect(net_addr_equal(&reparsed(&m)->dst, &other) && parsed(&m).dport == 8080);
	m = made_udp("9.9.9.9", G4, 53, 4000);
	f = parsed(&m);
	frame_set_src(&f, &other, 54);
	expect_sums(m.data, m.len);
	cr_expect(net_addr_equal(&reparsed(&m)->src, &other) && parsed(&m).sport == 54);
	put_be16(m.data + 34 + 6, 0); /* UDP without a sum */
	f = parsed(&m);
	frame_set_src(&f, &net_dns4, 53);
	cr_expect(!m.data[40] && !m.data[41]);
}

/* --- ends ---------------------------------------------------------------------------------------
 */

/* A segment of the server's. */
static struct made segment(uint32_t seq, uint8_t flags, uint32_t len)
{
	uint8_t tcp[60] = {[1] = 80, [3] = 99, [12] = 0x50, [13] = flags, [14] = 255};

	put_be16(tcp + 4, seq >> 16);
	put_be16(tcp + 6, seq);
	memset(tcp + 20, 'x', len);
	return made_ip("1.2.3.4", G4, PROTO_TCP, tcp, 20 + len);
}

static bool joined(struct made *m, struct made end)
{
	struct frame f = parsed(m), e = parsed(&end);
	uint8_t before = f.tcp_flags;
	bool is = frame_join_end(&f, &e);

	expect_sums(m->data, m->len);
	cr_expect_eq(f.tcp_flags, before | (is ? TCP_F_FIN : 0));
	cr_expect_eq(parsed(m).tcp_flags, f.tcp_flags);
	return is;
}

Test(frame, an_end_joins_the_data_before_it)
{
	const uint8_t psh = 0x08, fin = TCP_F_FIN | TCP_F_ACK;
	struct made data = segment(0xffffffff, TCP_F_ACK | psh, 10), m, other;

	m = data;
	cr_expect(joined(&m, segment(9, fin, 0)));
	cr_expect_not(joined(&m, segment(9, fin, 0)), "has one");
	cr_expect_not(joined(&m, segment(10, fin, 0)));
	m = segment(3, TCP_F_ACK, 0);
	cr_expect(joined(&m, segment(3, fin, 0)), "an acknowledgement can have it, too");
	m = data;
	cr_expect_not(joined(&m, segment(10, fin, 0)), "something is between them");
	cr_expect_not(joined(&m, segment(9, fin, 1)), "it carries more");
	cr_expect_not(joined(&m, segment(9, TCP_F_ACK, 0)), "no end");
	cr_expect_not(joined(&m, segment(9, fin | TCP_F_RST, 0)));
	cr_expect_not(joined(&m, segment(9, TCP_F_FIN, 0)));
	m = segment(8, TCP_F_SYN | TCP_F_ACK, 0);
	cr_expect_not(joined(&m, segment(8, fin, 0)));
	cr_expect_not(joined(&m, segment(9, fin, 0)),
		      "libslirp sends none so, and no guest expects it");
	/* Of another connection, with another acknowledgement, another window. */
	static const size_t at[] = {14 + 15, 14 + 19, 34 + 1, 34 + 3, 34 + 11, 34 + 15};

	for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		m = data;
		other = segment(9, fin, 0);
		other.data[at[i]] ^= 1;
		made_sum(&other);
		cr_expect_not(joined(&m, other), "%zu", i);
	}
	m = data;
	cr_expect_not(joined(&m, made_udp("1.2.3.4", G4, 80, 99)));
	m = made_udp("1.2.3.4", G4, 80, 99);
	cr_expect_not(joined(&m, segment(9, fin, 0)));
}

/* --- answers -----------------------------------------------------------------------------------
 */

Test(frame, resets)
{
	struct made m = made_tcp(G4, "10.1.1.1", 1000, 80, TCP_F_SYN), out;
	struct frame f = parsed(&m), a;

	out.len = frame_refuse(&f, out.data);
	a = parsed(&out);
	expect_sums(out.data, out.len);
	cr_assert(a.kind == FRAME_WHOLE && a.proto == PROTO_TCP);
	cr_expect(net_addr_equal(&a.src, &f.dst) && net_addr_equal(&a.dst, &f.src));
	cr_expect(a.sport == 80 && a.dport == 1000 && a.tcp_flags == (TCP_F_RST | TCP_F_ACK));
	/* Acknowledges the SYN: 0x01000009 + 1. */
	cr_expect_eq(memcmp(out.data + 34 + 8, "\1\0\0\x0a", 4), 0);
	m = made_tcp(G6, "fd01::1", 1000, 80, TCP_F_ACK);
	f = parsed(&m);
	out.len = frame_refuse(&f, out.data);
	a = parsed(&out);
	expect_sums(out.data, out.len);
	cr_expect(a.kind == FRAME_WHOLE && a.tcp_flags == TCP_F_RST);
	cr_expect_eq(memcmp(out.data + 54 + 4, "\2\0\0\7", 4), 0, "where it was waited for");
	m = made_tcp(G4, "10.1.1.1", 1000, 80, TCP_F_RST);
	f = parsed(&m);
	cr_expect_eq(frame_refuse(&f, out.data), 0, "no resets for resets");
}

Test(frame, prohibitions)
{
	struct made m = made_udp(G4, "10.1.1.1", 1000, 80), out;
	struct frame f = parsed(&m), a;

	out.len = frame_refuse(&f, out.data);
	a = parsed(&out);
	expect_sums(out.data, out.len);
	cr_expect(a.proto == PROTO_ICMP4 && out.data[34] == 3 && out.data[35] == 13);
	cr_expect_eq(memcmp(out.data + 42, m.data + 14, m.len - 14), 0, "it quotes the packet");
	m = made_udp(G6, "fd01::1", 1000, 80);
	f = parsed(&m);
	out.len = frame_refuse(&f, out.data);
	a = parsed(&out);
	expect_sums(out.data, out.len);
	cr_expect(a.proto == PROTO_ICMP6 && out.data[54] == 1 && out.data[55] == 1);
	m = made_icmp(G4, "10.1.1.1", ICMP4_ECHO);
	f = parsed(&m);
	cr_expect_gt(frame_refuse(&f, out.data), 0);
}

Test(frame, no_answers_to_errors_groups_and_later_fragments)
{
	struct made m = made_icmp(G4, "10.1.1.1", 3), out;
	struct frame f = parsed(&m);

	cr_expect_eq(frame_refuse(&f, out.data), 0);
	m = made_icmp(G6, "fd01::1", 1);
	f = parsed(&m);
	cr_expect_eq(frame_refuse(&f, out.data), 0);
	m = made_udp(G4, "224.0.0.1", 1, 2);
	f = parsed(&m);
	cr_expect_eq(frame_refuse(&f, out.data), 0);
	m = made_udp(G4, "10.1.1.1", 1, 2);
	put_be16(m.data + 20, 7);
	f = parsed(&m);
	cr_expect_eq(frame_refuse(&f, out.data), 0);
	m = made_udp(G4, "10.1.1.1", 1, 2);
	m.data[0] = 0xff;
	f = parsed(&m);
	cr_expect_eq(frame_refuse(&f, out.data), 0);
}

Test(frame, long_packets_are_quoted_in_part)
{
	static const uint8_t l4[1900] = {[4] = 1900 >> 8, [5] = 1900 & 255};
	struct made m = made_ip(G4, "10.1.1.1", 17, l4, sizeof(l4));
	struct made n = made_ip(G6, "fd01::1", 17, l4, sizeof(l4));
	uint8_t out[FRAME_ANSWER_MAX];
	struct frame f = parsed(&m);

	cr_expect_eq(frame_refuse(&f, out), 14 + 20 + 8 + 548);
	expect_sums(out, 14 + 20 + 8 + 548);
	f = parsed(&n);
	cr_expect_eq(frame_refuse(&f, out), FRAME_ANSWER_MAX);
	expect_sums(out, FRAME_ANSWER_MAX);
}

Test(frame, arp)
{
	struct made m = {.len = 42};
	struct frame f;
	uint8_t out[64];

	frame_make_arp_hello(m.data);
	memcpy(m.data + 20, "\0\1", 2); /* who has 10.0.2.2? */
	f = parsed(&m);
	cr_assert_eq(f.kind, FRAME_ARP);
	cr_assert_eq(frame_answer_arp(&f, out), 42);
	cr_expect_eq(memcmp(out + 22, net_gateway_mac, 6), 0);
	cr_expect_eq(memcmp(out + 28, net_gateway4.b, 4), 0);
	memcpy(m.data + 38, net_metadata4.b, 4);
	f = parsed(&m);
	cr_expect_eq(frame_answer_arp(&f, out), 42);
	m.data[41] = 1;
	cr_expect_eq(frame_answer_arp(&f, out), 0, "nobody has that");
	m.len = 41;
	cr_expect_eq(parsed(&m).kind, FRAME_BAD);
}
