/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/clock.h"
#include "server/http/edge.h"

static bool claims(const char *host, size_t len)
{
	return len == 4 && !memcmp(host, "mine", 4);
}

static enum edge_verdict look(const char *text)
{
	return edge_look(text, strlen(text), claims);
}

Test(edge, the_host_header_decides)
{
	cr_expect_eq(look("GET / HTTP/1.1\r\nHost: mine\r\n"), EDGE_CLAIMED);
	cr_expect_eq(look("GET / HTTP/1.1\nA: b\nhOST:\t mine \n"), EDGE_CLAIMED);
	cr_expect_eq(look("GET / HTTP/1.1\r\nHost: other\r\nHost: mine\r\n"), EDGE_OURS);
	cr_expect_eq(look("GET / HTTP/1.1\r\nHost: mine\r\nHost: other\r\n"), EDGE_CLAIMED);
	cr_expect_eq(look("GET / HTTP/1.1\r\nX-Host: mine\r\n\r\n"), EDGE_OURS);
	cr_expect_eq(look("GET / HTTP/1.1\r\n\r\nHost: mine\r\n"), EDGE_OURS, "that is the body");
	cr_expect_eq(look("Host: mine\r\n\r\n"), EDGE_OURS, "that is no header");
}

Test(edge, what_is_not_whole_waits)
{
	static const char text[] = "GET / HTTP/1.1\r\nA: b\r\nHost: mine\r\n";
	static char giant[EDGE_PEEK + 1];

	for (size_t i = 0; i < sizeof(text) - 1; i++)
		cr_expect_eq(edge_look(text, i, claims), EDGE_WAIT);
	cr_expect_eq(edge_look(text, sizeof(text) - 1, claims), EDGE_CLAIMED);
	memset(giant, 'A', EDGE_PEEK);
	cr_expect_eq(look(giant), EDGE_OURS);
	giant[EDGE_PEEK - 1] = '\0';
	cr_expect_eq(look(giant), EDGE_WAIT);
}

Test(edge, what_is_no_http_is_left_to_who_knows_the_answer)
{
	cr_expect_eq(look("\x16\x03\x01"), EDGE_OURS);
	cr_expect_eq(look("\r\nGET"), EDGE_OURS);
	cr_expect_eq(look(" "), EDGE_OURS);
}

struct taken {
	int ours, claimed;
};

static void ours(void *arg, int fd, const struct sockaddr_storage *sa, socklen_t len)
{
	(void)sa;
	(void)len;
	((struct taken *)arg)->ours++;
	close(fd);
}

static void claimed(void *arg, int fd, const struct sockaddr_storage *sa, socklen_t len)
{
	char byte;

	(void)sa;
	(void)len;
	((struct taken *)arg)->claimed++;
	/* Nothing was consumed. */
	cr_expect(recv(fd, &byte, 1, 0) == 1 && byte == 'G');
	close(fd);
}

static int dial(struct edge *e, const char *text)
{
	struct sockaddr_storage sa = {0};
	int fds[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	cr_assert_eq(send(fds[1], text, strlen(text), 0), (ssize_t)strlen(text));
	edge_accept(e, fds[0], &sa, sizeof(sa));
	return fds[1];
}

static void say(int fd, const char *text)
{
	cr_assert_eq(send(fd, text, strlen(text), 0), (ssize_t)strlen(text));
}

Test(edge, connections_are_handed_over_once_it_is_known_whose_they_are)
{
	struct taken t = {0};
	struct edge_ops ops = {claims, ours, claimed, &t};
	struct edge *e = edge_create(&ops);
	int at_once = dial(e, "GET / HTTP/1.1\r\nHost: mine\r\n\r\n"), slow, silent, gone;

	cr_expect(t.claimed == 1 && t.ours == 0);
	slow = dial(e, "");
	edge_run(e);
	say(slow, "GET / HT");
	edge_run(e);
	say(slow, "TP/1.1\r\nHost: mi");
	edge_run(e);
	cr_expect(t.claimed == 1 && t.ours == 0);
	say(slow, "ne\r\n");
	edge_run(e);
	cr_expect(t.claimed == 2 && t.ours == 0);
	/* Who leaves is forgotten. */
	gone = dial(e, "GET");
	close(gone);
	edge_run(e);
	cr_expect(t.claimed == 2 && t.ours == 0);
	/* In time all are somebody's, or closed. */
	silent = dial(e, "");
	close(slow);
	slow = dial(e, "GET / HTTP/1.1\r\nHo");
	cr_expect_gt(edge_next_ms(e, clock_mono_ms()), 0);
	edge_tick(e, clock_mono_ms() + EDGE_HEAD_MS + 1000);
	cr_expect(t.claimed == 2 && t.ours == 1);
	edge_tick(e, clock_mono_ms() + EDGE_IDLE_MS + 1000);
	cr_expect_eq(edge_next_ms(e, clock_mono_ms()), -1);
	cr_expect_eq(recv(silent, (char[1]){0}, 1, 0), 0);
	edge_destroy(e);
	close(at_once);
	close(slow);
	close(silent);
}
