/* SPDX-License-Identifier: Apache-2.0 */
/* Frames that dormouse-net makes itself; see frame.h. */
#include <string.h>

#include "server/net/frame.h"

/* An error quotes what it is about: up to the smallest MTU of IPv6, so that no error is too long.
 */
#define QUOTE_MAX4 548
#define QUOTE_MAX6 1232

static void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v);
}

static size_t addr_len(const struct net_addr *a)
{
	return a->family == AF_INET ? 4 : 16;
}

/* A header from @src to @dst for @len bytes of @proto behind it. Return: where these begin */
static uint8_t *put_headers(uint8_t *out, const struct net_addr *src, const struct net_addr *dst,
			    uint8_t proto, size_t len)
{
	uint8_t *ip = out + FRAME_HDR;
	bool four = src->family == AF_INET;

	memcpy(out, net_guest_mac, 6);
	memcpy(out + 6, net_gateway_mac, 6);
	put16(out + 12, four ? 0x0800 : 0x86dd);
	memset(ip, 0, four ? 20 : 40);
	if (four) {
		ip[0] = 0x45;
		put16(ip + 2, (uint32_t)len + 20);
		ip[8] = 64;
		ip[9] = proto;
	} else {
		ip[0] = 0x60;
		put16(ip + 4, (uint32_t)len);
		ip[6] = proto;
		ip[7] = 255;
	}
	memcpy(ip + (four ? 12 : 8), src->b, addr_len(src));
	memcpy(ip + (four ? 16 : 24), dst->b, addr_len(dst));
	if (four)
		put16(ip + 10, ~frame_sum(ip, 20, 0));
	return ip + (four ? 20 : 40);
}

/* With the pseudo-header, but for ICMP over IPv4. */
static void put_sum(uint8_t *at, const uint8_t *l4, size_t len, const struct net_addr *src,
		    const struct net_addr *dst, uint8_t proto)
{
	uint32_t sum = 0;

	put16(at, 0);
	if (proto != PROTO_ICMP4) {
		sum = frame_sum(src->b, addr_len(src), (uint32_t)len + proto);
		sum = frame_sum(dst->b, addr_len(dst), sum);
	}
	put16(at, ~frame_sum(l4, len, sum));
}

/* --- segments of TCP ------------------------------------------------------------------------- */

size_t frame_make_tcp(const struct net_addr *src, uint16_t sport, const struct net_addr *dst,
		      uint16_t dport, const struct frame_tcp *t, uint8_t *out)
{
	uint8_t *l4 = put_headers(out, src, dst, PROTO_TCP, 20);

	memset(l4, 0, 20);
	put16(l4, sport);
	put16(l4 + 2, dport);
	put32(l4 + 4, t->seq);
	put32(l4 + 8, t->ack);
	l4[12] = 0x50;
	l4[13] = t->flags;
	put16(l4 + 14, t->window);
	put_sum(l4 + 16, l4, 20, src, dst, PROTO_TCP);
	return (size_t)(l4 + 20 - out);
}

size_t frame_add_shift(const struct frame *f, uint8_t *out)
{
	static const uint8_t option[4] = {TCP_OPT_SHIFT, 3, 0, TCP_OPT_NOP};
	size_t header = (size_t)(f->data[f->l4 + 12] >> 4) * 4, len = f->len - f->l4;
	uint8_t *l4;

	if (header + sizeof(option) > 60 || f->len + sizeof(option) > FRAME_ANSWER_MAX)
		return 0;
	l4 = put_headers(out, &f->src, &f->dst, PROTO_TCP, len + sizeof(option));
	/* Before the others, one of which may be the end of the list. */
	memcpy(l4, f->data + f->l4, 20);
	memcpy(l4 + 20, option, sizeof(option));
	memcpy(l4 + 20 + sizeof(option), f->data + f->l4 + 20, len - 20);
	l4[12] = (uint8_t)(l4[12] + 0x10);
	len += sizeof(option);
	put_sum(l4 + 16, l4, len, &f->src, &f->dst, PROTO_TCP);
	return (size_t)(l4 + len - out);
}

