/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's own addresses; see policy.h.
 *
 * What counts is not what the interfaces are called by, but what the host would take for itself:
 * routes of the types local, broadcast and anycast, in all tables. So 127.0.0.0/8 is among them,
 * and whole ranges that somebody has made local.
 */
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/fd.h"
#include "server/net/policy.h"

#define DUMP_BYTES (64u << 10)

static int add(struct host_addrs *h, const struct net_prefix *p)
{
	if (h->n == h->cap) {
		size_t cap = h->cap ? h->cap * 2 : 64;
		struct net_prefix *grown = reallocarray(h->list, cap, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		h->list = grown;
		h->cap = cap;
	}
	h->list[h->n++] = *p;
	return 0;
}

static int take_route(struct host_addrs *h, const struct nlmsghdr *m)
{
	const struct rtmsg *r = NLMSG_DATA(m);
	int len = (int)m->nlmsg_len - (int)NLMSG_LENGTH(sizeof(*r));
	size_t size = r->rtm_family == AF_INET ? 4 : 16;
	struct net_prefix p = {.addr = {.family = r->rtm_family}, .len = r->rtm_dst_len};

	if (len < 0 || (r->rtm_family != AF_INET && r->rtm_family != AF_INET6) ||
	    (r->rtm_type != RTN_LOCAL && r->rtm_type != RTN_BROADCAST &&
	     r->rtm_type != RTN_ANYCAST))
		return 0;
	for (const struct rtattr *a = RTM_RTA(r); RTA_OK(a, len); a = RTA_NEXT(a, len))
		if (a->rta_type == RTA_DST && RTA_PAYLOAD(a) >= size && p.len <= size * 8) {
			memcpy(p.addr.b, RTA_DATA(a), size);
			return add(h, &p);
		}
	return 0;
}

/* Return: 1 at the end of the dump, 0 before it, or -errno. */
static int take_messages(struct host_addrs *h, void *buf, size_t size)
{
	unsigned int left = (unsigned int)size;
	int rc = 0;

	for (struct nlmsghdr *m = buf; NLMSG_OK(m, left) && !rc; m = NLMSG_NEXT(m, left)) {
		/* News; the dump that is asked for by them comes after this one. */
		if (m->nlmsg_seq != h->seq)
			continue;
		if (m->nlmsg_flags & NLM_F_DUMP_INTR)
			rc = -EINTR;
		else if (m->nlmsg_type == NLMSG_DONE)
			rc = 1;
		else if (m->nlmsg_type == NLMSG_ERROR)
			rc = -EIO;
		else if (m->nlmsg_type == RTM_NEWROUTE)
			rc = take_route(h, m);
	}
	return rc;
}

static int dump(struct host_addrs *h, char *buf)
{
	struct {
		struct nlmsghdr head;
		struct rtmsg route;
	} ask = {.head = {.nlmsg_len = sizeof(ask),
			  .nlmsg_type = RTM_GETROUTE,
			  .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP,
			  .nlmsg_seq = ++h->seq}};
	int rc = 0;

	if (send(h->fd, &ask, sizeof(ask), 0) < 0)
		return -errno;
	while (!rc) {
		ssize_t n = recv(h->fd, buf, DUMP_BYTES, 0);

		/* ENOBUFS: news were lost, which the dump makes up for. */
		if (n < 0 && errno != EINTR && errno != ENOBUFS)
			return -errno;
		if (n > 0)
			rc = take_messages(h, buf, (size_t)n);
	}
	return rc < 0 ? rc : 0;
}

/* All of them; again if they changed while they were read. */
static int read_all(struct host_addrs *h)
{
	char *buf = malloc(DUMP_BYTES);
	int rc = -EINTR;

	for (int i = 0; buf && rc == -EINTR && i < 10; i++) {
		h->n = 0;
		rc = dump(h, buf);
	}
	free(buf);
	return buf ? rc : -ENOMEM;
}

int host_addrs_refresh(struct host_addrs *h, struct err *e)
{
	struct host_addrs old = *h;
	char drop[4096];
	int rc;

	/* What is news by now is in the dump. */
	while (recv(h->fd, drop, sizeof(drop), MSG_DONTWAIT) > 0 || errno == ENOBUFS)
		errno = 0;
	h->list = NULL;
	h->n = h->cap = 0;
	rc = read_all(h);
	if (rc) {
		free(h->list);
		h->list = old.list;
		h->n = old.n;
		h->cap = old.cap;
		return err_sys(e, rc, "reading the host's addresses");
	}
	free(old.list);
	return 0;
}

int host_addrs_open(struct host_addrs *h, struct err *e)
{
	struct sockaddr_nl here = {.nl_family = AF_NETLINK,
				   .nl_groups = RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE |
						RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR};

	*h = (struct host_addrs){.fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)};
	if (h->fd < 0 || bind(h->fd, (struct sockaddr *)&here, sizeof(here)) < 0)
		return err_sys(e, -errno, "netlink");
	return host_addrs_refresh(h, e);
}

void host_addrs_close(struct host_addrs *h)
{
	fd_close(&h->fd);
	free(h->list);
	h->list = NULL;
	h->n = h->cap = 0;
}
