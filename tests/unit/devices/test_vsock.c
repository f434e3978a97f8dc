/* SPDX-License-Identifier: Apache-2.0 */
/* The guest is a small driver here: it keeps rx buffers in the ring and notes what arrives. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "devices/vsock_int.h"
#include "lib/fd.h"
#include "rig.h"

#define FEATURES    (1ULL << 32 | 1ULL << 29)
#define CID	    7
#define RX_BYTES    1024u
#define RX_BUFS	    16
#define RX_AT(i)    (RIG_DATA + (i)*RX_BYTES)
#define TX_AT	    (RIG_DATA + 0x100000)
#define GUEST_ALLOC 0x40000

static struct rig r;
static char dir[64], uds[96];
static unsigned int knocks;

/* Packets from the device, in order. */
static struct vsock_header got[4096];
static unsigned int got_n, taken;
static uint8_t data[1 << 20];
static size_t data_n;
/* The guest's counters for the one connection of most tests. */
static uint32_t guest_fwd;

static void on_knock(void *opaque)
{
	(void)opaque;
	knocks++;
}

static void give_rx(unsigned int i)
{
	struct rig_buf b = {RX_AT(i), RX_BYTES, true};

	cr_assert_eq(rig_add(&r, VSOCK_Q_RX, &b, 1), i);
}

static void start(unsigned int rx_bufs)
{
	cr_assert_eq(rig_start(&r, FEATURES, RX_BUFS), 15);
	for (unsigned int i = 0; i < rx_bufs; i++)
		give_rx(i);
	rig_notify(&r, VSOCK_Q_RX);
}

static void setup(void)
{
	struct device_config c = {.kind = DEVICE_VSOCK};

	strcpy(dir, "/tmp/vsock-test-XXXXXX");
	cr_assert(mkdtemp(dir));
	snprintf(uds, sizeof(uds), "%s/v", dir);
	c.vsock.guest_cid = CID;
	c.vsock.uds_path = uds;
	c.vsock.on_knock = on_knock;
	c.vsock.knock_port = 1025;
	rig_init(&r, &c);
}

static void teardown(void)
{
	char path[160];

	rig_fini(&r);
	cr_expect_lt(access(uds, F_OK), 0, "the socket file is removed");
	snprintf(path, sizeof(path), "%s_80", uds);
	unlink(path);
	rmdir(dir);
}

TestSuite(vsock, .init = setup, .fini = teardown, .timeout = 60);

/* Take what the device sent; buffers go back at once unless @keep. */
static void receive(bool keep)
{
	uint32_t id, len;

	while (rig_used(&r, VSOCK_Q_RX, &id, &len)) {
		struct vsock_header *h = &got[got_n++];

		cr_assert_leq(len, RX_BYTES);
		memcpy(h, rig_ptr(&r, RX_AT(id)), sizeof(*h));
		cr_assert_eq(len, sizeof(*h) + h->len_bytes);
		cr_assert_eq(h->dst_cid, CID);
		cr_assert_eq(h->src_cid, 2);
		memcpy(data + data_n, rig_ptr(&r, RX_AT(id)) + sizeof(*h), h->len_bytes);
		data_n += h->len_bytes;
		if (!keep) {
			r.q[VSOCK_Q_RX].next_desc = (uint16_t)id;
			give_rx(id);
		}
	}
	if (!keep)
		rig_notify(&r, VSOCK_Q_RX);
}

/* The next packet that is no data. */
static struct vsock_header *next_control(void)
{
	for (;;) {
		receive(false);
		while (taken < got_n)
			if (got[taken++].op != VSOCK_OP_RW)
				return &got[taken - 1];
		rig_step(&r);
	}
}

static struct vsock_header *expect_op(uint16_t op)
{
	struct vsock_header *h = next_control();

	cr_assert_eq(h->op, op, "wanted op %d, got %d", op, h->op);
	return h;
}