/* --- refusals ------------------------------------------------------------------------------- */

/* RFC 9293, 3.5.2: as if nobody listened there. */
static size_t refuse_tcp(const struct frame *f, uint8_t *out)
{
	struct frame_tcp in, t = {.flags = TCP_F_RST};

	frame_get_tcp(f, &in);
	if (in.flags & TCP_F_RST)
		return 0;
	if (in.flags & TCP_F_ACK) {
		t.seq = in.ack;
	} else {
		t.ack = in.seq + in.len + !!(in.flags & TCP_F_SYN) + !!(in.flags & TCP_F_FIN);
		t.flags |= TCP_F_ACK;
	}
	return frame_make_tcp(&f->dst, f->dport, &f->src, f->sport, &t, out);
}

static size_t refuse_rest(const struct frame *f, uint8_t *out)
{
	bool four = f->src.family == AF_INET;
	size_t quote = f->len - FRAME_HDR, max = four ? QUOTE_MAX4 : QUOTE_MAX6;
	uint8_t proto = four ? PROTO_ICMP4 : PROTO_ICMP6, *l4;

	if (quote > max)
		quote = max;
	l4 = put_headers(out, &f->dst, &f->src, proto, 8 + quote);
	memset(l4, 0, 8);
	l4[0] = four ? 3 : 1;  /* unreachable */
	l4[1] = four ? 13 : 1; /* administratively prohibited */
	memcpy(l4 + 8, f->data + FRAME_HDR, quote);
	put_sum(l4 + 2, l4, 8 + quote, &f->dst, &f->src, proto);
	return (size_t)(l4 + 8 + quote - out);
}

size_t frame_refuse(const struct frame *f, uint8_t *out)
{
	if (net_addr_is_group(&f->dst) || !f->first || (f->data[0] & 1))
		return 0;
	if (f->kind == FRAME_WHOLE && f->proto == PROTO_TCP)
		return refuse_tcp(f, out);
	/* No errors about errors: of all ICMP, echo requests are answered. */
	if (f->proto == PROTO_ICMP4 && (f->kind != FRAME_WHOLE || f->icmp_type != ICMP4_ECHO))
		return 0;
	if (f->proto == PROTO_ICMP6 && (f->kind != FRAME_WHOLE || f->icmp_type != ICMP6_ECHO))
		return 0;
	return refuse_rest(f, out);
}

/* --- other addresses ------------------------------------------------------------------------- */

size_t frame_readdress(const struct frame *f, const struct net_addr *src,
		       const struct net_addr *dst, uint8_t *out)
{
	size_t len = f->len - f->l4, head = src->family == AF_INET ? 20 : 40;
	bool tcp = f->proto == PROTO_TCP;
	uint8_t *l4, *sum;

	if (FRAME_HDR + head + len > FRAME_MAX)
		return 0;
	l4 = put_headers(out, src, dst, f->proto, len);
	memcpy(out, f->data, 12);
	memcpy(l4, f->data + f->l4, len);
	sum = l4 + (tcp ? 16 : 6);
	put_sum(sum, l4, len, src, dst, f->proto);
	/* 0 would say that UDP has none. */
	if (!tcp && !sum[0] && !sum[1])
		put16(sum, 0xffff);
	return (size_t)(l4 + len - out);
}

