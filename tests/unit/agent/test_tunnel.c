/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest-kernel/agent/session.h"
#include "lib/fd.h"
#include "tests/unit/agent/fixture.h"

TestSuite(tunnel, .init = agent_start, .fini = agent_stop, .timeout = 300);

static int listen_loopback(int family, unsigned int *port)
{
	struct sockaddr_in6 sa = {0};
	struct sockaddr_in *v4 = (struct sockaddr_in *)&sa;
	socklen_t len = family == AF_INET ? sizeof(*v4) : sizeof(sa);
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	sa.sin6_family = (sa_family_t)family;
	if (family == AF_INET)
		v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else
		sa.sin6_addr = in6addr_loopback;
	cr_assert_eq(bind(fd, (struct sockaddr *)&sa, len), 0);
	cr_assert_eq(listen(fd, 8), 0);
	cr_assert_eq(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
	*port = ntohs(sa.sin6_port);
	return fd;
}

static int take_peer(int listen_fd)
{
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);

	cr_assert_geq(fd, 0);
	return fd;
}

static struct agent_event next_event(struct agent_conn *c, enum agent_event_type type)
{
	struct agent_event ev;

	ok(agent_exec_next(c, -1, &ev, &fixture_err));
	cr_assert_eq(ev.type, type, "event %d, expected %d", ev.type, type);
	return ev;
}

/* A tunnel to a listener, both ends in hand. */
static struct agent_conn *open_tunnel(int listen_fd, unsigned int port, int *peer)
{
	struct agent_conn *c = dial();

	ok(agent_tunnel_start(c, new_session(), port, false, &fixture_err));
	next_event(c, AGENT_STARTED);
	*peer = take_peer(listen_fd);
	return c;
}

Test(tunnel, each_direction_ends_by_itself)
{
	unsigned int port;
	int l = listen_loopback(AF_INET, &port), peer;
	struct agent_conn *c = open_tunnel(l, port, &peer);
	struct agent_event ev;
	char buf[8];

	cr_assert_eq(agent_exec_stdin(c, "ask", 3, &fixture_err), 3);
	ok(agent_exec_stdin_eof(c, &fixture_err));
	cr_assert_eq(recv(peer, buf, 3, MSG_WAITALL), 3);
	cr_expect_arr_eq(buf, "ask", 3);
	cr_assert_eq(recv(peer, buf, 1, 0), 0, "the client's end has come through");
	cr_assert_eq(send(peer, "answer", 6, MSG_NOSIGNAL), 6);
	ev = next_event(c, AGENT_STDOUT);
	cr_expect_eq(ev.len, 6);
	cr_expect_arr_eq(ev.data, "answer", 6);
	close(peer);
	next_event(c, AGENT_STDOUT_END);
	ev = next_event(c, AGENT_EXIT);
	cr_expect_eq(ev.exit.code, 0);
	cr_expect_eq(ev.exit.stdout_len, 6);
	/* The other way round: the guest's end comes first. */
	agent_close(c);
	c = open_tunnel(l, port, &peer);
	cr_assert_eq(send(peer, "bye", 3, MSG_NOSIGNAL), 3);
	cr_assert_eq(shutdown(peer, SHUT_WR), 0);
	ev = next_event(c, AGENT_STDOUT);
	cr_expect_arr_eq(ev.data, "bye", 3);
	next_event(c, AGENT_STDOUT_END);
	cr_assert_eq(agent_exec_stdin(c, "still here", 10, &fixture_err), 10);
	cr_assert_eq(recv(peer, buf, 5, MSG_WAITALL), 5);
	ok(agent_exec_stdin_eof(c, &fixture_err));
	ev = next_event(c, AGENT_EXIT);
	cr_expect_eq(ev.exit.code, 0);
	close(peer);
	close(l);
	agent_close(c);
}

