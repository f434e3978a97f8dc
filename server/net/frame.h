/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ethernet frames of a guest: what is in them, whether they are whole, and answers to those that do
 * not get through. All of it is hostile input; frames are in memory of ours and are changed in
 * place.
 */
#ifndef SERVER_NET_FRAME_H
#define SERVER_NET_FRAME_H

#include "server/net/addr.h"

#define FRAME_MTU	  65520
#define FRAME_MAX	  (14 + FRAME_MTU)
#define FRAME_HDR	  14		 /* of Ethernet */
#define FRAME_EMPTY_MAX	  (14 + 40 + 60) /* a segment of TCP that carries nothing */
#define VNET_HDR	  12		 /* struct virtio_net_hdr_v1 */
#define VNET_CSUM	  1		 /* VIRTIO_NET_HDR_F_NEEDS_CSUM */
#define VNET_VALID	  2		 /* VIRTIO_NET_HDR_F_DATA_VALID */
#define TCP_F_FIN	  0x01
#define TCP_F_SYN	  0x02
#define TCP_F_RST	  0x04
#define TCP_F_ACK	  0x10
#define TCP_OPT_NOP	  1
#define TCP_OPT_SHIFT	  3  /* window scale, RFC 7323 */
#define TCP_SHIFT_MAX	  14 /* there */
#define ICMP4_UNREACHABLE 3
#define ICMP4_PORT	  3 /* its code: nobody listens there */
#define ICMP4_HOST	  1
#define ICMP4_ECHO	  8
#define ICMP6_UNREACHABLE 1
#define ICMP6_PORT	  4
#define ICMP6_ECHO	  128
#define ICMP6_NS	  135
#define ICMP6_NA	  136
#define PROTO_ICMP4	  1
#define PROTO_TCP	  6
#define PROTO_UDP	  17
#define PROTO_ICMP6	  58

/* The ends of the wire: the same in every sandbox (docs/network.md). */
extern const uint8_t net_guest_mac[6], net_gateway_mac[6];
extern const struct net_addr net_guest4, net_gateway4, net_dns4, net_metadata4;
extern const struct net_addr net_guest6, net_gateway6;

enum frame_kind {
	FRAME_BAD,   /* malformed, or of a protocol that is not spoken here: dropped */
	FRAME_ARP,   /* a whole one, Ethernet and IPv4 */
	FRAME_WHOLE, /* a whole IP packet with TCP, UDP, ICMP: the headers are within it */
	FRAME_ODD, /* an IP packet that is not taken: a fragment, with options, another protocol */
};

/* How soon the guest is to have it. */
enum frame_hurry {
	FRAME_NOW,
	FRAME_MORE,  /* after another look: there is often more to go with it at once */
	FRAME_OPENS, /* as FRAME_MORE, for which it waits up to PORT_OPENS_US */
	FRAME_LATER, /* nobody waits for it: with the next one, or after PORT_LATER_MS */
};

struct frame {
	uint8_t *data; /* borrowed */
	size_t len;    /* what lies behind the packet is cut off */
	enum frame_kind kind;
	enum frame_hurry hurry; /* to the guest */
	bool unheard;		/* to the guest: nobody waits for what it says to this */
	/* Of FRAME_WHOLE and FRAME_ODD. */
	struct net_addr src, dst;
	uint8_t proto;
	bool first; /* not a later fragment: its transport header is in it */
	size_t l4;
	/* Of FRAME_WHOLE. */
	uint16_t sport, dport; /* TCP, UDP */
	uint8_t tcp_flags;
	uint8_t icmp_type;
};

/**
 * frame_complete() - Make the checksum that the guest has left to its network card
 * @hdr:	VNET_HDR bytes, as they came
 *
 * Return: 0; -EINVAL: what the header asks for cannot be done, or is not offered (segmentation)
 */
int frame_complete(const uint8_t *hdr, uint8_t *data, size_t len);