bool frame_quoted(const struct frame *f, struct frame_quote *q)
{
	const uint8_t *ip = f->data + f->l4 + 8;
	size_t room, head;
	bool four;

	/* A whole ICMP packet has these 8 bytes. */
	if (f->kind != FRAME_WHOLE || (f->proto != PROTO_ICMP4 && f->proto != PROTO_ICMP6))
		return false;
	four = f->proto == PROTO_ICMP4;
	room = f->len - f->l4 - 8;
	head = four ? 20 : 40;
	if (room < head + FRAME_QUOTED_L4 || (four ? ip[0] != 0x45 : ip[0] >> 4 != 6))
		return false;
	q->src = four ? net_addr4(ip + 12) : net_addr6(ip + 8);
	q->dst = four ? net_addr4(ip + 16) : net_addr6(ip + 24);
	q->proto = four ? ip[9] : ip[6];
	q->l4 = ip + head;
	q->sport = (uint16_t)(q->l4[0] << 8 | q->l4[1]);
	q->dport = (uint16_t)(q->l4[2] << 8 | q->l4[3]);
	return q->proto == PROTO_TCP || q->proto == PROTO_UDP;
}

size_t frame_make_error(const struct frame_quote *q, uint8_t type, uint8_t code, uint8_t *out)
{
	uint8_t packet[FRAME_HDR + 20 + FRAME_QUOTED_L4], *l4;
	size_t len = 8 + 20 + FRAME_QUOTED_L4;

	memcpy(put_headers(packet, &q->src, &q->dst, q->proto, FRAME_QUOTED_L4), q->l4,
	       FRAME_QUOTED_L4);
	l4 = put_headers(out, &net_gateway4, &q->src, PROTO_ICMP4, len);
	memset(l4, 0, 8);
	l4[0] = type;
	l4[1] = code;
	memcpy(l4 + 8, packet + FRAME_HDR, 20 + FRAME_QUOTED_L4);
	put_sum(l4 + 2, l4, len, &net_gateway4, &q->src, PROTO_ICMP4);
	return (size_t)(l4 + len - out);
}

/* --- neighbours ------------------------------------------------------------------------------ */

/* A reply: @from_mac has @from. */
static size_t put_arp(uint8_t *out, const uint8_t *from_mac, const struct net_addr *from,
		      const uint8_t *to_mac, const struct net_addr *to)
{
	static const uint8_t head[8] = {0, 1, 8, 0, 6, 4, 0, 2};

	memcpy(out, to_mac, 6);
	memcpy(out + 6, from_mac, 6);
	put16(out + 12, 0x0806);
	memcpy(out + 14, head, 8);
	memcpy(out + 22, from_mac, 6);
	memcpy(out + 28, from->b, 4);
	memcpy(out + 32, to_mac, 6);
	memcpy(out + 38, to->b, 4);
	return 42;
}

size_t frame_answer_arp(const struct frame *f, uint8_t *out)
{
	const uint8_t *arp = f->data + FRAME_HDR;
	struct net_addr wanted = net_addr4(arp + 24);

	if (arp[6] || arp[7] != 1 || memcmp(arp + 14, net_guest4.b, 4))
		return 0;
	if (!net_addr_equal(&wanted, &net_gateway4) && !net_addr_equal(&wanted, &net_dns4) &&
	    !net_addr_equal(&wanted, &net_metadata4))
		return 0;
	return put_arp(out, net_gateway_mac, &wanted, net_guest_mac, &net_guest4);
}

size_t frame_make_arp_hello(uint8_t *out)
{
	return put_arp(out, net_guest_mac, &net_guest4, net_gateway_mac, &net_gateway4);
}

size_t frame_make_ndp_hello(uint8_t *out)
{
	uint8_t *l4 = put_headers(out, &net_guest6, &net_gateway6, PROTO_ICMP6, 32);

	memcpy(out, net_gateway_mac, 6);
	memcpy(out + 6, net_guest_mac, 6);
	memset(l4, 0, 32);
	l4[0] = ICMP6_NA;
	l4[4] = 0x60; /* solicited, override */
	memcpy(l4 + 8, net_guest6.b, 16);
	l4[24] = 2; /* the link-layer address */
	l4[25] = 1;
	memcpy(l4 + 26, net_guest_mac, 6);
	put_sum(l4 + 2, l4, 32, &net_guest6, &net_gateway6, PROTO_ICMP6);
	return (size_t)(l4 + 32 - out);
}
