/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "fake_server.h"
#include "lib/fd.h"
#include "tools/cli/cli.h"

static struct fake_server server;
static const char *answer;
static int status;

static void fixed(struct fake_server *s, const struct fake_request *r, int fd)
{
	(void)s;
	(void)r;
	fake_reply(fd, status, answer);
}

static void reply_with(int code, const char *text)
{
	status = code;
	answer = text;
	fake_start(&server, false, fixed);
	cr_redirect_stdout();
	cr_redirect_stderr();
}

Test(commands, create_sends_its_options_and_prints_the_id, .timeout = 30)
{
	reply_with(201, "{\"sandboxID\":\"sb-1a2b3c4d\",\"status\":\"running\"}");
	setenv("FROM_HERE", "x=y", 1);
	cr_assert_eq(fake_dormouse("create", "--memory", "512", "--cpus", "2", "--disk=30000", "-e",
				   "A=1=2", "-e", "FROM_HERE", "-eNOT_SET_ANYWHERE", "--timeout",
				   "0", "--metadata", "k=v", "--template", "mini", "--no-network",
				   NULL),
		     0);
	fake_stop(&server);
	cr_assert_str_eq(
	    server.log,
	    "POST /api/sandboxes "
	    "{\"templateID\":\"mini\",\"memoryMB\":512,\"cpuCount\":2,\"diskMB\":"
	    "30000,\"envs\":{\"A\":\"1=2\",\"FROM_HERE\":\"x=y\"},\"timeout\":0,\"metadata\":"
	    "{\"k\":\"v\"},\"networkEnabled\":false}\n");
	fflush(stdout);
	cr_assert_stdout_eq_str("sb-1a2b3c4d\n");
}

Test(commands, a_timeout_that_is_not_given_is_not_sent, .timeout = 30)
{
	reply_with(201, "{\"sandboxID\":\"sb-1\"}");
	cr_assert_eq(fake_dormouse("--json", "create", NULL), 0);
	fake_stop(&server);
	cr_assert_null(strstr(server.log, "timeout"));
	fflush(stdout);
	cr_assert_stdout_eq_str("{\"sandboxID\":\"sb-1\"}\n");
}

#define LIST                                                                                       \
	"[{\"sandboxID\":\"sb-1\",\"status\":\"running\",\"template\":\"base\",\"cpuCount\":1,"    \
	"\"memoryMB\":1024,\"startedAt\":\"2026-01-02T03:04:05Z\",\"metadata\":{\"a\":\"\\u001B["  \
	"2J"                                                                                       \
	"\"}}]"

Test(commands, ls_prints_a_table_without_escape_sequences, .timeout = 30)
{
	reply_with(200, LIST);
	cr_assert_eq(fake_dormouse("ls", "--status", "run ning", NULL), 0);
	fake_stop(&server);
	cr_assert_str_eq(server.log, "GET /api/sandboxes?status=run%20ning \n");
	fflush(stdout);
	cr_assert_stdout_eq_str(
	    "ID    STATUS   TEMPLATE  CPUS  MEMORY MB  STARTED               METADATA\n"
	    "sb-1  running  base      1     1024       2026-01-02T03:04:05Z  "
	    "{\"a\":\"\\u001B[2J\"}\n");
}

Test(commands, ls_json_is_the_list_of_the_server, .timeout = 30)
{
	reply_with(200, LIST);
	cr_assert_eq(fake_dormouse("ls", "--json", NULL), 0);
	fake_stop(&server);
	fflush(stdout);
	cr_assert_stdout_eq_str(LIST "\n");
}

Test(commands, info_prints_the_fields_that_are_set, .timeout = 30)
{
	reply_with(200, "{\"sandboxID\":\"sb-1\",\"token\":\"\",\"cpuCount\":2,\"alias\":null}");
	cr_assert_eq(fake_dormouse("info", "sb-1", NULL), 0);
	fake_stop(&server);
	fflush(stdout);
	cr_assert_stdout_eq_str("sandboxID  sb-1\ncpuCount   2\n");
}

static void kill_all_but_two(struct fake_server *s, const struct fake_request *r, int fd)
{
	(void)s;
	if (strstr(r->target, "sb-2"))
		fake_reply(fd, 404, "{\"error\":\"sandbox not found\"}");
	else
		fake_reply(fd, 204, "");
}

Test(commands, kill_goes_on_after_a_failure_and_reports_it, .timeout = 30)
{
	fake_start(&server, false, kill_all_but_two);
	cr_redirect_stdout();
	cr_redirect_stderr();
	cr_assert_eq(fake_dormouse("kill", "sb-1", "sb-2", "sb-3", NULL), EXIT_FAILED);
	cr_assert_eq(fake_dormouse("kill", "--json", "sb-2", "sb-3", NULL), EXIT_FAILED);
	fake_stop(&server);
	fflush(stdout);
	cr_assert_stdout_eq_str("sb-1\nsb-3\n[{\"sandboxID\":\"sb-2\",\"killed\":false,\"error\":"
				"\"sandbox not found (404)\"},{\"sandboxID\":\"sb-3\",\"killed\":"
				"true}]\n");
	fflush(stderr);
	cr_assert_stderr_eq_str("dormouse kill: sb-2: sandbox not found (404)\n"
				"dormouse kill: sb-2: sandbox not found (404)\n");
}

