/* SPDX-License-Identifier: Apache-2.0 */
/* The client, against a peer that is a socket pair. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/fd.h"
#include "tools/bench/vmm.h"

static struct vmm v;
static int peer = -1;

static void connect_pair(void)
{
	int fds[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	v = (struct vmm){.fd = fds[0], .pidfd = -1, .events = json_array()};
	peer = fds[1];
}

static void cleanup(void)
{
	vmm_stop(&v);
	fd_close(&peer);
}

static void say(const char *text)
{
	cr_assert_eq(fd_write_full(peer, text, strlen(text)), 0);
}

TestSuite(bench_vmm, .init = connect_pair, .fini = cleanup, .timeout = 30);

Test(bench_vmm, an_answer_is_found_among_events_and_older_answers)
{
	json_t *answer, *event;
	struct err e;
	double us;

	say("{\"event\":\"ready\"}\n{\"id\":0,\"ok\":true}\n{\"id\":1,\"ok\":true,\"us\":2.5}\n"
	    "{\"event\":\"checkpoint\",\"ok\":true}\n");
	cr_assert_eq(vmm_op(&v, "info", &answer, &e), 0, "%s", e.msg);
	cr_assert_eq(vmm_number(answer, "us", &us, &e), 0);
	cr_assert(us > 2.4 && us < 2.6);
	cr_assert_eq(vmm_number(answer, "ok", &us, &e), -EPROTO);
	json_decref(answer);
	cr_assert_eq(vmm_event(&v, "checkpoint", &event, &e), 0, "%s", e.msg);
	json_decref(event);
}

Test(bench_vmm, a_refusal_is_told_with_its_reason)
{
	struct err e;

	say("{\"id\":1,\"ok\":false,\"error\":{\"code\":\"EBUSY\",\"message\":\"one at a "
	    "time\"}}\n");
	cr_assert_eq(vmm_op(&v, "checkpoint", NULL, &e), -EREMOTEIO);
	cr_assert_str_eq(e.msg, "checkpoint: one at a time");
}

Test(bench_vmm, the_end_of_the_machine_ends_the_wait)
{
	struct err e;

	say("{\"event\":\"exit\",\"reason\":\"error\"}\n");
	cr_assert_eq(vmm_event(&v, "checkpoint", NULL, &e), -EPIPE);
	fd_close(&peer);
	cr_assert_eq(vmm_event(&v, "checkpoint", NULL, &e), -EPIPE);
}

Test(bench_vmm, a_long_line_is_read_whole)
{
	static char text[200000];
	json_t *answer;
	struct err e;
	size_t n = 0;
	pid_t pid;

	n += (size_t)snprintf(text, sizeof(text), "{\"id\":1,\"ok\":true,\"pad\":\"");
	memset(text + n, 'x', 190000);
	strcpy(text + n + 190000, "\"}\n");
	pid = fork();
	if (pid == 0) {
		fd_write_full(peer, text, strlen(text));
		_exit(0);
	}
	cr_assert_eq(vmm_op(&v, "info", &answer, &e), 0, "%s", e.msg);
	cr_assert_eq(json_string_length(json_object_get(answer, "pad")), 190000);
	json_decref(answer);
}
