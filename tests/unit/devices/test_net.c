/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-net: what goes between a driver and a backend, hostile ones among them. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/net_int.h"
#include "lib/fd.h"
#include "net_rig.h"

TestSuite(net, .fini = teardown, .timeout = 60);

/* --- features ------------------------------------------------------------------------- */

Test(net, the_backend_decides_features_and_mtu)
{
	static const struct {
		enum net_backend backend;
		uint32_t features, mtu;
	} all[] = {
	    {NET_USER, 1u << 1 | 1u << 3 | 1u << 5 | 1u << 15 | 1u << 16, 65520},
	    {NET_TAP,
	     1u << 0 | 1u << 1 | 1u << 3 | 1u << 5 | 1u << 7 | 1u << 8 | 1u << 9 | 1u << 11 |
		 1u << 12 | 1u << 13 | 1u << 15 | 1u << 16,
	     1500},
	};

	for (unsigned int i = 0; i < 2; i++) {
		struct device_config c = config(all[i].backend);

		rig_init(&r, &c);
		cr_expect_eq(rig_get(&r, 0x008), 1);
		rig_set(&r, 0x14, 0);
		cr_expect_eq(rig_get(&r, 0x10) & 0xffffff, all[i].features);
		cr_expect_eq(rig_get(&r, 0x100), 0x00636f02);
		cr_expect_eq(rig_get(&r, 0x104), 0x00010100, "the link is up");
		cr_expect_eq(rig_get(&r, 0x108), 1 | all[i].mtu << 16);
		rig_fini(&r);
		r.ds = NULL;
	}
}

Test(net, a_backend_must_be_what_it_is_called)
{
	struct err e = {0};
	int pair[2];

	begin(USER_ALL, 64);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	cr_expect_eq(device_net_attach(r.d, NET_USER, pair[0], &e), -EINVAL);
	cr_expect(strstr(e.msg, "SOCK_SEQPACKET"), "%s", e.msg);
	cr_expect_eq(fcntl(pair[0], F_GETFD), -1, "closed also when it is refused");
	cr_expect_eq(device_net_attach(r.d, NET_TAP, pair[1], &e), -EINVAL);
	cr_expect(strstr(e.msg, "\"user\""), "%s", e.msg);
	rig_fini(&r);
	struct device_config c = config(NET_TAP);

	rig_init(&r, &c);
	cr_expect_eq(device_net_attach(r.d, NET_TAP, open("/dev/null", O_RDWR | O_CLOEXEC), &e),
		     -EINVAL);
	cr_expect(strstr(e.msg, "IFF_VNET_HDR"), "%s", e.msg);
	cr_expect_not(info().attached);
}

/* --- from the guest ---------------------------------------------------------------------- */

Test(net, frames_of_the_guest_reach_the_backend_in_order)
{
	uint8_t buf[2048];

	begin(USER_ALL, 64);
	attach();
	for (uint8_t i = 1; i <= 100; i++) {
		guest_sends(14u + i, i);
		cr_assert_eq(host_gets(buf, sizeof(buf)), HEADER + 14 + i);
		cr_assert_arr_eq(buf, (const uint8_t *)&plain, HEADER);
		cr_assert_eq(buf[HEADER], i);
		cr_assert_eq(buf[HEADER + 13 + i], i);
		cr_assert_eq(rig_wait(&r, NET_Q_TX), 0);
	}
	cr_expect_eq(info().out_frames, 100);
	cr_expect_eq(info().out_bytes, 100 * 14 + 5050);
	cr_expect_eq(wanted, 0);
}

/* Acknowledgements have one interrupt for many, and none waits for ever. */
/* A segment of TCP with 12 bytes of options. Return: its length with header */
static size_t guest_sends_segment(bool six, uint8_t data)
{
	uint8_t *f = rig_ptr(&r, TX) + HEADER, *ip = f + 14, *tcp = ip + (six ? 40 : 20);
	size_t bytes = (size_t)(tcp - f) + 32 + data;
	struct rig_buf b = {TX, (uint32_t)(HEADER + bytes), false};

	memset(f - HEADER, 0, HEADER + bytes);
	memcpy(f + 12, six ? "\x86\xdd" : "\x08\x00", 2);
	ip[0] = six ? 0x60 : 0x45;
	ip[six ? 6 : 9] = 6;
	ip[six ? 5 : 3] = (uint8_t)(six ? 32 + data : 52 + data);
	tcp[12] = 0x80;
	rig_send(&r, NET_Q_TX, &b, 1);
	return HEADER + bytes;
}

