/* SPDX-License-Identifier: Apache-2.0 */
/* Slow handlers (slow.h), over a real connection: what the client gets, and what it may do. */
#include <criterion/criterion.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/http/httpd.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool running, let_go;
static struct httpd *h;
static char dir[] = "/tmp/dormouse-slow-XXXXXX";

static void announce(bool *what)
{
	pthread_mutex_lock(&lock);
	*what = true;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void await(const bool *what)
{
	pthread_mutex_lock(&lock);
	while (!*what)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

/* Uses what it borrows from the request, after having waited. */
static void handle(struct request *r)
{
	struct strbuf b = {0};

	announce(&running);
	await(&let_go);
	if (!strcmp(r->param[0], "fails")) {
		reply_error(r, 400, "it fails");
		return;
	}
	strbuf_adds(&b, "{");
	strbuf_json_str(&b, "name", r->param[0]);
	strbuf_json_str(&b, "body", r->body.data ? r->body.data : "");
	strbuf_adds(&b, "}");
	reply_json(r, 201, &b);
}

static int begin(unsigned int quiet_ms, unsigned int blank_ms)
{
	static const struct route routes[] = {
	    {"POST", "/slow/:name", handle, ROUTE_SLOW | ROUTE_CREATES, NULL, NULL}};
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	char text[128];
	const char *listen = text;
	struct httpd_config c = {.listen = &listen,
				 .n_listen = 1,
				 .routes = routes,
				 .n_routes = 1,
				 .quiet_ms = quiet_ms,
				 .blank_ms = blank_ms};
	struct err e;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert_not_null(mkdtemp(dir));
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/sock", dir);
	snprintf(text, sizeof(text), "unix:%s", sa.sun_path);
	cr_assert_eq(httpd_start(&c, &h, &e), 0, "%s", e.msg);
	cr_assert_eq(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

static void end(int fd)
{
	close(fd);
	httpd_stop_accepting(h);
	httpd_destroy(h);
	rmdir(dir);
}

static void ask(int fd, const char *name)
{
	char text[256];
	int n =
	    snprintf(text, sizeof(text),
		     "POST /slow/%s HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody", name);

	cr_assert_eq(write(fd, text, (size_t)n), n);
}

/* All that comes until @until is in it, or the end. */
static const char *hear(int fd, const char *until)
{
	static char text[8192];
	size_t len = 0;
	ssize_t n;

	do {
		n = read(fd, text + len, sizeof(text) - 1 - len);
		len += n > 0 ? (size_t)n : 0;
		text[len] = '\0';
	} while (n > 0 && (!until || !strstr(text, until)));
	return text;
}

Test(slow, an_answer_that_is_soon_there_is_sent_as_any_other)
{
	int fd = begin(60000, 60000);
	const char *text;

	let_go = true;
	ask(fd, "a");
	text = hear(fd, "}");
	cr_assert(strstr(text, "HTTP/1.1 201 ") == text && strstr(text, "Content-Length: "));
	cr_assert(strstr(text, "{\"name\":\"a\",\"body\":\"body\"}"), "%s", text);
	end(fd);
}

Test(slow, a_late_one_begins_with_blanks)
{
	int fd = begin(1, 1);
	const char *text;

	ask(fd, "a");
	text = hear(fd, "1\r\n \r\n1\r\n \r\n");
	cr_assert(strstr(text, "HTTP/1.1 201 ") == text && strstr(text, "application/json"));
	announce(&let_go);
	text = hear(fd, "0\r\n\r\n");
	cr_assert(strstr(text, "{\"name\":\"a\",\"body\":\"body\"}"), "%s", text);
	end(fd);
}

Test(slow, a_late_failure_cuts_the_body)
{
	int fd = begin(1, 60000);
	const char *text;

	ask(fd, "fails");
	hear(fd, "1\r\n \r\n");
	announce(&let_go);
	text = hear(fd, NULL);
	cr_assert(!strstr(text, "0\r\n\r\n") && !strstr(text, "it fails"), "%s", text);
	end(fd);
}

/* The handler still has the name and the body of a request that MHD is done with. */
Test(slow, a_client_may_leave_while_the_handler_runs)
{
	int fd = begin(1, 1);
	const uint64_t *counted = &httpd_route_stats(h)->statuses[stats_status_index(201)];

	ask(fd, "a");
	hear(fd, "1\r\n \r\n");
	await(&running);
	close(fd);
	/* A blank finds nobody: then the request is counted, and from then on only waited for. */
	while (!__atomic_load_n(counted, __ATOMIC_RELAXED))
		poll(NULL, 0, 1);
	announce(&let_go);
	end(-1);
}