static void send_packet(struct vsock_header h, const void *payload)
{
	struct rig_buf b[] = {{TX_AT, sizeof(h), false}, {TX_AT + 64, h.len_bytes, false}};
	uint32_t id, len;

	if (h.len_bytes)
		memcpy(rig_ptr(&r, TX_AT + 64), payload, h.len_bytes);
	memcpy(rig_ptr(&r, TX_AT), &h, sizeof(h));
	rig_send(&r, VSOCK_Q_TX, b, h.len_bytes ? 2 : 1);
	while (device_active(r.d) && !rig_used(&r, VSOCK_Q_TX, &id, &len)) {
		receive(false);
		rig_step(&r);
	}
}

static struct vsock_header packet(uint32_t guest_port, uint32_t host_port, uint16_t op)
{
	return (struct vsock_header){.src_cid = CID,
				     .dst_cid = 2,
				     .src_port = guest_port,
				     .dst_port = host_port,
				     .type = 1,
				     .op = op,
				     .buf_alloc = GUEST_ALLOC,
				     .fwd_cnt = guest_fwd};
}

static int client(void)
{
	int fd = fd_unix_connect(uds, NULL);

	cr_assert_geq(fd, 0);
	return fd;
}

static void say(int fd, const char *s)
{
	cr_assert_eq(fd_write_full(fd, s, strlen(s)), 0);
}

/* Client asks for port 1024 and the guest accepts. */
static int open_conn(uint32_t *host_port)
{
	char line[32] = {0}, want[32];
	int fd = client();
	struct vsock_header *h;

	say(fd, "CONNECT 1024\n");
	h = expect_op(VSOCK_OP_REQUEST);
	cr_assert_eq(h->dst_port, 1024);
	*host_port = h->src_port;
	send_packet(packet(1024, *host_port, VSOCK_OP_RESPONSE), NULL);
	snprintf(want, sizeof(want), "OK %u\n", *host_port);
	cr_assert_eq(read(fd, line, sizeof(line)), (ssize_t)strlen(want));
	cr_assert_str_eq(line, want);
	fd_set_nonblock(fd);
	return fd;
}

/* Until the client's socket is at its end, or reset. */
static void expect_closed(int fd)
{
	char c;
	ssize_t n;

	while ((n = recv(fd, &c, 1, MSG_DONTWAIT)) < 0 && errno == EAGAIN) {
		receive(false);
		rig_step(&r);
	}
	cr_expect_leq(n, 0);
	close(fd);
}

Test(vsock, a_client_that_comes_before_the_driver_waits_for_it)
{
	int fd = client();

	say(fd, "CONNECT 1024\n");
	rig_step(&r);
	cr_expect_eq(recv(fd, data, 1, MSG_DONTWAIT), -1);
	cr_expect_eq(errno, EAGAIN);
	start(RX_BUFS);
	expect_op(VSOCK_OP_REQUEST);
	close(fd);
}

Test(vsock, data_goes_both_ways)
{
	uint32_t port;
	char buf[8] = {0};
	struct vsock_header h;
	int fd;

	start(RX_BUFS);
	fd = open_conn(&port);
	say(fd, "hello guest");
	while (data_n < 11) {
		rig_step(&r);
		receive(false);
	}
	cr_expect_arr_eq(data, "hello guest", 11);
	h = packet(1024, port, VSOCK_OP_RW);
	h.len_bytes = 4;
	send_packet(h, "host");
	cr_expect_eq(read(fd, buf, sizeof(buf)), 4);
	cr_expect_str_eq(buf, "host");
	close(fd);
}

Test(vsock, a_refused_client_is_closed)
{
	int fd;

	start(RX_BUFS);
	fd = client();
	say(fd, "CONNECT 99\n");
	send_packet(packet(99, expect_op(VSOCK_OP_REQUEST)->src_port, VSOCK_OP_RST), NULL);
	expect_closed(fd);
}

Test(vsock, lines_that_are_no_request_close_the_client)
{
	static const char *const lines[] = {
	    "connect 1\n",
	    "CONNECT\n",
	    "CONNECT \n",
	    "CONNECT x\n",
	    "CONNECT 1 \n",
	    "CONNECT -1\n",
	    "CONNECT 4294967295\n",
	    "CONNECT 99999999999999999999999\n",
	    "\n",
	    "GET / HTTP/1.1\r\nHost: somewhere.example\r\n\r\n",
	};

	start(RX_BUFS);
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		int fd = client();

		say(fd, lines[i]);
		expect_closed(fd);
	}
	receive(false);
	cr_expect_eq(got_n, 0, "the guest hears nothing of it");
}

