/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-net: what goes between a driver and a backend, hostile ones among them. */
#include <criterion/criterion.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/net_int.h"
#include "lib/fd.h"
#include "lib/net_message.h"
#include "rig.h"

#define VERSION_1 (1ULL << 32)
#define EVENT_IDX (1ULL << 29)
#define USER_ALL                                                                                   \
	(VERSION_1 | EVENT_IDX | NET_F_MAC | NET_F_MTU | NET_F_MRG_RXBUF | NET_F_GUEST_CSUM)
#define HEADER 12u
#define TX     (RIG_DATA + 0x100000)

static struct rig r;
static int host = -1; /* the backend's end */
static unsigned int wanted;

static void on_wanted(void *opaque)
{
	(*(unsigned int *)opaque)++;
}

static struct device_config config(enum net_backend backend)
{
	struct device_config c = {.kind = DEVICE_NET};

	c.net.backend = backend;
	memcpy(c.net.mac, "\x02\x6f\x63\0\0\1", 6);
	c.net.on_wanted = on_wanted;
	c.net.opaque = &wanted;
	return c;
}

static void begin(uint64_t features, uint16_t size)
{
	struct device_config c = config(NET_USER);

	rig_init(&r, &c);
	cr_assert_eq(rig_start(&r, features, size), 15);
}

static void attach(void)
{
	struct err e = {0};
	int pair[2];

	fd_close(&host);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair),
		     0);
	host = pair[1];
	cr_assert_eq(device_net_attach(r.d, NET_USER, pair[0], &e), 0, "%s", e.msg);
}

static void teardown(void)
{
	if (r.ds)
		rig_fini(&r);
	fd_close(&host);
}

TestSuite(net, .fini = teardown, .timeout = 60);

/* A frame of the guest: header and @bytes of it, told apart by @mark. */
static void guest_sends(size_t bytes, uint8_t mark)
{
	struct rig_buf b = {TX, (uint32_t)(HEADER + bytes), false};
	uint8_t *p = rig_ptr(&r, TX);

	memset(p, 0, HEADER);
	memset(p + HEADER, mark, bytes);
	rig_send(&r, NET_Q_TX, &b, 1);
}

static ssize_t host_gets(uint8_t *buf, size_t cap)
{
	rig_step(&r);
	return recv(host, buf, cap, 0);
}

static uint64_t rx_gpa(unsigned int i)
{
	return RIG_DATA + 0x1000ull * i;
}

static void give_buffers(unsigned int from, unsigned int n, uint32_t len)
{
	for (unsigned int i = 0; i < n; i++) {
		struct rig_buf b = {rx_gpa(from + i), len, true};

		memset(rig_ptr(&r, b.gpa), 0xee, len);
		rig_add(&r, NET_Q_RX, &b, 1);
	}
	rig_notify(&r, NET_Q_RX);
}

static void host_sends(const struct net_header *h, size_t bytes, uint8_t mark)
{
	static uint8_t buf[NET_FRAME_MAX + 16];

	memcpy(buf, h, HEADER);
	memset(buf + HEADER, mark, bytes);
	cr_assert_eq(send(host, buf, HEADER + bytes, 0), (ssize_t)(HEADER + bytes));
	rig_step(&r);
}

static struct net_info info(void)
{
	struct net_info i;

	device_net_info(r.d, &i);
	return i;
}

static const struct net_header plain;

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
Test(net, of_small_frames_the_guest_hears_together_and_of_large_ones_at_once)
{
	uint8_t buf[2048];
	uint64_t irqs = 0;

	begin(USER_ALL & ~EVENT_IDX, 64);
	attach();
	rig_irqs(&r);
	guest_sends(1500, 1);
	cr_assert_eq(host_gets(buf, sizeof(buf)), HEADER + 1500);
	cr_assert_eq(rig_wait(&r, NET_Q_TX), 0);
	cr_expect_eq(rig_irqs(&r), 1);
	for (int i = 0; i < 1000; i++) {
		guest_sends(66, 2);
		cr_assert_eq(host_gets(buf, sizeof(buf)), HEADER + 66);
		cr_assert_eq(rig_wait(&r, NET_Q_TX), 0);
		irqs += rig_irqs(&r);
	}
	cr_expect_lt(irqs, 500, "%llu for 1000", (unsigned long long)irqs);
	guest_sends(66, 3);
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

/* --- to the guest --------------------------------------------------------------------------- */

Test(net, a_frame_for_the_guest_has_a_header_and_its_length)
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

Test(net, frames_that_come_together_are_taken_apart)
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

Test(net, many_frames_of_a_message_all_come)
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

Test(net, a_large_frame_takes_several_buffers_which_are_shown_at_once)
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

Test(net, a_frame_that_can_never_fit_is_dropped)
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

Test(net, without_mergeable_buffers_a_frame_has_one)
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

Test(net, a_guest_without_buffers_leaves_the_frames_with_the_backend)
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

Test(net, headers_for_the_guest_say_only_what_it_understands)
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

Test(net, frames_of_a_backend_that_are_none_are_dropped)
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

Test(net, a_readable_receive_buffer_needs_a_reset)
{
	struct rig_buf b = {RIG_DATA, 1526, false};

	begin(USER_ALL, 64);
	attach();
	rig_send(&r, NET_Q_RX, &b, 1);
	host_sends(&plain, 60, 1);
	cr_expect_not(device_active(r.d));
}

Test(net, a_reset_keeps_the_backend_and_forgets_the_frame_on_its_way)
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

Test(net, what_is_beyond_a_limit_waits_and_is_not_lost)
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
