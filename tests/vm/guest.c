/* SPDX-License-Identifier: Apache-2.0 */
/* For tests: ask the agent of a running guest for something, from the shell. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "lib/agent_client.h"

/* The lab is slow and its host may be busy: this only ends what would hang for ever. */
#define ANSWER_TIMEOUT_MS 180000

static int fail(const struct err *e)
{
	fprintf(stderr, "guest: %s\n", e->msg);
	return 125;
}

static int put(FILE *f, const struct agent_event *ev)
{
	return fwrite(ev->data, 1, ev->len, f) == ev->len && !fflush(f) ? 0 : -EIO;
}

/* Number n is the eight bytes at 8 * n of stdin: as many of them as the guest has room for. */
static int feed(struct agent_conn *c, uint64_t *at, struct err *e)
{
	uint64_t words[4096];
	ssize_t n;

	do {
		size_t skip = *at % sizeof(words[0]);

		for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
			words[i] = *at / sizeof(words[0]) + i;
		n = agent_exec_stdin(c, (char *)words + skip, sizeof(words) - skip, e);
		*at += n > 0 ? (uint64_t)n : 0;
	} while (n > 0);
	return (int)n;
}

/* Return: 0, or the exit code with which all ends. */
static int take(struct agent_conn *c, const struct agent_event *ev, bool pump, uint64_t *fed)
{
	struct err e;

	if (ev->type == AGENT_STDOUT && put(stdout, ev))
		return 125;
	if (ev->type == AGENT_STDERR && put(stderr, ev))
		return 125;
	if (ev->type == AGENT_STARTED)
		*fed = ev->stdin_offset;
	/* A connection that is lost here is seen by the next who reads. */
	if (pump && (ev->type == AGENT_STARTED || ev->type == AGENT_STDIN_ROOM) &&
	    feed(c, fed, &e) && !agent_conn_broken(c))
		return fail(&e);
	return 0;
}

/*
 * Events to stdout and stderr up to the end; the command's exit code. When the connection is
 * lost, "lost STDOUT-OFFSET STDERR-OFFSET" is the last line of stderr, and 124 the exit code:
 * attach goes on from there.
 */
static int follow(struct agent_conn *c, uint64_t from_out, uint64_t from_err, bool pump)
{
	uint64_t got[2] = {from_out, from_err}, fed = 0;
	struct agent_event ev;
	struct err e;

	for (;;) {
		int rc = agent_exec_next(c, -1, &ev, &e);

		if (rc < 0 && agent_conn_broken(c)) {
			fprintf(stderr, "lost %llu %llu\n", (unsigned long long)got[0],
				(unsigned long long)got[1]);
			return 124;
		}
		if (rc < 0)
			return fail(&e);
		rc = take(c, &ev, pump, &fed);
		if (rc)
			return rc;
		if (ev.type == AGENT_STDOUT || ev.type == AGENT_STDERR)
			got[ev.type == AGENT_STDERR] = ev.offset + ev.len;
		if (ev.type == AGENT_EXIT)
			return ev.exit.signal ? 128 + ev.exit.signal : ev.exit.code;
	}
}

/* Run argv as root, as a session of this number; 0: one that ends with its connection. */
static int run_command(struct agent_conn *c, uint64_t session, bool pump, char **argv)
{
	struct agent_exec_spec spec = {
	    .session = session,
	    .argv = (const char *const *)argv,
	    .user = "root",
	    .cwd = "/",
	    .flags = session ? 0 : PROTO_EXEC_DIE_WITH_CONN,
	};
	struct err e;

	if (!session) {
		if (getrandom(&spec.session, sizeof(spec.session), 0) != sizeof(spec.session))
			return 125;
		spec.session |= 1ULL << 63;
	}
	if (pump)
		spec.flags |= PROTO_EXEC_STDIN;
	return agent_exec_start(c, &spec, &e) ? fail(&e) : follow(c, 0, 0, pump);
}

/* SESSION STDOUT-OFFSET STDERR-OFFSET */
static int attach(struct agent_conn *c, bool pump, char **argv)
{
	uint64_t n[3];
	struct err e;

	for (int i = 0; i < 3; i++)
		n[i] = strtoull(argv[i], NULL, 10);
	if (agent_exec_attach(c, n[0], n[1], n[2], false, &e))
		return fail(&e);
	return follow(c, n[1], n[2], pump);
}

/* A file of this side to the guest. */
static int write_file(struct agent_conn *c, const char *from, const char *to, struct err *e)
{
	FILE *in = fopen(from, "r");
	char buf[65536];
	size_t n;
	int rc = in ? agent_write_open(c, to, e) : err_sys(e, -errno, "%s", from);

	while (!rc && (n = fread(buf, 1, sizeof(buf), in)) > 0)
		rc = agent_write(c, buf, n, e);
	if (in)
		fclose(in);
	return rc ? rc : agent_write_commit(c, e);
}