Test(vsock, a_line_in_pieces_and_data_right_behind_it_arrive)
{
	int fd;
	struct vsock_header *h;

	start(RX_BUFS);
	fd = client();
	say(fd, "CONN");
	rig_step(&r);
	rig_step(&r);
	say(fd, "ECT 1024\nearly");
	h = expect_op(VSOCK_OP_REQUEST);
	send_packet(packet(1024, h->src_port, VSOCK_OP_RESPONSE), NULL);
	while (data_n < 5) {
		rig_step(&r);
		receive(false);
	}
	cr_expect_arr_eq(data, "early", 5);
	close(fd);
}

Test(vsock, the_guests_credit_is_never_exceeded_and_more_makes_it_go_on)
{
	static uint8_t big[GUEST_ALLOC / 2 + 5000];
	struct vsock_header h;
	uint32_t port;
	size_t sent = 0;
	int fd;

	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = (uint8_t)(i * 7 / 3);
	start(RX_BUFS);
	fd = open_conn(&port);
	h = packet(1024, port, VSOCK_OP_CREDIT_UPDATE);
	h.buf_alloc = 3000;
	send_packet(h, NULL);
	while (data_n < sizeof(big)) {
		ssize_t n = sent < sizeof(big) ? write(fd, big + sent, sizeof(big) - sent) : 0;

		sent += n > 0 ? (size_t)n : 0;
		rig_step(&r);
		receive(false);
		cr_assert_leq(data_n - guest_fwd, 3000, "more than the guest has room for");
		if (data_n - guest_fwd == 3000 || data_n == sizeof(big)) {
			guest_fwd = (uint32_t)data_n;
			h.fwd_cnt = guest_fwd;
			send_packet(h, NULL);
		}
	}
	cr_expect_arr_eq(data, big, sizeof(big));
	close(fd);
}

Test(vsock, without_rx_buffers_nothing_is_lost_and_the_loop_does_not_spin)
{
	struct vsock_header *h;
	int fd;

	start(0);
	fd = client();
	say(fd, "CONNECT 1024\n");
	rig_step(&r);
	rig_step(&r);
	for (unsigned int i = 0; i < RX_BUFS; i++)
		give_rx(i);
	rig_notify(&r, VSOCK_Q_RX);
	h = expect_op(VSOCK_OP_REQUEST);
	cr_expect_eq(h->dst_port, 1024);
	close(fd);
}

/* Send @len bytes of a pattern that starts at @at. */
static void send_pattern(uint32_t port, uint32_t at, uint32_t len)
{
	struct vsock_header h = packet(1024, port, VSOCK_OP_RW);
	uint8_t buf[4096];

	for (uint32_t i = 0; i < len; i++)
		buf[i] = (uint8_t)((at + i) * 13 / 5);
	h.len_bytes = len;
	send_packet(h, buf);
}

Test(vsock, a_client_that_does_not_read_stops_the_guest_by_credit_and_gets_every_byte_later)
{
	uint32_t port, sent = 0, received = 0, allocated, forwarded = 0;
	const uint32_t total = 2 << 20;
	int fd;

	start(RX_BUFS);
	fd = open_conn(&port);
	allocated = got[0].buf_alloc;
	cr_assert_gt(allocated, 0);
	while (received < total) {
		uint8_t buf[8192];
		ssize_t n;

		/* As far as credit goes. */
		while (sent < total && sent + 4096 - forwarded <= allocated) {
			send_pattern(port, sent, 4096);
			sent += 4096;
		}
		n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
		for (ssize_t i = 0; i < n; i++)
			cr_assert_eq(buf[i], (uint8_t)((received + (uint32_t)i) * 13 / 5),
				     "byte %zd", received + i);
		received += n > 0 ? (uint32_t)n : 0;
		rig_step(&r);
		receive(false);
		for (; taken < got_n; taken++)
			forwarded = got[taken].fwd_cnt;
		got_n = taken = 0;
	}
	close(fd);
}

