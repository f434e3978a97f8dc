/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses and ranges of them, of both families. Everything is in network byte order. */
#ifndef SERVER_NET_ADDR_H
#define SERVER_NET_ADDR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct net_addr {
	sa_family_t family; /* AF_INET: the first 4 bytes */
	uint8_t b[16];	    /* the rest is 0 */
};

struct net_prefix {
	struct net_addr addr;
	uint8_t len; /* bits */
};

struct net_addr net_addr4(const void *bytes);
struct net_addr net_addr6(const void *bytes);
bool net_addr_equal(const struct net_addr *a, const struct net_addr *b);
/* Multicast, and the broadcast of all: nobody in particular, who is never answered. */
bool net_addr_is_group(const struct net_addr *a);

bool net_prefix_covers(const struct net_prefix *p, const struct net_addr *a);
/* "10.0.0.0/8", "2001:db8::/32", or an address. Return: 0 or -EINVAL */
int net_prefix_parse(const char *text, struct net_prefix *p);

/**
 * net_addr_is_public() - An address on the internet that belongs to one host
 *
 * Not: loopback, private, shared (CGNAT), link-local, multicast, documentation, benchmarks,
 * reserved ones; of IPv6, what is not global unicast, Teredo, and what means an IPv4 address that
 * is not public in another way (mapped, compatible, translated, NAT64, 6to4, ISATAP).
 */
bool net_addr_is_public(const struct net_addr *a);
/* The IPv4 address that an IPv6 one of NAT64, 6to4 or ISATAP leads to. */
bool net_addr_inner(const struct net_addr *a, struct net_addr *inner);

#endif
