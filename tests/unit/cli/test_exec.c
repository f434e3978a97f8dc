/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake_server.h"
#include "tools/cli/cli.h"

static struct fake_server server;
static const char *const *script; /* answers in their order: "STATUS BODY" */
static int step;

static void play(struct fake_server *s, const struct fake_request *r, int fd)
{
	const char *line = script[step];

	(void)s;
	(void)r;
	if (!line) {
		fake_reply(fd, 500, "{\"error\":\"the test expected no such request\"}");
		return;
	}
	step++;
	fake_reply(fd, atoi(line), line + 4);
}

static void start(const char *const *answers)
{
	script = answers;
	step = 0;
	fake_start(&server, false, play);
	cr_redirect_stdout();
	cr_redirect_stderr();
}

static void stop(void)
{
	fake_stop(&server);
	cr_assert_null(script[step], "not all answers were asked for");
	fflush(stdout);
	fflush(stderr);
}

Test(exec, an_inline_answer_is_printed_and_its_code_passed_on, .timeout = 30)
{
	static const char *const answers[] = {
	    "200 {\"exitCode\":42,\"stdout\":\"out\\n\",\"stderr\":\"err\\n\"}", NULL};

	start(answers);
	cr_assert_eq(fake_dormouse("exec", "-e", "K=V", "-w", "/tmp", "--timeout", "9", "sb-1",
				   "--", "ls", "-l", NULL),
		     42);
	stop();
	cr_assert_str_eq(server.log, "POST /api/sandboxes/sb-1/exec/run-async?hold=0 "
				     "{\"envs\":{\"K\":\"V\"},\"cwd\":\"/tmp\",\"timeout\":9,"
				     "\"args\":[\"-l\"],\"cmd\":\"ls\"}\n");
	cr_assert_stdout_eq_str("out\n");
	cr_assert_stderr_eq_str("err\n");
}

Test(exec, news_are_asked_for_from_the_offsets_of_the_last_answer, .timeout = 30)
{
	static const char *const answers[] = {
	    "202 {\"execId\":\"1a2b\",\"running\":true}",
	    "200 {\"running\":true,\"stdout\":\"Yf/D\",\"stderr\":\"\",\"stdoutNext\":3,"
	    "\"stderrNext\":0}",
	    "200 {\"running\":false,\"exitCode\":0,\"stdout\":\"pGI=\",\"stderr\":\"ZQ==\","
	    "\"stdoutNext\":5,\"stderrNext\":1}",
	    NULL};

	start(answers);
	cr_assert_eq(fake_dormouse("exec", "sb-1", "ls", NULL), 0);
	stop();
	cr_assert_not_null(strstr(server.log, "result?stdoutFrom=0&stderrFrom=0&encoding=base64"));
	cr_assert_not_null(strstr(server.log, "result?stdoutFrom=3&stderrFrom=0&encoding=base64"));
	cr_assert_stdout_eq_str("a\xff\xc3\xa4"
				"b");
	cr_assert_stderr_eq_str("e");
}

Test(exec, a_server_that_repeats_everything_is_not_printed_twice, .timeout = 30)
{
	static const char *const answers[] = {
	    "202 {\"execId\":\"1a2b\",\"running\":true}",
	    "200 {\"running\":true,\"stdout\":\"one\\n\",\"stderr\":\"\"}",
	    "200 {\"running\":true,\"stdout\":\"one\\n\",\"stderr\":\"\"}",
	    "200 {\"running\":false,\"exitCode\":3,\"stdout\":\"one\\ntwo\\n\",\"stderr\":\"\"}",
	    NULL};

	start(answers);
	cr_assert_eq(fake_dormouse("exec", "sb-1", "ls", NULL), 3);
	stop();
	cr_assert_stdout_eq_str("one\ntwo\n");
}

