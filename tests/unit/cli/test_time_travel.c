/* SPDX-License-Identifier: Apache-2.0 */
/* checkpoint, restore, fork, hibernate and their kin: what they ask, what they print. */
#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <stdlib.h>
#include <string.h>

#include "fake_server.h"
#include "tools/cli/cli.h"

#define ID_A "11111111-2222-3333-4444-55555555555a"
#define ID_B "11111111-2222-3333-4444-55555555555b"

static struct fake_server server;
static int polls;

static const char *list_text(void)
{
	return "[{\"id\":\"" ID_A "\",\"name\":\"before\",\"kind\":\"full\",\"status\":\"ready\","
	       "\"sizeBytes\":1048576},{\"id\":\"" ID_B
	       "\",\"name\":\"bad\",\"kind\":\"full\",\"status\":\"failed\",\"sizeBytes\":0,"
	       "\"errorMsg\":\"disk full\"}]";
}

static const char *processing_text(void)
{
	return "[{\"id\":\"" ID_A "\",\"name\":\"before\",\"status\":\"processing\"}]";
}

/* A server with one sandbox, sb-1, and its two checkpoints; a new one takes two looks. */
static void answer(struct fake_server *s, const struct fake_request *r, int fd)
{
	const char *t = r->target + strlen("/api");
	bool get = !strcmp(r->method, "GET");

	(void)s;
	if (strstr(t, "sb-0"))
		fake_reply(fd, 404, "{\"error\":\"sandbox not found\"}");
	else if (!strcmp(t, "/sandboxes/sb-1/checkpoints") && get)
		fake_reply(fd, 200, polls++ ? list_text() : processing_text());
	else if (!strcmp(t, "/sandboxes/sb-1/checkpoints"))
		fake_reply(fd, 201,
			   strstr(r->body, "bad")
			       ? "{\"id\":\"" ID_B "\",\"status\":\"processing\"}"
			       : "{\"id\":\"" ID_A "\",\"status\":\"processing\"}");
	else if (!strcmp(t, "/sandboxes/sb-1"))
		fake_reply(fd, 200, "{\"sandboxID\":\"sb-1\",\"status\":\"running\"}");
	else if (strstr(t, "/fork") || strstr(t, "/from-checkpoint/"))
		fake_reply(fd, 201, "{\"sandboxID\":\"sb-2\",\"fromCheckpointId\":\"" ID_A "\"}");
	else if (strstr(t, "/patches") && get)
		fake_reply(fd, 200,
			   "[{\"id\":\"" ID_B "\",\"sequence\":3,\"description\":\"why\"}]");
	else if (strstr(t, "/patches") && !strcmp(r->method, "POST"))
		fake_reply(fd, 201, "{\"patch\":{\"id\":\"" ID_B "\",\"sequence\":1}}");
	else if (strstr(t, "/wake"))
		fake_reply(fd, 200,
			   "{\"sandboxID\":\"sb-1\",\"status\":\"running\",\"coldBoot\":true,"
			   "\"message\":\"ram: bad checksum\"}");
	else if (strstr(t, "/store"))
		fake_reply(fd, 200, "{\"files\":2,\"totalBytes\":1048576}");
	else if (!strcmp(r->method, "DELETE"))
		fake_reply(fd, 204, "");
	else
		fake_reply(fd, 200, "{\"status\":\"done\"}");
}

static void start(void)
{
	polls = 1;
	fake_start(&server, false, answer);
	cr_redirect_stdout();
	cr_redirect_stderr();
}

static void stop(const char *out, const char *err)
{
	fake_stop(&server);
	fflush(stdout);
	fflush(stderr);
	cr_assert_stdout_eq_str(out);
	cr_assert_stderr_eq_str(err);
}

Test(time_travel, checkpoint_prints_its_id_at_once, .timeout = 30)
{
	start();
	cr_assert_eq(
	    fake_dormouse("checkpoint", "--disk-only", "--keep", "3", "sb-1", "a \"b\"", NULL), 0);
	stop(ID_A "\n", "");
	cr_assert_str_eq(server.log,
			 "POST /api/sandboxes/sb-1/checkpoints {\"kind\":\"disk_only\","
			 "\"retentionPolicy\":{\"mode\":\"delete_oldest\",\"maxCount\":3},"
			 "\"name\":\"a \\\"b\\\"\"}\n");
}