Test(tunnel, a_port_without_a_server_refuses_and_the_connection_goes_on)
{
	unsigned int port;
	int l = listen_loopback(AF_INET, &port);
	struct agent_conn *c = dial();
	struct agent_event ev;

	close(l);
	ok(agent_tunnel_start(c, new_session(), port, false, &fixture_err));
	cr_expect_eq(agent_exec_next(c, -1, &ev, &fixture_err), -ECONNREFUSED);
	cr_expect(agent_conn_idle(c));
	ok(agent_ping(c, &fixture_err));
	cr_expect_eq(agent_tunnel_start(c, 1, 0, false, &fixture_err), -EINVAL);
	cr_expect_eq(agent_tunnel_start(c, 1, 65536, false, &fixture_err), -EINVAL);
	agent_close(c);
}

Test(tunnel, servers_on_ipv6_alone_are_reached)
{
	unsigned int port;
	int l, peer, probe = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in6 sa = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct agent_conn *c;

	if (probe < 0 || bind(probe, (struct sockaddr *)&sa, sizeof(sa)))
		cr_skip_test("no IPv6 here");
	close(probe);
	l = listen_loopback(AF_INET6, &port);
	c = open_tunnel(l, port, &peer);
	cr_assert_eq(agent_exec_stdin(c, "x", 1, &fixture_err), 1);
	close(peer);
	close(l);
	agent_close(c);
}

Test(tunnel, a_reset_is_told_after_what_was_said_before_it)
{
	const struct linger at_once = {.l_onoff = 1};
	unsigned int port;
	int l = listen_loopback(AF_INET, &port), peer;
	struct agent_conn *c = open_tunnel(l, port, &peer);
	struct agent_event ev;

	cr_assert_eq(send(peer, "last words", 10, MSG_NOSIGNAL), 10);
	ev = next_event(c, AGENT_STDOUT);
	cr_expect_eq(ev.len, 10);
	cr_assert_eq(setsockopt(peer, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)), 0);
	close(peer);
	ev = next_event(c, AGENT_EXIT);
	cr_expect_eq(ev.exit.code, 1);
	close(l);
	agent_close(c);
}

Test(tunnel, a_signal_resets_it)
{
	unsigned int port;
	int l = listen_loopback(AF_INET, &port), peer;
	struct agent_conn *c = open_tunnel(l, port, &peer);
	struct agent_event ev;
	char byte;

	ok(agent_exec_signal(c, 9, &fixture_err));
	ev = next_event(c, AGENT_EXIT);
	cr_expect_eq(ev.exit.code, 1);
	cr_expect_eq(recv(peer, &byte, 1, 0), -1);
	cr_expect_eq(errno, ECONNRESET);
	close(peer);
	close(l);
	agent_close(c);
}