/* Say what it is. @len: at most FRAME_MAX. */
void frame_parse(struct frame *f, uint8_t *data, size_t len);

/* Change an address and a port of a FRAME_WHOLE of TCP or UDP over IPv4; its checksums stay right.
 */
void frame_set_src(struct frame *f, const struct net_addr *addr, uint16_t port);
void frame_set_dst(struct frame *f, const struct net_addr *addr, uint16_t port);

/* Of a FRAME_WHOLE of TCP. */
struct frame_tcp {
	uint32_t seq, ack;
	uint32_t len;	/* of what it carries */
	uint8_t header; /* its bytes, options and all */
	uint8_t flags;
	uint16_t window;
};
void frame_get_tcp(const struct frame *f, struct frame_tcp *t);
/* Change what it acknowledges and the window; its checksum stays right. */
void frame_set_ack(struct frame *f, uint32_t ack, uint16_t window);
/* Make an end that carries nothing else a part of the segment that it follows. Return: false if it
 * is none, or does not follow @f as it is */
bool frame_join_end(struct frame *f, const struct frame *end);
/* One that carries nothing. @out: FRAME_ANSWER_MAX bytes. Return: its length */
size_t frame_make_tcp(const struct net_addr *src, uint16_t sport, const struct net_addr *dst,
		      uint16_t dport, const struct frame_tcp *t, uint8_t *out);

/* The window scale that the options of a SYN have; -1: none */
int frame_window_shift(const struct frame *f);
/**
 * frame_add_shift() - Make a SYN for the guest anew, with a window scale of 0
 * @out:	FRAME_ANSWER_MAX bytes
 *
 * Return: its length; 0: there is no room for it
 */
size_t frame_add_shift(const struct frame *f, uint8_t *out);

/**
 * frame_refuse() - Make the answer to a packet that does not get through, so that its sender knows
 * at once: a reset for TCP, "administratively prohibited" for the rest
 * @out:	At least FRAME_ANSWER_MAX bytes
 *
 * Return: its length; 0: there must be none (a reset, an error, to a group)
 */
size_t frame_refuse(const struct frame *f, uint8_t *out);
#define FRAME_ANSWER_MAX 1294

/**
 * frame_readdress() - Make a FRAME_WHOLE of TCP or UDP anew, with other addresses, which may be of
 * the other family; its checksums are made anew, too
 * @out:	FRAME_MAX bytes, other ones than the frame's
 *
 * Return: its length; 0: it would be too long
 */
size_t frame_readdress(const struct frame *f, const struct net_addr *src,
		       const struct net_addr *dst, uint8_t *out);

/* Of an error of ICMP: the packet that it is about, as far as it is quoted. */
struct frame_quote {
	struct net_addr src, dst;
	uint8_t proto;
	uint16_t sport, dport; /* TCP, UDP */
	const uint8_t *l4;     /* borrowed; FRAME_QUOTED_L4 bytes */
};
#define FRAME_QUOTED_L4 8 /* RFC 792 */

/* Return: false if it is no error about a packet of TCP or UDP */
bool frame_quoted(const struct frame *f, struct frame_quote *q);
/* An error of ICMPv4 from the gateway about @q, which has IPv4 addresses. @out: as for refusals. */
size_t frame_make_error(const struct frame_quote *q, uint8_t type, uint8_t code, uint8_t *out);

/* The answer to a FRAME_ARP that asks for an address of ours, 0: it does not. @out: 42 bytes. */
size_t frame_answer_arp(const struct frame *f, uint8_t *out);

/* What makes libslirp know the guest before it has said a word; as from the guest. @out: 128 bytes.
 */
size_t frame_make_arp_hello(uint8_t *out);
size_t frame_make_ndp_hello(uint8_t *out);

/* The sum of RFC 1071, not inverted, of @len bytes after @sum. */
uint32_t frame_sum(const uint8_t *p, size_t len, uint32_t sum);

#endif
