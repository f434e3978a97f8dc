/* SPDX-License-Identifier: Apache-2.0 */
/* Frames, taken apart; see frame.h. */
#include "server/net/frame.h"

#include <errno.h>
#include <string.h>

const uint8_t net_guest_mac[6] = {0x02, 0x6f, 0x63, 0x00, 0x00, 0x01};
/* libslirp's: 52:55 and the address of the gateway. */
const uint8_t net_gateway_mac[6] = {0x52, 0x55, 10, 0, 2, 2};
const struct net_addr net_guest4 = {AF_INET, {10, 0, 2, 15}};
const struct net_addr net_gateway4 = {AF_INET, {10, 0, 2, 2}};
const struct net_addr net_dns4 = {AF_INET, {10, 0, 2, 3}};
const struct net_addr net_metadata4 = {AF_INET, {169, 254, 169, 254}};
const struct net_addr net_guest6 = {AF_INET6, {0xfd, 0, 0x6f, 0x63, [15] = 0x15}};
const struct net_addr net_gateway6 = {AF_INET6, {0xfd, 0, 0x6f, 0x63, [15] = 0x02}};

static uint16_t be16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)be16(p) << 16 | be16(p + 2);
}

static uint16_t le16(const uint8_t *p)
{
	return (uint16_t)(p[1] << 8 | p[0]);
}

/* --- sums ------------------------------------------------------------------------------- */

uint32_t frame_sum(const uint8_t *p, size_t len, uint32_t sum)
{
	uint64_t acc = 0;
	uint32_t word;

	/* In words of either byte order: the sum of swapped words is the swapped sum. */
	for (; len >= 4; len -= 4, p += 4) {
		memcpy(&word, p, 4);
		acc += word;
	}
	word = 0;
	memcpy(&word, p, len);
	acc += word;
	acc = (acc & 0xffffffff) + (acc >> 32);
	acc = (acc & 0xffffffff) + (acc >> 32);
	acc = (acc & 0xffff) + (acc >> 16);
	acc = (acc & 0xffff) + (acc >> 16);
	acc = __builtin_bswap16((uint16_t)acc) + (uint64_t)sum;
	while (acc >> 16)
		acc = (acc & 0xffff) + (acc >> 16);
	return (uint32_t)acc;
}

int frame_complete(const uint8_t *hdr, uint8_t *data, size_t len)
{
	size_t start = le16(hdr + 6), at = start + le16(hdr + 8);
	uint32_t sum;

	/* gso_type: no kind of it was offered. */
	if (hdr[1])
		return -EINVAL;
	if (!(hdr[0] & VNET_CSUM))
		return 0;
	if (start < FRAME_HDR + 20 || at + 2 > len)
		return -EINVAL;
	sum = ~frame_sum(data + start, len - start, 0) & 0xffff;
	/* 0 would say that UDP has none. */
	if (!sum)
		sum = 0xffff;
	data[at] = (uint8_t)(sum >> 8);
	data[at + 1] = (uint8_t)sum;
	return 0;
}

/* --- taking apart ------------------------------------------------------------------------- */

static void parse_arp(struct frame *f)
{
	static const uint8_t ethernet_ipv4[6] = {0, 1, 8, 0, 6, 4};

	if (f->len < FRAME_HDR + 28 || memcmp(f->data + FRAME_HDR, ethernet_ipv4, 6))
		return;
	f->len = FRAME_HDR + 28;
	f->kind = FRAME_ARP;
}

static bool parse_tcp(struct frame *f, size_t room)
{
	const uint8_t *p = f->data + f->l4;
	size_t header;

	if (room < 20)
		return false;
	header = (size_t)(p[12] >> 4) * 4;
	if (header < 20 || header > room)
		return false;
	f->tcp_flags = p[13];
	return true;
}

static bool parse_udp(const struct frame *f, size_t room)
{
	return room >= 8 && be16(f->data + f->l4 + 4) == room;
}

