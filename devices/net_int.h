/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of virtio-net share: net.c, net_tx.c, net_rx.c, net_look.c, net_backend.c,
 * net_limit.c. */
#ifndef DEVICES_NET_INT_H
#define DEVICES_NET_INT_H

#include "devices/virtio.h"

/* virtio 1.2, 5.1.3 */
#define NET_F_CSUM	 (1ULL << 0) /* the guest leaves checksums to us */
#define NET_F_GUEST_CSUM (1ULL << 1) /* we may leave them to the guest */
#define NET_F_MTU	 (1ULL << 3)
#define NET_F_MAC	 (1ULL << 5)
#define NET_F_GUEST_TSO4 (1ULL << 7)
#define NET_F_GUEST_TSO6 (1ULL << 8)
#define NET_F_GUEST_ECN	 (1ULL << 9)
#define NET_F_HOST_TSO4	 (1ULL << 11)
#define NET_F_HOST_TSO6	 (1ULL << 12)
#define NET_F_HOST_ECN	 (1ULL << 13)
#define NET_F_MRG_RXBUF	 (1ULL << 15)
#define NET_F_STATUS	 (1ULL << 16)

enum { NET_Q_RX, NET_Q_TX, NET_QUEUES };

#define NET_QUEUE_SIZE 256

/* struct virtio_net_hdr_v1 (5.1.6) */
struct net_header {
	uint8_t flags, gso_type;
	uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
};
_Static_assert(sizeof(struct net_header) == 12, "virtio 1.2, 5.1.6");

#define NET_HDR_NEEDS_CSUM 1u
#define NET_HDR_DATA_VALID 2u
#define NET_GSO_NONE	   0u
#define NET_GSO_TCPV4	   1u
#define NET_GSO_TCPV6	   4u
#define NET_GSO_ECN	   0x80u /* a flag beside the two */

#define NET_ETHERNET_BYTES 14u
/* 5.1.6.3: the largest packet, its Ethernet header, the header before it. */
#define NET_FRAME_MAX ((uint32_t)sizeof(struct net_header) + NET_ETHERNET_BYTES + 65536u)
#define NET_FRAME_MIN ((uint32_t)sizeof(struct net_header) + NET_ETHERNET_BYTES)

/* A token bucket. Zeroed: no limit. */
struct net_bucket {
	uint64_t rate;	/* tokens a second; 0: no limit */
	uint64_t burst; /* most that it holds */
	int64_t level;	/* below zero: the last one took more than there was */
	uint64_t at_ns; /* when level was right */
};

struct net_direction {
	struct net_limit limit;
	struct net_bucket bytes, frames;
	uint64_t n_frames, n_bytes, dropped;
};

struct net {
	struct device *dev; /* borrowed, owns us */
	enum net_backend kind;
	uint8_t mac[NET_MAC_BYTES];
	uint16_t mtu;
	void (*on_wanted)(void *opaque);
	void *opaque; /* borrowed */

	int fd; /* of the backend, -1 if there is none; owned */
	struct loop_source source;
	bool tx_full;	 /* the backend took no more: wait until it does */
	bool rx_starved; /* the guest has no buffer: wait for its notification */
	bool rx_limited; /* wait for the timer */
	/* Frames without data that went out and of which the guest was not told yet. */
	unsigned int tx_quiet;
	bool rx_unheard; /* the guest is about to get a frame whose answer nobody waits for */

	bool wanted;	   /* somebody was asked for a backend */
	uint64_t asked_ns; /* when; 0: never */

	int timer_fd;	 /* made when it is first needed; owned */
	uint64_t due_ns; /* when it fires; 0: it does not */
	struct loop_source timer;

	struct net_direction in, out; /* to the guest, from it */

	/* What the backend gave last, with headers (lib/net_message.h); owned. */
	uint8_t *message;
	uint32_t message_bytes, message_at; /* what is from there on is still to be looked at */
	/* The frame in it that is on its way to the guest, with its header. */
	uint8_t *frame;
	uint32_t frame_bytes; /* 0: none */
};

/* --- net.c --------------------------------------------------------------------------- */

/* Call net_rx() and net_tx() again after @ns, or earlier. Return: false if there is no timer. */
bool net_wake_after(struct net *n, uint64_t ns);

/* --- net_tx.c, net_rx.c: the two directions ------------------------------------------- */

/* Send what the guest has, as far as the backend takes it. */
void net_tx(struct net *n);
/* Tell the guest of all frames that went out, at last. */
void net_tx_tell(struct net *n);
/* The next frame of the guest may wait for the one after it: no notification. */
void net_tx_defer(struct net *n);
/* There was an interrupt meanwhile: its handler looks at all queues. */
void net_tx_told(struct net *n);
/*
 * Hand the guest what the backend has, as far as the guest has room. Return: true if there may be
 * more for it at once.
 */
bool net_rx(struct net *n);

/* Forget what is there for the guest. */
void net_rx_clear(struct net *n);

/* --- net_look.c ------------------------------------------------------------------------- */

/* How much of a frame, from its Ethernet header on, is looked at. */
#define NET_LOOK_BYTES 114u
/* A report of groups, a search for routers, or a probe whether an address is taken: IPv6. */
bool net_speaks_of_itself(const uint8_t *f, size_t bytes);
/* A segment of TCP without data. @f: all of it */
bool net_carries_nothing(const uint8_t *f, size_t bytes);

/* --- net_backend.c -------------------------------------------------------------------- */

/* Check that @fd is of @kind, and prepare it. It stays the caller's. */
int net_backend_check(enum net_backend kind, int fd, struct err *e);
/* A tap learns what the driver can do with frames that it gets. */
void net_backend_offloads(const struct net *n);
/* Is the backend gone, after read() or write() failed with @error? Else only that frame is. */
bool net_backend_gone(int error);
/* There is none any more. */
void net_backend_drop(struct net *n);
/* Watch it for what can be used now. */
void net_backend_watch(struct net *n);

/* --- net_limit.c ------------------------------------------------------------------------ */

void net_direction_limit(struct net_direction *d, const struct net_limit *l, uint64_t now_ns);
/* Return: 0 if a frame may go, else ns until then. */
uint64_t net_direction_wait(struct net_direction *d, uint64_t now_ns);
/* A frame of @bytes went. */
void net_direction_take(struct net_direction *d, uint32_t bytes);

#endif
