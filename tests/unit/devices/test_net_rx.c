/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-net: frames for the guest, and what is limited. */
#include <criterion/criterion.h>
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "devices/net_int.h"
#include "lib/net_message.h"
#include "net_rig.h"

TestSuite(net_rx, .fini = teardown, .timeout = 60);

/* --- to the guest --------------------------------------------------------------------------- */

Test(net_rx, a_frame_for_the_guest_has_a_header_and_its_length)
{
	begin(USER_ALL, 64);
	attach();
	give_buffers(0, 2, 1526);
	host_sends(&plain, 60, 'q');
	cr_expect_eq(rig_wait(&r, NET_Q_RX), HEADER + 60);
	cr_expect_arr_eq(rig_ptr(&r, RIG_DATA), "\0\0\0\0\0\0\0\0\0\0\1\0", HEADER);
	cr_expect_eq(*rig_ptr(&r, RIG_DATA + HEADER), 'q');
	cr_expect_eq(*rig_ptr(&r, RIG_DATA + HEADER + 59), 'q');
	cr_expect_eq(*rig_ptr(&r, RIG_DATA + HEADER + 60), 0xee);
	cr_expect_geq(rig_irqs(&r), 1);
	cr_expect_eq(info().in_bytes, 60);
}

/* @lengths: what the headers say; the last frame is what is left. */
static void host_sends_frames(const uint16_t *lengths, size_t n, size_t last)
{
	static uint8_t buf[NET_MESSAGE_MAX];
	size_t len = 0;

	for (size_t i = 0; i < n; i++) {
		struct net_header h = {.hdr_len = i + 1 < n ? htole16(lengths[i]) : 0};
		size_t bytes = i + 1 < n ? lengths[i] : last;

		memcpy(buf + len, &h, HEADER);
		memset(buf + len + HEADER, 'a' + (int)i, bytes);
		len += HEADER + bytes;
	}
	cr_assert_eq(send(host, buf, len, 0), (ssize_t)len);
	rig_step(&r);
}

Test(net_rx, frames_that_come_together_are_taken_apart)
{
	static const uint16_t lengths[] = {60, 1000}, wrong[] = {60, 13}, beyond[] = {60, 60};

	begin(USER_ALL, 64);
	attach();
	give_buffers(0, 2, 1526);
	host_sends_frames(lengths, 3, 200);
	cr_expect_eq(rig_wait(&r, NET_Q_RX), HEADER + 60);
	cr_expect_eq(rig_wait(&r, NET_Q_RX), HEADER + 1000);
	for (unsigned int i = 0; i < 2; i++) {
		cr_expect_arr_eq(rig_ptr(&r, rx_gpa(i)), "\0\0\0\0\0\0\0\0\0\0\1\0", HEADER);
		cr_expect_eq(*rig_ptr(&r, rx_gpa(i) + HEADER), 'a' + i);
	}
	give_buffers(2, 4, 1526);
	cr_expect_eq(rig_wait(&r, NET_Q_RX), HEADER + 200);
	cr_expect_eq(*rig_ptr(&r, rx_gpa(2) + HEADER), 'c');
	/* What is no frame takes all behind it along. */
	host_sends_frames(wrong, 3, 60);
	cr_expect_eq(rig_wait(&r, NET_Q_RX), HEADER + 60);
	cr_expect_eq(info().in_dropped, 1);
	host_sends_frames(beyond, 2, 5);
	cr_expect_eq(rig_wait(&r, NET_Q_RX), HEADER + 60);
	cr_expect_eq(info().in_dropped, 2);
	host_sends(&plain, 60, 'z');
	cr_expect_eq(rig_wait(&r, NET_Q_RX), HEADER + 60);
	cr_expect_eq(info().in_frames, 6);
}

Test(net_rx, many_frames_of_a_message_all_come)
{
	uint16_t lengths[200];

	for (size_t i = 0; i < 200; i++)
		lengths[i] = 60;
	begin(USER_ALL, 256);
	attach();
	give_buffers(0, 200, 100);
	host_sends_frames(lengths, 200, 60);
	for (int i = 0; i < 200; i++)
		cr_assert_eq(rig_wait(&r, NET_Q_RX), HEADER + 60);
}

