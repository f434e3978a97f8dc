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

/* Run argv as root; its output is ours, its exit code is returned. */
static int run_command(struct agent_conn *c, char **argv)
{
	struct agent_exec_spec spec = {
	    .argv = (const char *const *)argv,
	    .user = "root",
	    .cwd = "/",
	    .flags = PROTO_EXEC_DIE_WITH_CONN,
	};
	struct agent_event ev;
	struct err e;

	if (getrandom(&spec.session, sizeof(spec.session), 0) != sizeof(spec.session))
		return 125;
	spec.session |= 1;
	if (agent_exec_start(c, &spec, &e))
		return fail(&e);
	for (;;) {
		int rc = agent_exec_next(c, -1, &ev, &e);

		if (rc < 0)
			return fail(&e);
		if (ev.type == AGENT_STDOUT && put(stdout, &ev))
			return 125;
		if (ev.type == AGENT_STDERR && put(stderr, &ev))
			return 125;
		if (ev.type == AGENT_EXIT)
			return ev.exit.signal ? 128 + ev.exit.signal : ev.exit.code;
	}
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
	fputs("usage: vm-guest VSOCK-SOCKET exec CMD... | ping | sync | poweroff | reboot |\n"
	      "                freeze | freeze-sync | thaw | read FILE |\n"
	      "                renew GENERATION MACHINE-ID HOSTNAME ROOT-BYTES\n",
	      stderr);
	return 125;
}

int main(int argc, char **argv)
{
	struct agent_conn *c;
	struct err e;
	int rc;

	if (argc < 3 || (!strcmp(argv[2], "exec") && argc < 4))
		return usage();
	const struct agent_addr addr = {
	    .path = argv[1],
	    .vsock_port = PROTO_AGENT_PORT,
	    .timeout_ms = ANSWER_TIMEOUT_MS,
	};
	if (agent_connect(&addr, &c, &e))
		return fail(&e);
	if (!strcmp(argv[2], "exec")) {
		rc = run_command(c, argv + 3);
	} else {
		if (!strcmp(argv[2], "ping"))
			rc = agent_ping(c, &e);
		else if (!strcmp(argv[2], "sync"))
			rc = agent_sync(c, &e);
		else if (!strcmp(argv[2], "freeze"))
			rc = agent_freeze(c, false, &e);
		else if (!strcmp(argv[2], "freeze-sync"))
			rc = agent_freeze(c, true, &e);
		else if (!strcmp(argv[2], "thaw"))
			rc = agent_thaw(c, &e);
		else if (!strcmp(argv[2], "read") && argc == 4)
			rc = read_file(c, argv[3], &e);
		else if (!strcmp(argv[2], "renew") && argc == 7)
			rc = renew(c, argv + 3, &e);
		else if (!strcmp(argv[2], "poweroff"))
			rc = agent_shutdown(c, PROTO_POWEROFF, &e);
		else if (!strcmp(argv[2], "reboot"))
			rc = agent_shutdown(c, PROTO_REBOOT, &e);
		else
			return usage();
		rc = rc ? fail(&e) : 0;
	}
	agent_close(c);
	return rc;
}