/* Of ICMP, echo requests only; of IPv6, to find neighbours, too. */
static bool parse_icmp(struct frame *f, size_t room)
{
	bool six = f->proto == PROTO_ICMP6;

	if (room < 8)
		return false;
	f->icmp_type = f->data[f->l4];
	if (six && (f->icmp_type == ICMP6_NS || f->icmp_type == ICMP6_NA))
		return room >= 24 && !f->data[f->l4 + 1] && f->data[FRAME_HDR + 7] == 255;
	return true;
}

/* The packet is as long as its header says, and the transport header is whole. */
static void parse_transport(struct frame *f, bool taken)
{
	size_t room = f->len - f->l4;
	bool whole = false, known = true;

	if (!taken) {
		f->kind = FRAME_ODD;
		return;
	}
	if (f->proto == PROTO_TCP)
		whole = parse_tcp(f, room);
	else if (f->proto == PROTO_UDP)
		whole = parse_udp(f, room);
	else if (f->proto == (f->src.family == AF_INET ? PROTO_ICMP4 : PROTO_ICMP6))
		whole = parse_icmp(f, room);
	else
		known = false;
	if (!known) {
		f->kind = FRAME_ODD;
	} else if (whole) {
		f->kind = FRAME_WHOLE;
		if (f->proto == PROTO_TCP || f->proto == PROTO_UDP) {
			f->sport = be16(f->data + f->l4);
			f->dport = be16(f->data + f->l4 + 2);
		}
	}
}

static void parse_ip4(struct frame *f)
{
	const uint8_t *ip = f->data + FRAME_HDR;
	size_t room = f->len - FRAME_HDR, header, total;

	if (room < 20 || ip[0] >> 4 != 4)
		return;
	header = (size_t)(ip[0] & 15) * 4;
	total = be16(ip + 2);
	if (header < 20 || total < header || total > room)
		return;
	f->len = FRAME_HDR + total;
	f->l4 = FRAME_HDR + header;
	f->src = net_addr4(ip + 12);
	f->dst = net_addr4(ip + 16);
	f->proto = ip[9];
	f->first = !(be16(ip + 6) & 0x1fff);
	/* Neither options (source routes are among them) nor fragments. */
	parse_transport(f, header == 20 && !(be16(ip + 6) & 0x3fff) && ip[8]);
}

static void parse_ip6(struct frame *f)
{
	const uint8_t *ip = f->data + FRAME_HDR;
	size_t room = f->len - FRAME_HDR, payload;

	if (room < 40 || ip[0] >> 4 != 6)
		return;
	payload = be16(ip + 4);
	if (payload > room - 40)
		return;
	f->len = FRAME_HDR + 40 + payload;
	f->l4 = FRAME_HDR + 40;
	f->src = net_addr6(ip + 8);
	f->dst = net_addr6(ip + 24);
	f->proto = ip[6]; /* an extension header is another protocol */
	f->first = true;
	parse_transport(f, ip[7] != 0);
}

void frame_parse(struct frame *f, uint8_t *data, size_t len)
{
	memset(f, 0, sizeof(*f));
	f->data = data;
	f->len = len;
	if (len < FRAME_HDR || len > FRAME_MAX)
		return;
	switch (be16(data + 12)) {
	case 0x0806:
		return parse_arp(f);
	case 0x0800:
		return parse_ip4(f);
	case 0x86dd:
		return parse_ip6(f);
	}
}

void frame_get_tcp(const struct frame *f, struct frame_tcp *t)
{
	const uint8_t *l4 = f->data + f->l4;

	t->header = (uint8_t)((l4[12] >> 4) * 4);
	t->len = (uint32_t)(f->len - f->l4) - t->header;
	t->seq = be32(l4 + 4);
	t->ack = be32(l4 + 8);
	t->flags = l4[13];
	t->window = be16(l4 + 14);
}

int frame_window_shift(const struct frame *f)
{
	const uint8_t *p = f->data + f->l4 + 20, *end = f->data + f->l4 + (p[-8] >> 4) * 4;

	/* RFC 9293, 3.1: two kinds are one byte, the others have a length. */
	while (p < end && *p) {
		if (*p == TCP_OPT_NOP) {
			p++;
			continue;
		}
		if (end - p < 2 || p[1] < 2 || p[1] > end - p)
			return -1;
		if (*p == TCP_OPT_SHIFT && p[1] == 3)
			return p[2] > TCP_SHIFT_MAX ? TCP_SHIFT_MAX : p[2];
		p += p[1];
	}
	return -1;
}

