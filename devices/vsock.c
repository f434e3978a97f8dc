/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-vsock (virtio 1.2, 5.10): stream sockets between guest and host.
 *
 * Theory of operation
 *
 * The host's end of each connection is a Unix socket (device.h says which). From
 * the guest, packets come through the tx queue; data goes from guest memory to the
 * socket in one sendmsg(). What the socket does not take is kept in the
 * connection's buffer, which is as large as the credit that we gave the guest
 * (buf_alloc): it cannot overflow, and a guest that ignores it is reset.
 *
 * To the guest, vsock_pump() fills the rx queue, from the queue of connections
 * that have something: control packets first, which are bits of the connection
 * (so they need no memory), then data, read from the socket straight into the
 * guest's buffers as far as its credit goes. A connection that cannot go on is not
 * watched by the loop until it can: for want of rx buffers it stays in the queue, for
 * want of credit it comes back with the guest's next credit update.
 *
 * A reset for a connection that does not exist has no struct to wait in. There is a
 * small array for those; when it is full, tx waits for the guest to give rx buffers.
 *
 * Connections do not outlive a save and a restore: the guest is told by an event
 * (5.10.6.7) that all are gone. It resets whatever is connected when it handles the event, which
 * may be later than we think: so nothing new goes to it before it has given the event's
 * buffer back, as drivers do after handling it.
 *
 * Before DRIVER_OK and after a reset nobody is accepted: clients wait in the
 * listening socket's queue.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "devices/vsock_int.h"
#include "lib/log.h"

#define QUEUE_SIZE  128
#define TX_A_TURN   64
#define RX_A_TURN   256
#define RX_BATCH    8
#define PAYLOAD_MAX (1u << 20) /* of a packet of the guest; Linux makes 64 KiB */
#define CHAIN_IOV   (VIRTQ_MAX_CHAIN + GUEST_MEM_MAX_REGIONS)

/* --- To the guest ----------------------------------------------------------------- */

static struct vsock_header header_for(struct vsock *v, uint32_t host_port, uint32_t guest_port,
				      uint16_t op)
{
	return (struct vsock_header){.src_cid = VSOCK_HOST_CID,
				     .dst_cid = v->guest_cid,
				     .src_port = host_port,
				     .dst_port = guest_port,
				     .type = VSOCK_TYPE_STREAM,
				     .op = op};
}

/* Take a buffer for a packet to the guest. Return: false if there is none. */
static bool rx_pop(struct vsock *v, struct virtq_chain *c)
{
	struct virtq *q = &v->dev->queues[VSOCK_Q_RX].q;
	enum virtq_status s;

	do
		s = virtq_pop(q, c);
	while (s == VIRTQ_EMPTY && virtq_enable_notify(q));
	if (s == VIRTQ_OK && (c->n_out || c->in_bytes <= sizeof(struct vsock_header)))
		s = VIRTQ_BROKEN;
	if (s == VIRTQ_BROKEN)
		device_break(v->dev, "a malformed receive buffer");
	return s == VIRTQ_OK;
}

static void rx_push(struct vsock *v, const struct virtq_chain *c, const struct vsock_header *h)
{
	struct virtq *q = &v->dev->queues[VSOCK_Q_RX].q;

	if (virtq_chain_write(q, c, 0, h, sizeof(*h)) < 0 ||
	    virtq_push(q, c->head, (uint32_t)sizeof(*h) + h->len_bytes) != VIRTQ_OK)
		device_break(v->dev, "the used ring");
	v->dev->stats.in_bytes += h->len_bytes;
}

/* Every packet of a connection tells our credit. */
static void fill_credit(struct conn *c, struct vsock_header *h)
{
	h->buf_alloc = c->buf_alloc;
	h->fwd_cnt = c->fwd_cnt;
	c->fwd_cnt_told = c->fwd_cnt;
	c->want &= ~WANT_CREDIT;
}

