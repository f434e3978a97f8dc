/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-net: frames for the guest.
 *
 * What the backend gives is read into a buffer of ours: one frame, or several that it had at once
 * (lib/net_message.h). Each is copied into as many buffers of the guest as it takes, if the driver
 * has negotiated that (5.1.6.4.1); the driver sees them all at once. A frame for which there are
 * too few waits, and the backend is not read: what it has waits there.
 */
#include <endian.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "devices/net_int.h"
#include "lib/clock.h"
#include "lib/net_message.h"

#define RX_A_TURN 64

/* Only what the driver said that it understands. Return: false: the frame is not for it. */
static bool fit_header(struct net *n)
{
	struct net_header h;
	uint8_t gso;

	memcpy(&h, n->frame, sizeof(h));
	gso = h.gso_type & (uint8_t)~NET_GSO_ECN;
	/* Between us and dormouse-net these are something else. */
	if (n->kind == NET_USER) {
		n->rx_unheard |= h.flags & NET_MESSAGE_UNHEARD;
		h.hdr_len = 0;
	}
	if (!device_has(n->dev, NET_F_GUEST_CSUM)) {
		/* That a sum is right can be left out, that it is missing cannot. */
		if (h.flags & NET_HDR_NEEDS_CSUM)
			return false;
		h.flags = 0;
	}
	h.flags &= NET_HDR_NEEDS_CSUM | NET_HDR_DATA_VALID;
	if (h.gso_type != NET_GSO_NONE &&
	    !(gso == NET_GSO_TCPV4 && device_has(n->dev, NET_F_GUEST_TSO4)) &&
	    !(gso == NET_GSO_TCPV6 && device_has(n->dev, NET_F_GUEST_TSO6)))
		return false;
	if ((h.gso_type & NET_GSO_ECN) && !device_has(n->dev, NET_F_GUEST_ECN))
		return false;
	h.num_buffers = htole16(1);
	memcpy(n->frame, &h, sizeof(h));
	return true;
}

/* --- into the guest's buffers ------------------------------------------------------------- */

enum put { PUT, TOO_LONG, STARVED, BROKEN };

/* The next buffer of the guest. */
static enum virtq_status take_buffer(struct virtq *q, struct virtq_chain *c)
{
	enum virtq_status s = virtq_pop(q, c);

	while (s == VIRTQ_EMPTY && virtq_enable_notify(q))
		s = virtq_pop(q, c);
	if (s == VIRTQ_OK && (c->n_out || c->in_bytes < sizeof(struct net_header)))
		return VIRTQ_BROKEN;
	return s;
}

static enum put put_frame(struct net *n)
{
	struct virtq *q = &n->dev->queues[NET_Q_RX].q;
	bool many = device_has(n->dev, NET_F_MRG_RXBUF);
	uint32_t done = 0, left = n->frame_bytes;
	struct virtq_chain first, more;
	uint16_t buffers = 0, le;

	while (left) {
		struct virtq_chain *c = buffers ? &more : &first;
		enum virtq_status s = take_buffer(q, c);
		uint32_t part;

		if (s == VIRTQ_BROKEN)
			return BROKEN;
		if (s == VIRTQ_EMPTY) {
			/* As many as there can be, and still too few. */
			bool never = buffers == q->geo.size;

			virtq_unpop(q, buffers);
			return never ? TOO_LONG : STARVED;
		}
		buffers++;
		part = c->in_bytes < left ? (uint32_t)c->in_bytes : left;
		if (part < left && !many) {
			virtq_unpop(q, buffers);
			return TOO_LONG;
		}
		if (virtq_chain_write(q, c, 0, n->frame + done, part) < 0 ||
		    virtq_fill(q, (uint16_t)(buffers - 1), c->head, part) != VIRTQ_OK)
			return BROKEN;
		done += part;
		left -= part;
	}
	le = htole16(buffers);
	if (virtq_chain_write(q, &first, offsetof(struct net_header, num_buffers), &le,
			      sizeof(le)) < 0 ||
	    virtq_show(q, buffers) != VIRTQ_OK)
		return BROKEN;
	return PUT;
}