/* --- other addresses ------------------------------------------------------------------------ */

/* RFC 1624: the sum of a header of which 2 bytes have changed. */
static void adjust(uint8_t *sum_at, const uint8_t *before, const uint8_t *after, size_t len)
{
	uint32_t sum = (uint16_t)~be16(sum_at);

	for (size_t i = 0; i < len; i += 2)
		sum += (uint32_t)(uint16_t)~be16(before + i) + be16(after + i);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	sum = ~sum & 0xffff;
	sum_at[0] = (uint8_t)(sum >> 8);
	sum_at[1] = (uint8_t)sum;
}

static void set_end(struct frame *f, size_t ip_at, size_t port_at, const struct net_addr *addr,
		    uint16_t port)
{
	uint8_t *ip = f->data + FRAME_HDR, *l4 = f->data + f->l4;
	uint8_t *sum = l4 + (f->proto == PROTO_TCP ? 16 : 6);
	uint8_t new_port[2] = {(uint8_t)(port >> 8), (uint8_t)port};

	adjust(ip + 10, ip + ip_at, addr->b, 4);
	/* UDP without a sum stays so. */
	if (f->proto == PROTO_TCP || be16(sum)) {
		adjust(sum, ip + ip_at, addr->b, 4);
		adjust(sum, l4 + port_at, new_port, 2);
		if (f->proto == PROTO_UDP && !be16(sum))
			memset(sum, 0xff, 2);
	}
	memcpy(ip + ip_at, addr->b, 4);
	memcpy(l4 + port_at, new_port, 2);
}

void frame_set_ack(struct frame *f, uint32_t ack, uint16_t window)
{
	uint8_t *l4 = f->data + f->l4;
	uint8_t as[6] = {(uint8_t)(ack >> 24), (uint8_t)(ack >> 16),   (uint8_t)(ack >> 8),
			 (uint8_t)ack,	       (uint8_t)(window >> 8), (uint8_t)window};

	adjust(l4 + 16, l4 + 8, as, 4);
	adjust(l4 + 16, l4 + 14, as + 4, 2);
	memcpy(l4 + 8, as, 4);
	memcpy(l4 + 14, as + 4, 2);
}

static bool is_same_way(const struct frame *f, const struct frame *g)
{
	return f->sport == g->sport && f->dport == g->dport && net_addr_equal(&f->src, &g->src) &&
	       net_addr_equal(&f->dst, &g->dst);
}

/* A segment with no other of these flags that count. */
static bool is_tcp(const struct frame *f, uint8_t flags)
{
	const uint8_t all = TCP_F_SYN | TCP_F_RST | TCP_F_FIN | TCP_F_ACK;

	return f->kind == FRAME_WHOLE && f->proto == PROTO_TCP && (f->tcp_flags & all) == flags;
}

bool frame_join_end(struct frame *f, const struct frame *end)
{
	uint8_t *l4 = f->data + f->l4, as[2];
	struct frame_tcp t, last;

	if (!is_tcp(f, TCP_F_ACK) || !is_tcp(end, TCP_F_ACK | TCP_F_FIN) || !is_same_way(f, end))
		return false;
	frame_get_tcp(f, &t);
	frame_get_tcp(end, &last);
	if (last.len || t.seq + t.len != last.seq || t.ack != last.ack || t.window != last.window)
		return false;
	as[0] = l4[12];
	as[1] = l4[13] | TCP_F_FIN;
	adjust(l4 + 16, l4 + 12, as, 2);
	l4[13] = f->tcp_flags = as[1];
	return true;
}

void frame_set_src(struct frame *f, const struct net_addr *addr, uint16_t port)
{
	set_end(f, 12, 0, addr, port);
	f->src = *addr;
	f->sport = port;
}

void frame_set_dst(struct frame *f, const struct net_addr *addr, uint16_t port)
{
	set_end(f, 16, 2, addr, port);
	f->dst = *addr;
	f->dport = port;
}