/* Send one control packet. Return: false if the guest has no buffer. */
static bool send_control(struct vsock *v, struct conn *c)
{
	struct vsock_header h = header_for(v, c->host_port, c->guest_port, 0);
	struct virtq_chain chain;
	unsigned int want = c->want & WANT_CONTROL, bit = want & -want;

	if (!rx_pop(v, &chain))
		return false;
	c->want &= ~bit;
	switch (bit) {
	case WANT_REQUEST:
		h.op = VSOCK_OP_REQUEST;
		break;
	case WANT_RESPONSE:
		h.op = VSOCK_OP_RESPONSE;
		break;
	case WANT_RST:
		h.op = VSOCK_OP_RST;
		/* The guest may use its port again. */
		conn_unhash(c);
		break;
	case WANT_SHUTDOWN:
		h.op = VSOCK_OP_SHUTDOWN;
		h.flags = (c->host_gone ? VSOCK_SHUT_RCV : 0) | (c->host_eof ? VSOCK_SHUT_SEND : 0);
		c->shut_sent = h.flags;
		break;
	default:
		h.op = VSOCK_OP_CREDIT_UPDATE;
		break;
	}
	fill_credit(c, &h);
	rx_push(v, &chain, &h);
	return true;
}

struct rx_batch {
	unsigned int n, iov_n;
	uint32_t room; /* sum of take */
	uint32_t take[RX_BATCH];
	struct virtq_chain chains[RX_BATCH];
	struct iovec iov[CHAIN_IOV];
};

/* Take buffers for up to @credit bytes. Return: false if the guest has none. */
static bool collect(struct vsock *v, struct rx_batch *b, uint32_t credit)
{
	struct virtq *q = &v->dev->queues[VSOCK_Q_RX].q;

	b->n = b->iov_n = b->room = 0;
	while (b->n < RX_BATCH && b->room < credit) {
		struct virtq_chain *c = &b->chains[b->n];
		uint64_t take;
		int n;

		if (!rx_pop(v, c))
			break;
		take = c->in_bytes - sizeof(struct vsock_header);
		if (take > credit - b->room)
			take = credit - b->room;
		n = virtq_chain_iov(q, c, true, sizeof(struct vsock_header), take,
				    b->iov + b->iov_n, CHAIN_IOV - b->iov_n);
		if (n < 0) {
			/* Full of small pieces: the next batch takes it. */
			virtq_unpop(q, 1);
			break;
		}
		b->iov_n += (unsigned int)n;
		b->take[b->n++] = (uint32_t)take;
		b->room += (uint32_t)take;
	}
	return b->n;
}

/**
 * send_data() - Read from the client's socket into the guest's buffers
 *
 * Return: false if the guest has no buffer
 */