/* Return: false if the frame waits, or the device is broken. */
static bool deliver(struct net *n)
{
	enum put put = put_frame(n);

	if (put == BROKEN) {
		device_break(n->dev, "a malformed buffer for frames");
		return false;
	}
	n->rx_starved = put == STARVED;
	if (put == STARVED)
		return false;
	n->dev->stats.requests++;
	if (put == PUT)
		net_direction_take(&n->in, n->frame_bytes - (uint32_t)sizeof(struct net_header));
	else
		n->in.dropped++;
	n->frame_bytes = 0;
	return true;
}

/* --- from the backend --------------------------------------------------------------------- */

void net_rx_clear(struct net *n)
{
	n->message_bytes = n->message_at = n->frame_bytes = 0;
}

/* Return: false if there is nothing now. */
static bool receive(struct net *n)
{
	ssize_t got;

	net_rx_clear(n);
	do
		got = read(n->fd, n->message, NET_MESSAGE_MAX + 1);
	while (got < 0 && errno == EINTR);
	if (got == 0 || (got < 0 && net_backend_gone(errno))) {
		net_backend_drop(n);
		return false;
	}
	if (got < 0)
		return false;
	n->message_bytes = (uint32_t)got;
	return true;
}

/* How long the next frame is with its header; more than there is: it is none. */
static uint32_t next_bytes(const struct net *n)
{
	uint32_t left = n->message_bytes - n->message_at;
	uint16_t len;

	if (n->kind != NET_USER || left < NET_FRAME_MIN)
		return left;
	memcpy(&len, n->message + n->message_at + NET_MESSAGE_LENGTH, sizeof(len));
	return len ? le16toh(len) + (uint32_t)sizeof(struct net_header) : left;
}

/*
 * Is this the time to leave the backend alone? What dormouse-net has at a time it sends at a time,
 * so after a message with room left there is hardly ever another one, and the descriptor says so.
 */
static bool took_all(struct net *n)
{
	if (n->kind != NET_USER || !n->message_bytes || n->message_at < n->message_bytes ||
	    n->message_bytes > NET_MESSAGE_MAX / 2)
		return false;
	net_rx_clear(n);
	return true;
}

/* Return: false if there is none now. */
static bool fetch(struct net *n)
{
	uint32_t bytes;

	if (n->message_at == n->message_bytes && !receive(n))
		return false;
	bytes = next_bytes(n);
	n->frame = n->message + n->message_at;
	n->frame_bytes = bytes;
	if (bytes < NET_FRAME_MIN || bytes > n->message_bytes - n->message_at) {
		/* Nobody knows where the next one begins. */
		net_rx_clear(n);
		n->in.dropped++;
		return true;
	}
	n->message_at += bytes;
	if (bytes > NET_FRAME_MAX || !fit_header(n)) {
		n->frame_bytes = 0;
		n->in.dropped++;
	}
	return true;
}

/* Return: whether to wait, and be called by the timer. */
static bool limited(struct net *n)
{
	uint64_t wait = 0;

	if (n->in.bytes.rate || n->in.frames.rate)
		wait = net_direction_wait(&n->in, clock_mono_ns());
	if (wait)
		net_wake_after(n, wait);
	n->rx_limited = wait;
	return wait;
}

bool net_rx(struct net *n)
{
	bool gone = n->fd < 0, more = false;
	int turns = 0;

	if (!device_active(n->dev)) {
		/* A driver may have given up since: what the backend has must not wake us again. */
		net_backend_watch(n);
		return false;
	}
	virtq_disable_notify(&n->dev->queues[NET_Q_RX].q);
	for (; turns < RX_A_TURN && n->fd >= 0 && !limited(n); turns++) {
		more = !n->frame_bytes && took_all(n);
		if (more || (n->frame_bytes ? !deliver(n) : !fetch(n)))
			break;
	}
	/* What is left in the descriptor comes by itself: it stays readable. */
	if (turns == RX_A_TURN && (n->frame_bytes || n->message_at < n->message_bytes))
		device_again(n->dev, NET_Q_RX);
	n->dev->stats.in_bytes = n->in.n_bytes;
	if (n->rx_unheard)
		net_tx_defer(n);
	n->rx_unheard = false;
	if (device_signal_used(n->dev, NET_Q_RX))
		net_tx_told(n);
	net_backend_watch(n);
	/* Frames of the guest may wait for another backend now. */
	if (!gone && n->fd < 0)
		net_tx(n);
	return more || turns == RX_A_TURN;
}
