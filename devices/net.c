/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-net (virtio 1.2, 5.1): one network interface.
 *
 * Theory of operation
 *
 * Behind the device is a backend or none: one descriptor, on which read() and write() move a frame
 * with its header. A device is made for one of two kinds (enum net_backend), which decides the
 * features and the MTU, as a guest keeps both for life, over saves, forks and backends.
 *
 * A machine starts without a backend, whatever it starts from. The first frame that waits
 * for one asks for it; so nothing of a network exists for a guest that uses none, and neither boot
 * nor wake waits for it. A backend that ends leaves the device as it was before.
 *
 * Both directions run in the loop (net_tx.c, net_rx.c). Each stops when the other end
 * takes no more, and nothing is queued but one frame that is on its way to the guest: the guest's
 * queues and the backend's own are the buffers. What stops for a limit, or waits to ask again,
 * is woken by a timer.
 *
 * One pair of queues: all devices of a machine run in one thread, and a backend is one
 * descriptor, so more pairs would only be more to look at. There is no control queue: filters of
 * addresses and VLANs are left to the guest.
 *
 * The link is always up. A restored machine keeps a tap that it had, but not a program at the
 * other end of a socket: that one knows of connections which the guest has not made yet.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "devices/net_int.h"
#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "lib/net_message.h"

/* #syscalls timerfd_create timerfd_settime */

#define MTU_USER    65520u /* below libslirp's limit, which is 65521 */
#define MTU_TAP	    1500u
#define STATUS_LINK 1u
#define SECOND_NS   1000000000ULL

/* struct virtio_net_config (5.1.4), as far as our features reach */
struct net_config {
	uint8_t mac[NET_MAC_BYTES];
	uint16_t status, max_pairs, mtu;
};
_Static_assert(sizeof(struct net_config) == 12, "virtio 1.2, 5.1.4");

/* --- the timer ------------------------------------------------------------------------ */

static void timer_fired(struct loop_source *s, uint32_t events)
{
	struct net *n = container_of(s, struct net, timer);
	uint64_t times;

	(void)events;
	if (read(n->timer_fd, &times, sizeof(times)) < 0)
		return;
	n->due_ns = 0;
	n->rx_limited = false;
	if (n->tx_quiet)
		net_tx_tell(n);
	net_tx(n);
	net_rx(n);
}

bool net_wake_after(struct net *n, uint64_t ns)
{
	struct itimerspec at = {.it_value = {(time_t)(ns / SECOND_NS), (long)(ns % SECOND_NS)}};
	uint64_t due_ns = clock_mono_ns() + ns;

	if (n->timer_fd < 0) {
		n->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
		if (n->timer_fd < 0 ||
		    loop_add(n->dev->loop, &n->timer, n->timer_fd, EPOLLIN, timer_fired)) {
			log_guest("net: no timer: %s", strerror(errno));
			fd_close(&n->timer_fd);
			return false;
		}
	}
	/* Both directions share it; one that is woken early looks again. */
	if (n->due_ns && n->due_ns <= due_ns)
		return true;
	n->due_ns = due_ns;
	timerfd_settime(n->timer_fd, 0, &at, NULL);
	return true;
}

/* --- the backend ------------------------------------------------------------------------ */

static void backend_event(struct loop_source *s, uint32_t events)
{
	struct net *n = container_of(s, struct net, source);
	bool ended = events & (EPOLLHUP | EPOLLERR);

	if (events & EPOLLOUT) {
		n->tx_full = false;
		net_tx(n);
	}
	/* An end cannot be left unwatched: what a guest without room has not taken is lost. */
	if (!net_rx(n) && ended && n->fd >= 0) {
		net_backend_drop(n);
		net_tx(n);
	}
}

int device_net_attach(struct device *d, enum net_backend kind, int fd, struct err *e)
{
	static const char *const names[] = {"user", "tap"};
	struct net *n = d->priv;
	int rc;

	if (kind != n->kind)
		rc = err_set(e, -EINVAL, "the device was made for a backend \"%s\", not \"%s\"",
			     names[n->kind], names[kind]);
	else
		rc = net_backend_check(kind, fd, e);
	if (!rc && !n->message) {
		n->message = malloc(NET_MESSAGE_MAX + 1);
		if (!n->message)
			rc = err_set(e, -ENOMEM, "out of memory");
	}
	if (rc) {
		close(fd);
		return rc;
	}
	net_backend_drop(n);
	rc = loop_add(d->loop, &n->source, fd, 0, backend_event);
	if (rc) {
		close(fd);
		return err_sys(e, rc, "epoll");
	}
	n->fd = fd;
	net_backend_offloads(n);
	net_tx(n);
	net_backend_watch(n);
	return 0;
}

