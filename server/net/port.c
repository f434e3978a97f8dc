/* SPDX-License-Identifier: Apache-2.0 */
/* The socket of frames; see port.h. */
#include "server/net/port.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/net_message.h"

#define BATCH	   32
#define FULL_BYTES (256u << 10)
#define LOSS_BYTES (8u << 20)
#define SOCKET_BUF (4 << 20)
#define LOOKS	   2 /* further ones: of a connection, first its begin, then data, then the end */

struct waiting {
	struct waiting *next;
	size_t len;
	uint8_t data[];
};

struct port {
	int fd;
	struct waiting *first, **last; /* owned */
	size_t waiting_bytes;
	uint64_t bad, lost;
	/* The message that is being made. */
	uint8_t next[NET_MESSAGE_MAX];
	size_t next_bytes, last_at; /* where its last frame's header is */
	unsigned int next_frames;
	enum frame_hurry hurry; /* the most that one of them is in */
	bool fresh;		/* since the last look */
	unsigned int looks;	/* that brought more */
	uint64_t later_ms;	/* until then a FRAME_LATER waits; 0: not known yet */
	struct mmsghdr msgs[BATCH];
	struct iovec iov[BATCH];
	uint8_t room[BATCH][VNET_HDR + FRAME_MAX]; /* touched as far as frames go */
};

int port_create(struct port **out, int fd, struct err *e)
{
	struct port *p = calloc(1, sizeof(*p));
	int size = SOCKET_BUF;

	if (!p) {
		close(fd);
		return err_set(e, -ENOMEM, "out of memory");
	}
	p->fd = fd;
	p->last = &p->first;
	for (size_t i = 0; i < BATCH; i++) {
		p->iov[i] = (struct iovec){p->room[i], sizeof(p->room[i])};
		p->msgs[i].msg_hdr = (struct msghdr){.msg_iov = &p->iov[i], .msg_iovlen = 1};
	}
	/* As much as the host gives without asking. */
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	*out = p;
	return 0;
}

void port_destroy(struct port *p)
{
	if (!p)
		return;
	while (p->first) {
		struct waiting *w = p->first;

		p->first = w->next;
		free(w);
	}
	fd_close(&p->fd);
	free(p);
}

/* --- from the guest ---------------------------------------------------------------------- */

static void take_one(struct port *p, size_t i, void (*take)(void *, uint8_t *, size_t), void *arg)
{
	uint8_t *data = p->room[i] + VNET_HDR;
	size_t len = p->msgs[i].msg_len;

	if (len < VNET_HDR || (p->msgs[i].msg_hdr.msg_flags & MSG_TRUNC)) {
		p->bad++;
		return;
	}
	len -= VNET_HDR;
	if (frame_complete(p->room[i], data, len))
		p->bad++;
	else
		take(arg, data, len);
}

int port_receive(struct port *p, void (*take)(void *arg, uint8_t *data, size_t len), void *arg)
{
	int n = recvmmsg(p->fd, p->msgs, BATCH, MSG_DONTWAIT, NULL);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	for (int i = 0; i < n; i++) {
		/* The end: an empty message cannot be told from it, and is none of the device's. */
		if (!p->msgs[i].msg_len)
			return -EPIPE;
		take_one(p, (size_t)i, take, arg);
	}
	return 0;
}

/* --- to the guest ------------------------------------------------------------------------ */

static int send_now(struct port *p, const uint8_t *message, size_t len)
{
	while (send(p->fd, message, len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

static bool keep(struct port *p)
{
	size_t len = p->next_bytes;
	struct waiting *w;

	if (p->waiting_bytes + len > LOSS_BYTES)
		return false;
	w = malloc(sizeof(*w) + len);
	if (!w)
		return false;
	w->next = NULL;
	w->len = len;
	memcpy(w->data, p->next, len);
	*p->last = w;
	p->last = &w->next;
	p->waiting_bytes += len;
	return true;
}

static void let_go(struct port *p)
{
	int rc = p->first ? -EAGAIN : send_now(p, p->next, p->next_bytes);

	if (rc && (rc != -EAGAIN || !keep(p)))
		p->lost += p->next_frames;
	p->next_bytes = p->next_frames = 0;
	p->looks = 0;
	p->later_ms = 0;
}

int port_push(struct port *p, uint64_t now_ms)
{
	if (!p->next_frames)
		return -1;
	if ((p->hurry == FRAME_MORE || p->hurry == FRAME_OPENS) && p->fresh && p->looks < LOOKS) {
		p->fresh = false;
		p->looks++;
		return p->hurry == FRAME_OPENS ? PORT_OPENS_US : 0;
	}
	if (p->hurry == FRAME_LATER) {
		if (!p->later_ms)
			p->later_ms = now_ms + PORT_LATER_MS;
		if (now_ms < p->later_ms)
			return (int)(p->later_ms - now_ms) * 1000;
	}
	let_go(p);
	return -1;
}

/* An end goes with the data before it: a frame less for the guest, which acknowledges each. */
static bool join(struct port *p, const struct frame *f)
{
	size_t at = p->last_at + VNET_HDR;
	struct frame last;

	if (!p->next_frames || f->len > FRAME_EMPTY_MAX)
		return false;
	frame_parse(&last, p->next + at, p->next_bytes - at);
	return frame_join_end(&last, f);
}

/* Behind those that are there. */
static void append(struct port *p, const struct frame *f)
{
	/* Sums are right: libslirp has made them. One buffer. */
	static const uint8_t hdr[VNET_HDR] = {[0] = VNET_VALID, [10] = 1};
	uint8_t *at = p->next + p->last_at;
	size_t last = p->next_bytes - p->last_at - VNET_HDR;

	if (p->next_frames) {
		at[NET_MESSAGE_LENGTH] = (uint8_t)last;
		at[NET_MESSAGE_LENGTH + 1] = (uint8_t)(last >> 8);
	}
	p->last_at = p->next_bytes;
	at = p->next + p->last_at;
	memcpy(at, hdr, VNET_HDR);
	if (f->unheard)
		at[0] |= NET_MESSAGE_UNHEARD;
	memcpy(at + VNET_HDR, f->data, f->len);
	p->next_bytes += VNET_HDR + f->len;
	p->next_frames++;
}

void port_send(struct port *p, const struct frame *f)
{
	if (p->next_bytes + VNET_HDR + f->len > sizeof(p->next))
		let_go(p);
	if (!p->next_frames || f->hurry < p->hurry)
		p->hurry = f->hurry;
	p->fresh = true;
	if (!join(p, f))
		append(p, f);
}

int port_flush(struct port *p)
{
	while (p->first) {
		struct waiting *w = p->first;
		int rc = send_now(p, w->data, w->len);

		if (rc == -EAGAIN)
			return 0;
		if (rc)
			return rc;
		p->waiting_bytes -= w->len;
		p->first = w->next;
		if (!p->first)
			p->last = &p->first;
		free(w);
	}
	return 0;
}

int port_fd(const struct port *p)
{
	return p->fd;
}

bool port_waits(const struct port *p)
{
	return p->first != NULL;
}

bool port_is_full(const struct port *p)
{
	return p->waiting_bytes > FULL_BYTES;
}

void port_counts(const struct port *p, uint64_t *bad, uint64_t *lost)
{
	*bad = p->bad;
	*lost = p->lost;
}