/* GENERATION MACHINE-ID HOSTNAME ROOT-BYTES, each of them "" or 0 for none; random entropy. */
static int renew(struct agent_conn *c, char **argv, struct err *e)
{
	struct agent_identity id = {.hostname = argv[2][0] ? argv[2] : NULL,
				    .root_bytes = strtoull(argv[3], NULL, 10)};

	snprintf((char *)id.generation, sizeof(id.generation), "%s", argv[0]);
	snprintf(id.machine_id, sizeof(id.machine_id), "%s", argv[1]);
	id.flags = id.root_bytes ? PROTO_RENEW_GROW_ROOT : 0;
	if (getrandom(id.entropy, sizeof(id.entropy), 0) != sizeof(id.entropy))
		return -EIO;
	return agent_renew(c, &id, e);
}

/* A file to stdout: what the agent reads itself, while processes stand still. */
static int read_file(struct agent_conn *c, const char *path, struct err *e)
{
	struct agent_stat st;
	char buf[4096];
	ssize_t n = agent_read_open(c, path, &st, e);

	while (!n && (n = agent_read(c, buf, sizeof(buf), e)) > 0)
		n = fwrite(buf, 1, (size_t)n, stdout) == (size_t)n ? 0 : -EIO;
	return (int)n;
}

static int usage(void)
{
	fputs(
	    "usage: vm-guest VSOCK-SOCKET COMMAND\n"
	    "  exec CMD... | session SESSION CMD... | attach SESSION STDOUT-OFFSET STDERR-OFFSET\n"
	    "  pump SESSION CMD... | attach-pump SESSION STDOUT-OFFSET STDERR-OFFSET\n"
	    "  ping | sync | poweroff | reboot | freeze | freeze-sync | thaw\n"
	    "  read FILE | write LOCAL-FILE FILE\n"
	    "  renew GENERATION MACHINE-ID HOSTNAME ROOT-BYTES\n",
	    stderr);
	return 125;
}

/* What has no output and no exit code of its own. -EINVAL without a text: no such command. */
static int simple(struct agent_conn *c, const char *what, struct err *e)
{
	if (!strcmp(what, "ping"))
		return agent_ping(c, e);
	if (!strcmp(what, "sync"))
		return agent_sync(c, e);
	if (!strcmp(what, "freeze"))
		return agent_freeze(c, false, e);
	if (!strcmp(what, "freeze-sync"))
		return agent_freeze(c, true, e);
	if (!strcmp(what, "thaw"))
		return agent_thaw(c, e);
	if (!strcmp(what, "poweroff"))
		return agent_shutdown(c, PROTO_POWEROFF, e);
	if (!strcmp(what, "reboot"))
		return agent_shutdown(c, PROTO_REBOOT, e);
	return -EINVAL;
}

static int run(struct agent_conn *c, int argc, char **argv)
{
	struct err e = {0};
	int rc;

	if (!strcmp(argv[0], "exec") && argc > 1)
		return run_command(c, 0, false, argv + 1);
	if (argc > 2 && (!strcmp(argv[0], "session") || !strcmp(argv[0], "pump")))
		return run_command(c, strtoull(argv[1], NULL, 10), argv[0][0] == 'p', argv + 2);
	if (argc == 4 && (!strcmp(argv[0], "attach") || !strcmp(argv[0], "attach-pump")))
		return attach(c, argv[0][6] == '-', argv + 1);
	if (!strcmp(argv[0], "read") && argc == 2)
		rc = read_file(c, argv[1], &e);
	else if (!strcmp(argv[0], "write") && argc == 3)
		rc = write_file(c, argv[1], argv[2], &e);
	else if (!strcmp(argv[0], "renew") && argc == 5)
		rc = renew(c, argv + 1, &e);
	else
		rc = simple(c, argv[0], &e);
	if (rc == -EINVAL && !e.msg[0])
		return usage();
	return rc ? fail(&e) : 0;
}

int main(int argc, char **argv)
{
	struct agent_conn *c;
	struct err e;
	int rc;

	if (argc < 3)
		return usage();
	const struct agent_addr addr = {
	    .path = argv[1],
	    .vsock_port = PROTO_AGENT_PORT,
	    .timeout_ms = ANSWER_TIMEOUT_MS,
	};
	if (agent_connect(&addr, &c, &e))
		return fail(&e);
	rc = run(c, argc - 2, argv + 2);
	agent_close(c);
	return rc;
}
