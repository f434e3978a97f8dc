/* SPDX-License-Identifier: Apache-2.0 */
/* The metadata service: requests, and connections over socket pairs. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/clock.h"
#include "server/net/metadata.h"

static struct metadata_question read_whole(const char *text)
{
	static struct metadata_request r;
	struct metadata_question q;

	metadata_request_init(&r);
	for (; *text && !r.complete; text++)
		cr_assert_eq(metadata_request_feed(&r, text, 1), 0);
	cr_assert(r.complete);
	metadata_request_read(&r, &q);
	return q;
}

Test(metadata, requests)
{
	struct metadata_question q;

	cr_expect_str_eq(read_whole("GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n").what, "status");
	cr_expect_str_eq(read_whole("GET /v1/limits?x=1 HTTP/1.0\r\n\r\n").what, "limits");
	cr_expect_str_eq(read_whole("HEAD /v1/metadata HTTP/1.1\r\n\r\n").what, "metadata");
	q = read_whole("GET / HTTP/1.1\r\n\r\n");
	cr_expect(!q.what && q.status == 200 && strstr(q.text, "/v1/scale"));
	cr_expect_eq(read_whole("GET /v1/../etc HTTP/1.1\r\n\r\n").status, 404);
	cr_expect_eq(read_whole("GET /v2/status HTTP/1.1\r\n\r\n").status, 404);
	cr_expect_eq(read_whole("DELETE /v1/status HTTP/1.1\r\n\r\n").status, 405);
	cr_expect_eq(read_whole("POST /v1/status HTTP/1.1\r\nContent-Length: 0\r\n\r\n").status,
		     405);
	cr_expect_eq(read_whole("GET /v1/scale HTTP/1.1\r\n\r\n").status, 405);
	cr_expect_eq(read_whole("PUT /v1/scale HTTP/1.1\r\nContent-Length: 0\r\n\r\n").status, 405);
	q = read_whole("POST /v1/scale HTTP/1.1\r\nContent-Length: 17\r\n\r\n{\"memoryMB\":2048}");
	cr_expect_str_eq(q.what, "scale");
	cr_expect_eq(q.memory_mb, 2048);
	q = read_whole("POST /v1/scale HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
		       "10\r\n{\"memoryMB\":512}\r\n0\r\n\r\n");
	cr_expect_eq(q.memory_mb, 512);
	q = read_whole("POST /v1/scale HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}");
	cr_expect(!q.what && q.status == 400);
	q = read_whole("POST /v1/scale HTTP/1.1\r\nContent-Length: 15\r\n\r\n{\"memoryMB\":-1}");
	cr_expect(!q.what && q.status == 400);
}

Test(metadata, what_is_no_request)
{
	static const char *const wrong[] = {"\x16\x03\x01", "GET\r\n\r\n", "GET / XTTP/1.1\r\n\r\n",
					    "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"};
	struct metadata_request r;
	char line[METADATA_HEAD_MAX];

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		metadata_request_init(&r);
		cr_expect_eq(metadata_request_feed(&r, wrong[i], strlen(wrong[i])), -EBADMSG, "%zu",
			     i);
	}
	/* Too long: a path, a head, a body. */
	metadata_request_init(&r);
	memset(line, 'a', sizeof(line));
	cr_expect_eq(metadata_request_feed(&r, "GET /", 5), 0);
	cr_expect_eq(metadata_request_feed(&r, line, 100), -EBADMSG);
	metadata_request_init(&r);
	cr_expect_eq(metadata_request_feed(&r, "GET / HTTP/1.1\r\nA: ", 19), 0);
	cr_expect_eq(metadata_request_feed(&r, line, sizeof(line)), 0);
	cr_expect_eq(metadata_request_feed(&r, line, sizeof(line)), -EBADMSG);
	metadata_request_init(&r);
	cr_expect_eq(
	    metadata_request_feed(&r, "POST / HTTP/1.1\r\nContent-Length: 2000\r\n\r\n", 41), 0);
	cr_expect_eq(metadata_request_feed(&r, line, 1500), -EBADMSG);
}

/* --- connections
 * ---------------------------------------------------------------------------------- */

static uint32_t asked;
static char asked_what[16];
static bool there = true;

static bool on_ask(void *arg, uint32_t id, const struct metadata_question *q)
{
	(void)arg;
	asked = id;
	strncpy(asked_what, q->what, sizeof(asked_what) - 1);
	return there;
}

static int connect_to(struct metadata *m)
{
	int pair[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	metadata_accept(m, pair[0]);
	return pair[1];
}

static void turn(struct metadata *m)
{
	struct pollfd p[METADATA_CONNS];
	int timeout = 0;
	size_t n = metadata_prepare(m, p, &timeout);

	poll(p, n, timeout);
	metadata_dispatch(m, p, n);
}

static void say(int fd, const char *text)
{
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

/* What comes until the end, after turns of the service. */
static const char *hear(struct metadata *m, int fd)
{
	static char text[1024];
	size_t used = 0;
	ssize_t n;

	turn(m);
	while ((n = recv(fd, text + used, sizeof(text) - 1 - used, MSG_DONTWAIT)) > 0)
		used += (size_t)n;
	cr_assert_eq(n, 0, "the end was expected");
	text[used] = '\0';
	close(fd);
	return text;
}

Test(metadata, asks_the_server)
{
	struct metadata *m = metadata_create(on_ask, NULL);
	json_t *body = json_pack("{ss}", "sandboxId", "sb-1");
	int fd = connect_to(m);

	say(fd, "GET /v1/sta");
	turn(m);
	cr_assert_eq(asked, 0);
	say(fd, "tus HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n\r\n");
	turn(m);
	cr_assert_neq(asked, 0);
	cr_expect_str_eq(asked_what, "status");
	metadata_answer(m, asked + 1, 200, body);
	metadata_answer(m, asked, 200, body);
	metadata_answer(m, asked, 500, body);
	json_decref(body);
	cr_expect_str_eq(hear(m, fd), "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
				      "Content-Length: 20\r\nConnection: close\r\n\r\n"
				      "{\"sandboxId\":\"sb-1\"}");
	metadata_destroy(m);
}

Test(metadata, without_a_server)
{
	struct metadata *m = metadata_create(on_ask, NULL);
	int fd = connect_to(m), gone = connect_to(m);

	there = false;
	say(fd, "GET /v1/limits HTTP/1.1\r\n\r\n");
	cr_expect(strstr(hear(m, fd), "HTTP/1.1 503 "));
	there = true;
	say(gone, "GET /v1/limits HTTP/1.1\r\n\r\n");
	turn(m);
	metadata_fail(m);
	cr_expect(strstr(hear(m, gone), "HTTP/1.1 503 "));
	metadata_destroy(m);
}

Test(metadata, bad_ones_and_too_many)
{
	struct metadata *m = metadata_create(on_ask, NULL);
	int fd = connect_to(m), held[METADATA_CONNS - 1], more;
	char c;

	for (size_t i = 0; i < METADATA_CONNS - 1; i++)
		held[i] = connect_to(m);
	more = connect_to(m);
	cr_expect_eq(read(more, &c, 1), 0, "turned away");
	say(fd, "nonsense\r\n\r\n");
	cr_expect(strstr(hear(m, fd), "HTTP/1.1 400 "));
	turn(m);
	close(more);
	more = connect_to(m);
	say(more, "GET /v1 HTTP/1.1\r\n\r\n");
	cr_expect(strstr(hear(m, more), "HTTP/1.1 200 "), "there is room again");
	for (size_t i = 0; i < METADATA_CONNS - 1; i++)
		close(held[i]);
	metadata_destroy(m);
}
