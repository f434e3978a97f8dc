/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "server/preview/head.h"

#define HOST "Host: sb-1-p80.d\r\n"

static struct head h;
static struct err e;

static int request(const char *text)
{
	size_t end = head_end(text, strlen(text));

	cr_assert_neq(end, 0, "%s", text);
	return head_parse_request(&h, text, end, &e);
}

static int response(const char *text, bool no_body)
{
	size_t end = head_end(text, strlen(text));

	h.no_body = no_body;
	cr_assert_neq(end, 0, "%s", text);
	return head_parse_response(&h, text, end, &e);
}

static void expect_written(const struct head_rewrite *w, const char *text)
{
	struct strbuf out = {0};

	if (w)
		head_write_request(&h, w, &out);
	else
		head_write_response(&h, &out);
	cr_expect_str_eq(out.data, text);
	strbuf_fini(&out);
}

Test(preview_head, ends_at_the_empty_line)
{
	static const char crlf[] = "GET / HTTP/1.1\r\nA: b\r\n\r\n",
			  lf[] = "GET / HTTP/1.1\nA: b\n\n";
	char text[64];

	snprintf(text, sizeof(text), "%sbody", crlf);
	cr_expect_eq(head_end(text, strlen(text)), strlen(crlf));
	for (size_t i = 0; i < strlen(crlf); i++)
		cr_expect_eq(head_end(crlf, i), 0);
	snprintf(text, sizeof(text), "%sbody", lf);
	cr_expect_eq(head_end(text, strlen(text)), strlen(lf));
	cr_expect_eq(head_end("", 0), 0);
	cr_expect_eq(head_end("\n", 1), 0);
}

Test(preview_head, a_request_is_written_anew)
{
	struct head_rewrite w = {.client = "192.0.2.7"};

	cr_assert_eq(request("GET /a?b=c HTTP/1.1\nhost: sb-1-p80.d:81\nX-OC-Preview-Token: t\n"
			     "Connection: keep-alive\nKeep-Alive: 5\nAuthorization: Basic eA==\n"
			     "Cookie:  a=b  \n\n"),
		     0, "%s", e.msg);
	cr_expect(h.complete);
	expect_written(&w, "GET /a?b=c HTTP/1.1\r\nHost: sb-1-p80.d:81\r\n"
			   "Authorization: Basic eA==\r\nCookie: a=b\r\n"
			   "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Host: sb-1-p80.d:81\r\n"
			   "X-Forwarded-Proto: http\r\nConnection: close\r\n\r\n");
	w = (struct head_rewrite){.host = "localhost", .strip_authorization = true};
	expect_written(&w, "GET /a?b=c HTTP/1.1\r\nHost: localhost\r\nCookie: a=b\r\n"
			   "X-Forwarded-Host: sb-1-p80.d:81\r\n"
			   "X-Forwarded-Proto: http\r\nConnection: close\r\n\r\n");
}

Test(preview_head, what_a_proxy_before_us_said_is_kept)
{
	struct head_rewrite w = {.client = "10.0.0.1"};

	cr_assert_eq(request("GET / HTTP/1.1\r\n" HOST "X-Forwarded-For: 1.1.1.1\r\n"
			     "X-Forwarded-For: 2.2.2.2\r\nX-Forwarded-Host: app.example\r\n"
			     "X-Forwarded-Proto: https\r\n\r\n"),
		     0);
	expect_written(&w,
		       "GET / HTTP/1.1\r\n" HOST "X-Forwarded-For: 1.1.1.1, 2.2.2.2, 10.0.0.1\r\n"
		       "X-Forwarded-Host: app.example\r\nX-Forwarded-Proto: https\r\n"
		       "Connection: close\r\n\r\n");
	w.client = NULL;
	expect_written(&w, "GET / HTTP/1.1\r\n" HOST "X-Forwarded-For: 1.1.1.1, 2.2.2.2\r\n"
			   "X-Forwarded-Host: app.example\r\nX-Forwarded-Proto: https\r\n"
			   "Connection: close\r\n\r\n");
}