Test(vsock, a_guest_that_ignores_its_credit_is_reset)
{
	uint32_t port, allocated, sent = 0;
	int fd;

	start(RX_BUFS);
	fd = open_conn(&port);
	allocated = got[0].buf_alloc;
	/* The client reads nothing; its socket takes some, the buffer allocated bytes. */
	while (sent < allocated + (4 << 20)) {
		send_pattern(port, sent, 4096);
		sent += 4096;
		receive(false);
		if (got_n > taken && got[got_n - 1].op == VSOCK_OP_RST)
			break;
		got_n = taken = 0;
	}
	cr_expect_eq(got[got_n - 1].op, VSOCK_OP_RST);
	cr_expect(device_active(r.d), "one connection is no reason to stop the device");
	close(fd);
}

Test(vsock, half_closes_pass_through_in_both_directions)
{
	struct vsock_header h;
	uint32_t port;
	char buf[8];
	int fd;

	start(RX_BUFS);
	fd = open_conn(&port);
	say(fd, "question");
	shutdown(fd, SHUT_WR);
	h = *expect_op(VSOCK_OP_SHUTDOWN);
	cr_expect_eq(h.flags, VSOCK_SHUT_SEND);
	cr_expect_eq(data_n, 8, "all data before the end");
	h = packet(1024, port, VSOCK_OP_RW);
	h.len_bytes = 6;
	send_packet(h, "answer");
	h = packet(1024, port, VSOCK_OP_SHUTDOWN);
	h.flags = VSOCK_SHUT_SEND;
	send_packet(h, NULL);
	cr_expect_eq(read(fd, buf, sizeof(buf)), 6);
	cr_expect_eq(read(fd, buf, sizeof(buf)), 0);
	h.flags = VSOCK_SHUT_BOTH;
	send_packet(h, NULL);
	/* Whether the device sees first that both ends are there, or that the guest says so. */
	h = *next_control();
	if (h.op == VSOCK_OP_SHUTDOWN)
		h = *next_control();
	cr_expect_eq(h.op, VSOCK_OP_RST, "%d", h.op);
	close(fd);
}

Test(vsock, a_client_that_closes_is_told_to_the_guest_after_its_data)
{
	struct vsock_header *h;
	uint32_t port;
	int fd;

	start(RX_BUFS);
	fd = open_conn(&port);
	say(fd, "bye");
	close(fd);
	h = expect_op(VSOCK_OP_SHUTDOWN);
	if (h->flags != VSOCK_SHUT_BOTH)
		h = expect_op(VSOCK_OP_SHUTDOWN);
	cr_expect_eq(h->flags, VSOCK_SHUT_BOTH);
	cr_expect_eq(data_n, 3);
	send_packet(packet(1024, port, VSOCK_OP_RST), NULL);
	send_packet(packet(1024, port, VSOCK_OP_CREDIT_UPDATE), NULL);
	expect_op(VSOCK_OP_RST);
}

Test(vsock, what_the_guest_sent_before_it_closed_reaches_a_slow_client)
{
	uint32_t port, sent = 0, received = 0;
	struct vsock_header h;
	uint8_t buf[8192];
	ssize_t n;
	int fd;

	start(RX_BUFS);
	fd = open_conn(&port);
	for (; sent < got[0].buf_alloc; sent += 4096)
		send_pattern(port, sent, 4096);
	h = packet(1024, port, VSOCK_OP_SHUTDOWN);
	h.flags = VSOCK_SHUT_BOTH;
	send_packet(h, NULL);
	do
		h = *next_control();
	while (h.op == VSOCK_OP_CREDIT_UPDATE);
	cr_expect_eq(h.op, VSOCK_OP_RST);
	while ((n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT)) != 0) {
		if (n < 0)
			cr_assert_eq(errno, EAGAIN);
		for (ssize_t i = 0; i < n; i++)
			cr_assert_eq(buf[i], (uint8_t)((received + (uint32_t)i) * 13 / 5));
		received += n > 0 ? (uint32_t)n : 0;
		rig_step(&r);
	}
	cr_expect_eq(received, sent);
	close(fd);
}

