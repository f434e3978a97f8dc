/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client against agents that are made up: what a real one never says. (With
 * a real one it is tested in tests/unit/agent.)
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/agent_conn.h"
#include "lib/fd.h"

TestSuite(agent_client, .timeout = 300);
static void remove_pool_dir(void);
TestSuite(agent_pool, .timeout = 300, .fini = remove_pool_dir);

/* However slow the machine is: a test that hangs is ended by its suite's timeout. */
#define NO_LIMIT UINT32_MAX

static struct err e;

/* What a made-up agent says to the request after HELLO. */
static struct proto_buf script;

static void say_hello(int fd, uint32_t version)
{
	struct proto_buf b = {0};

	proto_begin(&b, PROTO_HELLO, 1);
	proto_put_tlv_u32(&b, PROTO_TAG_VERSION, 0, version);
	proto_put_tlv_str(&b, PROTO_TAG_AGENT, 0, "fake\n\x7f");
	proto_put_tlv(&b, 0x7777, 0, "from the future", 15);
	proto_end(&b);
	cr_assert_eq(fd_write_full(fd, b.data, b.len), 0);
	proto_buf_fini(&b);
}

/* Connected to an agent that has said HELLO and the script, and closed. */
static struct agent_conn *scripted(void)
{
	struct agent_addr addr = {.timeout_ms = NO_LIMIT};
	struct agent_conn *c;
	int fds[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	say_hello(fds[1], PROTO_VERSION);
	cr_assert_eq(fd_write_full(fds[1], script.data, script.len), 0);
	shutdown(fds[1], SHUT_WR);
	cr_assert_eq(conn_create(fds[0], &addr, &c, &e), 0, "%s", e.msg);
	return c;
}

static void frame(enum proto_type type, uint64_t id, const void *payload, size_t len)
{
	proto_begin(&script, type, id);
	proto_put_bytes(&script, payload, len);
	cr_assert_eq(proto_end(&script), 0);
}

static void started(void)
{
	frame(PROTO_STARTED, 2, NULL, 0);
}

static void output(enum proto_type type, uint64_t offset, const char *text)
{
	proto_begin(&script, type, 2);
	proto_put_u64(&script, offset);
	proto_put_bytes(&script, text, strlen(text));
	cr_assert_eq(proto_end(&script), 0);
}

static void exit_frame(uint32_t code, uint32_t signo, uint64_t out_len)
{
	proto_begin(&script, PROTO_EXIT, 2);
	proto_put_tlv_u32(&script, PROTO_TAG_EXIT_CODE, 0, code);
	proto_put_tlv_u32(&script, PROTO_TAG_SIGNAL, 0, signo);
	proto_put_tlv_u64(&script, PROTO_TAG_STDOUT_OFFSET, 0, out_len);
	cr_assert_eq(proto_end(&script), 0);
}

/* Run the script as an exec. Return: what ended it; 0 for AGENT_EXIT. */
static int run_script(struct agent_conn *c)
{
	const char *argv[] = {"x", NULL};
	struct agent_exec_spec spec = {.session = 1, .argv = argv, .flags = PROTO_EXEC_STDIN};
	struct agent_event ev;
	int rc = agent_exec_start(c, &spec, &e);

	while (!rc && !(rc = agent_exec_next(c, -1, &ev, &e)))
		if (ev.type == AGENT_EXIT)
			return 0;
	return rc;
}

static void expect_broken(int rc)
{
	struct agent_conn *c = scripted();

	cr_expect_eq(run_script(c), rc, "%s", e.msg);
	cr_expect(agent_conn_broken(c));
	cr_expect_not(agent_conn_idle(c));
	/* Nothing can be done with it any more, and nothing crashes. */
	cr_expect_lt(agent_ping(c, &e), 0);
	agent_close(c);
	proto_buf_reset(&script);
}

Test(agent_client, hello_is_taken_and_its_text_made_printable)
{
	struct agent_conn *c = scripted();

	cr_expect_eq(agent_conn_hello(c)->version, PROTO_VERSION);
	cr_expect_str_eq(agent_conn_hello(c)->agent, "fake??");
	cr_expect(agent_conn_idle(c));
	agent_close(c);
}

Test(agent_client, another_protocol_version_is_refused)
{
	struct agent_addr addr = {.timeout_ms = NO_LIMIT};
	struct agent_conn *c;
	int fds[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	say_hello(fds[1], PROTO_VERSION + 1);
	cr_expect_eq(conn_create(fds[0], &addr, &c, &e), -EPROTONOSUPPORT);
	close(fds[1]);
}

Test(agent_client, an_exec_session_as_it_should_be_is_accepted)
{
	struct agent_conn *c;

	started();
	output(PROTO_STDOUT, 0, "one");
	output(PROTO_STDOUT, 3, "two");
	exit_frame(5, 0, 6);
	c = scripted();
	cr_expect_eq(run_script(c), 0, "%s", e.msg);
	cr_expect(agent_conn_idle(c));
	agent_close(c);
	proto_buf_fini(&script);
}

Test(agent_client, holes_repeats_and_lies_in_a_session_break_the_connection)
{
	started(); /* a hole */
	output(PROTO_STDOUT, 1, "x");
	expect_broken(-EPROTO);
	started(); /* a repeat */
	output(PROTO_STDOUT, 0, "x");
	output(PROTO_STDOUT, 0, "x");
	expect_broken(-EPROTO);
	started(); /* less than it says at the end */
	output(PROTO_STDOUT, 0, "x");
	exit_frame(0, 0, 2);
	expect_broken(-EPROTO);
	output(PROTO_STDOUT, 0, "x"); /* before the start */
	expect_broken(-EPROTO);
	started(); /* twice */
	started();
	expect_broken(-EPROTO);
	started(); /* no such exit code, no such signal */
	exit_frame(256, 0, 0);
	expect_broken(-EPROTO);
	started();
	exit_frame(0, 65, 0);
	expect_broken(-EPROTO);
	started(); /* stdin it was never sent */
	frame(PROTO_STDIN_ACK, 2, "\1\0\0\0\0\0\0\0", 8);
	expect_broken(-EPROTO);
	started(); /* a frame cut short inside */
	frame(PROTO_STDOUT, 2, "\0\0\0", 3);
	expect_broken(-EPROTO);
	started(); /* one that belongs to files */
	frame(PROTO_CHUNK, 2, "x", 1);
	expect_broken(-EPROTO);
	frame(PROTO_STARTED, 3, NULL, 0); /* another request's */
	expect_broken(-EPROTO);
	started(); /* and then it is gone */
	expect_broken(-EPIPE);
	proto_buf_fini(&script);
}

Test(agent_client, an_error_of_the_guest_leaves_the_connection_usable)
{
	struct agent_conn *c;

	proto_begin(&script, PROTO_ERROR, 2);
	proto_put_tlv_u32(&script, PROTO_TAG_ERRNO, 0, ENOENT);
	proto_put_tlv_str(&script, PROTO_TAG_MESSAGE, 0, "not\there");
	proto_end(&script);
	frame(PROTO_RESULT, 3, NULL, 0);
	c = scripted();
	cr_expect_eq(agent_mkdir(c, "x", &e), -ENOENT);
	cr_expect_str_eq(e.msg, "not?here");
	cr_expect_eq(agent_ping(c, &e), 0, "%s", e.msg);
	agent_close(c);
	proto_buf_fini(&script);
}

Test(agent_client, error_numbers_that_are_none_become_eio)
{
	static const uint32_t numbers[] = {0, 4096, UINT32_MAX, EAGAIN};

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		struct agent_conn *c;

		proto_begin(&script, PROTO_ERROR, 2);
		proto_put_tlv_u32(&script, PROTO_TAG_ERRNO, 0, numbers[i]);
		proto_end(&script);
		c = scripted();
		cr_expect_eq(agent_mkdir(c, "x", &e), -EIO);
		agent_close(c);
		proto_buf_reset(&script);
	}
	proto_buf_fini(&script);
}

Test(agent_client, names_that_are_paths_are_not_taken_from_a_listing)
{
	static const char *const names[] = {"..", ".", "a/b", "", "/etc/passwd"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct agent_entry entry;
		struct agent_conn *c;
		uint8_t value[64] = {0};

		memcpy(value + PROTO_ENTRY_LEN, names[i], strlen(names[i]));
		proto_begin(&script, PROTO_ENTRIES, 2);
		proto_put_tlv(&script, PROTO_TAG_ENTRY, 0, value,
			      PROTO_ENTRY_LEN + strlen(names[i]));
		proto_end(&script);
		c = scripted();
		cr_assert_eq(agent_list_open(c, "/", &e), 0);
		cr_expect_eq(agent_list_next(c, &entry, &e), -EPROTO);
		cr_expect(agent_conn_broken(c));
		agent_close(c);
		proto_buf_reset(&script);
	}
	proto_buf_fini(&script);
}

Test(agent_client, silence_ends_with_a_timeout_and_breaks_the_connection)
{
	struct agent_addr addr = {.timeout_ms = 20};
	struct agent_conn *c;
	int fds[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	say_hello(fds[1], PROTO_VERSION);
	cr_assert_eq(conn_create(fds[0], &addr, &c, &e), 0);
	cr_expect_eq(agent_ping(c, &e), -ETIMEDOUT);
	cr_expect(agent_conn_broken(c));
	agent_close(c);
	close(fds[1]);
}

static void *abort_it(void *conn)
{
	agent_conn_abort(conn);
	return NULL;
}

Test(agent_client, an_abort_from_another_thread_ends_a_wait_without_limit)
{
	struct agent_addr addr = {.timeout_ms = NO_LIMIT};
	struct agent_conn *c;
	pthread_t thread;
	int fds[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	say_hello(fds[1], PROTO_VERSION);
	cr_assert_eq(conn_create(fds[0], &addr, &c, &e), 0);
	cr_assert_eq(pthread_create(&thread, NULL, abort_it, c), 0);
	cr_expect_lt(agent_sync(c, &e), 0);
	pthread_join(thread, NULL);
	cr_expect(agent_conn_broken(c));
	agent_close(c);
	close(fds[1]);
}

/* ---- the vsock socket of a VMM ---- */

static int vsock_answer(const char *answer, bool and_hello)
{
	struct agent_addr addr = {.vsock_port = PROTO_AGENT_PORT, .timeout_ms = NO_LIMIT};
	struct agent_conn *c;
	char line[32] = "";
	int fds[2], rc;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	cr_assert_eq(fd_write_full(fds[1], answer, strlen(answer)), 0);
	if (and_hello)
		say_hello(fds[1], PROTO_VERSION);
	shutdown(fds[1], SHUT_WR);
	rc = conn_create(fds[0], &addr, &c, &e);
	cr_assert_gt(read(fds[1], line, strlen("CONNECT 1024\n")), 0);
	cr_expect_str_eq(line, "CONNECT 1024\n");
	close(fds[1]);
	if (!rc)
		agent_close(c);
	return rc;
}

Test(agent_client, the_vsock_greeting_is_checked)
{
	cr_expect_eq(vsock_answer("OK 1073741824\n", true), 0, "%s", e.msg);
	cr_expect_eq(vsock_answer("", false), -ECONNREFUSED);
	cr_expect_eq(vsock_answer("NO\n", false), -ECONNREFUSED);
	cr_expect_eq(vsock_answer("OK", false), -ECONNREFUSED);
	cr_expect_eq(vsock_answer("OK 11111111111111111111111111111111111111", false), -EPROTO);
}

Test(agent_client, where_nobody_listens_the_connection_is_refused)
{
	struct agent_addr addr = {.path = "/tmp/dormouse-no-such-socket"};
	struct agent_conn *c;

	cr_expect_eq(agent_connect(&addr, &c, &e), -ECONNREFUSED);
}

/* ---- the pool ---- */

static char pool_dir[] = "/tmp/dormouse-pool-XXXXXX";
static struct agent_addr pool_addr;
static int pool_fd; /* listening */

static char pool_path[sizeof(pool_dir) + 2];

static void remove_pool_dir(void)
{
	unlink(pool_path);
	rmdir(pool_dir);
}

static struct agent_pool *pool_of(unsigned int max_idle)
{
	cr_assert_not_null(mkdtemp(pool_dir));
	snprintf(pool_path, sizeof(pool_path), "%s/s", pool_dir);
	pool_fd = fd_unix_listen(pool_path, 0600, &e);
	cr_assert_geq(pool_fd, 0, "%s", e.msg);
	pool_addr = (struct agent_addr){.path = pool_path, .timeout_ms = NO_LIMIT};
	return agent_pool_create(&pool_addr, max_idle);
}

/* The agent's end of the connection that the pool makes meanwhile. */
static void *accept_one(void *fd)
{
	struct pollfd pfd = {.fd = pool_fd, .events = POLLIN};

	poll(&pfd, 1, -1);
	*(int *)fd = accept(pool_fd, NULL, NULL);
	say_hello(*(int *)fd, PROTO_VERSION);
	return NULL;
}

static struct agent_conn *get_new(struct agent_pool *p, int *fd)
{
	struct agent_conn *c = NULL;
	pthread_t thread;

	cr_assert_eq(pthread_create(&thread, NULL, accept_one, fd), 0);
	cr_assert_eq(agent_pool_get(p, &c, &e), 0, "%s", e.msg);
	pthread_join(thread, NULL);
	return c;
}

static struct agent_conn *get_idle(struct agent_pool *p)
{
	struct agent_conn *c = NULL;

	/* Nobody accepts: a new one could not say HELLO. */
	cr_assert_eq(agent_pool_get(p, &c, &e), 0, "%s", e.msg);
	return c;
}

Test(agent_pool, an_idle_connection_is_used_again_the_last_one_first)
{
	struct agent_pool *p = pool_of(8);
	int fds[2];
	struct agent_conn *a = get_new(p, &fds[0]), *b = get_new(p, &fds[1]);

	cr_expect_neq(a, b);
	agent_pool_put(p, a);
	agent_pool_put(p, b);
	cr_expect_eq(get_idle(p), b);
	cr_expect_eq(get_idle(p), a);
	agent_pool_put(p, a);
	agent_pool_put(p, b);
	agent_pool_destroy(p);
	close(fds[0]);
	close(fds[1]);
}

Test(agent_pool, only_so_many_are_kept)
{
	struct agent_pool *p = pool_of(1);
	int fds[2];
	struct agent_conn *a = get_new(p, &fds[0]), *b = get_new(p, &fds[1]);
	char byte;

	agent_pool_put(p, a);
	agent_pool_put(p, b);
	/* HELLO came, and then the end. */
	while (read(fds[1], &byte, 1) > 0)
		;
	cr_expect_eq(get_idle(p), a);
	agent_pool_put(p, a);
	agent_pool_destroy(p);
	close(fds[0]);
	close(fds[1]);
}

Test(agent_pool, one_that_has_ended_or_is_not_idle_is_not_given_out_again)
{
	const char *argv[] = {"x", NULL};
	struct agent_exec_spec spec = {.session = 1, .argv = argv};
	struct agent_pool *p = pool_of(8);
	struct agent_conn *c;
	int fds[3];

	agent_pool_put(p, get_new(p, &fds[0]));
	close(fds[0]);
	c = get_new(p, &fds[1]);
	cr_assert_eq(agent_exec_start(c, &spec, &e), 0);
	agent_pool_put(p, c);
	c = get_new(p, &fds[2]);
	agent_pool_put(p, c);
	agent_pool_destroy(p);
	close(fds[1]);
	close(fds[2]);
}

Test(agent_pool, after_an_abort_those_in_use_fail_and_there_are_no_new_ones)
{
	struct agent_pool *p = pool_of(8);
	struct agent_conn *c, *d = NULL;
	int fd;

	c = get_new(p, &fd);
	agent_pool_abort(p);
	cr_expect_lt(agent_ping(c, &e), 0);
	cr_expect_eq(agent_pool_get(p, &d, &e), -ESHUTDOWN);
	cr_expect_null(d);
	agent_pool_put(p, c);
	agent_pool_put(p, NULL);
	agent_pool_destroy(p);
	close(fd);
}

Test(agent_pool, after_a_reset_those_in_use_fail_and_new_ones_can_be_had)
{
	struct agent_pool *p = pool_of(8);
	struct agent_conn *c, *idle;
	int fds[3];

	c = get_new(p, &fds[0]);
	idle = get_new(p, &fds[1]);
	agent_pool_put(p, idle);
	agent_pool_reset(p);
	cr_expect_lt(agent_ping(c, &e), 0);
	agent_pool_put(p, c);
	c = get_new(p, &fds[2]);
	cr_expect_not(agent_conn_broken(c));
	agent_pool_put(p, c);
	agent_pool_destroy(p);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
}
