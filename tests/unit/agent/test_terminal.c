/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"
#include "tests/unit/agent/fixture.h"

TestSuite(terminal, .init = agent_start, .fini = agent_stop, .timeout = 60);

/* All that a terminal has shown, and where the looking for text goes on. */
static char shown[64 << 10];
static size_t shown_len, looked;
static struct agent_exit end;

static struct agent_conn *run(const char *const *argv, uint64_t session)
{
	/* A shell that reads no files of this machine, with a prompt that is no word. */
	const char *env[] = {"PS1=$ ", "ENV=", "HISTFILE=", NULL};
	struct agent_exec_spec spec = {.session = session,
				       .argv = argv,
				       .env = env,
				       .flags = PROTO_EXEC_PTY,
				       .rows = 30,
				       .cols = 100};
	struct agent_conn *c = dial();

	shown_len = looked = 0;
	ok(agent_exec_start(c, &spec, &fixture_err));
	return c;
}

static struct agent_conn *script(const char *text)
{
	const char *argv[] = {"sh", "-c", text, NULL};

	return run(argv, new_session());
}

/* Return: false at the end of the session. */
static bool next(struct agent_conn *c)
{
	struct agent_event ev;

	int rc = agent_exec_next(c, 30000, &ev, &fixture_err);

	shown[shown_len] = '\0';
	cr_assert_eq(rc, 0, "%d %s after \"%s\"", rc, rc == -EAGAIN ? "" : fixture_err.msg, shown);
	cr_assert_neq(ev.type, AGENT_STDERR);
	if (ev.type == AGENT_STDOUT && shown_len + ev.len < sizeof(shown)) {
		memcpy(shown + shown_len, ev.data, ev.len);
		shown_len += ev.len;
		shown[shown_len] = '\0';
	}
	if (ev.type == AGENT_EXIT)
		end = ev.exit;
	return ev.type != AGENT_EXIT;
}

/* Read until @text has been shown, after what was expected before. */
static void expect(struct agent_conn *c, const char *text)
{
	const char *at;

	shown[shown_len] = '\0';
	while (!(at = strstr(shown + looked, text)))
		cr_assert(next(c), "the end came before \"%s\": %s", text, shown);
	looked = (size_t)(at - shown) + strlen(text);
}

/* A shell that is ready: what is typed before its prompt is shown twice. */
static struct agent_conn *shell(void)
{
	const char *argv[] = {"bash", "--norc", "--noprofile", "-i", NULL};
	struct agent_conn *c = run(argv, new_session());

	expect(c, "$ ");
	return c;
}

static void type(struct agent_conn *c, const char *text)
{
	cr_assert_eq(agent_exec_stdin(c, text, strlen(text), &fixture_err), strlen(text));
}

static int finish(struct agent_conn *c)
{
	while (next(c))
		;
	cr_assert_not(agent_conn_broken(c));
	agent_close(c);
	return end.code;
}

Test(terminal, what_is_typed_is_echoed_and_read)
{
	struct agent_conn *c = script("cat");

	type(c, "hello\n");
	expect(c, "hello\r\nhello\r\n");
	/* The editing of a line is the terminal's. */
	type(c, "wrong\025right\n");
	expect(c, "\r\nright\r\n");
	type(c, "\004");
	cr_expect_eq(finish(c), 0);
	cr_expect_eq(end.stderr_len, 0);
}

Test(terminal, it_is_the_controlling_terminal_of_its_user_with_size_and_type)
{
	struct agent_conn *c = script("tty -s && test -O \"$(tty)\" && : </dev/tty && echo owned; "
				      "stty size; echo \"T=$TERM\"; stty -a | grep -o ' iutf8'; "
				      "ps -o tpgid= -p $$ | tr -d ' ' | grep -qx $$ && echo lead; "
				      "stat -c %a $(tty); exec ls /proc/self/fd");

	cr_expect_eq(finish(c), 0);
	shown[shown_len] = '\0';
	cr_expect_not_null(strstr(shown, "owned\r\n30 100\r\nT=xterm-256color\r\n iutf8\r\nlead"),
			   "%s", shown);
	cr_expect_not_null(strstr(shown, "\r\n0  1  2  3\r\n"), "%s", shown);
}