Test(commands, logs_prints_the_console_as_it_is_into_a_file, .timeout = 30)
{
	reply_with(200, "boot\r\n\x1b[1mhi\n");
	cr_assert_eq(fake_dormouse("logs", "sb-1", NULL), 0);
	fake_stop(&server);
	cr_assert_str_eq(server.log, "GET /api/sandboxes/sb-1/console \n");
	fflush(stdout);
	cr_assert_stdout_eq_str("boot\r\n\x1b[1mhi\n");
}

Test(commands, logs_json_survives_bytes_that_are_not_utf8, .timeout = 30)
{
	reply_with(200, "a\xff\n");
	cr_assert_eq(fake_dormouse("logs", "--json", "sb-1", NULL), 0);
	fake_stop(&server);
	fflush(stdout);
	cr_assert_stdout_eq_str("{\"sandboxID\":\"sb-1\",\"console\":\"a?\\n\"}\n");
}

Test(commands, wrong_usage_is_2_and_says_where_help_is)
{
	static const char *const wrong[][4] = {
	    {"nonsense"},
	    {"--nonsense"},
	    {"create", "--memory", "1g"},
	    {"create", "--memory", "-5"},
	    {"create", "--cpus", ""},
	    {"create", "-e", "=x"},
	    {"create", "--metadata", "k"},
	    {"create", "extra"},
	    {"ls", "extra"},
	    {"ls", "--nonsense"},
	    {"info"},
	    {"info", ".."},
	    {"info", "a", "b"},
	    {"kill"},
	    {"kill", "sb-1/../sb-2"},
	    {"exec"},
	    {"exec", "sb-1"},
	    {"exec", "sb-1", "--"},
	    {"exec", "sb-1", "-w", "/x"},
	    {"exec", "--timeout", "x", "sb-1"},
	    {"exec", "s b", "ls"},
	    {"cp", "a"},
	    {"cp", "a", "b"},
	    {"cp", "sb-1:/a", "sb-1:/b"},
	    {"cp", "--json", "sb-1:/a", "-"},
	    {"logs"},
	    {"doctor", "extra"},
	    {"version", "extra"},
	};

	cr_redirect_stdout();
	cr_redirect_stderr();
	setenv("DORMOUSE_URL", "unix:/nonexistent/sock", 1);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		cr_expect_eq(
		    fake_dormouse(wrong[i][0], wrong[i][1], wrong[i][2], wrong[i][3], NULL),
		    EXIT_USAGE, "%s %s", wrong[i][0], wrong[i][1] ? wrong[i][1] : "");
}

Test(commands, without_a_server_each_command_fails_with_advice)
{
	cr_redirect_stderr();
	setenv("DORMOUSE_URL", "unix:/nonexistent/sock", 1);
	cr_assert_eq(fake_dormouse("ls", NULL), EXIT_FAILED);
	cr_assert_eq(fake_dormouse("exec", "sb-1", "--", "ls", NULL), EXIT_EXEC_FAILED);
	fflush(stderr);
	cr_assert_stderr_eq_str(
	    "dormouse ls: no server at unix:/nonexistent/sock. Is dormoused running? Start it "
	    "with: dormouse serve; or set DORMOUSE_URL\n"
	    "dormouse exec: no server at unix:/nonexistent/sock. Is dormoused running? Start it "
	    "with: dormouse serve; or set DORMOUSE_URL\n");
}

Test(commands, every_command_has_help_and_the_help_is_in_the_docs)
{
	char *docs;

	/* Run from the top folder, as `make unit` does. */
	cr_assert_eq(fd_read_file(AT_FDCWD, "docs/cli.md", 1 << 20, &docs, NULL), 0);
	for (size_t i = 0; i < cli_num_commands; i++) {
		char *help = NULL;
		size_t len;
		FILE *f = open_memstream(&help, &len);

		cli_print_help(&cli_commands[i], f);
		fclose(f);
		cr_expect_not_null(strstr(docs, help), "docs/cli.md lacks the help of %s:\n%s",
				   cli_commands[i].name, help);
		free(help);
	}
	free(docs);
}

Test(commands, help_needs_no_server)
{
	cr_redirect_stdout();
	setenv("DORMOUSE_URL", "nonsense", 1);
	for (size_t i = 0; i < cli_num_commands; i++)
		cr_expect_eq(fake_dormouse(cli_commands[i].name, "--help", NULL), EXIT_OK, "%s",
			     cli_commands[i].name);
	cr_expect_eq(fake_dormouse("--help", NULL), EXIT_OK);
	cr_expect_eq(fake_dormouse("--version", NULL), EXIT_OK);
}
