/* SPDX-License-Identifier: Apache-2.0 */
/* What gets through; see filter.h. */
#include "server/net/filter.h"

#include <string.h>

const struct net_addr net_metadata_inside = {AF_INET, {10, 0, 2, 4}};

/* --- the name server ------------------------------------------------------------------------ */

static uint8_t *dns_port(struct filter *f, uint8_t proto, uint16_t port)
{
	return &f->dns_ports[proto == PROTO_TCP][port / 8];
}

static bool has_asked(struct filter *f, uint8_t proto, uint16_t port)
{
	return *dns_port(f, proto, port) >> (port % 8) & 1;
}

static void note_dns(struct filter *f, const struct frame *frame, bool is)
{
	uint8_t bit = (uint8_t)(1u << (frame->sport % 8));
	uint8_t *at = dns_port(f, frame->proto, frame->sport);

	*at = is ? *at | bit : *at & (uint8_t)~bit;
}

/* It is what @len bytes in f->room are. */
static void replace(struct filter *f, struct frame *frame, size_t len)
{
	frame_parse(frame, f->room, len);
}

static bool has_ports(const struct frame *frame)
{
	return frame->proto == PROTO_TCP || frame->proto == PROTO_UDP;
}

/* --- from the guest --------------------------------------------------------------------------- */

static bool is_genuine(const struct frame *frame)
{
	static const struct net_prefix link_local = {{AF_INET6, {0xfe, 0x80}}, 10};
	bool neighbour = frame->kind == FRAME_WHOLE && frame->proto == PROTO_ICMP6 &&
			 (frame->icmp_type == ICMP6_NS || frame->icmp_type == ICMP6_NA);

	if (memcmp(frame->data + 6, net_guest_mac, 6))
		return false;
	if (frame->kind == FRAME_ARP)
		return !memcmp(frame->data + FRAME_HDR + 8, net_guest_mac, 6);
	return net_addr_equal(&frame->src, &net_guest4) ||
	       net_addr_equal(&frame->src, &net_guest6) ||
	       (neighbour && net_prefix_covers(&link_local, &frame->src));
}

static enum filter_verdict refuse(struct filter *f)
{
	f->stats.refused++;
	return FILTER_ANSWER;
}

/* The addresses of the wire itself. */
static enum filter_verdict to_gateway(struct filter *f, struct frame *frame)
{
	if (frame->proto == PROTO_ICMP4 && frame->icmp_type == ICMP4_ECHO)
		return FILTER_PASS;
	if (frame->proto == PROTO_ICMP6 &&
	    (frame->icmp_type == ICMP6_ECHO || frame->icmp_type == ICMP6_NS ||
	     frame->icmp_type == ICMP6_NA))
		return FILTER_PASS;
	return refuse(f);
}

static enum filter_verdict to_dns(struct filter *f, struct frame *frame)
{
	size_t len;

	if (!has_ports(frame))
		return to_gateway(f, frame);
	if (frame->dport != DNS_PORT || !f->policy.internet || !f->policy.has_dns)
		return refuse(f);
	note_dns(f, frame, true);
	if (f->policy.dns.family == AF_INET) {
		frame_set_dst(frame, &f->policy.dns, DNS_PORT);
		return FILTER_PASS;
	}
	len = frame_readdress(frame, &net_guest6, &f->policy.dns, f->room);
	if (!len)
		return refuse(f);
	replace(f, frame, len);
	return FILTER_PASS;
}

static enum filter_verdict to_metadata(struct filter *f, struct frame *frame)
{
	if (!f->metadata || frame->proto != PROTO_TCP || frame->dport != METADATA_PORT)
		return refuse(f);
	frame_set_dst(frame, &net_metadata_inside, METADATA_PORT);
	return FILTER_PASS;
}

/* To find the gateway: to it, or to the group of those whose addresses end so. */
static bool seeks_gateway(const struct frame *frame)
{
	static const struct net_prefix solicited = {{AF_INET6, {0xff, 0x02, [11] = 0x01, 0xff}},
						    104};

	return frame->proto == PROTO_ICMP6 && frame->icmp_type == ICMP6_NS &&
	       net_prefix_covers(&solicited, &frame->dst) &&
	       !memcmp(frame->data + frame->l4 + 8, net_gateway6.b, 16);
}

static enum filter_verdict to_world(struct filter *f, struct frame *frame)
{
	bool echo = frame->proto == PROTO_ICMP4 && frame->icmp_type == ICMP4_ECHO;

	/* libslirp cannot send echo requests of IPv6. */
	if ((!has_ports(frame) && !echo) || !policy_allows(&f->policy, f->host, &frame->dst))
		return refuse(f);
	if (has_ports(frame) && f->policy.has_dns && frame->dport == DNS_PORT)
		note_dns(f, frame, false);
	return FILTER_PASS;
}

