/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's network interface; see net.h. */
#include "guest-kernel/agent/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/ipv6.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <net/if.h>
#include <net/route.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"

#define NAME	 "eth0"
#define ADDRESS4 "10.0.2.15"
#define NETMASK4 "255.255.255.0"
#define GATEWAY4 "10.0.2.2"
#define ADDRESS6 "fd00:6f63::15"
#define PREFIX6	 64
#define GATEWAY6 "fd00:6f63::2"
#define RESOLVER "nameserver 10.0.2.3\n"

/* --- the interface ------------------------------------------------------------------------- */

static int set_address4(int fd, unsigned long request, struct ifreq *ifr, const char *text)
{
	struct sockaddr_in sa = {.sin_family = AF_INET};

	inet_pton(AF_INET, text, &sa.sin_addr);
	memcpy(&ifr->ifr_addr, &sa, sizeof(sa));
	return ioctl(fd, request, ifr) < 0 ? -errno : 0;
}

static int set_up(int fd, struct ifreq *ifr)
{
	if (ioctl(fd, SIOCGIFFLAGS, ifr) < 0)
		return -errno;
	ifr->ifr_flags |= IFF_UP;
	return ioctl(fd, SIOCSIFFLAGS, ifr) < 0 ? -errno : 0;
}

static int add_route4(int fd)
{
	struct sockaddr_in any = {.sin_family = AF_INET}, gateway = any;
	struct rtentry rt = {.rt_flags = RTF_UP | RTF_GATEWAY};

	inet_pton(AF_INET, GATEWAY4, &gateway.sin_addr);
	memcpy(&rt.rt_dst, &any, sizeof(any));
	memcpy(&rt.rt_genmask, &any, sizeof(any));
	memcpy(&rt.rt_gateway, &gateway, sizeof(gateway));
	return ioctl(fd, SIOCADDRT, &rt) < 0 ? -errno : 0;
}

static int set_ipv6(const char *name, const char *value)
{
	char path[96];
	cleanup_close int fd = -1;

	snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/" NAME "/%s", name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return write(fd, value, strlen(value)) < 0 ? -errno : 0;
}

/*
 * Everything is known: nobody is asked whether an address is free or where a router is. An
 * interface that nobody uses then sends nothing that anybody would have to hear.
 */
static int quieten(void)
{
	static const char *const settings[][2] = {
	    {"accept_ra", "0"},	 {"autoconf", "0"},	 {"router_solicitations", "0"},
	    {"accept_dad", "0"}, {"dad_transmits", "0"}, {"addr_gen_mode", "1"}};
	int rc = 0;

	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]) && !rc; i++)
		rc = set_ipv6(settings[i][0], settings[i][1]);
	return rc;
}

static int set_address6(int fd, int index)
{
	struct in6_ifreq ifr = {.ifr6_ifindex = index, .ifr6_prefixlen = PREFIX6};
	struct in6_rtmsg rt = {
	    .rtmsg_ifindex = index, .rtmsg_flags = RTF_UP | RTF_GATEWAY, .rtmsg_metric = 1024};

	inet_pton(AF_INET6, ADDRESS6, &ifr.ifr6_addr);
	inet_pton(AF_INET6, GATEWAY6, &rt.rtmsg_gateway);
	if (ioctl(fd, SIOCSIFADDR, &ifr) < 0 || ioctl(fd, SIOCADDRT, &rt) < 0)
		return -errno;
	return 0;
}

