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

static int usage(void)
{
	fputs("usage: vm-guest VSOCK-SOCKET exec CMD... | ping | sync | poweroff | reboot\n",
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
