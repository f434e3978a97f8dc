/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-net: what a frame of the guest is, by its first bytes. They are a copy, and what they say
 * decides only when the device speaks, so a lie harms the guest alone.
 */
#include <string.h>

#include "devices/net_int.h"

#define ETHERTYPE_AT 12u
#define PACKET_AT    NET_ETHERNET_BYTES

#define IPV4	      0x0800u
#define IPV4_BYTES    20u /* without options */
#define IPV4_TOTAL_AT (PACKET_AT + 2)
#define IPV4_NEXT_AT  (PACKET_AT + 9)

#define IPV6		 0x86ddu
#define IPV6_PAYLOAD_AT	 (PACKET_AT + 4)
#define IPV6_NEXT_AT	 (PACKET_AT + 6)
#define IPV6_SOURCE_AT	 (PACKET_AT + 8)
#define IPV6_BYTES	 40u
#define IPV6_HOP_BY_HOP	 0u
#define IPV6_ICMP	 58u
#define HOP_BY_HOP_BYTES 8u /* with the one option that these have */

#define ICMP_LISTENERS	    131u /* report, and done; then the search for routers */
#define ICMP_ROUTER_SOLICIT 133u
#define ICMP_NEIGHBOUR	    135u
#define ICMP_LISTENERS_V2   143u

#define PROTO_TCP     6u
#define TCP_BYTES     20u /* without options */
#define TCP_HEADER_AT 12u /* its length: in units of 4 bytes, the upper half */

_Static_assert(NET_LOOK_BYTES > PACKET_AT + IPV6_BYTES + HOP_BY_HOP_BYTES, "room for ICMPv6");
_Static_assert(NET_LOOK_BYTES == PACKET_AT + IPV6_BYTES + 60, "room for TCP's longest header");

static unsigned int be16(const uint8_t *p)
{
	return (unsigned int)p[0] << 8 | p[1];
}

bool net_speaks_of_itself(const uint8_t *f, size_t bytes)
{
	static const uint8_t nobody[16];
	size_t icmp = PACKET_AT + IPV6_BYTES;
	uint8_t next;

	if (bytes <= icmp + HOP_BY_HOP_BYTES || be16(f + ETHERTYPE_AT) != IPV6)
		return false;
	next = f[IPV6_NEXT_AT];
	if (next == IPV6_HOP_BY_HOP && !f[icmp + 1]) {
		next = f[icmp];
		icmp += HOP_BY_HOP_BYTES;
	}
	if (next != IPV6_ICMP)
		return false;
	if (f[icmp] == ICMP_NEIGHBOUR)
		return !memcmp(f + IPV6_SOURCE_AT, nobody, sizeof(nobody));
	return (f[icmp] >= ICMP_LISTENERS && f[icmp] <= ICMP_ROUTER_SOLICIT) ||
	       f[icmp] == ICMP_LISTENERS_V2;
}

bool net_carries_nothing(const uint8_t *f, size_t bytes)
{
	size_t tcp = PACKET_AT + IPV6_BYTES, payload;

	if (bytes < PACKET_AT + IPV4_BYTES + TCP_BYTES)
		return false;
	if (be16(f + ETHERTYPE_AT) == IPV4 && f[PACKET_AT] == 0x45 &&
	    f[IPV4_NEXT_AT] == PROTO_TCP) {
		tcp = PACKET_AT + IPV4_BYTES;
		payload = be16(f + IPV4_TOTAL_AT) - (size_t)IPV4_BYTES;
	} else if (be16(f + ETHERTYPE_AT) == IPV6 && f[IPV6_NEXT_AT] == PROTO_TCP &&
		   bytes >= tcp + TCP_BYTES) {
		payload = be16(f + IPV6_PAYLOAD_AT);
	} else {
		return false;
	}
	return payload == (size_t)(f[tcp + TCP_HEADER_AT] >> 4) * 4;
}
