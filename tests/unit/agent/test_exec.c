/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"
#include "tests/unit/agent/fixture.h"

TestSuite(exec, .init = agent_start, .fini = agent_stop, .timeout = 300);

Test(exec, the_exit_code_is_exact)
{
	static const int codes[] = {0, 1, 2, 42, 126, 127, 128, 255};
	struct agent_conn *c = dial();

	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		char script[32];
		struct agent_output o;

		snprintf(script, sizeof(script), "exit %d", codes[i]);
		o = sh(c, script);
		cr_expect_eq(o.exit.code, codes[i]);
		cr_expect_eq(o.exit.signal, 0);
		cr_expect_not(o.exit.timed_out);
		output_free(&o);
	}
	cr_expect(agent_conn_idle(c));
	agent_close(c);
}

Test(exec, death_by_signal_is_told_from_an_exit)
{
	struct agent_conn *c = dial();
	struct agent_output o = sh(c, "kill -SEGV $$");

	cr_expect_eq(o.exit.code, -1);
	cr_expect_eq(o.exit.signal, SIGSEGV);
	output_free(&o);
	agent_close(c);
}

Test(exec, the_streams_are_separate_and_complete)
{
	struct agent_conn *c = dial();
	struct agent_output o = sh(c, "echo out; echo err >&2; printf 'a\\0b'");

	cr_expect_eq(o.out_len, 7);
	cr_expect_arr_eq(o.out, "out\na\0b", 7);
	cr_expect_str_eq(o.err, "err\n");
	output_free(&o);
	agent_close(c);
}