/* What neither side takes stays with the sender: no more than windows and socket buffers. */
Test(tunnel, who_does_not_read_holds_the_other_side)
{
	static uint8_t buf[65536];
	unsigned int port;
	int l = listen_loopback(AF_INET, &port), peer, small = 4096;
	struct agent_conn *c;
	struct agent_event ev;
	uint64_t sent = 0, got = 0;
	ssize_t n;

	cr_assert_eq(setsockopt(l, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
	c = open_tunnel(l, port, &peer);
	while ((n = agent_exec_stdin(c, buf, sizeof(buf), &fixture_err)) > 0 ||
	       agent_exec_next(c, 500, &ev, &fixture_err) == 0) {
		sent += n > 0 ? (uint64_t)n : 0;
		cr_assert_lt(sent, 64u << 20);
	}
	cr_expect_geq(sent, PROTO_WINDOW);
	/* All of it is there for one who reads after all. */
	ok(agent_exec_stdin_eof(c, &fixture_err));
	while ((n = recv(peer, buf, sizeof(buf), 0)) > 0)
		got += (uint64_t)n;
	cr_expect_eq(got, sent);
	close(peer);
	close(l);
	agent_close(c);
}

static void *echo_main(void *arg)
{
	int fd = take_peer(*(int *)arg);
	static uint8_t buf[100000];
	ssize_t n;

	while ((n = recv(fd, buf, sizeof(buf), 0)) > 0)
		if (fd_write_full(fd, buf, (size_t)n))
			break;
	shutdown(fd, SHUT_WR);
	close(fd);
	return NULL;
}

/* There and back again, with the line cut now and then in the middle of both directions. */
Test(tunnel, both_streams_go_on_byte_for_byte_after_each_loss_of_the_connection)
{
	enum { LEN = 6 << 20 };
	static uint8_t buf[60000], expect[PROTO_FRAME_MAX];
	uint64_t session = new_session(), sent = 0, got = 0, cut = 500000;
	unsigned int port, cuts = 0;
	int l = listen_loopback(AF_INET, &port);
	struct agent_conn *c = dial();
	struct agent_event ev = {0};
	bool eof = false;
	pthread_t echo;

	cr_assert_eq(pthread_create(&echo, NULL, echo_main, &l), 0);
	ok(agent_tunnel_start(c, session, port, true, &fixture_err));
	while (ev.type != AGENT_EXIT) {
		size_t n = LEN - sent < sizeof(buf) ? (size_t)(LEN - sent) : sizeof(buf);
		ssize_t taken = 0;

		pattern(sent, buf, n);
		if (n)
			taken = agent_exec_stdin(c, buf, n, &fixture_err);
		cr_assert_geq(taken, 0, "%s", fixture_err.msg);
		sent += (uint64_t)taken;
		if (sent == LEN && !eof) {
			ok(agent_exec_stdin_eof(c, &fixture_err));
			eof = true;
		}
		if (taken)
			continue;
		ok(agent_exec_next(c, -1, &ev, &fixture_err));
		if (ev.type == AGENT_STARTED && cuts) {
			sent = ev.stdin_offset;
			eof = false; /* not to be said before it is known where stdin is */
		}
		if (ev.type != AGENT_STDOUT)
			continue;
		cr_assert_eq(ev.offset, got);
		pattern(got, expect, ev.len);
		cr_assert_arr_eq(ev.data, expect, ev.len);
		got += ev.len;
		ok(agent_exec_ack(c, got, 0, &fixture_err));
		if (got < cut)
			continue;
		cut += 500000;
		cuts++;
		agent_close(c);
		c = dial();
		ok(agent_exec_attach(c, session, got, 0, true, &fixture_err));
		eof = true;
	}
	cr_expect_eq(got, LEN);
	cr_expect_eq(ev.exit.code, 0);
	cr_expect_geq(cuts, 10);
	pthread_join(echo, NULL);
	close(l);
	agent_close(c);
}

/* The machine was forked, say: whoever the connection was for will not come back. */
Test(tunnel, left_alone_it_is_reset)
{
	static const uint64_t sent[2] = {0, 0};
	struct sessions t;
	struct session *s;
	struct peer p;
	int line[2], sock[2];
	char byte;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, line), 0);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock), 0);
	sessions_init(&t);
	t.orphan_ms = 1;
	cr_assert_eq(peer_init(&p, line[0]), 0);
	ok(sessions_add(&t, 1, &p, &s, &fixture_err));
	s->tunnel = true;
	s->out_fd[0] = sock[0];
	s->in_fd = dup(sock[0]);
	close(line[1]);
	cr_assert_eq(session_drive(&t, s, &p, 2, sent), DRIVE_LOST);
	cr_assert_eq(session_drive(&t, s, &p, 2, sent), DRIVE_FINISHED);
	cr_expect_eq(s->end_status, 1);
	cr_expect_eq(recv(sock[1], &byte, 1, 0), 0);
	sessions_release(&t, s);
	sessions_fini(&t);
	peer_fini(&p);
	close(sock[1]);
}
