/* SPDX-License-Identifier: Apache-2.0 */
/* WebSockets: handshake, frames from well and badly behaved clients, the end. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/err.h"
#include "server/http/strbuf.h"
#include "server/http/ws.h"

/* --- the handshake ------------------------------------------------------------------------------
 */

#define RFC_KEY "dGhlIHNhbXBsZSBub25jZQ=="

Test(ws, the_handshake_is_checked)
{
	static const struct {
		struct ws_handshake h;
		int rc;
		const char *why;
	} cases[] = {
	    {{"GET", "HTTP/1.1", "websocket", "Upgrade", RFC_KEY, "13", NULL, NULL, false},
	     0,
	     "the example of RFC 6455"},
	    {{"GET", "HTTP/1.1", "WebSocket", "keep-alive, Upgrade", RFC_KEY, "13", "0", NULL,
	      false},
	     0,
	     "Firefox"},
	    {{"GET", "HTTP/1.1", "h2c, websocket", "upgrade", RFC_KEY, "13", NULL, NULL, false},
	     0,
	     "one of several protocols"},
	    {{"POST", "HTTP/1.1", "websocket", "Upgrade", RFC_KEY, "13", NULL, NULL, false},
	     -EINVAL,
	     "method"},
	    {{"GET", "HTTP/1.0", "websocket", "Upgrade", RFC_KEY, "13", NULL, NULL, false},
	     -EINVAL,
	     "HTTP version"},
	    {{"GET", "HTTP/1.1", NULL, "Upgrade", RFC_KEY, "13", NULL, NULL, false},
	     -EPROTONOSUPPORT,
	     "no Upgrade"},
	    {{"GET", "HTTP/1.1", "websocket", "keep-alive", RFC_KEY, "13", NULL, NULL, false},
	     -EPROTONOSUPPORT,
	     "Connection without it"},
	    {{"GET", "HTTP/1.1", "websockets", "Upgrade", RFC_KEY, "13", NULL, NULL, false},
	     -EPROTONOSUPPORT,
	     "another protocol"},
	    {{"GET", "HTTP/1.1", "websocket", "Upgrade", NULL, "13", NULL, NULL, false},
	     -EINVAL,
	     "no key"},
	    {{"GET", "HTTP/1.1", "websocket", "Upgrade", "dGhlIHNhbXBsZSBub25jZQ", "13", NULL, NULL,
	      false},
	     -EINVAL,
	     "key without padding"},
	    {{"GET", "HTTP/1.1", "websocket", "Upgrade", "dGhlIHNhbXBsZSBub25jZR==", "13", NULL,
	      NULL, false},
	     -EINVAL,
	     "key with bits too many"},
	    {{"GET", "HTTP/1.1", "websocket", "Upgrade", "dGhlIHNhbXBsZSBub25j!Q==", "13", NULL,
	      NULL, false},
	     -EINVAL,
	     "key that is no base64"},
	    {{"GET", "HTTP/1.1", "websocket", "Upgrade", RFC_KEY, "8", NULL, NULL, false},
	     -EPROTONOSUPPORT,
	     "old version"},
	    {{"GET", "HTTP/1.1", "websocket", "Upgrade", RFC_KEY, NULL, NULL, NULL, false},
	     -EPROTONOSUPPORT,
	     "no version"},
	    {{"GET", "HTTP/1.1", "websocket", "Upgrade", RFC_KEY, "13", "5", NULL, false},
	     -EINVAL,
	     "a body"},
	    {{"GET", "HTTP/1.1", "websocket", "Upgrade", RFC_KEY, "13", NULL, "chunked", false},
	     -EINVAL,
	     "a chunked body"},
	    {{"GET", "HTTP/1.1", "websocket", "Upgrade", RFC_KEY, "13", NULL, NULL, true},
	     -EINVAL,
	     "two keys"},
	};
	char accept[WS_ACCEPT_SIZE];
	struct err e;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		memset(accept, 0, sizeof(accept));
		cr_expect_eq(ws_handshake_check(&cases[i].h, accept, &e), cases[i].rc, "%s",
			     cases[i].why);
		if (!cases[i].rc)
			cr_expect_str_eq(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
	}
}

/* --- frames
 * ---------------------------------------------------------------------------------------- */

struct rig {
	struct ws *w;
	int ours, client;
};

