/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segments of TCP in both directions, of a few connections, as a guest and a libslirp that know
 * nothing of each other would send them; see window.h.
 *
 * Input: segments of 10 bytes each: flags; which connection, which side and whether time passes;
 * sequence number, acknowledgement and window, little-endian, the first two around those of the
 * connection; 2 bytes of length; the first one is followed by options.
 */
#include <stdlib.h>
#include <string.h>

#include "server/net/window.h"

#define CONNECTIONS 4
#define OPTIONS	    12
#define SEGMENT	    10

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct net_addr guest = {AF_INET, {10, 0, 2, 15}}, peer = {AF_INET, {1, 2, 3, 4}};
static uint32_t sent[CONNECTIONS]; /* the end of what libslirp has sent */

/* Whole, with checksums that are right. */
static void check(const uint8_t *data, size_t len, struct frame *f)
{
	static uint8_t copy[FRAME_MAX];
	uint32_t sum;

	memcpy(copy, data, len);
	frame_parse(f, copy, len);
	if (f->kind != FRAME_WHOLE || f->proto != PROTO_TCP || f->len != len)
		__builtin_trap();
	sum = frame_sum(f->src.b, 4, (uint32_t)(len - f->l4) + PROTO_TCP);
	sum = frame_sum(f->dst.b, 4, sum);
	if (frame_sum(copy + f->l4, len - f->l4, sum) != 0xffff)
		__builtin_trap();
}

static void to_guest(void *arg, struct frame *f)
{
	struct frame copy;

	(void)arg;
	check(f->data, f->len, &copy);
}

/* libslirp never hears of anything that it has not sent. */
static void to_stack(void *arg, uint8_t *data, size_t len)
{
	struct frame_tcp t;
	struct frame f;

	(void)arg;
	check(data, len, &f);
	frame_get_tcp(&f, &t);
	if ((t.flags & TCP_F_ACK) && (int32_t)(t.ack - sent[f.sport % CONNECTIONS]) > 0)
		__builtin_trap();
}

static bool is_busy(void *arg, int fd)
{
	(void)arg;
	return fd & 1;
}

static size_t make(uint8_t *out, const uint8_t *in, bool from_guest, const uint8_t *options)
{
	uint16_t port = in[1] % CONNECTIONS;
	uint32_t len = (uint32_t)(in[8] | in[9] << 8) % 2000;
	struct frame_tcp t = {.flags = in[0],
			      .seq = 0xfffffff0u + (in[2] | (uint32_t)in[3] << 8),
			      .ack = 0xfffffff0u + (in[4] | (uint32_t)in[5] << 8),
			      .window = (uint16_t)(in[6] | in[7] << 8)};
	size_t at = from_guest ? frame_make_tcp(&guest, port, &peer, 80, &t, out)
			       : frame_make_tcp(&peer, 80, &guest, port, &t, out);
	uint8_t *l4 = out + FRAME_HDR + 20, *ip = out + FRAME_HDR;
	uint32_t sum;

	/* As frame_make_tcp() makes none: options and data, the header's length, the sums. */
	l4[12] = (20 + OPTIONS) << 2;
	memcpy(out + at, options, OPTIONS);
	memset(out + at + OPTIONS, 'x', len);
	at += OPTIONS + len;
	ip[2] = (uint8_t)((at - FRAME_HDR) >> 8);
	ip[3] = (uint8_t)(at - FRAME_HDR);
	memset(l4 + 16, 0, 2);
	sum = frame_sum(ip + 12, 8, (uint32_t)(at - FRAME_HDR - 20) + PROTO_TCP);
	sum = ~frame_sum(l4, at - FRAME_HDR - 20, sum);
	l4[16] = (uint8_t)(sum >> 8);
	l4[17] = (uint8_t)sum;
	if (!from_guest) {
		uint32_t end = t.seq + len + !!(t.flags & TCP_F_SYN) + !!(t.flags & TCP_F_FIN);

		if ((t.flags & TCP_F_SYN) || (int32_t)(end - sent[port]) > 0)
			sent[port] = end;
	}
	return at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t out[FRAME_MAX];
	struct window *w = window_create(to_guest, to_stack, NULL);
	const uint8_t *options = data;
	uint64_t now_ms = 0;

	if (!w)
		return 0;
	memset(sent, 0xff, sizeof(sent));
	for (size_t at = OPTIONS; at + SEGMENT <= size; at += SEGMENT) {
		bool from_guest = data[at + 1] & 0x80;
		size_t len = make(out, data + at, from_guest, options);
		struct frame f;

		frame_parse(&f, out, len);
		if (from_guest) {
			window_from_guest(w, &f, now_ms);
			window_socket(w, &f, data[at + 1]);
		} else {
			window_from_stack(w, &f, now_ms);
		}
		if (data[at + 1] & 0x40) {
			int due = window_due(w, now_ms);

			now_ms += due > 0 ? (uint64_t)due : 1;
			window_end(w, is_busy);
		}
		window_settle(w, now_ms);
	}
	window_destroy(w);
	return 0;
}