/* Return: the interrupts for @n of them. */
static uint64_t irqs_for(unsigned int n, bool six, uint8_t data)
{
	uint8_t buf[256];
	uint64_t irqs = 0;

	rig_irqs(&r);
	while (n--) {
		size_t len = guest_sends_segment(six, data);

		cr_assert_eq(host_gets(buf, sizeof(buf)), (ssize_t)len);
		cr_assert_eq(rig_wait(&r, NET_Q_TX), 0);
		irqs += rig_irqs(&r);
	}
	return irqs;
}

Test(net, of_segments_without_data_the_guest_hears_together_and_of_others_at_once)
{
	begin(USER_ALL & ~EVENT_IDX, 64);
	attach();
	for (int six = 0; six < 2; six++) {
		cr_expect_eq(irqs_for(100, six, 1), 100);
		cr_expect_lt(irqs_for(1000, six, 0), 500);
		cr_expect_eq(irqs_for(1, six, 1), 1);
	}
	guest_sends_segment(false, 0);
	while (!rig_irqs(&r))
		rig_step(&r);
}

Test(net, a_frame_in_pieces_is_one)
{
	static uint8_t buf[NET_FRAME_MAX];
	struct rig_buf b[] = {{TX, 5, false},
			      {TX + 0x100, 7 + 3, false},
			      {TX + 0x1000, 40000, false},
			      {TX + 0x10000, 25520 + 11, false}};

	begin(USER_ALL, 64);
	attach();
	memset(rig_ptr(&r, TX), 0, 0x20000);
	memset(rig_ptr(&r, TX + 0x107), 'a', 3);
	memset(rig_ptr(&r, TX + 0x1000), 'b', 40000);
	memset(rig_ptr(&r, TX + 0x10000), 'c', 25531);
	rig_send(&r, NET_Q_TX, b, 4);
	cr_assert_eq(host_gets(buf, sizeof(buf)), HEADER + 14 + 65520);
	cr_expect_eq(buf[HEADER], 'a');
	cr_expect_eq(buf[HEADER + 3], 'b');
	cr_expect_eq(buf[HEADER + 3 + 40000], 'c');
}

Test(net, frames_that_are_none_are_dropped_and_the_next_one_goes)
{
	struct rig_buf bad[] = {{TX, HEADER + 13, false},
				{TX, NET_FRAME_MAX + 1, false},
				{TX, 3, false},
				{TX, HEADER + 60, true}};
	uint8_t buf[2048];

	begin(USER_ALL, 64);
	attach();
	for (unsigned int i = 0; i < 4; i++) {
		rig_send(&r, NET_Q_TX, &bad[i], 1);
		cr_expect_eq(rig_wait(&r, NET_Q_TX), 0);
	}
	/* What was not negotiated: a checksum to be made, and segments. */
	bad[0].len = HEADER + 60;
	for (uint8_t flags = 0; flags < 2; flags++) {
		memset(rig_ptr(&r, TX), 0, 100);
		*rig_ptr(&r, TX) = flags;
		*rig_ptr(&r, TX + 1) = !flags;
		rig_send(&r, NET_Q_TX, bad, 1);
	}
	cr_expect_eq(info().out_dropped, 6);
	cr_expect(device_active(r.d));
	guest_sends(60, 'x');
	cr_expect_eq(host_gets(buf, sizeof(buf)), HEADER + 60);
	cr_expect_eq(buf[HEADER], 'x');
	cr_expect_eq(info().out_frames, 1);
}