Test(net_rx, a_large_frame_takes_several_buffers_which_are_shown_at_once)
{
	const uint32_t part = 1526, all = HEADER + 14 + 65520;
	uint32_t sum = 0, n = 0, id, len;
	uint16_t told;

	begin(USER_ALL, 64);
	attach();
	give_buffers(0, 40, part);
	host_sends(&plain, 14 + 65520, 'z');
	cr_expect_not(rig_used(&r, NET_Q_RX, &id, &len), "too few: none is shown");
	give_buffers(40, 24, part);
	rig_step(&r);
	while (rig_used(&r, NET_Q_RX, &id, &len)) {
		cr_expect_eq(len, sum + part > all ? all - sum : part);
		sum += len;
		n++;
	}
	cr_expect_eq(sum, all);
	memcpy(&told, rig_ptr(&r, RIG_DATA + 10), 2);
	cr_expect_eq(told, n);
	for (uint32_t i = HEADER; i < all; i++)
		cr_assert_eq(*rig_ptr(&r, rx_gpa(i / part) + i % part), 'z', "byte %u", i);
}

Test(net_rx, a_frame_that_can_never_fit_is_dropped)
{
	uint32_t id, len;

	begin(USER_ALL, 8);
	attach();
	give_buffers(0, 8, 1526);
	host_sends(&plain, 20000, 'z');
	host_sends(&plain, 100, 'k');
	rig_step(&r);
	cr_assert(rig_used(&r, NET_Q_RX, &id, &len));
	cr_expect_eq(len, HEADER + 100);
	cr_expect_eq(*rig_ptr(&r, RIG_DATA + HEADER), 'k');
	cr_expect_eq(info().in_dropped, 1);
}

Test(net_rx, without_mergeable_buffers_a_frame_has_one)
{
	uint32_t id, len;

	begin(VERSION_1, 8);
	attach();
	give_buffers(0, 3, 1526);
	host_sends(&plain, 2000, 'z');
	host_sends(&plain, 1514, 'k');
	rig_step(&r);
	cr_assert(rig_used(&r, NET_Q_RX, &id, &len));
	cr_expect_eq(len, HEADER + 1514);
	cr_expect_eq(*rig_ptr(&r, RIG_DATA + 10), 1);
	cr_expect_eq(info().in_dropped, 1);
	cr_expect_not(rig_used(&r, NET_Q_RX, &id, &len));
}

Test(net_rx, a_guest_without_buffers_leaves_the_frames_with_the_backend)
{
	unsigned int sent = 0, got = 0;
	static uint8_t buf[32000];
	uint32_t id, len;

	begin(USER_ALL, 64);
	attach();
	while (send(host, buf, sizeof(buf), 0) > 0) {
		sent++;
		rig_step(&r);
	}
	cr_assert_eq(errno, EAGAIN, "the backend feels it");
	for (unsigned int tries = 0; got < sent && tries < 1000; tries++) {
		give_buffers((tries % 8) * 8, 8, 4096);
		rig_step(&r);
		while (rig_used(&r, NET_Q_RX, &id, &len))
			got += len < 4096;
	}
	cr_expect_eq(got, sent);
	cr_expect_eq(info().in_dropped, 0);
}

/* Which frame of the guest notifies us. */
static uint16_t notifies_of(void)
{
	const struct rig_queue *q = &r.q[NET_Q_TX];
	uint16_t at;

	memcpy(&at, rig_ptr(&r, q->used_gpa + 4 + 8ull * q->size), sizeof(at));
	return le16toh(at);
}

/* dormouse-net says so of the answer to a SYN. */
Test(net_rx, an_answer_that_nobody_waits_for_goes_with_the_frame_after_it_or_later)
{
	struct net_header h = {.flags = NET_MESSAGE_UNHEARD | NET_HDR_DATA_VALID};
	struct rig_buf b = {TX, HEADER + 60, false};
	uint8_t buf[256];

	begin(USER_ALL, 64);
	attach();
	give_buffers(0, 8, 1526);
	guest_sends(60, 'a');
	cr_assert_eq(host_gets(buf, sizeof(buf)), HEADER + 60);
	cr_expect_eq(notifies_of(), 1);
	host_sends(&plain, 60, 'q');
	cr_expect_eq(notifies_of(), 1);
	host_sends(&h, 60, 'q');
	cr_expect_eq(notifies_of(), 2);
	rig_wait(&r, NET_Q_RX);
	rig_wait(&r, NET_Q_RX);
	cr_expect_eq(*rig_ptr(&r, rx_gpa(1)), NET_HDR_DATA_VALID, "the guest does not hear of it");
	/* Nothing follows. */
	rig_add(&r, NET_Q_TX, &b, 1);
	while (host_gets(buf, sizeof(buf)) < 0)
		;
	cr_expect_eq(notifies_of(), 2, "as ever");
}

