/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-net: frames of the guest.
 *
 * A frame goes to the backend in one writev(), out of guest memory. Only its header is ours: a
 * copy, with nothing in it that the driver has not negotiated. What the backend, or a limit, does
 * not take stays in the queue, so a guest that sends too much waits by itself.
 *
 * Without a backend frames wait in the queue, too, and the first one asks for a backend. When the
 * queue is half full the oldest are dropped: a driver whose queue stands still for seconds takes
 * its device for broken. Frames in which a kernel only speaks of itself when an interface comes up
 * ask for nothing, as a guest that uses no network is to cost none.
 *
 * A guest that receives sends an acknowledgement now and then, and its driver wants an interrupt
 * for each, to free it. That one waits, as the frames that come next have an interrupt, too, in
 * which the driver looks at both queues. One for data does not: Linux holds back a connection whose
 * data the driver has not freed.
 *
 * Nor does anybody wait for the acknowledgement that ends a handshake, if dormouse-net says so: the
 * driver is to notify us of the frame after it. If that was another frame, the acknowledgement
 * follows as soon as the guest has seen what it is to acknowledge.
 */
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include "devices/net_int.h"
#include "lib/clock.h"
#include "lib/log.h"

#define TX_A_TURN    64
#define CHAIN_IOV    (VIRTQ_MAX_CHAIN + GUEST_MEM_MAX_REGIONS)
#define ASK_AGAIN_NS 1000000000ULL

#define QUIET_MAX 32
/* Linux from 6.11 on stops its queue at so many bytes that it has not been told of as it needed
 * before (BQL): 30 connections that it begins at once, the first of its life, take five times this.
 */
#define QUIET_NS 10000000ULL

/* --- headers ---------------------------------------------------------------------------- */

/* Return: false if it makes no sense, or asks for what was not negotiated. */
static bool header_allowed(const struct device *d, const struct net_header *h, uint64_t bytes)
{
	uint64_t payload = bytes - sizeof(*h);
	uint8_t gso = h->gso_type & (uint8_t)~NET_GSO_ECN;
	bool sums = h->flags & NET_HDR_NEEDS_CSUM;

	if (sums && (!device_has(d, NET_F_CSUM) ||
		     (uint64_t)le16toh(h->csum_start) + le16toh(h->csum_offset) + 2 > payload))
		return false;
	if (h->gso_type == NET_GSO_NONE)
		return true;
	if (!sums || !h->gso_size || le16toh(h->hdr_len) > payload)
		return false;
	if ((h->gso_type & NET_GSO_ECN) && !device_has(d, NET_F_HOST_ECN))
		return false;
	return (gso == NET_GSO_TCPV4 && device_has(d, NET_F_HOST_TSO4)) ||
	       (gso == NET_GSO_TCPV6 && device_has(d, NET_F_HOST_TSO6));
}

/* --- one frame ---------------------------------------------------------------------------- */

enum sent { SENT, DROPPED, FULL, GONE };

static enum sent send_frame(struct net *n, const struct virtq_chain *c)
{
	const struct virtq *q = &n->dev->queues[NET_Q_TX].q;
	struct iovec iov[1 + CHAIN_IOV];
	struct net_header h;
	ssize_t done;
	int parts;

	if (c->out_bytes < NET_FRAME_MIN || c->out_bytes > NET_FRAME_MAX ||
	    virtq_chain_read(q, c, 0, &h, sizeof(h)) < 0 ||
	    !header_allowed(n->dev, &h, c->out_bytes))
		return DROPPED;
	h.flags &= NET_HDR_NEEDS_CSUM;
	h.num_buffers = 0;
	if (!h.flags)
		memset(&h, 0, sizeof(h));
	iov[0] = (struct iovec){&h, sizeof(h)};
	parts =
	    virtq_chain_iov(q, c, false, sizeof(h), c->out_bytes - sizeof(h), iov + 1, CHAIN_IOV);
	if (parts < 0)
		return DROPPED;
	do
		done = writev(n->fd, iov, 1 + parts);
	while (done < 0 && errno == EINTR);
	if (done >= 0)
		return SENT;
	if (errno == EAGAIN)
		return FULL;
	return net_backend_gone(errno) ? GONE : DROPPED;
}

/* Its beginning, as far as anybody looks. Return: its bytes; 0: it is no frame */
static size_t look(struct net *n, const struct virtq_chain *c, uint8_t head[NET_LOOK_BYTES])
{
	size_t bytes = NET_LOOK_BYTES;

	if (c->out_bytes < NET_FRAME_MIN)
		return 0;
	if (bytes > c->out_bytes - sizeof(struct net_header))
		bytes = (size_t)c->out_bytes - sizeof(struct net_header);
	if (virtq_chain_read(&n->dev->queues[NET_Q_TX].q, c, sizeof(struct net_header), head,
			     (uint32_t)bytes) < 0)
		return 0;
	return bytes;
}

/* --- without a backend --------------------------------------------------------------------- */

