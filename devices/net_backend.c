/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The backend of a network device: one descriptor. What it is is checked when it is attached;
 * after that both kinds are read and written in the same way.
 *
 * #syscalls getsockopt setsockopt ioctl[1==0x800454d2] ioctl[1==0x400454d8] ioctl[1==0x400454d0]
 *
 * (TUNGETIFF, TUNSETVNETHDRSZ, TUNSETOFFLOAD)
 */
#include <errno.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/net_int.h"
#include "lib/fd.h"

_Static_assert(TUNGETIFF == 0x800454d2 && TUNSETVNETHDRSZ == 0x400454d8 &&
		   TUNSETOFFLOAD == 0x400454d0,
	       "the numbers above");

/* Room for some frames of 64 KiB; the host's limit may be less. */
#define SEND_BUFFER_BYTES (1 << 20)

static int check_user(int fd, struct err *e)
{
	int type = 0, bytes = SEND_BUFFER_BYTES;
	socklen_t len = sizeof(type);

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_SEQPACKET)
		return err_set(e, -EINVAL, "a backend \"user\" is a socket of type SOCK_SEQPACKET");
	/* With less it only works with fewer frames at a time. */
	(void)!setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	return 0;
}

static int check_tap(int fd, struct err *e)
{
	const unsigned int wanted = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
	int header = sizeof(struct net_header);
	struct ifreq ifr = {0};

	if (ioctl(fd, TUNGETIFF, &ifr) < 0 ||
	    ((unsigned short)ifr.ifr_flags & (IFF_TUN | wanted)) != wanted)
		return err_set(e, -EINVAL,
			       "a backend \"tap\" is a tap device with IFF_VNET_HDR and IFF_NO_PI");
	if (ioctl(fd, TUNSETVNETHDRSZ, &header) < 0)
		return err_sys(e, -errno, "TUNSETVNETHDRSZ");
	return 0;
}

int net_backend_check(enum net_backend kind, int fd, struct err *e)
{
	int rc = fd_set_nonblock(fd);

	if (rc)
		return err_sys(e, rc, "the descriptor of the backend");
	return kind == NET_TAP ? check_tap(fd, e) : check_user(fd, e);
}

void net_backend_offloads(const struct net *n)
{
	unsigned int flags = 0;

	if (n->fd < 0 || n->kind != NET_TAP)
		return;
	if (device_has(n->dev, NET_F_GUEST_CSUM)) {
		flags |= TUN_F_CSUM;
		flags |= device_has(n->dev, NET_F_GUEST_TSO4) ? TUN_F_TSO4 : 0u;
		flags |= device_has(n->dev, NET_F_GUEST_TSO6) ? TUN_F_TSO6 : 0u;
		if (flags != TUN_F_CSUM && device_has(n->dev, NET_F_GUEST_ECN))
			flags |= TUN_F_TSO_ECN;
	}
	/* One that cannot leaves us with frames that are dropped: see net_rx.c. */
	(void)!ioctl(n->fd, TUNSETOFFLOAD, flags);
}

bool net_backend_gone(int error)
{
	switch (error) {
	case EPIPE:
	case ECONNRESET:
	case ECONNREFUSED:
	case ENOTCONN:
	case EBADFD: /* the interface of a tap was deleted */
		return true;
	default:
		return false;
	}
}

void net_backend_drop(struct net *n)
{
	loop_remove(n->dev->loop, &n->source);
	/* At once, also while the writer of a checkpoint has a copy of the descriptor. */
	if (n->fd >= 0 && n->kind == NET_USER)
		shutdown(n->fd, SHUT_RDWR);
	fd_close(&n->fd);
	n->tx_full = n->rx_starved = n->rx_limited = n->wanted = false;
	net_rx_clear(n);
}

void net_backend_watch(struct net *n)
{
	uint32_t events = 0;

	if (n->fd < 0)
		return;
	if (device_active(n->dev) && !n->rx_starved && !n->rx_limited)
		events |= EPOLLIN;
	if (n->tx_full)
		events |= EPOLLOUT;
	loop_modify(n->dev->loop, &n->source, events);
}
