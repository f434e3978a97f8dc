/* SPDX-License-Identifier: Apache-2.0 */
/* The socket of frames: what is no frame, and a guest that takes none. */
#include <sys/socket.h>
#include <unistd.h>

#include "lib/net_message.h"
#include "server/net/port.h"
#include "tests/unit/net/frames.h"

static struct port *port;
static int vmm; /* the other end */

static void begin(void)
{
	struct err e;
	int pair[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	vmm = pair[1];
	cr_assert_eq(port_create(&port, pair[0], &e), 0);
}

static void end(void)
{
	port_destroy(port);
	close(vmm);
}

static void send_frame(uint8_t *data, size_t len, enum frame_hurry hurry)
{
	struct frame f;

	frame_parse(&f, data, len);
	f.hurry = hurry;
	port_send(port, &f);
}

static unsigned int taken;

static void take(void *arg, uint8_t *data, size_t len)
{
	(void)arg;
	cr_expect_eq(data[0], (uint8_t)len);
	taken++;
}

static uint64_t bad(void)
{
	uint64_t n, lost;

	port_counts(port, &n, &lost);
	return n;
}

Test(port, what_is_no_frame_is_counted_and_the_rest_goes_on, .init = begin, .fini = end)
{
	static uint8_t message[VNET_HDR + FRAME_MAX + 1];
	static const size_t lengths[] = {1, VNET_HDR - 1, sizeof(message)};

	for (size_t i = 0; i < 3; i++)
		cr_assert_eq(send(vmm, message, lengths[i], 0), lengths[i]);
	message[0] = VNET_CSUM; /* of nothing */
	cr_assert_eq(send(vmm, message, VNET_HDR + 60, 0), VNET_HDR + 60);
	message[0] = 0;
	message[1] = 1; /* segmentation, which is not offered */
	cr_assert_eq(send(vmm, message, VNET_HDR + 60, 0), VNET_HDR + 60);
	message[1] = 0;
	message[VNET_HDR] = 60;
	cr_assert_eq(send(vmm, message, VNET_HDR + 60, 0), VNET_HDR + 60);
	taken = 0;
	cr_assert_eq(port_receive(port, take, NULL), 0);
	cr_expect_eq(bad(), 5);
	cr_expect_eq(taken, 1);
	close(vmm);
	cr_expect(port_receive(port, take, NULL) < 0, "the end");
}

/* What it is sent waits up to a limit, then is lost, and none of it comes twice or late. */
Test(port, a_guest_that_takes_nothing, .init = begin, .fini = end)
{
	static uint8_t frame[FRAME_MAX], got[VNET_HDR + FRAME_MAX];
	uint32_t sent = 0, next = 0, n;
	uint64_t none, lost = 0;

	while (lost < 10) {
		memcpy(frame, &sent, sizeof(sent));
		send_frame(frame, sizeof(frame), FRAME_NOW);
		port_push(port, 0);
		port_counts(port, &none, &lost);
		cr_assert_lt(++sent, 10000, "it takes everything");
	}
	cr_expect(port_is_full(port) && port_waits(port));
	cr_expect_lt((uint64_t)sent * FRAME_MAX, 32u << 20);
	while (recv(vmm, got, sizeof(got), MSG_DONTWAIT) == (ssize_t)sizeof(got)) {
		memcpy(&n, got + VNET_HDR, sizeof(n));
		cr_assert_eq(n, next++);
		cr_assert_eq(port_flush(port), 0);
	}
	cr_expect_eq(next, sent - 10, "all that were not lost");
	cr_expect(!port_is_full(port) && !port_waits(port));
}

/* Those of one moment are one message; each but the last says how long it is. */
Test(port, frames_go_together, .init = begin, .fini = end)
{
	static uint8_t frame[FRAME_MAX], got[NET_MESSAGE_MAX];
	const uint8_t *second = got + VNET_HDR + 300;

	memset(frame, 7, sizeof(frame));
	send_frame(frame, 300, FRAME_NOW);
	send_frame(frame, 60, FRAME_NOW);
	cr_expect_lt(recv(vmm, got, sizeof(got), MSG_DONTWAIT), 0, "not yet");
	cr_expect_eq(port_push(port, 0), -1);
	cr_expect_eq(port_push(port, 0), -1);
	cr_assert_eq(recv(vmm, got, sizeof(got), MSG_DONTWAIT), 2 * VNET_HDR + 360);
	cr_expect_arr_eq(got, "\2\0\x2c\1\0\0\0\0\0\0\1\0", VNET_HDR);
	cr_expect_arr_eq(second, "\2\0\0\0\0\0\0\0\0\0\1\0", VNET_HDR);
	cr_expect_eq(got[VNET_HDR + 299], 7);
	cr_expect_eq(second[VNET_HDR + 59], 7);
	cr_expect_lt(recv(vmm, got, sizeof(got), MSG_DONTWAIT), 0, "no empty one");
	/* As many as fit. */
	for (int i = 0; i < 3; i++)
		send_frame(frame, sizeof(frame) - 100, FRAME_NOW);
	port_push(port, 0);
	cr_expect_eq(recv(vmm, got, sizeof(got), MSG_DONTWAIT), 2 * (VNET_HDR + FRAME_MAX - 100));
	cr_expect_eq(recv(vmm, got, sizeof(got), MSG_DONTWAIT), VNET_HDR + FRAME_MAX - 100);
}

/* Return: how many frames came, of 60 bytes each; 0: no message. */
static int frames_got(void)
{
	static uint8_t got[NET_MESSAGE_MAX];
	ssize_t len = recv(vmm, got, sizeof(got), MSG_DONTWAIT);

	return len < 0 ? 0 : (int)len / (VNET_HDR + 60);
}

Test(port, a_frame_that_nobody_waits_for_goes_with_others_or_later, .init = begin, .fini = end)
{
	static uint8_t frame[60];

	send_frame(frame, sizeof(frame), FRAME_LATER);
	cr_expect_eq(port_push(port, 1000), PORT_LATER_MS * 1000);
	send_frame(frame, sizeof(frame), FRAME_LATER);
	cr_expect_eq(port_push(port, 1000 + PORT_LATER_MS - 1), 1000);
	cr_expect_eq(frames_got(), 0);
	cr_expect_eq(port_push(port, 1000 + PORT_LATER_MS), -1);
	cr_expect_eq(frames_got(), 2);
	send_frame(frame, sizeof(frame), FRAME_LATER);
	cr_expect_eq(port_push(port, 5000), PORT_LATER_MS * 1000, "from then on");
	send_frame(frame, sizeof(frame), FRAME_NOW);
	cr_expect_eq(port_push(port, 5000), -1);
	cr_expect_eq(frames_got(), 2);
}

Test(port, data_waits_for_another_look, .init = begin, .fini = end)
{
	static uint8_t frame[60];

	for (int i = 0; i < 2; i++) {
		send_frame(frame, sizeof(frame), i ? FRAME_LATER : FRAME_MORE);
		send_frame(frame, sizeof(frame), FRAME_MORE);
		cr_expect_eq(port_push(port, 1000), 0);
		cr_expect_eq(frames_got(), 0);
		cr_expect_eq(port_push(port, 1000), -1, "that brought nothing");
		cr_expect_eq(frames_got(), 2);
	}
}

/* A greeting comes, and is followed by more; or none does. */
Test(port, the_begin_of_a_connection_waits_for_a_greeting, .init = begin, .fini = end)
{
	static uint8_t frame[60];

	send_frame(frame, sizeof(frame), FRAME_OPENS);
	cr_expect_eq(port_push(port, 1000), PORT_OPENS_US);
	send_frame(frame, sizeof(frame), FRAME_MORE);
	cr_expect_eq(port_push(port, 1000), 0);
	cr_expect_eq(port_push(port, 1000), -1);
	cr_expect_eq(frames_got(), 2);
	send_frame(frame, sizeof(frame), FRAME_OPENS);
	cr_expect_eq(port_push(port, 1000), PORT_OPENS_US);
	cr_expect_eq(frames_got(), 0);
	cr_expect_eq(port_push(port, 1000), -1);
	cr_expect_eq(frames_got(), 1);
}

Test(port, and_for_few_of_them, .init = begin, .fini = end)
{
	static uint8_t frame[60];

	for (int i = 0; i < 2; i++) {
		send_frame(frame, sizeof(frame), FRAME_MORE);
		cr_expect_eq(port_push(port, 1000), 0);
		send_frame(frame, sizeof(frame), FRAME_MORE);
		cr_expect_eq(port_push(port, 1000), 0);
		send_frame(frame, sizeof(frame), i ? FRAME_MORE : FRAME_NOW);
		cr_expect_eq(port_push(port, 1000), -1);
		cr_expect_eq(frames_got(), 3);
	}
}

Test(port, an_end_is_no_frame_of_its_own, .init = begin, .fini = end)
{
	static const char *const guests[] = {"10.0.2.15", "fd00:6f63::15"}, *const servers[] = {
										"1.2.3.4",
										"2001:db8::1"};
	const uint8_t fin = TCP_F_FIN | TCP_F_ACK;

	for (int i = 0; i < 2; i++) {
		struct made data = made_tcp(servers[i], guests[i], 80, 99, TCP_F_ACK),
			    last = made_tcp(servers[i], guests[i], 80, 99, fin), got;
		uint8_t message[256];

		send_frame(last.data, last.len, FRAME_NOW);
		port_push(port, 0);
		cr_expect_eq(recv(vmm, message, sizeof(message), MSG_DONTWAIT), VNET_HDR + last.len,
			     "with nothing before it");
		send_frame(data.data, data.len, FRAME_MORE);
		cr_expect_eq(port_push(port, 0), 0);
		send_frame(last.data, last.len, FRAME_NOW);
		cr_expect_eq(port_push(port, 0), -1);
		got.len = data.len;
		cr_assert_eq(recv(vmm, message, sizeof(message), MSG_DONTWAIT), VNET_HDR + got.len);
		memcpy(got.data, message + VNET_HDR, got.len);
		cr_expect_eq(parsed(&got).tcp_flags, fin);
		expect_sums(got.data, got.len);
	}
}