static bool frame_asks(struct net *n, const struct virtq_chain *c)
{
	uint8_t head[NET_LOOK_BYTES];
	size_t bytes = look(n, c, head);

	return bytes && !net_speaks_of_itself(head, bytes);
}

static void ask(struct net *n)
{
	uint64_t now = clock_mono_ns();

	if (n->wanted)
		return;
	if (n->asked_ns && now - n->asked_ns < ASK_AGAIN_NS) {
		net_wake_after(n, ASK_AGAIN_NS - (now - n->asked_ns));
		return;
	}
	n->wanted = true;
	n->asked_ns = now;
	if (n->on_wanted)
		n->on_wanted(n->opaque);
}

/* Return: as virtq_pop(); VIRTQ_OK: frames wait. */
static enum virtq_status hold_frames(struct net *n)
{
	struct virtq *q = &n->dev->queues[NET_Q_TX].q;
	struct virtq_chain c;
	enum virtq_status s;

	do {
		while ((s = virtq_pop(q, &c)) == VIRTQ_OK) {
			/* Itself, and those behind it. */
			if (virtq_waiting(q) < q->geo.size / 2 && frame_asks(n, &c)) {
				virtq_unpop(q, 1);
				ask(n);
				virtq_await_more(q);
				return VIRTQ_OK;
			}
			n->out.dropped++;
			if (virtq_push(q, c.head, 0) != VIRTQ_OK)
				return VIRTQ_BROKEN;
		}
	} while (s == VIRTQ_EMPTY && virtq_enable_notify(q));
	return s;
}

/* --- the queue ------------------------------------------------------------------------------ */

/* Return: 0 if a frame may go. */
static uint64_t limited(struct net *n)
{
	uint64_t wait;

	if (!n->out.bytes.rate && !n->out.frames.rate)
		return 0;
	wait = net_direction_wait(&n->out, clock_mono_ns());
	if (wait)
		net_wake_after(n, wait);
	return wait;
}

void net_tx_tell(struct net *n)
{
	n->tx_quiet = 0;
	device_signal_used(n->dev, NET_Q_TX);
}

void net_tx_told(struct net *n)
{
	if (n->tx_quiet)
		(void)virtq_needs_interrupt(&n->dev->queues[NET_Q_TX].q);
	n->tx_quiet = 0;
}

static void tell_or_wait(struct net *n)
{
	if (n->tx_quiet && n->tx_quiet < QUIET_MAX && net_wake_after(n, QUIET_NS))
		return;
	net_tx_tell(n);
}

void net_tx_defer(struct net *n)
{
	/* The timer looks at the queue. */
	if (!n->tx_full && net_wake_after(n, QUIET_NS))
		(void)virtq_defer_notify(&n->dev->queues[NET_Q_TX].q);
}

static void count_quiet(struct net *n, const struct virtq_chain *c)
{
	uint8_t head[NET_LOOK_BYTES];
	bool quiet = c->out_bytes <= sizeof(struct net_header) + sizeof(head) &&
		     net_carries_nothing(head, look(n, c, head));

	n->tx_quiet = quiet ? n->tx_quiet + 1 : QUIET_MAX;
}

/* Return: VIRTQ_OK if frames wait for the backend, the timer, or a further turn. */
static enum virtq_status send_frames(struct net *n)
{
	struct virtq *q = &n->dev->queues[NET_Q_TX].q;
	struct virtq_chain c;
	enum virtq_status s;

	for (int turns = 0; turns < TX_A_TURN; turns++) {
		enum sent sent;

		if (limited(n))
			return VIRTQ_OK;
		s = virtq_pop(q, &c);
		if (s == VIRTQ_EMPTY && virtq_enable_notify(q))
			s = virtq_pop(q, &c);
		if (s != VIRTQ_OK)
			return s;
		sent = c.n_in ? DROPPED : send_frame(n, &c);
		if (sent == FULL || sent == GONE) {
			virtq_unpop(q, 1);
			n->tx_full = sent == FULL;
			if (sent == FULL)
				return VIRTQ_OK;
			net_backend_drop(n);
			return hold_frames(n);
		}
		n->dev->stats.requests++;
		count_quiet(n, &c);
		if (sent == SENT)
			net_direction_take(&n->out,
					   (uint32_t)(c.out_bytes - sizeof(struct net_header)));
		else
			n->out.dropped++;
		if (virtq_push(q, c.head, 0) != VIRTQ_OK)
			return VIRTQ_BROKEN;
	}
	device_again(n->dev, NET_Q_TX);
	return VIRTQ_OK;
}

void net_tx(struct net *n)
{
	struct virtq *q = &n->dev->queues[NET_Q_TX].q;
	enum virtq_status s;

	if (!device_active(n->dev) || n->tx_full) {
		net_backend_watch(n);
		return;
	}
	virtq_disable_notify(q);
	s = n->fd < 0 ? hold_frames(n) : send_frames(n);
	n->dev->stats.out_bytes = n->out.n_bytes;
	if (s == VIRTQ_BROKEN)
		device_break(n->dev, "a malformed frame to send");
	tell_or_wait(n);
	net_backend_watch(n);
}
