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
#include <sys/stat.h>
#include <sys/syscall.h>
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

/* Sockets, by their inodes. */
struct doomed {
	uint32_t *inodes; /* owned */
	size_t n, cap;
};

static int doom(struct doomed *d, uint32_t inode)
{
	if (d->n == d->cap) {
		size_t cap = d->cap ? d->cap * 2 : 64;
		uint32_t *grown = reallocarray(d->inodes, cap, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		d->inodes = grown;
		d->cap = cap;
	}
	d->inodes[d->n++] = inode;
	return 0;
}

/* Return: 1 if more follows, 0 at the end, or -errno */
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
		if (h->nlmsg_len < NLMSG_LENGTH(sizeof(*m)) || !m->idiag_inode ||
		    !is_own(own, m->idiag_family, m->id.idiag_src) ||
		    is_own(own, m->idiag_family, m->id.idiag_dst))
			continue;
		rc = doom(d, m->idiag_inode);
		if (rc)
			return rc;
	}
	return 1;
}

#define STATE_TIME_WAIT 6
#define STATE_CLOSE	7
#define STATE_LISTEN	10
#define STATES		(~0u & ~(1u << STATE_TIME_WAIT | 1u << STATE_CLOSE | 1u << STATE_LISTEN))

static int find_connections(int fd, uint8_t family, struct doomed *d)
{
	struct diag_request r = {.head = {.nlmsg_len = sizeof(r),
					  .nlmsg_type = SOCK_DIAG_BY_FAMILY,
					  .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
				 .body = {.sdiag_family = family,
					  .sdiag_protocol = IPPROTO_TCP,
					  .idiag_states = STATES}};
	struct in6_addr own[2];
	int rc = send(fd, &r, sizeof(r), 0) < 0 ? -errno : 1;

	own_addresses(own);
	while (rc > 0)
		rc = read_answers(fd, own, d);
	return rc;
}

/*
 * A socket of another process: connect() to nowhere is how a connection is aborted from outside
 * of the kernel. Who reads, writes or polls has an error then.
 */
static void abort_connection(int pid, int number, struct doomed *d, size_t i)
{
	const struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
	cleanup_close int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	cleanup_close int fd = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);
	struct stat st;

	/* Who is not frozen may have something else there by now. */
	if (fd < 0 || fstat(fd, &st) < 0 || st.st_ino != d->inodes[i])
		return;
	if (connect(fd, &nowhere, sizeof(nowhere)) < 0)
		log_warn("network: a connection of before: %s", strerror(errno));
	else
		d->inodes[i] = 0;
}

static void abort_of_process(int proc_fd, const char *pid, struct doomed *d)
{
	char path[32], link[64];
	struct dirent *entry;
	DIR *dir;

	snprintf(path, sizeof(path), "%.16s/fd", pid);
	dir = fd_opendir(proc_fd, path);
	while (dir && (entry = readdir(dir))) {
		ssize_t len = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);
		unsigned int inode;

		link[len < 0 ? 0 : len] = '\0';
		if (sscanf(link, "socket:[%u]", &inode) != 1)
			continue;
		for (size_t i = 0; i < d->n; i++)
			if (d->inodes[i] == inode)
				abort_connection(atoi(pid), atoi(entry->d_name), d, i);
	}
	if (dir)
		closedir(dir);
}

static void abort_all(struct doomed *d)
{
	DIR *proc = d->n ? fd_opendir(AT_FDCWD, "/proc") : NULL;
	struct dirent *entry;

	while (proc && (entry = readdir(proc)))
		if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9')
			abort_of_process(dirfd(proc), entry->d_name, d);
	if (proc)
		closedir(proc);
}

void net_forget_connections(void)
{
	cleanup_close int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	struct doomed d = {0};
	int rc = fd < 0 ? -errno : 0;

	if (!rc)
		rc = find_connections(fd, AF_INET, &d);
	if (!rc)
		rc = find_connections(fd, AF_INET6, &d);
	complain("connections of before", rc);
	abort_all(&d);
	free(d.inodes);
}