Test(net, a_backend_that_takes_no_more_makes_the_guest_wait_and_loses_nothing)
{
	static uint8_t buf[NET_FRAME_MAX];
	uint32_t id, len;
	unsigned int sent = 0, back = 0, got = 0;

	begin(USER_ALL, 64);
	attach();
	/* Until one stays in the queue. */
	for (; sent == back && sent < 10000; sent++) {
		struct rig_buf b = {TX, HEADER + 14 + 32000, false};

		memset(rig_ptr(&r, TX), 0, HEADER);
		rig_send(&r, NET_Q_TX, &b, 1);
		while (rig_used(&r, NET_Q_TX, &id, &len))
			back++;
	}
	cr_assert_lt(sent, 10000);
	cr_expect_eq(back, sent - 1);
	for (unsigned int tries = 0; got < sent && tries < 1000; tries++)
		while (host_gets(buf, sizeof(buf)) > 0)
			got++;
	cr_expect_eq(got, sent);
	while (rig_used(&r, NET_Q_TX, &id, &len))
		back++;
	cr_expect_eq(back, sent);
	cr_expect_eq(info().out_dropped, 0);
}

Test(net, a_malformed_chain_needs_a_reset_and_the_backend_stays)
{
	uint8_t buf[64];

	begin(USER_ALL, 64);
	attach();
	rig_desc(&r, NET_Q_TX, 0, 0xffffffffff000ull, 100, 0, 0);
	rig_avail(&r, NET_Q_TX, 0);
	rig_notify(&r, NET_Q_TX);
	cr_expect_not(device_active(r.d));
	cr_expect(info().attached);
	cr_assert_eq(rig_start(&r, USER_ALL, 64), 15);
	guest_sends(20, 'y');
	cr_expect_eq(host_gets(buf, sizeof(buf)), HEADER + 20);
}

Test(net, a_driver_that_has_given_up_leaves_the_loop_in_peace)
{
	struct net *n;
	uint32_t id, len;

	begin(USER_ALL, 64);
	attach();
	n = r.d->priv;
	/* Full in one direction, waiting for frames in the other. */
	do {
		struct rig_buf b = {TX, HEADER + 14 + 32000, false};

		memset(rig_ptr(&r, TX), 0, HEADER);
		rig_send(&r, NET_Q_TX, &b, 1);
	} while (rig_used(&r, NET_Q_TX, &id, &len));
	cr_assert(n->tx_full);
	rig_set(&r, 0x70, 128); /* FAILED */
	host_sends(&plain, 60, 1);
	while (recv(host, (char[4]){0}, 4, 0) > 0)
		;
	rig_step(&r);
	rig_step(&r);
	cr_expect_eq(n->source.events, 0, "%#x", n->source.events);
	fd_close(&host);
	rig_step(&r);
	cr_expect_not(info().attached);
}

/* --- without a backend ---------------------------------------------------------------------- */

Test(net, the_first_frame_asks_once_and_waits)
{
	uint8_t buf[64];
	uint32_t id, len;

	begin(USER_ALL, 64);
	rig_step(&r);
	cr_expect_eq(wanted, 0, "nothing was sent");
	for (uint8_t i = 0; i < 5; i++) {
		struct rig_buf b = {TX + 0x100u * i, HEADER + 20, false};

		memset(rig_ptr(&r, b.gpa), 0, HEADER);
		memset(rig_ptr(&r, b.gpa + HEADER), 'a' + i, 20);
		rig_send(&r, NET_Q_TX, &b, 1);
	}
	cr_expect_eq(wanted, 1);
	cr_expect(info().wanted);
	cr_expect_not(rig_used(&r, NET_Q_TX, &id, &len));
	attach();
	cr_expect_not(info().wanted);
	for (uint8_t i = 0; i < 5; i++) {
		cr_assert_eq(host_gets(buf, sizeof(buf)), HEADER + 20);
		cr_expect_eq(buf[HEADER], 'a' + i);
	}
	cr_expect_eq(info().out_dropped, 0);
}