Test(terminal, the_type_can_be_said_by_the_client)
{
	const char *argv[] = {"sh", "-c", "echo $TERM; stty size", NULL};
	const char *env[] = {"TERM=dumb", NULL};
	struct agent_exec_spec spec = {.argv = argv, .env = env, .flags = PROTO_EXEC_PTY};
	struct agent_conn *c = dial();
	struct agent_output o = run_spec(c, &spec);

	cr_expect_str_eq(o.out, "dumb\r\n24 80\r\n");
	output_free(&o);
	agent_close(c);
}

Test(terminal, ctrl_c_ends_what_is_in_the_foreground)
{
	struct agent_conn *c = shell();

	/* Once it has answered nothing else is in the foreground. */
	type(c, "sed -u s/^/=/\n");
	type(c, "one\n");
	expect(c, "=one\r\n");
	type(c, "\003");
	expect(c, "^C");
	expect(c, "$ ");
	type(c, "echo code=$?\n");
	expect(c, "code=130\r\n");
	type(c, "exit 7\n");
	cr_expect_eq(finish(c), 7);
}

Test(terminal, ctrl_z_stops_and_fg_goes_on)
{
	struct agent_conn *c = shell();

	type(c, "sed -u s/^/=/\n");
	type(c, "one\n");
	expect(c, "=one\r\n");
	type(c, "\032");
	expect(c, "Stopped");
	expect(c, "$ ");
	type(c, "jobs\n");
	expect(c, "Stopped");
	expect(c, "$ ");
	type(c, "fg\n");
	type(c, "two\n");
	expect(c, "=two\r\n");
	type(c, "\004");
	expect(c, "$ ");
	type(c, "exit\n");
	cr_expect_eq(finish(c), 0);
}

Test(terminal, a_new_size_is_seen_and_signalled)
{
	struct agent_conn *c = shell();

	type(c, "trap 'echo now $(stty size)' WINCH; echo s''et\n");
	/* Up to its prompt readline reads the size and sets it to what it read. */
	expect(c, "set\r\n");
	expect(c, "$ ");
	ok(agent_exec_winsize(c, 50, 132, &fixture_err));
	type(c, "\n");
	expect(c, "now 50 132\r\n");
	expect(c, "$ ");
	/* The size that it has: still a reason to draw everything again. */
	ok(agent_exec_winsize(c, 50, 132, &fixture_err));
	type(c, "\n");
	expect(c, "now 50 132\r\n");
	cr_expect_eq(agent_exec_winsize(c, 0, 80, &fixture_err), -EINVAL);
	type(c, "exit\n");
	finish(c);
}

Test(terminal, a_size_for_a_command_without_a_terminal_changes_nothing)
{
	const char *argv[] = {"cat", NULL};
	struct agent_exec_spec spec = {
	    .session = new_session(), .argv = argv, .flags = PROTO_EXEC_STDIN};
	struct agent_conn *c = dial();

	shown_len = looked = 0;
	ok(agent_exec_start(c, &spec, &fixture_err));
	ok(agent_exec_winsize(c, 50, 132, &fixture_err));
	type(c, "through\n");
	expect(c, "through\n");
	ok(agent_exec_stdin_eof(c, &fixture_err));
	cr_expect_eq(finish(c), 0);
}

Test(terminal, the_end_is_that_of_the_program)
{
	const char *missing[] = {"no-such-program", NULL};
	struct agent_conn *c = script("exit 42");

	cr_expect_eq(finish(c), 42);
	c = script("kill -TERM $$");
	cr_expect_eq(finish(c), -1);
	cr_expect_eq(end.signal, SIGTERM);
	c = run(missing, new_session());
	cr_expect_eq(finish(c), 127);
	shown[shown_len] = '\0';
	cr_expect_str_eq(shown, "no-such-program: command not found\r\n");
}

/* A hundred times: what a program writes last is what is lost if it is. */
Test(terminal, the_last_words_are_never_lost)
{
	for (int i = 0; i < 100; i++) {
		struct agent_conn *c = script("head -c 30000 /dev/zero | tr '\\0' x; echo END");

		cr_assert_eq(finish(c), 0);
		cr_assert_eq(shown_len, 30005, "run %d: %zu bytes", i, shown_len);
	}
}

Test(terminal, who_keeps_it_open_does_not_hold_the_end)
{
	struct agent_conn *c = script("trap '' HUP; sleep 1000 & echo pid=$!; exit 5");
	pid_t pid;

	cr_expect_eq(finish(c), 5);
	shown[shown_len] = '\0';
	cr_assert_eq(sscanf(shown, "pid=%d", &pid), 1, "%s", shown);
	cr_expect_eq(kill(pid, SIGKILL), 0, "it ran on");
}

