/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of virtio-vsock share: vsock.c, vsock_conn.c, vsock_host.c. */
#ifndef DEVICES_VSOCK_INT_H
#define DEVICES_VSOCK_INT_H

#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "devices/virtio.h"

#define VSOCK_HOST_CID	 2
#define VSOCK_MAX_CONNS	 4096
#define VSOCK_BUCKETS	 256
#define VSOCK_MAX_RSTS	 64
#define VSOCK_FIRST_PORT (1u << 30) /* of the host's end of a client's connection */
#define VSOCK_LINE_BYTES 32	    /* of "CONNECT <port>\n" */

enum { VSOCK_Q_RX, VSOCK_Q_TX, VSOCK_Q_EVENT, VSOCK_QUEUES };

/* struct virtio_vsock_hdr (virtio 1.2, 5.10.6) */
struct vsock_header {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port;
	uint32_t len_bytes;
	uint16_t type, op;
	uint32_t flags;
	uint32_t buf_alloc, fwd_cnt;
} __attribute__((packed));
_Static_assert(sizeof(struct vsock_header) == 44, "virtio 1.2, 5.10.6");

enum {
	VSOCK_OP_REQUEST = 1,
	VSOCK_OP_RESPONSE,
	VSOCK_OP_RST,
	VSOCK_OP_SHUTDOWN,
	VSOCK_OP_RW,
	VSOCK_OP_CREDIT_UPDATE,
	VSOCK_OP_CREDIT_REQUEST
};
#define VSOCK_TYPE_STREAM	    1
#define VSOCK_EVENT_TRANSPORT_RESET 0u
#define VSOCK_SHUT_RCV		    1u
#define VSOCK_SHUT_SEND		    2u
#define VSOCK_SHUT_BOTH		    3u

enum conn_state {
	CONN_HANDSHAKE, /* reading the client's line; the guest knows nothing yet */
	CONN_REQUEST,	/* the guest was asked, or will be */
	CONN_OPEN,
	CONN_CLOSING /* over; a reset or the last bytes to the client are on their way */
};

/* What a connection has to send to the guest. */
#define WANT_REQUEST  0x01u
#define WANT_RESPONSE 0x02u
#define WANT_RST      0x04u
#define WANT_SHUTDOWN 0x08u
#define WANT_CREDIT   0x10u
#define WANT_READ     0x20u /* the client's socket may have data */
#define WANT_CONTROL  0x1fu

struct vsock;

struct conn {
	struct vsock *v;
	LIST_ENTRY(conn) all;
	LIST_ENTRY(conn) hash; /* while hashed */
	TAILQ_ENTRY(conn) rx;  /* while in_rx */
	bool hashed, in_rx;
	enum conn_state state;
	uint32_t host_port, guest_port;
	unsigned int want;

	int fd; /* the client's socket, -1 when it is gone; owned */
	struct loop_source source;
	bool host_eof;			/* the client sends no more */
	bool host_gone;			/* the client receives no more */
	uint32_t shut_sent, guest_shut; /* VSOCK_SHUT_* */

	/* The guest as receiver: what it told us, and what we sent. */
	uint32_t peer_buf_alloc, peer_fwd_cnt, sent_cnt;
	/* We as receiver. */
	uint32_t buf_alloc, received_cnt, fwd_cnt, fwd_cnt_told;
	/* What the client's socket did not take: a ring of buf_alloc bytes; owned, or NULL. */
	uint8_t *buf;
	uint32_t buf_head, buf_len;

	char line[VSOCK_LINE_BYTES];
	uint32_t line_len;
};

/* After a restore; see vsock.c. */
enum vsock_news {
	VSOCK_NEWS_NONE,
	VSOCK_NEWS_PENDING, /* for want of a buffer */
	VSOCK_NEWS_SENT	    /* the guest has not taken note of it yet */
};

LIST_HEAD(conn_list, conn);
TAILQ_HEAD(conn_queue, conn);

struct vsock {
	struct device *dev; /* borrowed, owns us */
	uint64_t guest_cid;
	char uds_path[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	int listen_fd; /* owned */
	struct loop_source listener;
	bool accept_paused; /* too many connections, or no descriptors left */
	void (*on_knock)(void *opaque);
	void *opaque;
	uint32_t knock_port, next_port;

	struct conn_list all, buckets[VSOCK_BUCKETS];
	unsigned int n_conns;
	struct conn_queue rx; /* connections with something for the guest */
	/* Resets of connections that do not exist. */
	struct {
		uint32_t host_port, guest_port;
	} rsts[VSOCK_MAX_RSTS];
	unsigned int n_rsts;
	bool tx_stalled; /* for want of room in rsts */
	enum vsock_news news;
	uint16_t news_avail; /* the event queue when the news were sent */
};

/* --- vsock.c: packets ----------------------------------------------------------- */

/* Send what there is for the guest, as far as it has buffers. */
void vsock_pump(struct vsock *v);

/* --- vsock_conn.c: connections --------------------------------------------------- */

/* Takes @fd over, also on failure. Return: NULL if there are too many or no memory. */
struct conn *conn_new(struct vsock *v, int fd, enum conn_state state);
/* Give it its ports and make it findable. */
void conn_name(struct conn *c, uint32_t host_port, uint32_t guest_port);
struct conn *conn_find(struct vsock *v, uint32_t host_port, uint32_t guest_port);
/* Note that the connection has @want for the guest; vsock_pump() sends it. */
void conn_want(struct conn *c, unsigned int want);
void conn_unqueue(struct conn *c);
void conn_unhash(struct conn *c);
/*
 * End it; the client still gets what the guest has sent. @rst: tell the guest. The
 * connection may be gone on return.
 */
void conn_close(struct conn *c, bool rst);
/* Free it, whatever its state. */
void conn_free(struct conn *c);
/* If it is closing and nothing is left to do: free it. Return: true if so. */
bool conn_free_if_over(struct conn *c);
/* Watch its socket for what it can use now. */
void conn_watch(struct conn *c);
/* Bytes that the guest has room for. */
uint32_t conn_credit(const struct conn *c);
/* Data of the guest for the client: @iov is changed. Return: 0 or -ENOMEM. */
int conn_deliver(struct conn *c, struct iovec *iov, unsigned int n, uint32_t len_bytes);
/* The client reads (@gone) or writes (@eof) no more: tell the guest. */
void conn_host_ended(struct conn *c, bool eof, bool gone);
/* The guest reads or writes no more. The connection may be gone on return. */
void conn_guest_shutdown(struct conn *c, uint32_t flags);

/* --- vsock_host.c: the Unix sockets ---------------------------------------------- */

int vsock_host_init(struct vsock *v, struct err *e);
void vsock_host_fini(struct vsock *v);
/* Accept clients, or leave them waiting. */
void vsock_host_listen(struct vsock *v, bool on);
/* A connection has ended: there may be room for those that wait. */
void vsock_host_resume(struct vsock *v);
/* The socket of a new connection has something. The connection may be gone on return. */
void vsock_host_handshake(struct conn *c);
/* The guest accepted. Return: 0, or -errno if the client is gone. */
int vsock_host_accepted(struct conn *c);
/* The guest asks for a connection to @host_port. Return: 0, or -errno to refuse. */
int vsock_host_connect(struct vsock *v, const struct vsock_header *h);

#endif