static bool send_data(struct vsock *v, struct conn *c, struct rx_batch *b)
{
	struct virtq *q = &v->dev->queues[VSOCK_Q_RX].q;
	struct msghdr m = {.msg_iov = b->iov};
	uint32_t left;
	unsigned int used;
	ssize_t n;

	if (!collect(v, b, conn_credit(c)))
		return false;
	m.msg_iovlen = b->iov_n;
	do
		n = recvmsg(c->fd, &m, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	left = n > 0 ? (uint32_t)n : 0;
	for (used = 0; left; used++) {
		struct vsock_header h = header_for(v, c->host_port, c->guest_port, VSOCK_OP_RW);

		h.len_bytes = left < b->take[used] ? left : b->take[used];
		left -= h.len_bytes;
		c->sent_cnt += h.len_bytes;
		fill_credit(c, &h);
		rx_push(v, &b->chains[used], &h);
	}
	virtq_unpop(q, (uint16_t)(b->n - used));
	if (n < (ssize_t)b->room || !conn_credit(c))
		c->want &= ~WANT_READ;
	if (n == 0)
		conn_host_ended(c, true, false);
	else if (n < 0 && errno != EAGAIN)
		conn_host_ended(c, true, true);
	return true;
}

/* Return: false if the guest has no buffer. */
static bool send_rsts(struct vsock *v)
{
	struct virtq_chain chain;

	while (v->n_rsts) {
		struct vsock_header h;

		if (!rx_pop(v, &chain))
			return false;
		v->n_rsts--;
		h = header_for(v, v->rsts[v->n_rsts].host_port, v->rsts[v->n_rsts].guest_port,
			       VSOCK_OP_RST);
		rx_push(v, &chain, &h);
	}
	if (v->tx_stalled) {
		v->tx_stalled = false;
		device_again(v->dev, VSOCK_Q_TX);
	}
	return true;
}

void vsock_pump(struct vsock *v)
{
	struct rx_batch batch;
	struct conn *c;
	int turns = 0;

	if (!device_active(v->dev) || !send_rsts(v) || v->news != VSOCK_NEWS_NONE)
		goto out;
	while ((c = TAILQ_FIRST(&v->rx)) && device_active(v->dev)) {
		bool room = true;

		if (++turns > RX_A_TURN) {
			device_again(v->dev, VSOCK_Q_RX);
			break;
		}
		if (c->want & WANT_CONTROL)
			room = send_control(v, c);
		else if ((c->want & WANT_READ) && c->state == CONN_OPEN && c->fd >= 0 &&
			 conn_credit(c))
			room = send_data(v, c, &batch);
		else
			c->want = 0;
		if (!room)
			break;
		/* To the end of the queue, if there is more. */
		conn_unqueue(c);
		if (c->want)
			conn_want(c, c->want);
		if (!conn_free_if_over(c))
			conn_watch(c);
	}
out:
	/* Those that stay queued are not watched until the guest gives buffers. */
	device_signal_used(v->dev, VSOCK_Q_RX);
}

/* --- From the guest --------------------------------------------------------------- */

static void add_rst(struct vsock *v, const struct vsock_header *h)
{
	/* There is room: tx stalls before. */
	v->rsts[v->n_rsts].host_port = h->dst_port;
	v->rsts[v->n_rsts].guest_port = h->src_port;
	v->n_rsts++;
}

static void on_request(struct vsock *v, struct conn *c, const struct vsock_header *h)
{
	if (c) {
		/* The guest has lost track of it: both ends start anew. */
		conn_close(c, true);
		return;
	}
	if (v->on_knock && h->dst_port == v->knock_port) {
		v->on_knock(v->opaque);
		add_rst(v, h);
		return;
	}
	if (vsock_host_connect(v, h) < 0)
		add_rst(v, h);
}

static void on_response(struct conn *c)
{
	if (c->state != CONN_REQUEST || (c->want & WANT_REQUEST)) {
		conn_close(c, true);
		return;
	}
	c->state = CONN_OPEN;
	if (vsock_host_accepted(c) < 0)
		conn_host_ended(c, true, true);
	conn_watch(c);
}

static void on_data(struct vsock *v, struct conn *c, const struct vsock_header *h,
		    const struct virtq_chain *chain)
{
	struct virtq *q = &v->dev->queues[VSOCK_Q_TX].q;
	struct iovec iov[CHAIN_IOV];
	int n;

	n = virtq_chain_iov(q, chain, false, sizeof(*h), h->len_bytes, iov, CHAIN_IOV);
	/* Not open, more than there is, or more than we gave credit for. */
	if (c->state != CONN_OPEN || n < 0 || (c->guest_shut & VSOCK_SHUT_SEND) ||
	    h->len_bytes > c->buf_alloc - (c->received_cnt - c->fwd_cnt)) {
		conn_close(c, true);
		return;
	}
	if (conn_deliver(c, iov, (unsigned int)n, h->len_bytes) < 0) {
		conn_close(c, true);
		return;
	}
	v->dev->stats.out_bytes += h->len_bytes;
	conn_watch(c);
}

static void on_conn_packet(struct vsock *v, struct conn *c, const struct vsock_header *h,
			   const struct virtq_chain *chain)
{
	c->peer_buf_alloc = h->buf_alloc;
	c->peer_fwd_cnt = h->fwd_cnt;
	switch (h->op) {
	case VSOCK_OP_RESPONSE:
		on_response(c);
		break;
	case VSOCK_OP_RW:
		on_data(v, c, h, chain);
		break;
	case VSOCK_OP_SHUTDOWN:
		if (c->state == CONN_OPEN)
			conn_guest_shutdown(c, h->flags);
		else
			conn_close(c, true);
		break;
	case VSOCK_OP_CREDIT_REQUEST:
		if (c->state == CONN_OPEN)
			conn_want(c, WANT_CREDIT);
		break;
	case VSOCK_OP_CREDIT_UPDATE:
		conn_watch(c);
		break;
	default:
		conn_close(c, true);
		break;
	}
}

static void on_packet(struct vsock *v, const struct vsock_header *h,
		      const struct virtq_chain *chain)
{
	struct conn *c;

	/* Not from this guest or not to us: nobody to answer (5.10.6.2). */
	if (h->src_cid != v->guest_cid || h->dst_cid != VSOCK_HOST_CID) {
		log_guest("vsock: a packet with wrong addresses dropped");
		return;
	}
	c = conn_find(v, h->dst_port, h->src_port);
	if (h->type != VSOCK_TYPE_STREAM || h->len_bytes > PAYLOAD_MAX ||
	    (h->len_bytes && h->op != VSOCK_OP_RW)) {
		if (c)
			conn_close(c, true);
		else if (h->op != VSOCK_OP_RST)
			add_rst(v, h);
	} else if (h->op == VSOCK_OP_RST) {
		if (c)
			conn_close(c, false);
	} else if (h->op == VSOCK_OP_REQUEST) {
		on_request(v, c, h);
	} else if (!c) {
		add_rst(v, h);
	} else if (c->state != CONN_CLOSING) {
		/* A closing one has a reset on its way already. */
		on_conn_packet(v, c, h, chain);
	}
}

static void vsock_tx(struct vsock *v)
{
	struct virtq *q = &v->dev->queues[VSOCK_Q_TX].q;
	enum virtq_status s = VIRTQ_EMPTY;
	struct virtq_chain c;
	int turns = 0;

	virtq_disable_notify(q);
	do {
		while (turns < TX_A_TURN && v->n_rsts < VSOCK_MAX_RSTS &&
		       (s = virtq_pop(q, &c)) == VIRTQ_OK) {
			struct vsock_header h;

			turns++;
			v->dev->stats.requests++;
			if (virtq_chain_read(q, &c, 0, &h, sizeof(h)) < 0) {
				s = VIRTQ_BROKEN;
				break;
			}
			on_packet(v, &h, &c);
			if (virtq_push(q, c.head, 0) != VIRTQ_OK) {
				s = VIRTQ_BROKEN;
				break;
			}
		}
		v->tx_stalled = v->n_rsts == VSOCK_MAX_RSTS;
	} while (!v->tx_stalled && turns < TX_A_TURN && s == VIRTQ_EMPTY && virtq_enable_notify(q));
	if (s == VIRTQ_BROKEN)
		device_break(v->dev, "a malformed packet");
	else if (turns == TX_A_TURN)
		device_again(v->dev, VSOCK_Q_TX);
	device_signal_used(v->dev, VSOCK_Q_TX);
}

/* --- Events ------------------------------------------------------------------------ */

/* Return: false if the guest has no buffer for it yet. */
static bool send_event(struct vsock *v, uint32_t id)
{
	struct virtq *q = &v->dev->queues[VSOCK_Q_EVENT].q;
	enum virtq_status s;
	struct virtq_chain c;

	do
		s = virtq_pop(q, &c);
	while (s == VIRTQ_EMPTY && virtq_enable_notify(q));
	if (s == VIRTQ_EMPTY)
		return false;
	/* Before the event is there to be handled: each later buffer comes after it. */
	v->news_avail = virtq_await_more(q);
	if (s != VIRTQ_OK || c.n_out || virtq_chain_write(q, &c, 0, &id, sizeof(id)) < 0 ||
	    virtq_push(q, c.head, sizeof(id)) != VIRTQ_OK)
		device_break(v->dev, "a malformed event buffer");
	device_signal_used(v->dev, VSOCK_Q_EVENT);
	return true;
}

static void event_turn(struct vsock *v)
{
	struct virtq *q = &v->dev->queues[VSOCK_Q_EVENT].q;

	if (v->news == VSOCK_NEWS_PENDING && send_event(v, VSOCK_EVENT_TRANSPORT_RESET))
		v->news = VSOCK_NEWS_SENT;
	else if (v->news == VSOCK_NEWS_SENT && virtq_await_more(q) != v->news_avail)
		v->news = VSOCK_NEWS_NONE;
}

/* --- The device -------------------------------------------------------------------- */

static void vsock_notify(struct device *d, unsigned int queue)
{
	struct vsock *v = d->priv;

	if (queue == VSOCK_Q_EVENT && v->news == VSOCK_NEWS_NONE)
		return;
	if (queue == VSOCK_Q_EVENT)
		event_turn(v);
	if (queue == VSOCK_Q_TX)
		vsock_tx(v);
	vsock_pump(v);
}

static void vsock_activate(struct device *d)
{
	vsock_host_listen(d->priv, true);
}

static void vsock_reset(struct device *d)
{
	struct vsock *v = d->priv;
	struct conn *c;

	vsock_host_listen(v, false);
	while ((c = LIST_FIRST(&v->all)))
		conn_free(c);
	v->n_rsts = 0;
	v->tx_stalled = false;
	v->news = VSOCK_NEWS_NONE;
	v->next_port = VSOCK_FIRST_PORT;
}

/* Connections are not saved. Ports are: the guest may still use those of old connections. */
static void vsock_state(struct device *d, struct state_io *io)
{
	struct vsock *v = d->priv;

	state_expect(io, v->guest_cid, "context id of the guest");
	state_u32(io, &v->next_port);
	state_count(io, &v->n_rsts, VSOCK_MAX_RSTS, "resets");
	for (unsigned int i = 0; i < v->n_rsts && state_ok(io); i++) {
		state_u32(io, &v->rsts[i].host_port);
		state_u32(io, &v->rsts[i].guest_port);
	}
	if (state_ok(io) && (v->next_port < VSOCK_FIRST_PORT || v->next_port == UINT32_MAX))
		state_fail(io, -EINVAL, "host port %u", v->next_port);
	v->tx_stalled = v->n_rsts == VSOCK_MAX_RSTS;
}

static void vsock_post_restore(struct device *d)
{
	struct vsock *v = d->priv;

	v->news = VSOCK_NEWS_PENDING;
	event_turn(v);
	vsock_host_listen(v, true);
}

static int set_path(struct vsock *v, uint32_t guest_cid, const char *uds_path, struct err *e)
{
	size_t len = strlen(uds_path);

	if (guest_cid < 3 || guest_cid == UINT32_MAX)
		return err_set(e, -EINVAL, "context id %u: 3 or more is possible", guest_cid);
	if (len >= sizeof(v->uds_path))
		return err_set(e, -ENAMETOOLONG, "socket path of %zu bytes is too long: %s", len,
			       uds_path);
	v->guest_cid = guest_cid;
	memcpy(v->uds_path, uds_path, len + 1);
	device_config_init(v->dev, &v->guest_cid, sizeof(v->guest_cid));
	return vsock_host_init(v, e);
}

int device_set_vsock(struct device *d, uint32_t guest_cid, const char *uds_path, struct err *e)
{
	return set_path(d->priv, guest_cid, uds_path, e);
}

static int vsock_init(struct device *d, const struct device_config *c, struct err *e)
{
	struct vsock *v = calloc(1, sizeof(*v));

	if (!v)
		return err_set(e, -ENOMEM, "out of memory");
	d->priv = v;
	v->dev = d;
	v->listen_fd = -1;
	v->next_port = VSOCK_FIRST_PORT;
	v->on_knock = c->vsock.on_knock;
	v->opaque = c->vsock.opaque;
	v->knock_port = c->vsock.knock_port;
	TAILQ_INIT(&v->rx);
	return c->vsock.uds_path ? set_path(v, c->vsock.guest_cid, c->vsock.uds_path, e) : 0;
}

static void vsock_fini(struct device *d)
{
	struct vsock *v = d->priv;

	if (!v)
		return;
	vsock_reset(d);
	vsock_host_fini(v);
	free(v);
	d->priv = NULL;
}

const struct device_ops vsock_ops = {
    .name = "vsock",
    .virtio_id = 19,
    .n_queues = VSOCK_QUEUES,
    .queue_max = {QUEUE_SIZE, QUEUE_SIZE, 8},
    .init = vsock_init,
    .activate = vsock_activate,
    .reset = vsock_reset,
    .queue_notify = vsock_notify,
    .state = vsock_state,
    .post_restore = vsock_post_restore,
    .state_version = 1,
    .fini = vsock_fini,
};