Test(exec, one_mebibyte_on_each_stream_arrives_byte_for_byte)
{
	static uint8_t expect[1 << 20];
	struct agent_conn *c = dial();
	struct agent_output o;
	uint64_t hash;
	int fd;

	pattern(0, expect, sizeof(expect));
	hash = hash_of(HASH_START, expect, sizeof(expect));
	fd = open(in_scratch("data"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	cr_assert_eq(fd_write_full(fd, expect, sizeof(expect)), 0);
	close(fd);
	o = sh(c, "cat ../data & cat ../data >&2; wait");
	cr_assert_eq(o.out_len, sizeof(expect));
	cr_assert_eq(o.err_len, sizeof(expect));
	cr_expect_eq(hash_of(HASH_START, o.out, o.out_len), hash);
	cr_expect_eq(hash_of(HASH_START, o.err, o.err_len), hash);
	output_free(&o);
	agent_close(c);
}

Test(exec, a_slow_reader_makes_the_process_wait_and_loses_nothing)
{
	const char *argv[] = {"sh", "-c", "yes 0123456789abcde | head -c 10000000; echo done >&2",
			      NULL};
	struct agent_exec_spec spec = {.argv = argv, .session = new_session(), .manual_ack = true};
	struct agent_conn *c = dial();
	uint64_t got = 0, most = 0, acked = 0;
	struct agent_event ev;

	ok(agent_exec_start(c, &spec, &fixture_err));
	do {
		ok(agent_exec_next(c, -1, &ev, &fixture_err));
		if (ev.type != AGENT_STDOUT)
			continue;
		for (size_t i = 0; i < ev.len; i++)
			cr_assert_eq(ev.data[i], "0123456789abcde\n"[(got + i) % 16]);
		got += ev.len;
		most = got - acked > most ? got - acked : most;
		/* Only when the whole window has come is anything acknowledged. */
		if (got - acked == PROTO_WINDOW) {
			acked = got;
			ok(agent_exec_ack(c, got, 0, &fixture_err));
		}
	} while (ev.type != AGENT_EXIT);
	cr_expect_eq(got, 10000000);
	cr_expect_eq(most, PROTO_WINDOW);
	cr_expect_eq(ev.exit.stdout_len, got);
	cr_expect_eq(ev.exit.code, 0);
	agent_close(c);
}

Test(exec, a_timeout_kills_the_whole_process_group)
{
	const char *argv[] = {"sh", "-c", "exec 3>../fifo; sleep 1000 & echo up; wait", NULL};
	struct agent_exec_spec spec = {.argv = argv, .timeout_ms = 50};
	struct agent_conn *c = dial();
	bool up = false;
	char byte;
	int fifo;

	cr_assert_eq(mkfifo(in_scratch("fifo"), 0600), 0);
	fifo = open(in_scratch("fifo"), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	/* Until it comes as far as to have a child within the time. */
	for (; !up; spec.timeout_ms *= 2) {
		struct agent_output o;

		spec.session = 0;
		o = run_spec(c, &spec);
		cr_assert(o.exit.timed_out);
		cr_expect_eq(o.exit.signal, SIGKILL);
		up = !strcmp(o.out, "up\n");
		output_free(&o);
	}
	/* The child holds the FIFO's other end: it reads as ended when that is dead too. */
	cr_assert_eq(fcntl(fifo, F_SETFL, 0), 0);
	cr_expect_eq(read(fifo, &byte, 1), 0);
	close(fifo);
	agent_close(c);
}

Test(exec, a_child_in_the_background_does_not_hold_the_answer)
{
	struct agent_conn *c = dial();
	struct agent_output o = sh(c, "setsid sleep 1000 & echo $!; exit 3");
	int child;

	cr_expect_eq(o.exit.code, 3);
	cr_expect(o.exit.held_open);
	cr_assert_eq(sscanf(o.out, "%d\n", &child), 1);
	cr_expect_eq(kill(child, 0), 0, "it runs on");
	kill(child, SIGKILL);
	output_free(&o);
	agent_close(c);
}

Test(exec, a_child_that_floods_the_pipe_does_not_hold_the_answer_either)
{
	struct agent_conn *c = dial();
	struct agent_output o = sh(c, "yes & echo $! >&2; exit 0");

	cr_expect_eq(o.exit.code, 0);
	cr_expect(o.exit.held_open);
	output_free(&o);
	agent_close(c);
}

Test(exec, a_daemon_with_its_own_output_leaves_the_answer_whole)
{
	struct agent_conn *c = dial();
	struct agent_output o;
	int child;

	/* It ends when the daemon has let go of the pipes, which else would be a matter of time. */
	cr_assert_eq(mkfifo(in_scratch("fifo"), 0600), 0);
	o = sh(c, "setsid sh -c 'echo >../fifo; exec sleep 1000' </dev/null >/dev/null 2>&1 & "
		  "echo $!; read x <../fifo; exit 0");
	cr_expect_not(o.exit.held_open);
	cr_assert_eq(sscanf(o.out, "%d\n", &child), 1);
	kill(child, SIGKILL);
	output_free(&o);
	agent_close(c);
}

Test(exec, a_missing_working_directory_is_an_error_that_names_it)
{
	const char *argv[] = {"true", NULL};
	struct agent_exec_spec spec = {
	    .argv = argv, .session = new_session(), .cwd = "/does/not/exist"};
	struct agent_conn *c = dial();
	struct agent_output o;

	cr_assert_eq(agent_exec_run(c, &spec, 100, &o, &fixture_err), -ENOENT);
	cr_expect(strstr(fixture_err.msg, "/does/not/exist"), "%s", fixture_err.msg);
	cr_expect(agent_conn_idle(c));
	spec.cwd = NULL;
	spec.session = new_session();
	o = run_spec(c, &spec);
	cr_expect_eq(o.exit.code, 0);
	output_free(&o);
	agent_close(c);
}

Test(exec, pwd_is_the_directory_as_it_was_named)
{
	const char *argv[] = {"sh", "-c", "echo $PWD; pwd; pwd -P", NULL};
	struct agent_exec_spec spec = {.argv = argv, .cwd = in_scratch("link")};
	struct agent_conn *c = dial();
	struct agent_output o;
	char expect[512];

	cr_assert_eq(symlink(home, in_scratch("link")), 0);
	o = run_spec(c, &spec);
	snprintf(expect, sizeof(expect), "%s/link\n%s/link\n%s\n", scratch, scratch, home);
	cr_expect_str_eq(o.out, expect);
	output_free(&o);

	cr_assert_eq(mkdir(in_scratch("home/sub"), 0755), 0);
	spec = (struct agent_exec_spec){.argv = argv, .cwd = "sub"};
	o = run_spec(c, &spec);
	snprintf(expect, sizeof(expect), "%s/sub\n%s/sub\n%s/sub\n", home, home, home);
	cr_expect_str_eq(o.out, expect);
	output_free(&o);
	agent_close(c);
}

Test(exec, the_environment_is_layered_and_nothing_else_is_in_it)
{
	static const char file[] =
	    "# comment\nA=file\nB=\"file two\"\nexport C=file\nPATH=/bin:/usr/bin\n";
	const char *argv[] = {"env", NULL};
	const char *sandbox[] = {"B=sandbox", "D=sandbox", "C=x=y", NULL};
	const char *env[] = {"D=command", "E=", "LANG=C", NULL};
	struct agent_exec_spec spec = {.argv = argv, .sandbox_env = sandbox, .env = env};
	struct agent_conn *c = dial();
	struct agent_output o;
	char expect[1024];

	cr_assert_eq(
	    fd_write_file_atomic(AT_FDCWD, in_scratch("environment"), file, strlen(file), 0644), 0);
	cr_assert_eq(fd_write_file_atomic(AT_FDCWD, in_scratch("passwd"),
					  "root:x:0:0::/root:/bin/bash\n", 28, 0644),
		     0);
	o = run_spec(c, &spec);
	snprintf(expect, sizeof(expect),
		 "A=file\nB=sandbox\nC=x=y\nD=command\nE=\nHOME=%s\nLANG=C\nLOGNAME=root\n"
		 "PATH=/bin:/usr/bin\nPWD=%s\nSHELL=/bin/bash\nUSER=root\n",
		 home, home);
	if (!geteuid())
		cr_expect_str_eq(o.out, expect);
	output_free(&o);

	/* A changed file is read again. */
	cr_assert_eq(fd_write_file_atomic(AT_FDCWD, in_scratch("environment"), "A=new\n", 6, 0644),
		     0);
	o = sh(c, "echo $A");
	cr_expect_str_eq(o.out, "new\n");
	output_free(&o);
	agent_close(c);
}

Test(exec, a_program_that_is_not_there_is_127_and_one_without_the_right_126)
{
	const char *argv[] = {"no-such-program", NULL};
	struct agent_exec_spec spec = {.argv = argv};
	struct agent_conn *c = dial();
	struct agent_output o = run_spec(c, &spec);

	cr_expect_eq(o.exit.code, 127);
	cr_expect_str_eq(o.err, "no-such-program: command not found\n");
	output_free(&o);

	cr_assert_eq(fd_write_file_atomic(AT_FDCWD, in_scratch("home/plain"), "x", 1, 0644), 0);
	argv[0] = "./plain";
	spec.session = 0;
	o = run_spec(c, &spec);
	cr_expect_eq(o.exit.code, 126);
	cr_expect_str_eq(o.err, "./plain: Permission denied\n");
	output_free(&o);
	agent_close(c);
}

Test(exec, the_program_is_found_by_the_path_of_the_sandbox)
{
	const char *argv[] = {"mine", "arg", NULL};
	const char *env[] = {"PATH=/nowhere:bin", NULL};
	struct agent_exec_spec spec = {.argv = argv, .env = env};
	struct agent_conn *c = dial();
	struct agent_output o;

	/* Without a "#!" line, as a shell would take it. */
	cr_assert_eq(mkdir(in_scratch("home/bin"), 0755), 0);
	cr_assert_eq(
	    fd_write_file_atomic(AT_FDCWD, in_scratch("home/bin/mine"), "echo $0 $1\n", 11, 0755),
	    0);
	o = run_spec(c, &spec);
	cr_expect_str_eq(o.out, "bin/mine arg\n", "%s", o.err);
	output_free(&o);
	agent_close(c);
}

Test(exec, the_process_leads_its_session_with_no_signals_blocked_and_umask_022)
{
	struct agent_conn *c = dial();
	struct agent_output o =
	    sh(c, "umask; read -r pid c s ppid pgrp sess rest </proc/self/stat; "
		  "[ $sess = $$ ] && [ $pgrp = $$ ] && echo leads; "
		  "grep -E 'Sig(Blk|Ign)' /proc/self/status | tr -d '\\t\\n'; ls /proc/$$/fd");

	cr_expect_str_eq(o.out, "0022\nleads\nSigBlk:0000000000000000SigIgn:0000000000000000"
				"0\n1\n2\n");
	output_free(&o);
	agent_close(c);
}

Test(exec, without_a_pipe_stdin_is_empty)
{
	struct agent_conn *c = dial();
	struct agent_output o = sh(c, "cat; readlink /proc/self/fd/0");

	cr_expect_str_eq(o.out, "/dev/null\n");
	output_free(&o);
	agent_close(c);
}

/* Send @total bytes of the pattern to the process and check that they come back. */
static void echo_through(struct agent_conn *c, uint64_t total)
{
	static uint8_t buf[100000], expect[PROTO_FRAME_MAX];
	uint64_t sent = 0, got = 0;
	struct agent_event ev;
	bool eof = false;

	for (;;) {
		int rc;

		while (sent < total) {
			size_t n =
			    total - sent < sizeof(buf) ? (size_t)(total - sent) : sizeof(buf);
			ssize_t taken;

			pattern(sent, buf, n);
			taken = agent_exec_stdin(c, buf, n, &fixture_err);
			cr_assert_geq(taken, 0);
			if (!taken)
				break;
			sent += (uint64_t)taken;
		}
		if (sent == total && !eof) {
			ok(agent_exec_stdin_eof(c, &fixture_err));
			eof = true;
		}
		rc = agent_exec_next(c, -1, &ev, &fixture_err);
		cr_assert_eq(rc, 0, "%s", fixture_err.msg);
		if (ev.type == AGENT_STDOUT) {
			pattern(got, expect, ev.len);
			cr_assert_arr_eq(ev.data, expect, ev.len);
			got += ev.len;
		}
		if (ev.type == AGENT_EXIT)
			break;
	}
	cr_expect_eq(got, total);
	cr_expect_eq(ev.exit.code, 0);
}

Test(exec, stdin_of_any_length_flows_through_a_process_without_a_deadlock)
{
	const char *argv[] = {"cat", NULL};
	struct agent_exec_spec spec = {
	    .argv = argv, .session = new_session(), .flags = PROTO_EXEC_STDIN};
	struct agent_conn *c = dial();

	ok(agent_exec_start(c, &spec, &fixture_err));
	echo_through(c, 5000000);
	agent_close(c);
}

/* Fill the window of a process that has written @len bytes and 32768, and only then read them. */
static void read_late(struct agent_conn *c, const char *len)
{
	const char *argv[] = {"sh", "-c",
			      "head -c $0 /dev/zero; dd if=/dev/zero bs=32768 count=1 2>/dev/null; "
			      "echo written >../fifo; head -c 262144 >/dev/null; "
			      "echo read >../fifo; cat >/dev/null",
			      len, NULL};
	struct agent_exec_spec spec = {
	    .argv = argv, .session = new_session(), .flags = PROTO_EXEC_STDIN, .manual_ack = true};
	static uint8_t zeros[PROTO_WINDOW];
	struct agent_event ev;
	char *said;

	ok(agent_exec_start(c, &spec, &fixture_err));
	ok(fd_read_file(AT_FDCWD, in_scratch("fifo"), 16, &said, NULL));
	cr_expect_str_eq(said, "written\n");
	free(said);
	cr_assert_eq(agent_exec_stdin(c, zeros, PROTO_WINDOW, &fixture_err), PROTO_WINDOW);
	ok(fd_read_file(AT_FDCWD, in_scratch("fifo"), 16, &said, NULL));
	cr_expect_str_eq(said, "read\n");
	free(said);
	while (!agent_exec_stdin(c, zeros, 1, &fixture_err))
		ok(agent_exec_next(c, -1, &ev, &fixture_err));
	ok(agent_exec_stdin_eof(c, &fixture_err));
	do
		ok(agent_exec_next(c, -1, &ev, &fixture_err));
	while (ev.type != AGENT_EXIT);
	cr_expect_eq(ev.exit.stdout_len, strtoull(len, NULL, 10) + 32768);
}

Test(exec, a_client_that_was_slow_to_read_is_still_told_of_room_for_stdin)
{
	struct agent_conn *c = dial();

	cr_assert_eq(mkfifo(in_scratch("fifo"), 0600), 0);
	/* With one of these lengths the last output is what the socket has no room for. */
	for (unsigned int len = 1; len < PROTO_WINDOW - 32768; len += 8192) {
		char number[16];

		snprintf(number, sizeof(number), "%u", len);
		read_late(c, number);
	}
	agent_close(c);
}

Test(exec, a_process_that_does_not_read_its_stdin_does_not_stop_the_client)
{
	const char *argv[] = {"sh", "-c", "exec <&-; echo closed; read x <../fifo; exit 5", NULL};
	struct agent_exec_spec spec = {
	    .argv = argv, .session = new_session(), .flags = PROTO_EXEC_STDIN};
	struct agent_conn *c = dial();
	static uint8_t zeros[100000];
	uint64_t sent = 0;
	struct agent_event ev;
	int fifo;

	cr_assert_eq(mkfifo(in_scratch("fifo"), 0600), 0);
	ok(agent_exec_start(c, &spec, &fixture_err));
	do
		ok(agent_exec_next(c, -1, &ev, &fixture_err));
	while (ev.type != AGENT_STDOUT);
	while (sent < 2000000) {
		ssize_t n = agent_exec_stdin(c, zeros, sizeof(zeros), &fixture_err);

		cr_assert_geq(n, 0);
		sent += (uint64_t)n;
		if (!n)
			ok(agent_exec_next(c, -1, &ev, &fixture_err));
	}
	fifo = open(in_scratch("fifo"), O_WRONLY | O_CLOEXEC);
	close(fifo);
	do
		ok(agent_exec_next(c, -1, &ev, &fixture_err));
	while (ev.type != AGENT_EXIT);
	cr_expect_eq(ev.exit.code, 5);
	agent_close(c);
}

Test(exec, a_signal_reaches_the_whole_group)
{
	const char *argv[] = {"sh", "-c",
			      "trap 'wait; exit 9' USR1; "
			      "sh -c 'trap \"echo child; exit\" USR1; echo up; "
			      "while :; do sleep 0.01; done' & "
			      "wait; exit 1",
			      NULL};
	struct agent_exec_spec spec = {.argv = argv, .session = new_session()};
	struct agent_conn *c = dial();
	struct agent_event ev;

	ok(agent_exec_start(c, &spec, &fixture_err));
	do
		ok(agent_exec_next(c, -1, &ev, &fixture_err));
	while (ev.type != AGENT_STDOUT);
	ok(agent_exec_signal(c, SIGUSR1, &fixture_err));
	do
		ok(agent_exec_next(c, -1, &ev, &fixture_err));
	while (ev.type != AGENT_STDOUT);
	cr_expect_arr_eq(ev.data, "child\n", 6);
	do
		ok(agent_exec_next(c, -1, &ev, &fixture_err));
	while (ev.type != AGENT_EXIT);
	cr_expect_eq(ev.exit.code, 9);
	/* Late signals are dropped, and the connection stays usable. */
	ok(agent_exec_signal(c, SIGKILL, &fixture_err));
	ok(agent_ping(c, &fixture_err));
	agent_close(c);
}

Test(exec, a_user_that_does_not_exist_is_refused)
{
	const char *argv[] = {"true", NULL};
	struct agent_exec_spec spec = {.argv = argv, .session = new_session(), .user = "nobody9"};
	struct agent_conn *c = dial();
	struct agent_output o;

	cr_expect_eq(agent_exec_run(c, &spec, 100, &o, &fixture_err), -EINVAL);
	cr_expect(strstr(fixture_err.msg, "nobody9"));
	agent_close(c);
}

Test(exec, another_user_gets_its_groups_and_home)
{
	static const char passwd[] =
	    "root:x:0:0::/root:/bin/bash\nsb:x:4242:4243:,,,:/tmp:/bin/sh\n";
	static const char group[] = "g1:x:4243:\ng2:x:4300:other,sb\ng3:x:4301:sbx\n";
	const char *argv[] = {"sh", "-c", "id -u; id -G; echo $HOME $USER; pwd", NULL};
	struct agent_exec_spec spec = {.argv = argv, .user = "sb"};
	struct agent_conn *c;
	struct agent_output o;

	if (geteuid())
		cr_skip_test("only root can become another user");
	fd_write_file_atomic(AT_FDCWD, in_scratch("passwd"), passwd, strlen(passwd), 0644);
	fd_write_file_atomic(AT_FDCWD, in_scratch("group"), group, strlen(group), 0644);
	c = dial();
	spec.cwd = "/tmp";
	o = run_spec(c, &spec);
	cr_expect_str_eq(o.out, "4242\n4243 4300\n/tmp sb\n/tmp\n");
	output_free(&o);
	agent_close(c);
}

Test(exec, hundreds_of_commands_in_parallel_all_answer)
{
	enum { N = 200 };
	static struct agent_conn *c[N];
	const char *argv[] = {"sh", "-c", "read line; echo $line", NULL};

	for (int i = 0; i < N; i++) {
		struct agent_exec_spec spec = {
		    .argv = argv, .session = new_session(), .flags = PROTO_EXEC_STDIN};

		c[i] = dial();
		ok(agent_exec_start(c[i], &spec, &fixture_err));
	}
	/* All run at once: none ends before it is told its number. */
	for (int i = N - 1; i >= 0; i--) {
		char line[16];
		int len = snprintf(line, sizeof(line), "%d\n", i);
		struct agent_event ev;

		cr_assert_eq(agent_exec_stdin(c[i], line, (size_t)len, &fixture_err), len);
		do {
			ok(agent_exec_next(c[i], -1, &ev, &fixture_err));
			if (ev.type == AGENT_STDOUT)
				cr_expect_arr_eq(ev.data, line, (size_t)len);
		} while (ev.type != AGENT_EXIT);
		cr_expect_eq(ev.exit.stdout_len, len);
		agent_close(c[i]);
	}
}