void device_net_detach(struct device *d)
{
	struct net *n = d->priv;

	net_backend_drop(n);
	net_tx(n);
}

void device_net_limit(struct device *d, const struct net_limit *in, const struct net_limit *out)
{
	struct net *n = d->priv;
	uint64_t now = clock_mono_ns();

	net_direction_limit(&n->in, in, now);
	net_direction_limit(&n->out, out, now);
	n->rx_limited = false;
	net_tx(n);
	net_rx(n);
}

void device_net_info(const struct device *d, struct net_info *out)
{
	const struct net *n = d->priv;

	*out = (struct net_info){
	    .backend = n->kind,
	    .attached = n->fd >= 0,
	    .wanted = n->wanted,
	    .mtu = n->mtu,
	    .in = n->in.limit,
	    .out = n->out.limit,
	    .in_frames = n->in.n_frames,
	    .out_frames = n->out.n_frames,
	    .in_bytes = n->in.n_bytes,
	    .out_bytes = n->out.n_bytes,
	    .in_dropped = n->in.dropped,
	    .out_dropped = n->out.dropped,
	};
}

/* --- the device ------------------------------------------------------------------------- */

static void net_notify(struct device *d, unsigned int queue)
{
	struct net *n = d->priv;

	if (queue == NET_Q_TX) {
		net_tx(n);
	} else {
		n->rx_starved = false;
		net_rx(n);
	}
}

static void net_activate(struct device *d)
{
	struct net *n = d->priv;

	net_backend_offloads(n);
	net_backend_watch(n);
}

/* The driver is gone; the backend stays for the next one, with what it has. */
static void net_reset(struct device *d)
{
	struct net *n = d->priv;

	net_rx_clear(n);
	n->tx_full = n->rx_starved = false;
	n->tx_quiet = 0;
	/* The status is still that of before. */
	if (n->fd >= 0)
		loop_modify(d->loop, &n->source, 0);
}

static void net_state(struct device *d, struct state_io *io)
{
	struct net *n = d->priv;
	uint8_t mac[NET_MAC_BYTES];

	state_expect(io, n->mtu, "MTU");
	memcpy(mac, n->mac, sizeof(mac));
	state_bytes(io, mac, sizeof(mac));
	if (state_ok(io) && memcmp(mac, n->mac, sizeof(mac)))
		state_fail(io, -EINVAL, "another MAC address than here");
	if (!state_restoring(io))
		return;
	if (n->kind == NET_USER)
		net_backend_drop(n);
	n->wanted = false;
}

static void net_post_restore(struct device *d)
{
	net_activate(d);
	/* Who was saved may have been about to. */
	net_tx_tell(d->priv);
}

static int net_init(struct device *d, const struct device_config *c, struct err *e)
{
	struct net *n = calloc(1, sizeof(*n));
	struct net_config config = {.status = htole16(STATUS_LINK), .max_pairs = htole16(1)};

	if (!n)
		return err_set(e, -ENOMEM, "out of memory");
	d->priv = n;
	n->dev = d;
	n->fd = n->timer_fd = -1;
	n->kind = c->net.backend;
	n->mtu = n->kind == NET_TAP ? MTU_TAP : MTU_USER;
	n->on_wanted = c->net.on_wanted;
	n->opaque = c->net.opaque;
	if (c->net.mac[0] & 1)
		return err_set(e, -EINVAL, "the MAC address is one of a group");
	memcpy(n->mac, c->net.mac, sizeof(n->mac));
	memcpy(config.mac, n->mac, sizeof(config.mac));
	config.mtu = htole16(n->mtu);
	device_config_init(d, &config, sizeof(config));
	d->features |= NET_F_MAC | NET_F_MTU | NET_F_STATUS | NET_F_MRG_RXBUF | NET_F_GUEST_CSUM;
	if (n->kind == NET_TAP)
		d->features |= NET_F_CSUM | NET_F_HOST_TSO4 | NET_F_HOST_TSO6 | NET_F_HOST_ECN |
			       NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_GUEST_ECN;
	return 0;
}

static void net_fini(struct device *d)
{
	struct net *n = d->priv;

	if (!n)
		return;
	net_backend_drop(n);
	loop_remove(d->loop, &n->timer);
	fd_close(&n->timer_fd);
	free(n->message);
	free(n);
	d->priv = NULL;
}

const struct device_ops net_ops = {
    .name = "net",
    .virtio_id = 1,
    .n_queues = NET_QUEUES,
    .queue_max = {NET_QUEUE_SIZE, NET_QUEUE_SIZE},
    .init = net_init,
    .activate = net_activate,
    .reset = net_reset,
    .queue_notify = net_notify,
    .state = net_state,
    .post_restore = net_post_restore,
    .state_version = 1,
    .may_be_unsaved = true,
    .fini = net_fini,
};
