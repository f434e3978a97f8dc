/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The filter between the guest and libslirp: every frame of either direction passes through it.
 *
 * Theory of operation
 * -------------------
 * From the guest, only what is whole and from the guest's own addresses gets in, to addresses that
 * the policy allows: by address, whatever name led to it, so that a name that points into a closed
 * network opens nothing. The rest is answered or dropped here. Two addresses stand for something
 * else: the name server, whose queries go to the one that the server has named, and the metadata
 * service, which libslirp serves under an address within its own network. On the way back both are
 * given their names again, in errors of ICMP about queries, too, as a guest does not know another
 * name for what it asked. A name server that has only an IPv6 address is asked over IPv6: such
 * packets change their family here, on both ways. And nothing comes in from where nothing may go,
 * as any host can send to an open UDP port.
 */
#ifndef SERVER_NET_FILTER_H
#define SERVER_NET_FILTER_H

#include "server/net/frame.h"
#include "server/net/policy.h"

/* Where libslirp serves the metadata: in its network, and nobody else's address. */
extern const struct net_addr net_metadata_inside;
#define METADATA_PORT 80
#define DNS_PORT      53

struct filter_stats {
	uint64_t frames[2], bytes[2]; /* from the guest, to it: those that got through */
	uint64_t malformed, spoofed, refused, limited, unasked;
};

struct filter {
	struct policy policy;
	const struct host_addrs *host; /* borrowed; may be NULL */
	bool metadata;		       /* there is a service */
	/* Of ports of the guest, by TCP or UDP: it speaks with the name server from there. */
	uint8_t dns_ports[2][65536 / 8];
	struct filter_stats stats;
	uint8_t room[FRAME_MAX]; /* of a frame that is made anew */
};

enum filter_verdict {
	FILTER_DROP,
	FILTER_PASS,   /* the frame may have been changed, or be another one, within the filter */
	FILTER_ANSWER, /* with what frame_refuse() makes of it */
	FILTER_ARP,    /* with what frame_answer_arp() makes of it */
};

/* @f: parsed. */
enum filter_verdict filter_from_guest(struct filter *f, struct frame *frame);
/* Of what libslirp sends. FILTER_PASS or FILTER_DROP */
enum filter_verdict filter_to_guest(struct filter *f, struct frame *frame);

#endif
