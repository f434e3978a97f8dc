/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"
#include "tests/unit/agent/fixture.h"

TestSuite(session, .init = agent_start, .fini = agent_stop, .timeout = 300);

/* Read events up to @n bytes of stdout, which are checked; false at the end of the session. */
static bool read_some(struct agent_conn *c, uint64_t *got, size_t n, struct agent_exit *end)
{
	static uint8_t expect[PROTO_FRAME_MAX];
	uint64_t until = *got + n;
	struct agent_event ev;

	while (*got < until) {
		ok(agent_exec_next(c, -1, &ev, &fixture_err));
		if (ev.type == AGENT_STDOUT) {
			cr_assert_eq(ev.offset, *got);
			pattern(*got, expect, ev.len);
			cr_assert_arr_eq(ev.data, expect, ev.len);
			*got += ev.len;
		}
		if (ev.type == AGENT_EXIT) {
			*end = ev.exit;
			return false;
		}
	}
	return true;
}

static void make_data(size_t len)
{
	static uint8_t buf[1 << 20];
	int fd = open(in_scratch("data"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	for (size_t at = 0; at < len; at += sizeof(buf)) {
		pattern(at, buf, sizeof(buf));
		cr_assert_eq(fd_write_full(fd, buf, sizeof(buf)), 0);
	}
	close(fd);
}

Test(session, output_goes_on_byte_for_byte_after_each_loss_of_the_connection)
{
	enum { LEN = 8 << 20 };
	const char *argv[] = {"cat", "../data", NULL};
	struct agent_exec_spec spec = {.argv = argv, .session = new_session(), .manual_ack = true};
	struct agent_conn *c = dial();
	struct agent_exit end = {0};
	uint64_t got = 0;
	unsigned int lost = 0;

	make_data(LEN);
	ok(agent_exec_start(c, &spec, &fixture_err));
	/* All but the last 40000 bytes are acknowledged; now and then the line is cut. */
	for (unsigned int i = 1; read_some(c, &got, 100000, &end); i++) {
		ok(agent_exec_ack(c, got - 40000, 0, &fixture_err));
		if (i % 5)
			continue;
		/* What was received and not kept has to be sent again. */
		if (lost++ % 2)
			got -= 30000;
		agent_close(c);
		c = dial();
		ok(agent_exec_attach(c, spec.session, got, 0, true, &fixture_err));
	}
	cr_expect_eq(got, LEN);
	cr_expect_eq(end.stdout_len, LEN);
	cr_expect_eq(end.code, 0);
	cr_expect_gt(lost, 3);
	agent_close(c);
}

/* An acknowledgement on its way when the connection breaks is lost: to attach has to stand for it.
 */
Test(session, output_goes_on_though_the_last_acknowledgements_were_lost)
{
	enum { LEN = 1 << 20 };
	const char *argv[] = {"cat", "../data", NULL};
	struct agent_exec_spec spec = {.argv = argv, .session = new_session(), .manual_ack = true};
	struct agent_conn *c = dial();
	struct agent_exit end = {0};
	uint64_t got = 0;

	make_data(LEN);
	ok(agent_exec_start(c, &spec, &fixture_err));
	/* The whole window has come, and the agent has heard nothing of it. */
	cr_assert(read_some(c, &got, PROTO_WINDOW, &end));
	cr_assert_eq(got, PROTO_WINDOW);
	agent_close(c);
	/* So too where the client acknowledges by itself, once it has received enough. */
	c = dial();
	ok(agent_exec_attach(c, spec.session, got, 0, false, &fixture_err));
	cr_expect_not(read_some(c, &got, LEN, &end));
	cr_expect_eq(got, LEN);
	cr_expect_eq(end.stdout_len, LEN);
	agent_close(c);
}

Test(session, stdin_goes_on_where_the_agent_says)
{
	enum { LEN = 3000000 };
	const char *argv[] = {"sh", "-c", "cat >../copy; echo end", NULL};
	struct agent_exec_spec spec = {
	    .argv = argv, .session = new_session(), .flags = PROTO_EXEC_STDIN};
	struct agent_conn *c = dial();
	static uint8_t buf[50000];
	struct agent_event ev;
	uint64_t sent = 0, cut = 700000;
	char *copy;
	size_t copy_len;

	ok(agent_exec_start(c, &spec, &fixture_err));
	while (sent < LEN) {
		size_t n = LEN - sent < sizeof(buf) ? (size_t)(LEN - sent) : sizeof(buf);
		ssize_t taken;

		pattern(sent, buf, n);
		taken = agent_exec_stdin(c, buf, n, &fixture_err);
		cr_assert_geq(taken, 0, "%s", fixture_err.msg);
		sent += (uint64_t)taken;
		if (!taken)
			ok(agent_exec_next(c, -1, &ev, &fixture_err));
		if (sent < cut)
			continue;
		cut += 700000;
		agent_close(c);
		c = dial();
		ok(agent_exec_attach(c, spec.session, 0, 0, false, &fixture_err));
		ok(agent_exec_next(c, -1, &ev, &fixture_err));
		cr_assert_eq(ev.type, AGENT_STARTED);
		cr_assert_leq(ev.stdin_offset, sent);
		sent = ev.stdin_offset;
	}
	ok(agent_exec_stdin_eof(c, &fixture_err));
	do
		ok(agent_exec_next(c, -1, &ev, &fixture_err));
	while (ev.type != AGENT_EXIT);
	ok(fd_read_file(AT_FDCWD, in_scratch("copy"), LEN + 1, &copy, &copy_len));
	cr_assert_eq(copy_len, LEN);
	for (size_t at = 0; at < LEN; at += sizeof(buf)) {
		pattern(at, buf, sizeof(buf));
		cr_assert_arr_eq(copy + at, buf, sizeof(buf));
	}
	free(copy);
	agent_close(c);
}

Test(session, the_end_is_kept_for_a_client_that_was_away)
{
	const char *argv[] = {"sh", "-c", "read x; echo said $x; exit 7", NULL};
	struct agent_exec_spec spec = {
	    .argv = argv, .session = new_session(), .flags = PROTO_EXEC_STDIN};
	struct agent_conn *c = dial();
	struct agent_event ev;

	ok(agent_exec_start(c, &spec, &fixture_err));
	/* Before that the other connection could come first, to no session. */
	ok(agent_exec_next(c, -1, &ev, &fixture_err));
	cr_assert_eq(ev.type, AGENT_STARTED);
	cr_assert_eq(agent_exec_stdin(c, "so\n", 3, &fixture_err), 3);
	agent_close(c);
	/* Whether it has ended by now or not makes no difference. */
	c = dial();
	ok(agent_exec_attach(c, spec.session, 0, 0, false, &fixture_err));
	ok(agent_exec_next(c, -1, &ev, &fixture_err));
	cr_assert_eq(ev.type, AGENT_STARTED);
	/* What the first connection still held when this one took the session is lost. */
	cr_assert_leq(ev.stdin_offset, 3);
	cr_assert_eq(
	    agent_exec_stdin(c, "so\n" + ev.stdin_offset, 3 - ev.stdin_offset, &fixture_err),
	    3 - ev.stdin_offset);
	ok(agent_exec_next(c, -1, &ev, &fixture_err));
	cr_assert_eq(ev.type, AGENT_STDOUT);
	cr_expect_arr_eq(ev.data, "said so\n", 8);
	ok(agent_exec_next(c, -1, &ev, &fixture_err));
	cr_assert_eq(ev.type, AGENT_EXIT);
	cr_expect_eq(ev.exit.code, 7);
	/* The next request on the same connection says that the end was seen: forgotten. */
	ok(agent_ping(c, &fixture_err));
	ok(agent_exec_attach(c, spec.session, 0, 0, false, &fixture_err));
	cr_expect_eq(agent_exec_next(c, -1, &ev, &fixture_err), -ESRCH);
	cr_expect(agent_conn_idle(c));
	agent_close(c);
}

Test(session, a_second_connection_takes_the_session_from_the_first)
{
	const char *argv[] = {"cat", NULL};
	struct agent_exec_spec spec = {
	    .argv = argv, .session = new_session(), .flags = PROTO_EXEC_STDIN};
	struct agent_conn *first = dial(), *second = dial();
	struct agent_event ev;

	ok(agent_exec_start(first, &spec, &fixture_err));
	cr_assert_eq(agent_exec_stdin(first, "one\n", 4, &fixture_err), 4);
	do
		ok(agent_exec_next(first, -1, &ev, &fixture_err));
	while (ev.type != AGENT_STDOUT);
	ok(agent_exec_attach(second, spec.session, 4, 0, false, &fixture_err));
	ok(agent_exec_next(second, -1, &ev, &fixture_err));
	cr_expect_eq(ev.type, AGENT_STARTED);
	cr_expect_eq(ev.stdin_offset, 4);
	cr_expect_eq(agent_exec_next(first, -1, &ev, &fixture_err), -ESTALE);
	ok(agent_ping(first, &fixture_err));
	cr_assert_eq(agent_exec_stdin(second, "two\n", 4, &fixture_err), 4);
	ok(agent_exec_stdin_eof(second, &fixture_err));
	do
		ok(agent_exec_next(second, -1, &ev, &fixture_err));
	while (ev.type != AGENT_STDOUT);
	cr_expect_eq(ev.offset, 4);
	cr_expect_arr_eq(ev.data, "two\n", 4);
	do
		ok(agent_exec_next(second, -1, &ev, &fixture_err));
	while (ev.type != AGENT_EXIT);
	agent_close(first);
	agent_close(second);
}

Test(session, what_was_acknowledged_cannot_be_asked_for_again)
{
	const char *argv[] = {"sh", "-c", "echo 12345678; read x; echo 9; read x", NULL};
	struct agent_exec_spec spec = {
	    .argv = argv, .session = new_session(), .flags = PROTO_EXEC_STDIN, .manual_ack = true};
	struct agent_conn *c = dial();
	struct agent_event ev;

	ok(agent_exec_start(c, &spec, &fixture_err));
	do
		ok(agent_exec_next(c, -1, &ev, &fixture_err));
	while (ev.type != AGENT_STDOUT);
	ok(agent_exec_ack(c, 5, 0, &fixture_err));
	cr_expect_eq(agent_exec_ack(c, 10, 0, &fixture_err), -EINVAL);
	/* The answer to what was sent after it: the acknowledgement has arrived. */
	cr_assert_eq(agent_exec_stdin(c, "\n", 1, &fixture_err), 1);
	do
		ok(agent_exec_next(c, -1, &ev, &fixture_err));
	while (ev.type != AGENT_STDOUT);
	agent_close(c);
	c = dial();
	ok(agent_exec_attach(c, spec.session, 4, 0, true, &fixture_err));
	cr_expect_eq(agent_exec_next(c, -1, &ev, &fixture_err), -ERANGE);
	agent_close(c);
	c = dial();
	ok(agent_exec_attach(c, spec.session, 5, 0, true, &fixture_err));
	do
		ok(agent_exec_next(c, -1, &ev, &fixture_err));
	while (ev.type != AGENT_STDOUT);
	cr_expect_eq(ev.offset, 5);
	cr_assert_geq(ev.len, 4);
	cr_expect_arr_eq(ev.data, "678\n", 4);
	agent_close(c);
}

Test(session, it_dies_with_its_connection_if_it_shall)
{
	const char *argv[] = {"sh", "-c", "exec 3>../fifo; echo up; sleep 1000", NULL};
	struct agent_exec_spec spec = {
	    .argv = argv, .session = new_session(), .flags = PROTO_EXEC_DIE_WITH_CONN};
	struct agent_conn *c = dial();
	struct agent_event ev;
	char byte;
	int fifo;

	/* The process holds the FIFO's other end: it reads as ended when that is dead. */
	cr_assert_eq(mkfifo(in_scratch("fifo"), 0600), 0);
	ok(agent_exec_start(c, &spec, &fixture_err));
	fifo = open(in_scratch("fifo"), O_RDONLY | O_CLOEXEC);
	do
		ok(agent_exec_next(c, -1, &ev, &fixture_err));
	while (ev.type != AGENT_STDOUT);
	agent_close(c);
	cr_expect_eq(read(fifo, &byte, 1), 0);
	close(fifo);
}

Test(session, an_id_in_use_is_refused)
{
	const char *argv[] = {"sh", "-c", "read x", NULL};
	struct agent_exec_spec spec = {
	    .argv = argv, .session = new_session(), .flags = PROTO_EXEC_STDIN};
	struct agent_conn *c = dial(), *d = dial();
	struct agent_event ev;

	ok(agent_exec_start(c, &spec, &fixture_err));
	ok(agent_exec_next(c, -1, &ev, &fixture_err));
	ok(agent_exec_start(d, &spec, &fixture_err));
	cr_expect_eq(agent_exec_next(d, -1, &ev, &fixture_err), -EEXIST);
	agent_close(c);
	agent_close(d);
}

Test(session, the_order_of_both_streams_is_that_of_the_reading)
{
	const char *argv[] = {
	    "sh", "-c", "for i in 1 2 3; do echo o$i; read x; echo e$i >&2; read x; done", NULL};
	struct agent_exec_spec spec = {
	    .argv = argv, .session = new_session(), .flags = PROTO_EXEC_STDIN};
	struct agent_conn *c = dial();
	char order[64] = "";
	struct agent_event ev;

	ok(agent_exec_start(c, &spec, &fixture_err));
	do {
		ok(agent_exec_next(c, -1, &ev, &fixture_err));
		if (ev.type == AGENT_STDOUT || ev.type == AGENT_STDERR)
			cr_assert_eq(agent_exec_stdin(c, "\n", 1, &fixture_err), 1);
	} while (ev.type != AGENT_EXIT);
	agent_close(c);
	/* Attached to from the start, the replay has the same order. */
	c = dial();
	ok(agent_exec_attach(c, spec.session, 0, 0, false, &fixture_err));
	do {
		ok(agent_exec_next(c, -1, &ev, &fixture_err));
		if (ev.type == AGENT_STDOUT || ev.type == AGENT_STDERR)
			strncat(order, (const char *)ev.data, ev.len - 1);
	} while (ev.type != AGENT_EXIT);
	cr_expect_str_eq(order, "o1e1o2e2o3e3");
	agent_close(c);
}
