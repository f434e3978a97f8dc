/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <openssl/evp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/fd.h"
#include "tools/cli/ws.h"

/* A server of one connection: reads the handshake, and goes on with the test's own function. */
static char path[64], request[4096];
static int listen_fd;
static pthread_t thread;
static void (*talk)(int fd);
static struct endpoint ep;
static struct err e;
static struct ws *w;

static void accept_value(char out[64])
{
	const char *key = strstr(request, "Sec-WebSocket-Key: ") + 19;
	unsigned char digest[32];
	unsigned int len;
	char text[100];

	snprintf(text, sizeof(text), "%.24s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
	EVP_Digest(text, strlen(text), digest, &len, EVP_sha1(), NULL);
	EVP_EncodeBlock((unsigned char *)out, digest, (int)len);
}

static void say(int fd, const char *text)
{
	cr_assert_eq(fd_write_full(fd, text, strlen(text)), 0);
}

static void *serve(void *arg)
{
	struct pollfd p = {.fd = listen_fd, .events = POLLIN};
	size_t len = 0;
	int fd;

	(void)arg;
	poll(&p, 1, -1);
	fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
	while (!strstr(request, "\r\n\r\n")) {
		ssize_t n = read(fd, request + len, sizeof(request) - 1 - len);

		if (n <= 0)
			return NULL;
		len += (size_t)n;
	}
	talk(fd);
	close(fd);
	return NULL;
}

/* The 101, and what is in the same segment. */
static void upgrade(int fd, const char *more, size_t more_len)
{
	char value[64], text[400];
	int len;

	accept_value(value);
	len = snprintf(text, sizeof(text),
		       "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
		       "upgrade: WebSocket\r\nSec-WebSocket-Accept:%s\r\n\r\n",
		       value);
	memcpy(text + len, more, more_len);
	cr_assert_eq(fd_write_full(fd, text, (size_t)len + more_len), 0);
}

static int start(void (*fn)(int fd), const char *key)
{
	char url[100];

	snprintf(path, sizeof(path), "/tmp/dormouse-ws-%d.sock", getpid());
	listen_fd = fd_unix_listen(path, 0600, &e);
	cr_assert_geq(listen_fd, 0);
	talk = fn;
	pthread_create(&thread, NULL, serve, NULL);
	snprintf(url, sizeof(url), "unix:%s", path);
	cr_assert_eq(endpoint_parse(url, key, &ep, &e), 0);
	return ws_open(&ep, "/sandboxes/sb-1/pty/1?x=y", NULL, &w, &e);
}

static void done(void)
{
	ws_free(w);
	pthread_join(thread, NULL);
	close(listen_fd);
	unlink(path);
}

TestSuite(ws, .fini = done, .timeout = 60);

/* Until a message is there, or it is over. Return: as ws_recv(). */
static int next(struct ws_message *m)
{
	int over = 0;

	while (!ws_recv(w, m)) {
		struct pollfd p = {.fd = ws_fd(w), .events = ws_events(w)};

		if (over)
			return 0;
		over = ws_turn(w);
		if (over || ws_recv(w, m))
			return over ? ws_recv(w, m) : 1;
		poll(&p, 1, -1);
	}
	return 1;
}

/* A masked frame of less than 126 bytes from the client. */
static size_t read_frame(int fd, uint8_t *type, char *payload)
{
	uint8_t head[6];

	cr_assert_eq(fd_read_full(fd, head, 6), 0);
	cr_assert(head[1] & 0x80, "not masked");
	cr_assert_lt(head[1] & 0x7f, 126);
	*type = head[0];
	if (head[1] & 0x7f)
		cr_assert_eq(fd_read_full(fd, payload, head[1] & 0x7f), 0);
	for (int i = 0; i < (head[1] & 0x7f); i++)
		payload[i] = (char)(payload[i] ^ head[2 + i % 4]);
	return head[1] & 0x7f;
}

static void talk_normally(int fd)
{
	char got[200];
	uint8_t type;

	cr_expect_not_null(strstr(request, "GET /api/sandboxes/sb-1/pty/1?x=y HTTP/1.1\r\n"));
	cr_expect_not_null(strstr(request, "Host: localhost\r\n"));
	cr_expect_not_null(strstr(request, "X-API-Key: secret\r\n"));
	cr_expect_not_null(strstr(request, "Sec-WebSocket-Version: 13\r\n"));
	/* A fragmented message with a ping inside, together with the 101. */
	upgrade(fd, "\x02\x03one\x89\x02hi\x80\x04 two", 5 + 4 + 6);
	cr_expect_eq(read_frame(fd, &type, got), 2);
	cr_expect_eq(type, 0x8a, "the pong");
	cr_expect_eq(read_frame(fd, &type, got), 5);
	cr_expect_eq(type, 0x82);
	cr_expect_arr_eq(got, "typed", 5);
	cr_assert_eq(fd_write_full(fd,
				   "\x88\x08\x03\xe8"
				   "ex\x01t 3",
				   10),
		     0);
	cr_expect_eq(read_frame(fd, &type, got), 8);
	cr_expect_eq(type, 0x88);
}

Test(ws, messages_go_both_ways_and_the_end_is_told)
{
	struct ws_message m;

	cr_assert_eq(start(talk_normally, "secret"), 0, "%s", e.msg);
	cr_assert_eq(next(&m), 1);
	cr_expect_eq(m.len, 7);
	cr_expect_arr_eq(m.data, "one two", 7);
	cr_expect_eq(ws_send(w, "ty", 2, "ped", 3), 0);
	cr_expect_eq(next(&m), 0);
	cr_expect_eq(ws_code(w), 1000);
	cr_expect_str_eq(ws_reason(w), "ex?t 3");
	cr_expect_eq(ws_send(w, "x", 1, NULL, 0), -EPIPE);
}

static void talk_and_vanish(int fd)
{
	upgrade(fd, "\x82\x01z", 3);
}

Test(ws, a_connection_that_breaks_is_no_end)
{
	struct ws_message m;

	cr_assert_eq(start(talk_and_vanish, NULL), 0, "%s", e.msg);
	cr_expect_null(strstr(request, "X-API-Key"));
	cr_assert_eq(next(&m), 1);
	cr_expect_eq(m.len, 1);
	cr_expect_eq(next(&m), 0);
	cr_expect_eq(ws_code(w), WS_CODE_BROKEN);
}

static void refuse(int fd)
{
	say(fd, "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n"
		"Content-Length: 32\r\n\r\n{\"error\":\"");
	usleep(20000);
	say(fd, "terminal not found\"}\n\n");
	/* Kept alive: who reads on waits. */
	char c;

	cr_expect_eq(read(fd, &c, 1), 0);
}

Test(ws, a_refusal_is_told_with_the_servers_words)
{
	cr_expect_eq(start(refuse, NULL), -EREMOTEIO);
	cr_expect_str_eq(e.msg, "terminal not found (404)");
}

static void lie(int fd)
{
	say(fd, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
		"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n");
}

Test(ws, an_answer_to_another_key_is_refused)
{
	cr_expect_eq(start(lie, NULL), -EIO);
	cr_expect_str_eq(e.msg, "the answer is no WebSocket's");
}

static void flood(int fd)
{
	static char frame[4 + 65535] = "\x82\x7e\xff\xff";
	char got[200];
	uint8_t type;

	upgrade(fd, "", 0);
	/* Far more than is received ahead. */
	for (int i = 0; i < 100; i++)
		cr_assert_eq(fd_write_full(fd, frame, sizeof(frame)), 0);
	read_frame(fd, &type, got);
	cr_expect_eq(type, 0x88);
	cr_assert_eq(fd_write_full(fd, "\x88\x02\x03\xe8", 4), 0);
}

Test(ws, what_is_not_taken_waits_and_nothing_is_lost)
{
	struct ws_message m;
	size_t total = 0;

	cr_assert_eq(start(flood, NULL), 0, "%s", e.msg);
	for (int i = 0; i < 50; i++)
		ws_turn(w);
	while (total < 100 * 65535) {
		cr_assert_eq(next(&m), 1);
		total += m.len;
	}
	cr_expect_eq(total, 100 * 65535);
	ws_close(w, WS_CODE_NORMAL);
	cr_expect_eq(ws_code(w), 1000);
}
