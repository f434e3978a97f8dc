/* SPDX-License-Identifier: Apache-2.0 */
/* libslirp behind the filter: what the guest hears. No network is needed: nothing gets out. */
#include <sched.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/net/stack.h"
#include "tests/unit/net/frames.h"

#define G4 "10.0.2.15"

static struct filter filter;
static struct stack *stack;
static struct made heard;
static unsigned int heard_n;

static void on_heard(void *arg, const struct frame *f)
{
	(void)arg;
	cr_assert_leq(f->len, sizeof(heard.data));
	memcpy(heard.data, f->data, f->len);
	heard.len = f->len;
	heard_n++;
}

static void begin(void)
{
	struct err e;

	memset(&filter, 0, sizeof(filter));
	cr_assert_eq(stack_create(&stack, &filter, "/nonexistent", on_heard, NULL, &e), 0, "%s",
		     e.msg);
	cr_assert_eq(heard_n, 0, "it asks nothing");
}

static void end(void)
{
	stack_destroy(stack);
}

static void say(struct made m)
{
	heard_n = 0;
	stack_input(stack, m.data, m.len);
}

Test(stack, connections_of_before_are_reset, .init = begin, .fini = end)
{
	struct frame f;

	/* In a connection to the metadata service, which gets through: libslirp resets it. */
	say(made_tcp(G4, "169.254.169.254", 4000, 80, TCP_F_ACK));
	cr_assert_eq(heard_n, 1);
	f = parsed(&heard);
	cr_expect(f.kind == FRAME_WHOLE && f.tcp_flags & TCP_F_RST);
	cr_expect(net_addr_equal(&f.src, &net_metadata4) && f.sport == 80 && f.dport == 4000);
	expect_sums(heard.data, heard.len);
	say(made_tcp(G4, "1.1.1.1", 4000, 80, TCP_F_ACK));
	cr_assert_eq(heard_n, 1);
	cr_expect(parsed(&heard).tcp_flags & TCP_F_RST);
}

Test(stack, a_handshake, .init = begin, .fini = end)
{
	struct frame f;

	say(made_tcp(G4, "169.254.169.254", 4000, 80, TCP_F_SYN));
	cr_assert_eq(heard_n, 1);
	f = parsed(&heard);
	cr_expect_eq(f.tcp_flags, TCP_F_SYN | TCP_F_ACK);
	cr_expect(net_addr_equal(&f.src, &net_metadata4));
}

Test(stack, pings_of_the_gateway, .init = begin, .fini = end)
{
	struct frame f;

	say(made_icmp(G4, "10.0.2.2", ICMP4_ECHO));
	cr_assert_eq(heard_n, 1);
	f = parsed(&heard);
	cr_expect(f.proto == PROTO_ICMP4 && f.icmp_type == 0 &&
		  net_addr_equal(&f.dst, &net_guest4));
	say(made_icmp("fd00:6f63::15", "fd00:6f63::2", ICMP6_ECHO));
	cr_assert_eq(heard_n, 1);
	cr_expect_eq(parsed(&heard).icmp_type, 129);
}

Test(stack, arp_of_the_gateway, .init = begin, .fini = end)
{
	struct made m = {.len = 42};

	frame_make_arp_hello(m.data);
	m.data[21] = 1;
	say(m);
	cr_assert_eq(heard_n, 1);
	cr_expect_eq(memcmp(heard.data + 6, net_gateway_mac, 6), 0);
}

Test(stack, nothing_to_wait_for_when_there_is_nothing, .init = begin, .fini = end)
{
	static struct pollfd p[STACK_FDS_MAX];
	int timeout = -1;

	cr_expect_eq(stack_prepare(stack, p, false, &timeout), 0);
	cr_expect_eq(timeout, -1);
	stack_dispatch(stack, p);
	cr_expect_eq(stack_counts(stack).tcp, 0);
}