Test(exec, json_is_one_object_at_the_end, .timeout = 30)
{
	static const char *const answers[] = {
	    "202 {\"execId\":\"1a2b\",\"running\":true}",
	    "200 {\"running\":true,\"stdout\":\"a\",\"stdoutNext\":1,\"stderrNext\":0}",
	    "200 {\"running\":false,\"exitCode\":1,\"stdout\":\"b\",\"stderr\":\"c\","
	    "\"stdoutNext\":2,\"stderrNext\":1}",
	    NULL};

	start(answers);
	cr_assert_eq(fake_dormouse("exec", "--json", "sb-1", "ls", NULL), 1);
	stop();
	cr_assert_null(strstr(server.log, "encoding"), "JSON holds text");
	cr_assert_stdout_eq_str("{\"exitCode\":1,\"stdout\":\"ab\",\"stderr\":\"c\"}\n");
}

Test(exec, an_answer_that_is_not_base64_is_an_error, .timeout = 30)
{
	static const char *const answers[] = {
	    "202 {\"execId\":\"1a2b\",\"running\":true}",
	    "200 {\"running\":true,\"stdout\":\"!\",\"stdoutNext\":1,\"stderrNext\":0}", "204 ",
	    NULL};

	start(answers);
	cr_assert_eq(fake_dormouse("exec", "sb-1", "ls", NULL), EXIT_EXEC_FAILED);
	stop();
	cr_assert_stderr_eq_str("dormouse exec: the answer makes no sense\n");
}

Test(exec, an_end_without_a_code_is_124_after_a_time_limit_and_125_else, .timeout = 30)
{
	static const char *const answers[] = {
	    "200 {\"exitCode\":-1,\"stdout\":\"\",\"stderr\":\"\"}",
	    "200 {\"exitCode\":-1,\"stdout\":\"\",\"stderr\":\"\"}",
	    "404 {\"error\":\"sandbox not found\"}",
	    "202 {\"execId\":\"ab\",\"running\":true}",
	    "200 {\"running\":false,\"error\":\"spawn failed\"}",
	    "202 {\"execId\":\"../../x\",\"running\":true}",
	    "200 {}",
	    NULL};

	start(answers);
	cr_expect_eq(fake_dormouse("exec", "--timeout", "1", "sb-1", "ls", NULL), 124);
	for (int i = 0; i < 5; i++)
		cr_expect_eq(fake_dormouse("exec", "sb-1", "ls", NULL), 125, "%d", i);
	stop();
}

static void interrupt_us(struct fake_server *s, const struct fake_request *r, int fd)
{
	char c;

	(void)s;
	if (strstr(r->target, "/run-async")) {
		fake_reply(fd, 202, "{\"execId\":\"1a2b\",\"running\":true}");
	} else if (strstr(r->target, "/result")) {
		kill(getpid(), SIGINT);
		while (read(fd, &c, 1) > 0)
			;
	} else {
		fake_reply(fd, 204, "");
	}
}

Test(exec, an_interrupt_kills_the_session_and_is_130, .timeout = 30)
{
	fake_start(&server, false, interrupt_us);
	cr_assert_eq(fake_dormouse("exec", "sb-1", "sleep", "1000", NULL), 130);
	fake_stop(&server);
	cr_assert_not_null(strstr(server.log, "POST /api/sandboxes/sb-1/exec/1a2b/kill {}\n"));
}

Test(exec, an_output_that_cannot_be_written_kills_the_session, .timeout = 30)
{
	static const char *const answers[] = {
	    "202 {\"execId\":\"1a2b\",\"running\":true}",
	    "200 {\"running\":true,\"stdout\":\"a\",\"stdoutNext\":1,\"stderrNext\":0}", "204 ",
	    NULL};

	start(answers);
	cr_assert_not_null(freopen("/dev/full", "w", stdout));
	cr_assert_eq(fake_dormouse("exec", "sb-1", "yes", NULL), EXIT_EXEC_FAILED);
	fake_stop(&server);
	cr_assert_not_null(strstr(server.log, "/exec/1a2b/kill"));
}
