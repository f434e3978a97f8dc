/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake_server.h"
#include "lib/fd.h"
#include "tools/cli/http.h"

static struct fake_server server;

static void start_client(struct http *h, const char *key)
{
	struct endpoint ep;
	struct err e;

	cr_assert_eq(endpoint_parse(server.url, key, &ep, &e), 0);
	cr_assert_eq(http_init(h, &ep, &e), 0);
}

static void echo(struct fake_server *s, const struct fake_request *r, int fd)
{
	(void)s;
	if (strstr(r->target, "/fail"))
		fake_reply(fd, 410, "{\"error\":\"sandbox sb-1 has been stopped\"}");
	else if (strstr(r->target, "/denied"))
		fake_reply(fd, 401, "{\"error\":\"missing API key\"}");
	else if (strstr(r->target, "/foreign"))
		fake_reply(fd, 502, "<html>bad gateway</html>");
	else if (strstr(r->target, "/short"))
		fd_write_full(fd, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", 42);
	else
		fake_reply_bytes(fd, 200, r->body, r->body_len);
}

static int call(struct http *h, const char *path, struct http_answer *a, struct err *e)
{
	struct http_request r = {.method = "GET", .path = path};

	return http_call(h, &r, a, e);
}

Test(http, json_goes_both_ways_with_the_key, .timeout = 30)
{
	json_t *body = json_pack("{s:i}", "n", 7);
	struct http_request r = {.method = "POST", .path = "/x", .json = body};
	struct http_answer a;
	struct http h;
	struct err e;

	for (int tcp = 0; tcp < 2; tcp++) {
		fake_start(&server, tcp, echo);
		start_client(&h, "osb_k");
		cr_assert_eq(http_call(&h, &r, &a, &e), 0, "%s", e.msg);
		cr_assert_eq(a.status, 200);
		cr_assert(json_equal(a.json, body));
		http_answer_fini(&a);
		http_fini(&h);
		fake_stop(&server);
		cr_assert_str_eq(server.log, "POST /api/x {\"n\":7}\n");
	}
	json_decref(body);
}

Test(http, failures_carry_the_words_of_the_server_and_what_to_do, .timeout = 30)
{
	struct http_answer a;
	struct http h;
	struct err e;

	fake_start(&server, false, echo);
	start_client(&h, NULL);
	cr_assert_eq(call(&h, "/fail", &a, &e), -EREMOTEIO);
	cr_assert_eq(a.status, 410);
	cr_assert_str_eq(e.msg, "sandbox sb-1 has been stopped (410)");
	http_answer_fini(&a);
	cr_assert_eq(call(&h, "/denied", &a, &e), -EREMOTEIO);
	cr_assert_not_null(strstr(e.msg, "Set DORMOUSE_API_KEY"));
	http_answer_fini(&a);
	cr_assert_eq(call(&h, "/foreign", &a, &e), -EREMOTEIO);
	cr_assert_not_null(strstr(e.msg, "not of a Dormouse server (502)"));
	http_answer_fini(&a);
	cr_assert_eq(call(&h, "/short", &a, &e), -EIO, "a cut answer is no answer");
	http_answer_fini(&a);
	http_fini(&h);
	fake_stop(&server);
}

Test(http, without_a_server_the_error_says_how_to_start_it, .timeout = 30)
{
	struct endpoint ep;
	struct http_answer a;
	struct http h;
	struct err e;

	endpoint_parse("unix:/nonexistent/dormouse.sock", NULL, &ep, &e);
	cr_assert_eq(http_init(&h, &ep, &e), 0);
	cr_assert_eq(call(&h, "/sandboxes", &a, &e), -ECONNREFUSED);
	cr_assert_eq(a.status, 0);
	cr_assert_not_null(strstr(e.msg, "dormouse serve"));
	http_answer_fini(&a);
	http_fini(&h);
}

struct counter {
	size_t left, got;
	bool wrong, refuse;
};

static ssize_t produce(void *ctx, void *buf, size_t len)
{
	struct counter *c = ctx;

	if (c->refuse && c->left < 1000000)
		return -EIO;
	len = len < c->left ? len : c->left;
	memset(buf, 'z', len);
	c->left -= len;
	return (ssize_t)len;
}

static int consume(void *ctx, const void *data, size_t len)
{
	struct counter *c = ctx;

	for (size_t i = 0; i < len; i++)
		c->wrong |= ((const char *)data)[i] != 'z';
	c->got += len;
	return c->refuse ? -ENOSPC : 0;
}

Test(http, bodies_are_streamed_both_ways, .timeout = 60)
{
	const size_t size = 3000000;

	for (int known = 0; known < 2; known++) {
		struct counter up = {.left = size}, down = {0};
		struct http_request r = {.method = "PUT",
					 .path = "/f",
					 .source = produce,
					 .source_ctx = &up,
					 .source_len = known ? (int64_t)size : -1,
					 .sink = consume,
					 .sink_ctx = &down};
		struct http_answer a;
		struct http h;
		struct err e;

		fake_start(&server, false, echo);
		start_client(&h, NULL);
		cr_assert_eq(http_call(&h, &r, &a, &e), 0, "%s", e.msg);
		cr_assert_eq(down.got, size);
		cr_assert_not(down.wrong);
		cr_assert_eq(a.length, 0);
		http_answer_fini(&a);
		http_fini(&h);
		fake_stop(&server);
	}
}

Test(http, a_source_or_sink_that_fails_ends_the_call, .timeout = 60)
{
	for (int sink = 0; sink < 2; sink++) {
		struct counter up = {.left = 3000000, .refuse = !sink}, down = {.refuse = sink};
		struct http_request r = {.method = "PUT",
					 .path = "/f",
					 .source = produce,
					 .source_ctx = &up,
					 .source_len = 3000000,
					 .sink = consume,
					 .sink_ctx = &down};
		struct http_answer a;
		struct http h;
		struct err e;

		fake_start(&server, false, echo);
		start_client(&h, NULL);
		cr_assert_eq(http_call(&h, &r, &a, &e), -ECANCELED);
		http_answer_fini(&a);
		http_fini(&h);
		fake_stop(&server);
	}
}

static volatile sig_atomic_t stop;

static void never_answer(struct fake_server *s, const struct fake_request *r, int fd)
{
	char c;

	(void)s;
	(void)r;
	stop = 1;
	/* Until the client hangs up. */
	while (read(fd, &c, 1) > 0)
		;
}

Test(http, a_stop_flag_ends_a_call_that_waits, .timeout = 30)
{
	struct http_answer a;
	struct http h;
	struct err e;

	fake_start(&server, false, never_answer);
	start_client(&h, NULL);
	h.stop = &stop;
	cr_assert_eq(call(&h, "/wait", &a, &e), -EINTR);
	http_answer_fini(&a);
	http_fini(&h);
	fake_stop(&server);
}

Test(http, escaping_leaves_nothing_special)
{
	char *s = http_escape("/a b&c=\xc3\xbc%?#-._~");

	cr_assert_str_eq(s, "%2Fa%20b%26c%3D%C3%BC%25%3F%23-._~");
	free(s);
}