/* Sockets of the host are few: those of one guest are bounded, and who has one goes on. */
Test(stack, a_flood_of_ports, .init = begin, .fini = end)
{
	/* In a network without a way out, so that nothing leaves the machine. */
	cr_assert(!unshare(CLONE_NEWNET) || !unshare(CLONE_NEWUSER | CLONE_NEWNET));
	filter.policy.internet = true;
	for (unsigned int i = 0; i < 2 * STACK_UDP_MAX; i++)
		say(made_udp(G4, "1.1.1.1", (uint16_t)(1000 + i), 443));
	cr_expect_eq(stack_counts(stack).udp, STACK_UDP_MAX);
	cr_expect_eq(filter.stats.limited, STACK_UDP_MAX);
	cr_expect(parsed(&heard).proto == PROTO_ICMP4 && heard.data[14 + 20] == 3, "and is told");
	say(made_udp(G4, "1.1.1.1", 1000, 443));
	cr_expect_eq(filter.stats.limited, STACK_UDP_MAX, "it has one");
}

/* --- connections that are ended, over and over --------------------------------------------------
 */

static int listener;
static char socket_path[64];

static void begin_with_server(void)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	struct err e;

	snprintf(socket_path, sizeof(socket_path), "/tmp/dormouse-stack-%d", (int)getpid());
	snprintf(name.sun_path, sizeof(name.sun_path), "%s", socket_path);
	unlink(socket_path);
	listener = socket(AF_UNIX, SOCK_STREAM, 0);
	cr_assert_eq(bind(listener, (struct sockaddr *)&name, sizeof(name)), 0);
	cr_assert_eq(listen(listener, 8), 0);
	memset(&filter, 0, sizeof(filter));
	cr_assert_eq(stack_create(&stack, &filter, socket_path, on_heard, NULL, &e), 0, "%s",
		     e.msg);
}

static void end_with_server(void)
{
	stack_destroy(stack);
	close(listener);
	unlink(socket_path);
}

static struct frame_tcp heard_tcp(void)
{
	struct frame f = parsed(&heard);
	struct frame_tcp t;

	cr_assert(f.kind == FRAME_WHOLE && f.proto == PROTO_TCP);
	frame_get_tcp(&f, &t);
	return t;
}

/* A segment of the guest that asks for scaling if it is a SYN. */
static void say_tcp(uint16_t port, uint32_t seq, uint32_t ack, uint8_t flags)
{
	uint8_t tcp[24] = {[12] = 0x60, [13] = flags, [14] = 255};

	put_be16(tcp, port);
	put_be16(tcp + 2, 80);
	put_be16(tcp + 4, seq >> 16);
	put_be16(tcp + 6, seq);
	put_be16(tcp + 8, ack >> 16);
	put_be16(tcp + 10, ack);
	memcpy(tcp + 20, (uint8_t[4]){TCP_OPT_SHIFT, 3, 7, TCP_OPT_NOP}, 4);
	say(made_ip(G4, "169.254.169.254", PROTO_TCP, tcp, sizeof(tcp)));
}

static void turn_until_heard(void)
{
	static struct pollfd p[STACK_FDS_MAX];

	for (heard_n = 0; !heard_n;) {
		int timeout = -1;
		size_t n = stack_prepare(stack, p, false, &timeout);

		cr_assert_geq(poll(p, n, 10000), 0);
		stack_dispatch(stack, p);
	}
}

/* The server ends each: with libslirp alone, it kept them for seconds, and 512 was all. */
Test(stack, connections_that_are_over_do_not_count, .init = begin_with_server,
     .fini = end_with_server)
{
	static struct pollfd p[STACK_FDS_MAX];
	int timeout = -1;

	for (uint16_t i = 0; i < STACK_TCP_MAX + 100; i++) {
		uint16_t port = (uint16_t)(2000 + i);
		uint32_t iss;

		say_tcp(port, 1, 0, TCP_F_SYN);
		cr_assert_eq(heard_n, 1);
		cr_assert_eq(heard_tcp().flags, TCP_F_SYN | TCP_F_ACK, "connection %u", i);
		iss = heard_tcp().seq;
		say_tcp(port, 2, iss + 1, TCP_F_ACK);
		close(accept(listener, NULL, NULL));
		turn_until_heard();
		cr_assert(heard_tcp().flags & TCP_F_FIN);
		say_tcp(port, 2, iss + 2, TCP_F_ACK | TCP_F_FIN);
		cr_assert_eq(heard_tcp().ack, 3);
		cr_expect_eq(stack_counts(stack).tcp, 1);
		stack_prepare(stack, p, false, &timeout);
		cr_assert_eq(stack_counts(stack).tcp, 0);
	}
	cr_expect_eq(filter.stats.limited, 0);
}
