/* SPDX-License-Identifier: Apache-2.0 */
/* With whom a sandbox may speak: what the server says, and the addresses that are the host's own.
 */
#ifndef SERVER_NET_POLICY_H
#define SERVER_NET_POLICY_H

#include <jansson.h>

#include "lib/err.h"
#include "server/net/addr.h"

#define POLICY_RANGES 64

struct policy {
	bool internet; /* false: nobody but the metadata service */
	bool has_dns;
	struct net_addr dns; /* where queries to the name server of the sandbox go */
	/* Beyond what is public; and what is not, in each case. The latter counts. */
	struct net_prefix allow[POLICY_RANGES], deny[POLICY_RANGES];
	size_t allow_n, deny_n;
};

/**
 * policy_parse() - Read {"internet": bool, "dns": "1.2.3.4", "allow": ["10.1.0.0/16"], "deny": []}
 * @obj:	Members beyond these are ignored; all may be absent: that is a closed policy
 * @p:		Set on success only
 *
 * Return: 0 or -EINVAL
 */
int policy_parse(json_t *obj, struct policy *p, struct err *e);

/* The host's own addresses, as its routing tables say: what it takes for itself. */
struct host_addrs {
	int fd; /* netlink; -1: none, and no list */
	struct net_prefix *list;
	size_t n, cap;
	uint32_t seq;
};

/**
 * host_addrs_open() - Read them, and be told of changes: fd is readable then
 *
 * host_addrs_close() is due, also after a failure.
 *
 * Return: 0 or -errno
 */
int host_addrs_open(struct host_addrs *h, struct err *e);
/* After changes. Return: 0; -errno: the list of before holds */
int host_addrs_refresh(struct host_addrs *h, struct err *e);
void host_addrs_close(struct host_addrs *h);
bool host_addrs_have(const struct host_addrs *h, const struct net_addr *a);

/* May the sandbox speak with @a? @h: may be NULL. */
bool policy_allows(const struct policy *p, const struct host_addrs *h, const struct net_addr *a);

#endif