static enum filter_verdict whole_from_guest(struct filter *f, struct frame *frame)
{
	const struct net_addr *dst = &frame->dst;

	if (net_addr_equal(dst, &net_gateway4) || net_addr_equal(dst, &net_gateway6))
		return to_gateway(f, frame);
	if (net_addr_equal(dst, &net_dns4))
		return to_dns(f, frame);
	if (net_addr_equal(dst, &net_metadata4))
		return to_metadata(f, frame);
	if (net_addr_is_group(dst))
		return seeks_gateway(frame) ? FILTER_PASS : FILTER_DROP;
	return to_world(f, frame);
}

enum filter_verdict filter_from_guest(struct filter *f, struct frame *frame)
{
	enum filter_verdict v;

	if (frame->kind == FRAME_BAD) {
		f->stats.malformed++;
		return FILTER_DROP;
	}
	if (!is_genuine(frame)) {
		f->stats.spoofed++;
		return FILTER_DROP;
	}
	if (frame->kind == FRAME_ARP)
		return FILTER_ARP;
	if (frame->kind == FRAME_ODD)
		return refuse(f);
	v = whole_from_guest(f, frame);
	if (v == FILTER_PASS) {
		f->stats.frames[0]++;
		f->stats.bytes[0] += frame->len;
	}
	return v;
}

/* --- to the guest -------------------------------------------------------------------------------
 */

static bool asked_dns(struct filter *f, const struct frame *frame)
{
	return f->policy.has_dns && frame->sport == DNS_PORT &&
	       net_addr_equal(&frame->src, &f->policy.dns) &&
	       has_asked(f, frame->proto, frame->dport);
}

/* From the name server. Return: false: it would be too long */
static bool rename_dns(struct filter *f, struct frame *frame)
{
	size_t len;

	if (frame->src.family == AF_INET) {
		frame_set_src(frame, &net_dns4, DNS_PORT);
		return true;
	}
	len = frame_readdress(frame, &net_dns4, &net_guest4, f->room);
	if (len)
		replace(f, frame, len);
	return len;
}

/* An error about a query: the guest has asked another address, maybe of another family. */
static void rename_quoted(struct filter *f, struct frame *frame)
{
	uint8_t type = frame->icmp_type, code;
	struct frame_quote q;

	if (!f->policy.has_dns || !frame_quoted(frame, &q) || q.dport != DNS_PORT ||
	    !net_addr_equal(&q.dst, &f->policy.dns) || !has_asked(f, q.proto, q.sport))
		return;
	code = frame->data[frame->l4 + 1];
	if (frame->proto == PROTO_ICMP6) {
		if (type != ICMP6_UNREACHABLE)
			return;
		code = code == ICMP6_PORT ? ICMP4_PORT : ICMP4_HOST;
		type = ICMP4_UNREACHABLE;
	}
	q.src = net_guest4;
	q.dst = net_dns4;
	replace(f, frame, frame_make_error(&q, type, code, f->room));
}

static bool is_wanted(struct filter *f, const struct frame *frame)
{
	if (net_addr_equal(&frame->src, &net_gateway4) || net_addr_equal(&frame->src, &net_dns4))
		return true;
	/* Also from its link-local address: answers to neighbours and errors, and no routers. */
	if (frame->proto == PROTO_ICMP6)
		return frame->icmp_type != 134 && frame->icmp_type != 133 &&
		       frame->icmp_type != 137;
	/* A connection that has been closed by a change of the policy has to be told so. */
	if (frame->proto == PROTO_TCP && (frame->tcp_flags & TCP_F_RST))
		return true;
	return policy_allows(&f->policy, f->host, &frame->src);
}

enum filter_verdict filter_to_guest(struct filter *f, struct frame *frame)
{
	/* Neighbours and errors of libslirp's come with hop limits and lengths that are checked
	 * for guests: they are well-formed. ARP is answered here. */
	if (frame->kind != FRAME_WHOLE) {
		f->stats.unasked++;
		return FILTER_DROP;
	}
	rename_quoted(f, frame);
	if (has_ports(frame) && asked_dns(f, frame)) {
		if (!rename_dns(f, frame))
			return FILTER_DROP;
	} else if (frame->proto == PROTO_TCP && net_addr_equal(&frame->src, &net_metadata_inside)) {
		frame_set_src(frame, &net_metadata4, METADATA_PORT);
	} else if (!is_wanted(f, frame)) {
		f->stats.unasked++;
		return FILTER_DROP;
	}
	f->stats.frames[1]++;
	f->stats.bytes[1] += frame->len;
	return FILTER_PASS;
}