Test(time_travel, checkpoint_waits_until_it_is_written, .timeout = 30)
{
	start();
	polls = 0;
	cr_assert_eq(fake_dormouse("checkpoint", "--wait", "sb-1", "before", NULL), 0);
	stop(ID_A "\n", "");
	cr_assert_eq(polls, 2);
}

Test(time_travel, checkpoint_that_fails_says_why, .timeout = 30)
{
	start();
	cr_assert_eq(fake_dormouse("checkpoint", "--wait", "sb-1", "bad", NULL), EXIT_FAILED);
	stop("", "dormouse checkpoint: " ID_B " was not written: disk full\n");
}

Test(time_travel, checkpoints_are_listed, .timeout = 30)
{
	start();
	cr_assert_eq(fake_dormouse("checkpoints", "sb-1", NULL), 0);
	stop(
	    "ID                                    NAME    KIND  STATUS  SIZE     AGE  ERROR\n" ID_A
	    "  before  full  ready   1.0 MiB  -    -\n" ID_B
	    "  bad     full  failed  0 B      -    disk full\n",
	    "");
}

Test(time_travel, restore_finds_the_name_and_waits_for_the_machine, .timeout = 30)
{
	start();
	cr_assert_eq(fake_dormouse("restore", "sb-1", "before", NULL), 0);
	cr_assert_eq(fake_dormouse("restore", "--json", "sb-1", ID_B, NULL), 0);
	stop("sb-1\n{\"sandboxId\":\"sb-1\",\"checkpointId\":\"" ID_B
	     "\",\"status\":\"running\"}\n",
	     "");
	cr_assert_str_eq(server.log, "GET /api/sandboxes/sb-1/checkpoints \n"
				     "POST /api/sandboxes/sb-1/checkpoints/" ID_A "/restore \n"
				     "GET /api/sandboxes/sb-1 \n"
				     "POST /api/sandboxes/sb-1/checkpoints/" ID_B "/restore \n"
				     "GET /api/sandboxes/sb-1 \n");
}

Test(time_travel, an_unknown_name_is_told_with_advice, .timeout = 30)
{
	start();
	cr_assert_eq(fake_dormouse("restore", "sb-1", "befor", NULL), EXIT_FAILED);
	cr_assert_eq(fake_dormouse("fork", "sb-1:befor", NULL), EXIT_FAILED);
	stop("", "dormouse restore: sb-1 has no checkpoint \"befor\"; `dormouse checkpoints sb-1` "
		 "lists them\n"
		 "dormouse fork: sb-1 has no checkpoint \"befor\"; `dormouse checkpoints sb-1` "
		 "lists them\n");
}

Test(time_travel, forks_of_a_running_sandbox_are_of_one_instant, .timeout = 30)
{
	start();
	cr_assert_eq(fake_dormouse("fork", "-n", "2", "--timeout", "60", "-e", "A=b", "sb-1", NULL),
		     0);
	stop("sb-2\nsb-2\n", "");
	cr_assert_str_eq(server.log, "POST /api/sandboxes/sb-1/fork "
				     "{\"timeout\":60,\"envs\":{\"A\":\"b\"}}\n"
				     "POST /api/sandboxes/from-checkpoint/" ID_A
				     " {\"timeout\":60,\"envs\":{\"A\":\"b\"}}\n");
}

Test(time_travel, a_checkpoint_is_forked_by_id_or_by_name, .timeout = 30)
{
	start();
	cr_assert_eq(fake_dormouse("fork", ID_B, NULL), 0);
	cr_assert_eq(fake_dormouse("fork", "sb-1:before", NULL), 0);
	stop("sb-2\nsb-2\n", "");
	cr_assert_not_null(strstr(server.log, "/from-checkpoint/" ID_B));
	cr_assert_not_null(strstr(server.log, "/from-checkpoint/" ID_A));
}

Test(time_travel, rm_checkpoint_goes_on_after_a_failure, .timeout = 30)
{
	start();
	cr_assert_eq(fake_dormouse("rm-checkpoint", "sb-1", "nope", "before", NULL), EXIT_FAILED);
	stop(ID_A "\n", "dormouse rm-checkpoint: sb-1 has no checkpoint \"nope\"; `dormouse "
			"checkpoints sb-1` lists them\n");
}