/* Whatever there is, maybe a link to a service that does not run here, gives way. */
static int write_resolver(void)
{
	static const char path[] = "/etc/resolv.conf";
	static const char next[] = "/etc/.resolv.conf.dormouse";
	cleanup_free char *now = NULL;
	cleanup_close int fd = -1;
	int rc;

	if (!fd_read_file(AT_FDCWD, path, 4096, &now, NULL) && !strcmp(now, RESOLVER))
		return 0;
	unlink(next);
	fd = open(next, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	/* Not fsynced: the next boot writes it again. */
	rc = fd_write_full(fd, RESOLVER, strlen(RESOLVER));
	if (!rc && rename(next, path) < 0)
		rc = -errno;
	return rc;
}

static void complain(const char *what, int rc)
{
	if (rc)
		log_warn("network: %s: %s", what, strerror(-rc));
}

void net_up(void)
{
	cleanup_close int fd4 = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	cleanup_close int fd6 = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr = {.ifr_name = NAME};
	int rc;

	/* With the server that died before us, or by the user. */
	if (fd4 < 0 || ioctl(fd4, SIOCGIFFLAGS, &ifr) < 0 || (ifr.ifr_flags & IFF_UP))
		return;
	if (fd6 >= 0)
		complain("IPv6", quieten());
	rc = set_address4(fd4, SIOCSIFADDR, &ifr, ADDRESS4);
	if (!rc)
		rc = set_address4(fd4, SIOCSIFNETMASK, &ifr, NETMASK4);
	complain(ADDRESS4, rc);
	complain("up", set_up(fd4, &ifr));
	complain(GATEWAY4, add_route4(fd4));
	if (fd6 >= 0 && !ioctl(fd4, SIOCGIFINDEX, &ifr))
		complain(ADDRESS6, set_address6(fd6, ifr.ifr_ifindex));
	complain("/etc/resolv.conf", write_resolver());
}

/* --- connections --------------------------------------------------------------------------- */

/* The same end, as IPv6 sees it. */
static void own_addresses(struct in6_addr own[2])
{
	inet_pton(AF_INET6, ADDRESS6, &own[0]);
	inet_pton(AF_INET6, "::ffff:" ADDRESS4, &own[1]);
}

static bool is_own(const struct in6_addr own[2], uint8_t family, const uint32_t words[4])
{
	struct in6_addr a = {0};

	if (family == AF_INET6) {
		memcpy(&a, words, sizeof(a));
	} else {
		a.s6_addr[10] = a.s6_addr[11] = 0xff;
		memcpy(a.s6_addr + 12, words, 4);
	}
	return !memcmp(&a, &own[0], sizeof(a)) || !memcmp(&a, &own[1], sizeof(a));
}

struct diag_request {
	struct nlmsghdr head;
	struct inet_diag_req_v2 body;
};

static int diag_send(int fd, uint16_t type, uint16_t flags, const struct inet_diag_req_v2 *body)
{
	struct diag_request r = {.head = {.nlmsg_len = sizeof(r),
					  .nlmsg_type = type,
					  .nlmsg_flags = flags | NLM_F_REQUEST},
				 .body = *body};

	return send(fd, &r, sizeof(r), 0) < 0 ? -errno : 0;
}

struct doomed {
	struct inet_diag_req_v2 *list; /* owned */
	size_t n, cap;
};

static int doom(struct doomed *d, const struct inet_diag_msg *m)
{
	if (d->n == d->cap) {
		size_t cap = d->cap ? d->cap * 2 : 64;
		struct inet_diag_req_v2 *grown = realloc(d->list, cap * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		d->list = grown;
		d->cap = cap;
	}
	d->list[d->n++] = (struct inet_diag_req_v2){
	    .sdiag_family = m->idiag_family, .sdiag_protocol = IPPROTO_TCP, .id = m->id};
	return 0;
}

/* @d: NULL: the answer says only how it went. Return: 1 if more follows, 0 at the end, or -errno */
static int read_answers(int fd, const struct in6_addr own[2], struct doomed *d)
{
	_Alignas(struct nlmsghdr) char buf[16384];
	ssize_t got = recv(fd, buf, sizeof(buf), 0);
	size_t left = got < 0 ? 0 : (size_t)got;

	if (got < 0)
		return -errno;
	for (struct nlmsghdr *h = (struct nlmsghdr *)buf; NLMSG_OK(h, left);
	     h = NLMSG_NEXT(h, left)) {
		const struct inet_diag_msg *m = NLMSG_DATA(h);
		int rc;

		if (h->nlmsg_type == NLMSG_DONE)
			return 0;
		if (h->nlmsg_type == NLMSG_ERROR)
			return ((struct nlmsgerr *)NLMSG_DATA(h))->error;
		if (!d || h->nlmsg_len < NLMSG_LENGTH(sizeof(*m)) ||
		    !is_own(own, m->idiag_family, m->id.idiag_src) ||
		    is_own(own, m->idiag_family, m->id.idiag_dst))
			continue;
		rc = doom(d, m);
		if (rc)
			return rc;
	}
	return 1;
}

#define STATE_TIME_WAIT 6
#define STATE_CLOSE	7
#define STATE_LISTEN	10
#define STATES		(~0u & ~(1u << STATE_TIME_WAIT | 1u << STATE_CLOSE | 1u << STATE_LISTEN))

static int forget_family(int fd, uint8_t family, struct doomed *d)
{
	struct inet_diag_req_v2 all = {
	    .sdiag_family = family, .sdiag_protocol = IPPROTO_TCP, .idiag_states = STATES};
	struct in6_addr own[2];
	int rc;

	own_addresses(own);
	d->n = 0;
	rc = diag_send(fd, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &all);
	while (!rc) {
		rc = read_answers(fd, own, d);
		if (rc <= 0)
			break;
		rc = 0;
	}
	for (size_t i = 0; i < d->n && !rc; i++) {
		rc = diag_send(fd, SOCK_DESTROY, NLM_F_ACK, &d->list[i]);
		if (!rc)
			rc = read_answers(fd, own, NULL);
		/* Ended by itself meanwhile. */
		if (rc == -ENOENT)
			rc = 0;
	}
	return rc;
}

void net_forget_connections(void)
{
	cleanup_close int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	struct doomed d = {0};
	int rc = fd < 0 ? -errno : 0;

	if (!rc)
		rc = forget_family(fd, AF_INET, &d);
	if (!rc)
		rc = forget_family(fd, AF_INET6, &d);
	free(d.list);
	complain("connections of before", rc);
}
