/* SPDX-License-Identifier: Apache-2.0 */
/* The agent's side of a connection; see peer.h. */
#include "guest-kernel/agent/peer.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "lib/fd.h"

#define IN_CAP (PROTO_HEADER_LEN + (size_t)PROTO_FRAME_MAX)

int peer_init(struct peer *p, int fd)
{
	*p = (struct peer){.fd = fd, .wake_fd = -1, .in_cap = IN_CAP};
	p->in = malloc(IN_CAP);
	p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!p->in || p->wake_fd < 0) {
		peer_fini(p);
		return -ENOMEM;
	}
	return 0;
}

void peer_fini(struct peer *p)
{
	fd_close(&p->fd);
	fd_close(&p->wake_fd);
	free(p->in);
	p->in = NULL;
	proto_buf_fini(&p->out);
}

int peer_take_frame(struct peer *p, struct proto_header *h, const uint8_t **payload, struct err *e)
{
	size_t held = p->in_end - p->in_start;
	int rc;

	if (held < PROTO_HEADER_LEN)
		return 0;
	rc = proto_header_decode(p->in + p->in_start, PROTO_FROM_CLIENT, h, e);
	if (rc)
		return rc;
	if (held < PROTO_HEADER_LEN + (size_t)h->len)
		return 0;
	*payload = p->in + p->in_start + PROTO_HEADER_LEN;
	p->in_start += PROTO_HEADER_LEN + (size_t)h->len;
	return 1;
}

/* Room for the whole frame whose header is at in_start; big requests get it for their time only. */
static int make_room(struct peer *p)
{
	size_t held = p->in_end - p->in_start, need = IN_CAP;
	struct proto_header h;

	if (held >= PROTO_HEADER_LEN &&
	    !proto_header_decode(p->in + p->in_start, PROTO_FROM_CLIENT, &h, NULL) &&
	    PROTO_HEADER_LEN + (size_t)h.len > need)
		need = PROTO_HEADER_LEN + (size_t)h.len;
	if (need > p->in_cap || (p->in_cap > IN_CAP && need == IN_CAP && held <= IN_CAP)) {
		uint8_t *in = malloc(need);

		if (!in)
			return -ENOMEM;
		memcpy(in, p->in + p->in_start, held);
		free(p->in);
		p->in = in;
		p->in_cap = need;
		p->in_start = 0;
		p->in_end = held;
	} else if (p->in_start && (!held || p->in_cap - p->in_start < need)) {
		memmove(p->in, p->in + p->in_start, held);
		p->in_start = 0;
		p->in_end = held;
	}
	return 0;
}

static int receive(struct peer *p, int flags)
{
	int rc = make_room(p);
	ssize_t n;

	if (!rc) {
		n = recv(p->fd, p->in + p->in_end, p->in_cap - p->in_end, flags);
		if (n > 0) {
			p->in_end += (size_t)n;
			return 0;
		}
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return 0;
	}
	p->lost = true;
	return -EPIPE;
}

int peer_receive(struct peer *p)
{
	return receive(p, MSG_DONTWAIT);
}

int peer_wait_frame(struct peer *p, struct proto_header *h, const uint8_t **payload, struct err *e)
{
	int rc;

	while ((rc = peer_take_frame(p, h, payload, e)) == 0)
		if (receive(p, 0) < 0)
			return 0;
	return rc;
}

int peer_flush_some(struct peer *p)
{
	while (p->out_sent < p->out.len) {
		ssize_t n = send(p->fd, p->out.data + p->out_sent, p->out.len - p->out_sent,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return -EAGAIN;
		if (n < 0) {
			p->lost = true;
			return -errno;
		}
		p->out_sent += (size_t)n;
	}
	p->out_sent = 0;
	proto_buf_reset(&p->out);
	return 0;
}

int peer_flush(struct peer *p)
{
	int rc;

	while ((rc = peer_flush_some(p)) == -EAGAIN) {
		struct pollfd pfd = {.fd = p->fd, .events = POLLOUT};

		poll(&pfd, 1, -1);
	}
	return rc;
}

void peer_put_error(struct peer *p, uint64_t id, const struct err *e)
{
	proto_begin(&p->out, PROTO_ERROR, id);
	proto_put_tlv_u32(&p->out, PROTO_TAG_ERRNO, 0, (uint32_t)-e->code);
	proto_put_tlv_str(&p->out, PROTO_TAG_MESSAGE, 0, e->msg);
	proto_end(&p->out);
}