Test(terminal, who_floods_it_does_not_hold_the_end_either)
{
	struct agent_conn *c = script("setsid sh -c 'while echo flood; do :; done' & sleep 0.1");

	cr_expect_eq(finish(c), 0);
}

Test(terminal, a_program_may_close_it_and_open_it_again)
{
	struct agent_conn *c = script(
	    "exec <&- >&- 2>&-; sleep 0.2; exec </dev/tty >/dev/tty 2>&1; echo back; read x; "
	    "echo got $x");

	expect(c, "back\r\n");
	type(c, "it\n");
	expect(c, "got it\r\n");
	cr_expect_eq(finish(c), 0);
}

static void make_file(const char *name, size_t len)
{
	static uint8_t buf[1 << 20];
	FILE *f = fopen(in_scratch(name), "w");

	for (size_t at = 0; at < len; at += sizeof(buf)) {
		pattern(at, buf, sizeof(buf));
		cr_assert_eq(fwrite(buf, 1, sizeof(buf), f), sizeof(buf));
	}
	fclose(f);
}

Test(terminal, much_output_comes_whole_whatever_the_reader_and_the_connection_do)
{
	enum { LEN = 8 << 20 };
	const char *argv[] = {"sh", "-c", "stty -opost; cat ../data", NULL};
	uint64_t session = new_session(), got = 0, hash = HASH_START, expected = HASH_START;
	static uint8_t buf[1 << 20];
	struct agent_event ev = {0};
	struct agent_conn *c;
	int cuts = 0;

	make_file("data", LEN);
	for (size_t at = 0; at < LEN; at += sizeof(buf)) {
		pattern(at, buf, sizeof(buf));
		expected = hash_of(expected, buf, sizeof(buf));
	}
	c = run(argv, session);
	while (ev.type != AGENT_EXIT) {
		ok(agent_exec_next(c, -1, &ev, &fixture_err));
		if (ev.type != AGENT_STDOUT)
			continue;
		cr_assert_eq(ev.offset, got);
		hash = hash_of(hash, ev.data, ev.len);
		got += ev.len;
		if (got > (uint64_t)(cuts + 1) * 2000000) {
			/* Away for a while: the program waits. */
			usleep(50000);
			cuts++;
			agent_close(c);
			c = dial();
			ok(agent_exec_attach(c, session, got, 0, false, &fixture_err));
		}
	}
	cr_expect_eq(got, LEN);
	cr_expect_eq(hash, expected);
	cr_expect_geq(cuts, 3);
	agent_close(c);
}

Test(terminal, much_input_arrives_whole)
{
	enum { LEN = 2 << 20 };
	struct agent_conn *c = script("stty raw -echo; echo ready; head -c 2097152 >../copy; cmp "
				      "../copy ../data && echo same");
	static uint8_t buf[50000];
	uint64_t sent = 0;

	make_file("data", LEN);
	expect(c, "ready");
	while (sent < LEN) {
		size_t len = LEN - sent < sizeof(buf) ? LEN - sent : sizeof(buf);
		ssize_t n;

		pattern(sent, buf, len);
		n = agent_exec_stdin(c, buf, len, &fixture_err);
		cr_assert_geq(n, 0);
		sent += (uint64_t)n;
		if (!n)
			cr_assert(next(c));
	}
	expect(c, "same");
	cr_expect_eq(finish(c), 0);
}

Test(terminal, a_hang_up_is_told_to_the_shell_and_takes_the_terminal)
{
	struct agent_conn *c = script(
	    "trap 'echo gone >../hup; exit 3' HUP; echo ready; while :; do sleep 0.02; done");
	struct stat st;

	expect(c, "ready");
	ok(agent_exec_signal(c, SIGHUP, &fixture_err));
	cr_expect_eq(finish(c), 3);
	cr_expect_eq(stat(in_scratch("hup"), &st), 0);
	/* Who does not mind the signal reads the end of the file. */
	c = script("trap '' HUP; echo ready; cat >/dev/null; exit 4");
	expect(c, "ready");
	ok(agent_exec_signal(c, SIGHUP, &fixture_err));
	cr_expect_eq(finish(c), 4);
}

Test(terminal, another_signal_goes_to_the_shell_as_ever)
{
	struct agent_conn *c = script("echo ready; read x");

	expect(c, "ready");
	ok(agent_exec_signal(c, SIGKILL, &fixture_err));
	cr_expect_eq(finish(c), -1);
	cr_expect_eq(end.signal, SIGKILL);
}
