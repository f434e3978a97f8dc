/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of a guest, through all that they pass: checksums, filter, answers, and libslirp, which
 * gets what a closed policy lets through: neighbours, echo requests, and connections to the
 * metadata service.
 *
 * Input: frames, each a length of two bytes (big-endian) and so many bytes, the card's header
 * first.
 */
#include <stdlib.h>
#include <string.h>

#include "server/net/stack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct filter filter;

/* Whatever comes out is a whole packet for the guest. */
static void on_send(void *arg, const struct frame *sent)
{
	struct frame f;

	(void)arg;
	frame_parse(&f, sent->data, sent->len);
	if (f.kind != FRAME_WHOLE && f.kind != FRAME_ARP)
		__builtin_trap();
	if (f.len != sent->len || memcmp(f.data, net_guest_mac, 6))
		__builtin_trap();
}

/* A reply to it, and an error about it, with whatever the guest has put into it: on their way back.
 */
static void come_back(struct filter *open, const struct frame *f)
{
	static uint8_t back[FRAME_MAX + 64];
	size_t quote = f->len - FRAME_HDR, head = f->src.family == AF_INET ? 20 : 40;
	struct frame reply;

	if (quote > 200)
		quote = 200;
	memcpy(back, f->data, FRAME_HDR + head);
	memmove(back + FRAME_HDR + head + 8, f->data + FRAME_HDR, quote);
	memset(back + FRAME_HDR + head, 0, 8);
	back[FRAME_HDR + head] = head == 20 ? ICMP4_UNREACHABLE : ICMP6_UNREACHABLE;
	back[FRAME_HDR + (head == 20 ? 9 : 6)] = head == 20 ? PROTO_ICMP4 : PROTO_ICMP6;
	quote += 8 + (head == 20 ? 20 : 0);
	back[FRAME_HDR + (head == 20 ? 2 : 4)] = (uint8_t)(quote >> 8);
	back[FRAME_HDR + (head == 20 ? 3 : 5)] = (uint8_t)quote;
	frame_parse(&reply, back, FRAME_HDR + (head == 20 ? 0 : 40) + quote);
	if (filter_to_guest(open, &reply) == FILTER_PASS && reply.kind != FRAME_WHOLE)
		__builtin_trap();
}

/* With an open policy, up to where it would leave the host. */
static void pass_open(uint8_t *data, size_t len, bool six)
{
	static struct filter opens[2] = {
	    {.policy = {.internet = true, .has_dns = true, .dns = {AF_INET, {9, 9, 9, 9}}},
	     .metadata = true},
	    {.policy = {.internet = true, .has_dns = true, .dns = {AF_INET6, {0x2a}}},
	     .metadata = true},
	};
	struct filter *open = &opens[six];
	uint8_t out[FRAME_ANSWER_MAX];
	struct frame f, again;

	frame_parse(&f, data, len);
	switch (filter_from_guest(open, &f)) {
	case FILTER_PASS:
		frame_parse(&again, f.data, f.len);
		if (again.kind != FRAME_WHOLE || again.proto != f.proto)
			__builtin_trap();
		come_back(open, &f);
		break;
	case FILTER_ANSWER:
		if (frame_refuse(&f, out) > sizeof(out))
			__builtin_trap();
		break;
	default:
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct stack *stack;
	struct err e;

	memset(&filter, 0, sizeof(filter));
	if (stack_create(&stack, &filter, "/nonexistent", on_send, NULL, &e))
		abort();
	while (size >= 2) {
		size_t len = (size_t)(data[0] << 8 | data[1]);
		uint8_t *copy;

		data += 2;
		size -= 2;
		if (len > size)
			len = size;
		/* Of its size, so that a byte behind its end is one too many. */
		copy = malloc(len ? len : 1);
		if (!copy)
			abort();
		memcpy(copy, data, len);
		if (len >= VNET_HDR && !frame_complete(copy, copy + VNET_HDR, len - VNET_HDR)) {
			for (int six = 0; six < 2; six++) {
				uint8_t *again = malloc(len);

				if (!again)
					abort();
				memcpy(again, copy, len);
				pass_open(again + VNET_HDR, len - VNET_HDR, six);
				free(again);
			}
			stack_input(stack, copy + VNET_HDR, len - VNET_HDR);
		}
		free(copy);
		data += len;
		size -= len;
	}
	stack_destroy(stack);
	return 0;
}