Test(preview_head, upgrades_pass)
{
	struct head_rewrite w = {0};

	cr_assert_eq(request("GET /ws HTTP/1.1\r\n" HOST "Upgrade: websocket\r\n"
			     "Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: x\r\n\r\n"),
		     0);
	cr_expect(head_upgrades(&h));
	expect_written(&w, "GET /ws HTTP/1.1\r\n" HOST "Sec-WebSocket-Key: x\r\n"
			   "X-Forwarded-Host: sb-1-p80.d\r\nX-Forwarded-Proto: http\r\n"
			   "Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
	/* Without the token in Connection it is none. */
	cr_assert_eq(request("GET /ws HTTP/1.1\r\n" HOST "Upgrade: h2c\r\n\r\n"), 0);
	cr_expect_not(head_upgrades(&h));
	cr_assert_eq(response("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
			      "Connection: upgrade\r\n\r\n",
			      false),
		     0);
	cr_expect(head_upgrades(&h));
	expect_written(NULL, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
			     "Connection: Upgrade\r\n\r\n");
}

Test(preview_head, an_absolute_target_becomes_a_path_if_it_names_the_same_host)
{
	struct head_rewrite w = {0};
	static const char rest[] =
	    HOST "X-Forwarded-Host: sb-1-p80.d\r\nX-Forwarded-Proto: http\r\n"
		 "Connection: close\r\n\r\n";
	char expect[256];

	cr_assert_eq(request("GET http://SB-1-p80.d/x HTTP/1.1\r\n" HOST "\r\n"), 0);
	snprintf(expect, sizeof(expect), "GET /x HTTP/1.1\r\n%s", rest);
	expect_written(&w, expect);
	cr_assert_eq(request("GET http://sb-1-p80.d?q HTTP/1.1\r\n" HOST "\r\n"), 0);
	snprintf(expect, sizeof(expect), "GET /?q HTTP/1.1\r\n%s", rest);
	expect_written(&w, expect);
	cr_expect_eq(request("GET http://sb-2-p80.d/x HTTP/1.1\r\n" HOST "\r\n"), -EPROTO);
	cr_expect_eq(request("GET http://u@sb-1-p80.d/x HTTP/1.1\r\n" HOST "\r\n"), -EPROTO);
	cr_expect_eq(request("GET ftp://sb-1-p80.d/x HTTP/1.1\r\n" HOST "\r\n"), -EPROTO);
	cr_expect_eq(request("CONNECT sb-1-p80.d:80 HTTP/1.1\r\n" HOST "\r\n"), -EOPNOTSUPP);
	cr_expect_eq(request("OPTIONS * HTTP/1.1\r\n" HOST "\r\n"), 0);
	cr_expect_eq(request("GET * HTTP/1.1\r\n" HOST "\r\n"), -EPROTO);
}

Test(preview_head, what_can_be_read_in_two_ways_is_refused)
{
	static const char *const bad[] = {
	    "GET / HTTP/1.1\r\n\r\n",
	    "GET / HTTP/1.1\r\n" HOST HOST "\r\n",
	    "POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
	    "POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nContent-Length: 1\r\n\r\n",
	    "POST / HTTP/1.1\r\n" HOST "Content-Length: 1, 1\r\n\r\n",
	    "POST / HTTP/1.1\r\n" HOST "Content-Length: +1\r\n\r\n",
	    "POST / HTTP/1.1\r\n" HOST "Content-Length: 0x1\r\n\r\n",
	    "POST / HTTP/1.1\r\n" HOST "Content-Length: 99999999999999999999\r\n\r\n",
	    "POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
	    "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
	    "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n",
	    "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n"
	    "Transfer-Encoding: chunked\r\n\r\n",
	    "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: xchunked\r\n\r\n",
	    "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding : chunked\r\n\r\n",
	    "POST / HTTP/1.0\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n",
	    "GET / HTTP/1.1\r\n" HOST "A: b\r\n c\r\n\r\n",
	    "GET / HTTP/1.1\r\n Host: x\r\n" HOST "\r\n",
	    "GET / HTTP/1.1\r\n" HOST "A\x01: b\r\n\r\n",
	    "GET / HTTP/1.1\r\n" HOST "A: b\x01\r\n\r\n",
	    "GET / HTTP/1.1\r\n" HOST "A: b\rX: y\r\n\r\n",
	    "GET / HTTP/1.1\r\n" HOST ": b\r\n\r\n",
	    "GET / HTTP/1.1\r\n" HOST "Upgrade:\r\nUpgrade: a\r\nConnection: Upgrade\r\n\r\n",
	    "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\x02"
	    "1\r\na\r\n0\r\n\r\n",
	    "GET / HTTP/2.0\r\n" HOST "\r\n",
	    "GET / HTTP/1.2\r\n" HOST "\r\n",
	    "GET /\r\n" HOST "\r\n",
	    "GET / x HTTP/1.1\r\n" HOST "\r\n",
	    "NOPE / HTTP/1.1\r\n" HOST "\r\n",
	    "get / HTTP/1.1\r\n" HOST "\r\n",
	    "GET / HTTP/1.1\r\nHost: a\r\nHost: sb-1-p80.d\r\n\r\n",
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_expect_eq(request(bad[i]), -EPROTO, "%s", bad[i]);
}

Test(preview_head, too_many_headers_are_refused)
{
	static char text[16384];
	size_t used = (size_t)snprintf(text, sizeof(text), "GET / HTTP/1.1\r\n" HOST);

	for (int i = 0; i < HEAD_FIELDS_MAX; i++)
		used += (size_t)snprintf(text + used, sizeof(text) - used, "A: b\r\n");
	snprintf(text + used, sizeof(text) - used, "\r\n");
	cr_expect_eq(request(text), -EMSGSIZE);
}

Test(preview_head, a_body_is_followed_to_its_end)
{
	cr_assert_eq(request("POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\n"), 0);
	cr_expect_not(h.complete);
	cr_expect_eq(head_body(&h, "abc", 3), 3);
	cr_expect_eq(head_body(&h, "deGET / HTTP/1.1", 16), 2);
	cr_expect(h.complete);
	cr_expect_eq(head_body(&h, "more", 4), 0);

	cr_assert_eq(request("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"), 0);
	cr_expect_eq(head_body(&h, "3\r\nab", 5), 5);
	cr_expect_eq(head_body(&h, "c\r\n0\r\nT: v\r\n\r\nGET ", 18), 14);
	cr_expect(h.complete);

	cr_assert_eq(request("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"), 0);
	cr_expect_eq(head_body(&h, "zz\r\n", 4), -EPROTO);
	cr_assert_eq(request("POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\n"), 0);
	cr_expect_eq(head_body(&h, "", 0), 0, "nothing yet is no end");
	cr_expect_eq(head_body(&h, "abcde", 5), 5);
	/* Cut short. */
	cr_assert_eq(request("POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\n"), 0);
	cr_expect_eq(head_body_end(&h), -EPROTO);
}

Test(preview_head, an_answer_ends_where_its_head_says_or_with_the_connection)
{
	cr_assert_eq(response("HTTP/1.0 200 OK\r\nServer: x\r\n\r\n", false), 0);
	cr_expect_not(h.complete);
	expect_written(NULL, "HTTP/1.1 200 OK\r\nServer: x\r\nConnection: close\r\n\r\n");
	cr_expect_eq(head_body(&h, "abc", 3), 3);
	cr_expect_not(h.complete);
	cr_expect_eq(head_body_end(&h), 0);
	cr_expect(h.complete);
	cr_assert_eq(
	    response("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\n",
		     false),
	    0);
	cr_expect_eq(head_body(&h, "abcd", 4), 3);
	cr_expect(h.complete);
	expect_written(NULL, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n");
	/* The answer to HEAD has a length and no body. */
	cr_assert_eq(response("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", true), 0);
	cr_expect(h.complete);
	cr_assert_eq(response("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", false), 0);
	cr_expect(h.complete);
	cr_assert_eq(response("HTTP/1.1 100 Continue\r\n\r\n", false), 0);
	cr_expect(head_is_interim(&h));
	expect_written(NULL, "HTTP/1.1 100 Continue\r\n\r\n");
	cr_expect_eq(response("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n"
			      "Transfer-Encoding: chunked\r\n\r\n",
			      false),
		     -EPROTO);
	cr_expect_eq(response("SSH-2.0-OpenSSH\r\n\r\n", false), -EPROTO);
}

Test(preview_head, the_token_of_the_preview_wins_over_authorization)
{
	struct head_text t;
	bool from;

	request("GET / HTTP/1.1\r\n" HOST "Authorization: bearer  abc\r\n\r\n");
	t = head_token(&h, &from);
	cr_expect(from && t.len == 3 && !memcmp(t.at, "abc", 3));
	request("GET / HTTP/1.1\r\n" HOST
		"Authorization: Bearer abc\r\nx-oc-preview-token: d\r\n\r\n");
	t = head_token(&h, &from);
	cr_expect(!from && t.len == 1 && *t.at == 'd');
	request("GET / HTTP/1.1\r\n" HOST "Authorization: Basic abc\r\n\r\n");
	cr_expect_null(head_token(&h, &from).at);
}