Test(net, when_nobody_comes_the_oldest_frames_go_and_the_queue_never_stands_still)
{
	uint8_t buf[64];
	unsigned int back = 0;
	uint32_t id, len;

	begin(USER_ALL, 8);
	for (uint8_t i = 0; i < 20; i++) {
		struct rig_buf b = {TX + 0x100u * i, HEADER + 20, false};

		memset(rig_ptr(&r, b.gpa), 0, HEADER);
		memset(rig_ptr(&r, b.gpa + HEADER), i, 20);
		rig_send(&r, NET_Q_TX, &b, 1);
		while (rig_used(&r, NET_Q_TX, &id, &len))
			back++;
	}
	cr_expect_eq(back, 16, "half of the queue waits");
	cr_expect_eq(info().out_dropped, 16);
	cr_expect_eq(wanted, 1);
	attach();
	cr_assert_eq(host_gets(buf, sizeof(buf)), HEADER + 20);
	cr_expect_eq(buf[HEADER], 16);
}

/* An IPv6 packet as a kernel sends it when its interface comes up. */
static void guest_sends_icmp(uint8_t type, bool hop_by_hop, bool nameless)
{
	struct rig_buf b = {TX, HEADER + 14 + 40 + 8 + 24, false};
	uint8_t *p = rig_ptr(&r, TX), *icmp = p + HEADER + 14 + 40;

	memset(p, 0, b.len);
	memset(p + HEADER, 0x33, 6);
	p[HEADER + 12] = 0x86;
	p[HEADER + 13] = 0xdd;
	p[HEADER + 14 + 6] = hop_by_hop ? 0 : 58;
	if (!nameless)
		p[HEADER + 14 + 8] = 0xfd;
	if (hop_by_hop)
		icmp[0] = 58;
	icmp[hop_by_hop ? 8 : 0] = type;
	rig_send(&r, NET_Q_TX, &b, 1);
}

Test(net, a_kernel_that_speaks_of_itself_asks_for_nothing)
{
	begin(USER_ALL, 64);
	guest_sends_icmp(143, true, true);  /* groups that it listens to */
	guest_sends_icmp(131, true, false); /* the older form */
	guest_sends_icmp(133, false, true); /* looks for a router */
	guest_sends_icmp(135, false, true); /* is this address taken? */
	cr_expect_eq(wanted, 0);
	cr_expect_eq(info().out_dropped, 4);
	guest_sends_icmp(135, false, false); /* who has the router's address? */
	cr_expect_eq(wanted, 1);
}

Test(net, a_backend_that_ends_leaves_none_and_the_next_frame_asks_again)
{
	begin(USER_ALL, 64);
	attach();
	guest_sends(20, 1);
	fd_close(&host);
	rig_step(&r);
	cr_expect_not(info().attached);
	cr_expect_eq(wanted, 0, "nothing waits");
	guest_sends(20, 2);
	cr_expect_eq(wanted, 1);
	attach();
	fd_close(&host);
	rig_step(&r);
	/* Within the second: it is a timer that asks. */
	guest_sends(20, 3);
	cr_expect_eq(wanted, 1);
	while (wanted < 2)
		rig_step(&r);
	cr_expect(info().wanted);
}

Test(net, a_backend_that_ends_under_a_guest_without_buffers_is_noticed)
{
	begin(USER_ALL, 64);
	attach();
	host_sends(&plain, 100, 1);
	host_sends(&plain, 100, 2);
	fd_close(&host);
	rig_step(&r);
	cr_expect_not(info().attached);
	cr_expect_eq(info().in_frames, 0);
}

Test(net, what_a_backend_sent_before_its_end_comes)
{
	static const uint8_t frame[HEADER + 60];

	begin(USER_ALL, 64);
	attach();
	give_buffers(0, 4, 1526);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(send(host, frame, sizeof(frame), 0), (ssize_t)sizeof(frame));
	fd_close(&host);
	while (info().attached)
		rig_step(&r);
	cr_expect_eq(info().in_frames, 3);
}

Test(net, detaching_is_an_end_too)
{
	uint8_t buf[64];

	begin(USER_ALL, 64);
	attach();
	device_net_detach(r.d);
	cr_expect_not(info().attached);
	cr_expect_eq(recv(host, buf, sizeof(buf), 0), 0);
	guest_sends(20, 2);
	cr_expect_eq(wanted, 1);
	device_net_detach(r.d);
	while (wanted < 2)
		rig_step(&r);
}