Test(time_travel, power_commands_take_many_sandboxes, .timeout = 30)
{
	start();
	cr_assert_eq(fake_dormouse("hibernate", "sb-1", "sb-0", NULL), EXIT_FAILED);
	cr_assert_eq(fake_dormouse("reboot", "--json", "sb-1", NULL), 0);
	cr_assert_eq(fake_dormouse("power-cycle", "sb-1", NULL), 0);
	stop("sb-1\n[{\"sandboxID\":\"sb-1\",\"rebooted\":true,\"status\":\"done\"}]\nsb-1\n",
	     "dormouse hibernate: sb-0: sandbox not found (404)\n");
	cr_assert_not_null(strstr(server.log, "POST /api/sandboxes/sb-1/power-cycle \n"));
}

Test(time_travel, wake_tells_of_a_cold_boot, .timeout = 30)
{
	start();
	cr_assert_eq(fake_dormouse("wake", "--timeout", "0", "sb-1", NULL), 0);
	stop("sb-1\n", "dormouse wake: sb-1: booted from its disk, its processes are gone: its "
		       "memory could not be used: ram: bad checksum\n");
	cr_assert_str_eq(server.log, "POST /api/sandboxes/sb-1/wake {\"timeout\":0}\n");
}

Test(time_travel, patches_are_added_listed_and_removed, .timeout = 30)
{
	char path[100];
	FILE *f;

	start();
	snprintf(path, sizeof(path), "%s/script", server.dir);
	f = fopen(path, "we");
	cr_assert(f && fputs("echo hi\n", f) >= 0 && fclose(f) == 0);
	cr_assert_eq(fake_dormouse("patch", "add", "-d", "why", ID_A, path, NULL), 0);
	cr_assert_eq(fake_dormouse("patch", "ls", "sb-1:before", NULL), 0);
	cr_assert_eq(fake_dormouse("patch", "rm", ID_A, ID_B, NULL), 0);
	stop(ID_B "\nID                                    SEQUENCE  AGE  DESCRIPTION\n" ID_B
		  "  3         -    why\n" ID_B "\n",
	     "");
	cr_assert_not_null(
	    strstr(server.log, "POST /api/sandboxes/checkpoints/" ID_A
			       "/patches {\"script\":\"echo hi\\n\",\"description\":\"why\"}\n"));
	cr_assert_not_null(
	    strstr(server.log, "DELETE /api/sandboxes/checkpoints/" ID_A "/patches/" ID_B " \n"));
}

Test(time_travel, store_prints_its_figures, .timeout = 30)
{
	start();
	cr_assert_eq(fake_dormouse("store", NULL), 0);
	cr_assert_eq(fake_dormouse("store", "gc", "--json", NULL), 0);
	stop("files       2\ntotalBytes  1.0 MiB\n{\"files\":2,\"totalBytes\":1048576}\n", "");
	cr_assert_str_eq(server.log, "GET /api/store \nPOST /api/store/gc \n");
}

Test(time_travel, wrong_usage_is_2)
{
	static const char *const wrong[][5] = {
	    {"checkpoint", "sb-1"},
	    {"checkpoint", "--keep", "0", "sb-1", "x"},
	    {"checkpoint", "s/b", "x"},
	    {"checkpoints"},
	    {"restore", "sb-1"},
	    {"fork"},
	    {"fork", "-n", "0", "sb-1"},
	    {"fork", "sb-1", "sb-2"},
	    {"fork", "sb-1:"},
	    {"fork", ":x"},
	    {"fork", "a/b"},
	    {"rm-checkpoint", "sb-1"},
	    {"tree", "sb-1", "sb-2"},
	    {"tree", ".."},
	    {"hibernate"},
	    {"wake", "--timeout", "-1", "sb-1"},
	    {"wake"},
	    {"reboot"},
	    {"power-cycle", "../x"},
	    {"patch"},
	    {"patch", "edit", "x"},
	    {"patch", "ls"},
	    {"patch", "ls", "before"},
	    {"patch", "ls", "-d", "x", ID_A},
	    {"patch", "rm", ID_A, "1"},
	    {"store", "burn"},
	};

	cr_redirect_stdout();
	cr_redirect_stderr();
	setenv("DORMOUSE_URL", "unix:/nonexistent/sock", 1);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		cr_expect_eq(fake_dormouse(wrong[i][0], wrong[i][1], wrong[i][2], wrong[i][3],
					   wrong[i][4], NULL),
			     EXIT_USAGE, "%s %s", wrong[i][0], wrong[i][1] ? wrong[i][1] : "");
}