Test(net_rx, headers_for_the_guest_say_only_what_it_understands)
{
	static const struct {
		uint64_t features;
		struct net_header h;
		bool passes;
		uint8_t flags;
	} all[] = {
	    {USER_ALL, {.flags = NET_HDR_DATA_VALID}, true, NET_HDR_DATA_VALID},
	    {USER_ALL, {.flags = 0xfe, .num_buffers = 77}, true, NET_HDR_DATA_VALID},
	    {USER_ALL, {.flags = NET_HDR_NEEDS_CSUM}, true, NET_HDR_NEEDS_CSUM},
	    {USER_ALL, {.flags = NET_HDR_NEEDS_CSUM, .gso_type = NET_GSO_TCPV4}, false, 0},
	    {USER_ALL, {.gso_type = 77}, false, 0},
	    {VERSION_1, {.flags = NET_HDR_DATA_VALID}, true, 0},
	    {VERSION_1, {.flags = NET_HDR_NEEDS_CSUM}, false, 0},
	};

	for (unsigned int i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		uint32_t id, len;

		begin(all[i].features, 8);
		attach();
		give_buffers(0, 1, 1526);
		host_sends(&all[i].h, 60, 'h');
		cr_expect_eq(rig_used(&r, NET_Q_RX, &id, &len), all[i].passes, "case %u", i);
		if (all[i].passes) {
			cr_expect_eq(*rig_ptr(&r, RIG_DATA), all[i].flags, "case %u", i);
			cr_expect_eq(*rig_ptr(&r, RIG_DATA + 10), 1);
		} else {
			cr_expect_eq(info().in_dropped, 1);
		}
		rig_fini(&r);
		r.ds = NULL;
	}
}

Test(net_rx, frames_of_a_backend_that_are_none_are_dropped)
{
	static uint8_t buf[NET_FRAME_MAX + 16];
	uint32_t id, len;

	begin(USER_ALL, 64);
	attach();
	give_buffers(0, 64, 1526);
	cr_assert_eq(send(host, buf, NET_FRAME_MAX + 16, 0), (ssize_t)NET_FRAME_MAX + 16);
	cr_assert_eq(send(host, buf, HEADER + 13, 0), (ssize_t)HEADER + 13);
	host_sends(&plain, 14, 1);
	cr_expect(rig_used(&r, NET_Q_RX, &id, &len));
	cr_expect_eq(len, HEADER + 14);
	cr_expect_eq(info().in_dropped, 2);
}

Test(net_rx, a_readable_receive_buffer_needs_a_reset)
{
	struct rig_buf b = {RIG_DATA, 1526, false};

	begin(USER_ALL, 64);
	attach();
	rig_send(&r, NET_Q_RX, &b, 1);
	host_sends(&plain, 60, 1);
	cr_expect_not(device_active(r.d));
}

Test(net_rx, a_reset_keeps_the_backend_and_forgets_the_frame_on_its_way)
{
	uint32_t id, len;

	begin(USER_ALL, 64);
	attach();
	host_sends(&plain, 60, 'o');
	cr_assert_eq(rig_start(&r, USER_ALL, 64), 15);
	give_buffers(0, 4, 1526);
	cr_expect_not(rig_used(&r, NET_Q_RX, &id, &len));
	host_sends(&plain, 60, 'n');
	cr_assert(rig_used(&r, NET_Q_RX, &id, &len));
	cr_expect_eq(*rig_ptr(&r, RIG_DATA + HEADER), 'n');
}

/* --- limits ---------------------------------------------------------------------------------- */

Test(net_rx, what_is_beyond_a_limit_waits_and_is_not_lost)
{
	struct net_limit l = {.frames_per_s = 50};
	uint8_t buf[64];
	unsigned int n = 0, m = 0;
	uint32_t id, len;

	begin(USER_ALL, 64);
	attach();
	device_net_limit(r.d, &l, &l);
	give_buffers(0, 20, 1526);
	for (unsigned int i = 0; i < 20; i++) {
		struct rig_buf b = {TX + 0x100ull * i, HEADER + 20, false};

		memset(rig_ptr(&r, b.gpa), 0, HEADER + 20);
		rig_send(&r, NET_Q_TX, &b, 1);
		host_sends(&plain, 20, 1);
	}
	cr_expect_lt(info().out_frames, 20);
	cr_expect_lt(info().in_frames, 20);
	device_net_limit(r.d, &(struct net_limit){0}, &(struct net_limit){.frames_per_s = 1000});
	while (n < 20 || m < 20) {
		n += recv(host, buf, sizeof(buf), 0) > 0;
		m += rig_used(&r, NET_Q_RX, &id, &len);
		rig_step(&r);
	}
	cr_expect_eq(info().out.frames_per_s, 1000);
	cr_expect_eq(info().in_dropped + info().out_dropped, 0);
}
