/* SPDX-License-Identifier: Apache-2.0 */
/* A tunnel and an agent that says what the test wants, when it wants. */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/proto.h"
#include "server/manager/internal.h"
#include "server/manager/tunnel.h"

/* What hangs is a failure. */
TestSuite(tunnel, .timeout = 60);

static struct manager manager;
static struct sandbox sandbox = {.m = &manager, .refs = 2, .ready = true};
static char dir[] = "/tmp/dormouse-tunnel-XXXXXX", path[64];
static int listener, agent;

static void say(enum proto_type type, uint64_t id, const void *payload, size_t len)
{
	struct proto_buf b = {0};

	proto_begin(&b, type, id);
	proto_put_bytes(&b, payload, len);
	cr_assert_eq(proto_end(&b), 0);
	cr_assert_eq(fd_write_full(agent, b.data, b.len), 0);
	proto_buf_fini(&b);
}

/* Says HELLO and, without having been asked yet, that the connection is there. */
static void *accept_one(void *arg)
{
	struct proto_buf b = {0};

	struct pollfd pfd = {.fd = listener, .events = POLLIN};

	poll(&pfd, 1, -1);
	agent = accept(listener, NULL, NULL);
	proto_begin(&b, PROTO_HELLO, 1);
	proto_put_tlv_u32(&b, PROTO_TAG_VERSION, 0, PROTO_VERSION);
	proto_put_tlv_u32(&b, PROTO_TAG_HELLO_FLAGS, 0, PROTO_HELLO_CONNECT);
	proto_end(&b);
	cr_assert_eq(fd_write_full(agent, b.data, b.len), 0);
	proto_buf_fini(&b);
	say(PROTO_STARTED, 2, NULL, 0);
	return arg;
}

static struct tunnel *open_tunnel(void)
{
	struct agent_addr addr = {.path = path, .timeout_ms = UINT32_MAX};
	struct tunnel *t = NULL;
	pthread_t thread;
	struct err e;

	cr_assert_not_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	listener = fd_unix_listen(path, 0600, &e);
	cr_assert_geq(listener, 0, "%s", e.msg);
	pthread_mutex_init(&sandbox.lock, NULL);
	pthread_cond_init(&sandbox.changed, NULL);
	sandbox.row.status = SANDBOX_RUNNING;
	sandbox.pool = agent_pool_create(&addr, 1);
	cr_assert_eq(pthread_create(&thread, NULL, accept_one, NULL), 0);
	cr_assert_eq(tunnel_open(&sandbox, 80, &t, &e), 0, "%s", e.msg);
	pthread_join(thread, NULL);
	return t;
}

/* The other side's reader, so that no socket is full. */
static void *drain(void *arg)
{
	static char block[65536];

	while (read(agent, block, sizeof(block)) > 0)
		;
	return arg;
}

Test(tunnel, room_that_a_reader_hears_of_wakes_who_waits_to_write)
{
	static char block[65536];
	uint8_t acked[8] = {0};
	struct tunnel *t = open_tunnel();
	pthread_t thread;
	struct err e;
	ssize_t n;

	cr_assert_eq(pthread_create(&thread, NULL, drain, NULL), 0);
	while ((n = tunnel_write(t, block, sizeof(block), &e)) > 0)
		;
	cr_assert_eq(n, 0, "the window is full");
	acked[2] = PROTO_WINDOW >> 16; /* little endian: all of it */
	say(PROTO_STDIN_ACK, 2, acked, sizeof(acked));
	/* It takes the event, and has nothing to read. */
	cr_assert_eq(tunnel_read(t, block, sizeof(block), &e), -EAGAIN);
	cr_assert_eq(tunnel_wait(t, true, -1, 0, -1), 0);
	cr_assert_gt(tunnel_write(t, block, sizeof(block), &e), 0);
	tunnel_close(t);
	agent_pool_destroy(sandbox.pool);
	pthread_join(thread, NULL);
	close(listener);
	unlink(path);
	rmdir(dir);
}