static struct rig rig_make(const void *extra, size_t len)
{
	struct rig r;
	int fds[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	r.ours = fds[0];
	r.client = fds[1];
	r.w = ws_new(fds[0], extra, len);
	cr_assert_not_null(r.w);
	return r;
}

static void rig_end(struct rig *r)
{
	ws_free(r->w);
	close(r->ours);
	if (r->client >= 0)
		close(r->client);
}

#define FIN  0x80
#define MASK 0x80

/* A frame as a client sends it; the mask is all the same. @head: fin, reserved bits, opcode. */
static size_t make_frame(uint8_t *out, uint8_t head, bool masked, const void *data, size_t len)
{
	static const uint8_t key[4] = {0x12, 0x34, 0x56, 0x78};
	size_t n = 0;

	out[n++] = head;
	if (len < 126) {
		out[n++] = (uint8_t)((masked ? MASK : 0) | len);
	} else {
		out[n++] = (uint8_t)((masked ? MASK : 0) | 127);
		for (int i = 7; i >= 0; i--)
			out[n++] = (uint8_t)((uint64_t)len >> (8 * i));
	}
	if (masked) {
		memcpy(out + n, key, 4);
		n += 4;
	}
	for (size_t i = 0; i < len; i++)
		out[n++] = ((const uint8_t *)data)[i] ^ (masked ? key[i % 4] : 0);
	return n;
}

static void put(struct rig *r, const void *bytes, size_t len)
{
	cr_assert_eq(send(r->client, bytes, len, 0), (ssize_t)len);
}

static void put_frame(struct rig *r, uint8_t head, bool masked, const char *text)
{
	uint8_t frame[512];

	put(r, frame, make_frame(frame, head, masked, text, strlen(text)));
}

/* All that the client gets until now. */
static size_t take(struct rig *r, uint8_t *buf, size_t max)
{
	ssize_t n;

	ws_wait(r->w, -1, true, 0);
	n = recv(r->client, buf, max, MSG_DONTWAIT);
	return n < 0 ? 0 : (size_t)n;
}

/* The next message, put together; false if there is none that is whole. */
static bool message(struct rig *r, struct strbuf *b)
{
	struct ws_piece p;

	strbuf_fini(b);
	while (ws_recv(r->w, &p) == 1) {
		cr_assert_eq(p.first, b->len == 0);
		strbuf_add(b, p.data, p.len);
		if (p.last)
			return true;
	}
	return false;
}

/* The close code that the client gets; 0: none. What was sent before it is skipped. */
static unsigned int close_code(struct rig *r)
{
	uint8_t buf[4096];
	size_t n = take(r, buf, sizeof(buf)), at = 0;

	while (at + 2 <= n) {
		if (buf[at] == (FIN | 8))
			return buf[at + 1] >= 2 ? (unsigned int)buf[at + 2] << 8 | buf[at + 3]
						: 1005;
		at += 2 + (size_t)buf[at + 1];
	}
	return 0;
}

Test(ws, a_message_arrives_and_one_goes_out)
{
	struct rig r = rig_make(NULL, 0);
	struct strbuf b = {0};
	uint8_t got[16];

	put_frame(&r, FIN | 2, true, "hello");
	cr_assert(message(&r, &b));
	cr_assert_str_eq(b.data, "hello");
	cr_assert_eq(ws_send(r.w, "\1", 1, "out", 3), 0);
	cr_assert_not(ws_can_send(r.w));
	cr_assert_eq(take(&r, got, sizeof(got)), 6);
	cr_assert_arr_eq(got, "\x82\x04\1out", 6, "not masked");
	cr_assert(ws_can_send(r.w));
	strbuf_fini(&b);
	rig_end(&r);
}

Test(ws, bytes_that_came_with_the_handshake_count)
{
	uint8_t frame[32];
	size_t n = make_frame(frame, FIN | 2, true, "early", 5);
	struct rig r = rig_make(frame, n - 2);
	struct strbuf b = {0};

	cr_assert_not(message(&r, &b));
	put(&r, frame + n - 2, 2);
	/* The first part was handed out as a piece of its own: all that is left is its end. */
	cr_assert_eq(ws_wait(r.w, -1, true, 0), WS_READY);
	rig_end(&r);
	strbuf_fini(&b);

	r = rig_make(frame, n);
	cr_assert(message(&r, &b));
	cr_assert_str_eq(b.data, "early");
	strbuf_fini(&b);
	rig_end(&r);
}

Test(ws, fragments_are_one_message_with_control_frames_in_between)
{
	struct rig r = rig_make(NULL, 0);
	struct strbuf b = {0};
	uint8_t got[16];

	put_frame(&r, 2, true, "one ");
	put_frame(&r, FIN | 9, true, "ping");
	put_frame(&r, 0, true, "");
	put_frame(&r, FIN | 0xa, true, "a pong nobody asked for");
	put_frame(&r, FIN | 0, true, "two");
	cr_assert(message(&r, &b));
	cr_assert_str_eq(b.data, "one two");
	cr_assert_eq(take(&r, got, sizeof(got)), 6);
	cr_assert_arr_eq(got, "\x8a\x04ping", 6, "the pong has what the ping had");
	strbuf_fini(&b);
	rig_end(&r);
}

Test(ws, an_empty_message_is_a_message)
{
	struct rig r = rig_make(NULL, 0);
	struct ws_piece p;

	put_frame(&r, FIN | 1, true, "");
	cr_assert_eq(ws_recv(r.w, &p), 1);
	cr_assert(p.first && p.last && p.text && !p.len);
	cr_assert_eq(ws_recv(r.w, &p), 0);
	rig_end(&r);
}

/* What no client may send, and how the connection is closed for it. */
Test(ws, violations_close_with_the_right_code)
{
	static const struct {
		const char *what, *bytes;
		size_t len;
		unsigned int code;
	} cases[] = {
	    {"unmasked", "\x82\x01x", 3, 1002},
	    {"reserved bit 1", "\xc2\x80\0\0\0\0", 6, 1002},
	    {"reserved bit 2", "\xa2\x80\0\0\0\0", 6, 1002},
	    {"reserved bit 3", "\x92\x80\0\0\0\0", 6, 1002},
	    {"reserved opcode 3", "\x83\x80\0\0\0\0", 6, 1002},
	    {"reserved opcode 7", "\x87\x80\0\0\0\0", 6, 1002},
	    {"reserved control 0xb", "\x8b\x80\0\0\0\0", 6, 1002},
	    {"reserved control 0xf", "\x8f\x80\0\0\0\0", 6, 1002},
	    {"continuation of nothing", "\x80\x80\0\0\0\0", 6, 1002},
	    {"a message within another", "\x02\x80\0\0\0\0\x82\x80\0\0\0\0", 12, 1002},
	    {"fragmented ping", "\x09\x80\0\0\0\0", 6, 1002},
	    {"ping of 126 bytes", "\x89\xfe\0\x7e\0\0\0\0", 8, 1002},
	    {"length not the shortest", "\x82\xfe\0\x05\0\0\0\0", 8, 1002},
	    {"length with the top bit", "\x82\xff\x80\0\0\0\0\0\0\0\0\0\0\0", 14, 1002},
	    {"text that is no UTF-8", "\x81\x81\0\0\0\0\xff", 7, 1007},
	    {"text cut within a character", "\x81\x81\0\0\0\0\xc3", 7, 1007},
	    {"close with half a code", "\x88\x81\0\0\0\0\x03", 7, 1005},
	    {"close with code 1005", "\x88\x82\0\0\0\0\x03\xed", 8, 1002},
	    {"close with code 999", "\x88\x82\0\0\0\0\x03\xe7", 8, 1002},
	    {"a message of 64 MiB + 1", "\x82\xff\0\0\0\0\x04\0\0\x01\0\0\0\0x", 15, 1009},
	    {"fragments of more than 64 MiB",
	     "\x02\x81\0\0\0\0x"
	     "\x80\xff\0\0\0\0\x04\0\0\0\0\0\0\0x",
	     22, 1009},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct rig r = rig_make(NULL, 0);
		unsigned int code;
		struct ws_piece p;
		int rc;

		put(&r, cases[i].bytes, cases[i].len);
		while ((rc = ws_recv(r.w, &p)) == 1)
			;
		cr_expect_eq(rc, -EPIPE, "%s: %d", cases[i].what, rc);
		shutdown(r.client, SHUT_WR);
		ws_close(r.w, WS_NORMAL, "");
		code = close_code(&r);
		cr_expect_eq(code, cases[i].code, "%s: %u", cases[i].what, code);
		rig_end(&r);
	}
}

Test(ws, a_close_is_answered_after_what_came_before_it)
{
	struct rig r = rig_make(NULL, 0);
	struct strbuf b = {0};
	struct ws_piece p;

	put_frame(&r, FIN | 2, true, "last words");
	put(&r, "\x88\x82\0\0\0\0\x03\xe8", 8);
	cr_assert(message(&r, &b));
	cr_assert_str_eq(b.data, "last words");
	cr_assert_eq(ws_recv(r.w, &p), -EPIPE);
	shutdown(r.client, SHUT_WR);
	ws_close(r.w, WS_INTERNAL, "not this one");
	cr_assert_eq(close_code(&r), 1000);
	strbuf_fini(&b);
	rig_end(&r);
}

static void *close_thread(void *arg)
{
	ws_close(arg, WS_NORMAL, "exec completed");
	return NULL;
}

Test(ws, closing_sends_code_and_reason_after_all_that_was_queued)
{
	struct rig r = rig_make(NULL, 0);
	pthread_t thread;
	uint8_t got[64];
	size_t n = 0;

	ws_send(r.w, "\3", 1, "\0\0\0\7", 4);
	pthread_create(&thread, NULL, close_thread, r.w);
	while (n < 7 + 18) {
		ssize_t more = recv(r.client, got + n, sizeof(got) - n, 0);

		cr_assert_gt(more, 0);
		n += (size_t)more;
	}
	cr_assert_eq(n, 7 + 18);
	cr_assert_arr_eq(got, "\x82\x05\3\0\0\0\7\x88\x10\x03\xe8", 11);
	cr_assert_arr_eq(got + 11, "exec completed", 14);
	put(&r, "\x88\x82\0\0\0\0\x03\xe8", 8);
	close(r.client);
	r.client = -1;
	pthread_join(thread, NULL);
	rig_end(&r);
}

Test(ws, a_half_closed_socket_is_an_end)
{
	struct rig r = rig_make(NULL, 0);
	struct strbuf b = {0};
	struct ws_piece p;

	put_frame(&r, FIN | 2, true, "x");
	put(&r, "\x82", 1);
	shutdown(r.client, SHUT_WR);
	cr_assert(message(&r, &b));
	cr_assert_eq(ws_recv(r.w, &p), -EPIPE);
	cr_assert_eq(ws_wait(r.w, -1, true, -1), -EPIPE);
	ws_close(r.w, WS_NORMAL, "");
	strbuf_fini(&b);
	rig_end(&r);
}

Test(ws, a_client_that_is_gone_is_noticed_by_who_sends)
{
	struct rig r = rig_make(NULL, 0);
	char block[4096] = "";
	int rc = 0;

	close(r.client);
	r.client = -1;
	for (int i = 0; i < 100 && rc >= 0; i++) {
		ws_send(r.w, NULL, 0, block, sizeof(block));
		rc = ws_wait(r.w, -1, false, 0);
	}
	cr_assert_eq(rc, -EPIPE);
	ws_close(r.w, WS_NORMAL, "");
	rig_end(&r);
}

Test(ws, reading_ahead_is_bounded_and_nothing_is_lost)
{
	static uint8_t frame[300000], data[250000];
	struct rig r = rig_make(NULL, 0);
	size_t len, at = 0, got = 0;
	bool whole = false;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7 + i / 256);
	len = make_frame(frame, FIN | 2, true, data, sizeof(data));
	while (!whole) {
		ssize_t n = send(r.client, frame + at, len - at, MSG_DONTWAIT);
		size_t piece_bytes = 0;
		struct ws_piece p;

		at += n > 0 ? (size_t)n : 0;
		while (ws_recv(r.w, &p) == 1) {
			cr_assert_arr_eq(p.data, data + got, p.len);
			got += p.len;
			piece_bytes += p.len;
			whole |= p.last;
		}
		cr_assert(piece_bytes || n > 0, "it goes on");
	}
	cr_assert_eq(got, sizeof(data));
	rig_end(&r);
}