Test(vsock, a_client_that_gives_up_before_the_answer_is_forgotten)
{
	struct vsock_header h;
	int fd;

	start(RX_BUFS);
	fd = client();
	say(fd, "CONNECT 1024\n");
	h = *expect_op(VSOCK_OP_REQUEST);
	close(fd);
	expect_op(VSOCK_OP_RST);
	send_packet(packet(1024, h.src_port, VSOCK_OP_RESPONSE), NULL);
	expect_op(VSOCK_OP_RST);
}

Test(vsock, the_guest_connects_to_a_unix_socket_or_is_refused)
{
	struct vsock_header h;
	char path[160], buf[8];
	int listener, fd;

	start(RX_BUFS);
	send_packet(packet(5000, 80, VSOCK_OP_REQUEST), NULL);
	h = *expect_op(VSOCK_OP_RST);
	cr_expect_eq(h.dst_port, 5000);
	cr_expect_eq(h.src_port, 80);
	snprintf(path, sizeof(path), "%s_80", uds);
	listener = fd_unix_listen(path, 0600, NULL);
	cr_assert_geq(listener, 0);
	send_packet(packet(5000, 80, VSOCK_OP_REQUEST), NULL);
	h = *expect_op(VSOCK_OP_RESPONSE);
	cr_expect_eq(h.dst_port, 5000);
	fd = accept(listener, NULL, NULL);
	cr_assert_geq(fd, 0);
	h = packet(5000, 80, VSOCK_OP_RW);
	h.len_bytes = 3;
	send_packet(h, "abc");
	cr_expect_eq(read(fd, buf, sizeof(buf)), 3);
	/* The same ports again: the guest has lost track. */
	send_packet(packet(5000, 80, VSOCK_OP_REQUEST), NULL);
	expect_op(VSOCK_OP_RST);
	expect_closed(fd);
	close(listener);
}

Test(vsock, the_knock_is_told_and_refused)
{
	start(RX_BUFS);
	send_packet(packet(5000, 1025, VSOCK_OP_REQUEST), NULL);
	expect_op(VSOCK_OP_RST);
	cr_expect_eq(knocks, 1);
}

Test(vsock, packets_that_make_no_sense_are_answered_with_a_reset_or_dropped)
{
	struct vsock_header h;

	start(RX_BUFS);
	send_packet(packet(1, 2, VSOCK_OP_RW), NULL);
	expect_op(VSOCK_OP_RST);
	send_packet(packet(1, 2, 77), NULL);
	expect_op(VSOCK_OP_RST);
	h = packet(1, 2, VSOCK_OP_REQUEST);
	h.type = 2;
	send_packet(h, NULL);
	expect_op(VSOCK_OP_RST);
	/* No reset for a reset, and none to other addresses. */
	send_packet(packet(1, 2, VSOCK_OP_RST), NULL);
	h = packet(1, 2, VSOCK_OP_RW);
	h.src_cid = 9;
	send_packet(h, NULL);
	h = packet(1, 2, VSOCK_OP_RW);
	h.dst_cid = 3;
	send_packet(h, NULL);
	send_packet(packet(3, 4, VSOCK_OP_RW), NULL);
	cr_expect_eq(expect_op(VSOCK_OP_RST)->dst_port, 3);
	cr_expect(device_active(r.d));
}

Test(vsock, a_length_beyond_the_packet_resets_the_connection)
{
	struct vsock_header h;
	struct rig_buf b[] = {{TX_AT, sizeof(h), false}, {TX_AT + 64, 8, false}};
	uint32_t port;
	int fd;

	start(RX_BUFS);
	fd = open_conn(&port);
	h = packet(1024, port, VSOCK_OP_RW);
	h.len_bytes = 9;
	memcpy(rig_ptr(&r, TX_AT), &h, sizeof(h));
	rig_send(&r, VSOCK_Q_TX, b, 2);
	expect_op(VSOCK_OP_RST);
	expect_closed(fd);
}