Test(ws, pings_without_end_do_not_fill_memory)
{
	struct rig r = rig_make(NULL, 0);
	uint8_t ping[256], junk[65536];
	size_t n = make_frame(ping, FIN | 9, true, "0123456789", 10), sent = 0, taken = 0;
	struct ws_piece p;

	/* The client does not read: at some point its pings are not read, either. */
	for (int i = 0; i < 200000; i++) {
		if (send(r.client, ping, n, MSG_DONTWAIT) != (ssize_t)n)
			break;
		sent++;
		ws_recv(r.w, &p);
		ws_wait(r.w, -1, true, 0);
	}
	cr_assert_lt(sent, 200000);
	/* When it does, it gets a pong for each. */
	for (;;) {
		ssize_t got = recv(r.client, junk, sizeof(junk), MSG_DONTWAIT);

		taken += got > 0 ? (size_t)got : 0;
		ws_recv(r.w, &p);
		if (ws_wait(r.w, -1, true, 0) <= 0 && got <= 0)
			break;
	}
	cr_assert_eq(taken, sent * 12);
	rig_end(&r);
}

Test(ws, another_descriptor_ends_the_wait)
{
	struct rig r = rig_make(NULL, 0);
	int fds[2];

	cr_assert_eq(pipe2(fds, O_CLOEXEC), 0);
	cr_assert_eq(ws_wait(r.w, fds[0], true, 0), 0);
	cr_assert_eq(write(fds[1], "x", 1), 1);
	cr_assert_eq(ws_wait(r.w, fds[0], true, -1), WS_OTHER);
	put_frame(&r, FIN | 2, true, "y");
	cr_assert_eq(ws_wait(r.w, fds[0], true, -1), WS_OTHER | WS_READY);
	cr_assert_eq(ws_wait(r.w, fds[0], false, -1), WS_OTHER, "the client is not read");
	close(fds[0]);
	close(fds[1]);
	rig_end(&r);
}