Test(vsock, a_packet_shorter_than_its_header_needs_reset)
{
	struct rig_buf b = {TX_AT, 43, false};

	start(RX_BUFS);
	rig_send(&r, VSOCK_Q_TX, &b, 1);
	cr_expect_not(device_active(r.d));
}

Test(vsock, an_rx_buffer_without_room_for_a_header_needs_reset)
{
	struct rig_buf b = {RX_AT(0), 44, true};
	int fd;

	start(0);
	rig_send(&r, VSOCK_Q_RX, &b, 1);
	fd = client();
	say(fd, "CONNECT 1\n");
	while (device_active(r.d))
		rig_step(&r);
	cr_expect_eq(device_stats(r.d)->broken, 1);
	close(fd);
}

Test(vsock, more_resets_than_fit_wait_for_the_guest_and_none_is_lost)
{
	struct vsock_header h;

	start(0);
	for (uint32_t i = 0; i < VSOCK_MAX_RSTS + 10; i++) {
		struct rig_buf b = {TX_AT + i * 64, sizeof(h), false};

		h = packet(i, 1, VSOCK_OP_RW);
		memcpy(rig_ptr(&r, b.gpa), &h, sizeof(h));
		/* The ring has 16 places: the last ones are not returned. */
		rig_send(&r, VSOCK_Q_TX, &b, 1);
	}
	for (unsigned int i = 0; i < RX_BUFS; i++)
		give_rx(i);
	rig_notify(&r, VSOCK_Q_RX);
	for (unsigned int n = 0; n < VSOCK_MAX_RSTS + 10; n++)
		expect_op(VSOCK_OP_RST);
	cr_expect(device_active(r.d));
}

Test(vsock, a_reset_of_the_device_closes_all_and_clients_wait_again)
{
	uint32_t port;
	int fd, later;

	start(RX_BUFS);
	fd = open_conn(&port);
	devices_reset(r.ds);
	expect_closed(fd);
	later = client();
	say(later, "CONNECT 1024\n");
	rig_step(&r);
	got_n = taken = 0;
	start(RX_BUFS);
	expect_op(VSOCK_OP_REQUEST);
	close(later);
}

Test(vsock, hundreds_of_connections_work_at_once)
{
	enum { N = 300 };
	static int fds[N];
	static uint32_t ports[N];

	start(RX_BUFS);
	for (unsigned int i = 0; i < N; i++)
		fds[i] = open_conn(&ports[i]);
	for (unsigned int i = 0; i < N; i++) {
		struct vsock_header h = packet(1024, ports[i], VSOCK_OP_RW);
		uint32_t value;

		h.len_bytes = 4;
		send_packet(h, &i);
		cr_assert_eq(read(fds[i], &value, 4), 4);
		cr_assert_eq(value, i);
	}
	for (unsigned int i = 0; i < N; i++)
		cr_assert_eq(write(fds[i], &i, 4), 4);
	while (data_n < N * 4) {
		rig_step(&r);
		receive(false);
	}
	for (unsigned int i = 0; i < N; i++)
		close(fds[i]);
}

Test(vsock, bad_configurations_are_refused)
{
	struct devices_env env = {.mem = &r.mem, .loop = &r.loop};
	struct device_config c = {.kind = DEVICE_VSOCK};
	struct devices *ds;
	char path[200];
	struct err e;

	c.vsock.guest_cid = 2;
	c.vsock.uds_path = "/tmp/x";
	cr_expect_eq(devices_create(&ds, &env, &c, 1, &e), -EINVAL);
	memset(path, 'x', sizeof(path));
	path[sizeof(path) - 1] = '\0';
	c.vsock.guest_cid = 3;
	c.vsock.uds_path = path;
	cr_expect_eq(devices_create(&ds, &env, &c, 1, &e), -ENAMETOOLONG);
	/* The one of the suite is alive. */
	c.vsock.uds_path = uds;
	cr_expect_eq(devices_create(&ds, &env, &c, 1, &e), -EADDRINUSE);
	cr_expect_eq(access(uds, F_OK), 0);
}
