/* SPDX-License-Identifier: Apache-2.0 */
/* See fixture.h. */
#include "tests/unit/agent/fixture.h"

#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest-kernel/agent/files.h"
#include "guest-kernel/agent/server.h"
#include "lib/fd.h"

char scratch[64];
char home[96];
struct err fixture_err;
static pid_t agent_pid;

const char *in_scratch(const char *name)
{
	static char paths[4][256];
	static unsigned int next;
	char *p = paths[next++ % 4];

	snprintf(p, sizeof(paths[0]), "%s/%s", scratch, name);
	return p;
}

static void agent_process(int listen_fd)
{
	static struct agent a;
	sigset_t all;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* The test program's own: commands must see none but 0, 1 and 2. */
	close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	umask(022);
	if (agent_init(&a, true))
		_exit(1);
	a.etc = scratch;
	a.home = home;
	agent_set_ready(&a, -1);
	server_run(&a, listen_fd);
	_exit(1);
}

void agent_start(void)
{
	int fd;

	strcpy(scratch, "/tmp/dormouse-agent-XXXXXX");
	cr_assert_not_null(mkdtemp(scratch));
	snprintf(home, sizeof(home), "%s/home", scratch);
	cr_assert_eq(mkdir(home, 0755), 0);
	fd = fd_unix_listen(in_scratch("agent.sock"), 0600, &fixture_err);
	cr_assert_geq(fd, 0, "%s", fixture_err.msg);
	agent_pid = fork();
	cr_assert_geq(agent_pid, 0);
	if (!agent_pid)
		agent_process(fd);
	close(fd);
}

void agent_stop(void)
{
	kill(agent_pid, SIGKILL);
	waitpid(agent_pid, NULL, 0);
	path_remove(scratch);
}

struct agent_conn *dial(void)
{
	/* However slow the machine is: a test that hangs is ended by its suite's timeout. */
	struct agent_addr addr = {.path = in_scratch("agent.sock"), .timeout_ms = UINT32_MAX};
	struct agent_conn *c;

	ok(agent_connect(&addr, &c, &fixture_err));
	return c;
}

uint64_t new_session(void)
{
	static uint64_t next = 1;

	return next++;
}

struct agent_output run_spec(struct agent_conn *c, struct agent_exec_spec *spec)
{
	struct agent_output o;

	if (!spec->session)
		spec->session = new_session();
	ok(agent_exec_run(c, spec, 64 << 20, &o, &fixture_err));
	return o;
}

struct agent_output sh(struct agent_conn *c, const char *script)
{
	const char *argv[] = {"sh", "-c", script, NULL};
	struct agent_exec_spec spec = {.argv = argv};

	return run_spec(c, &spec);
}

void output_free(struct agent_output *o)
{
	free(o->out);
	free(o->err);
}

uint64_t hash_of(uint64_t hash, const void *data, size_t len)
{
	const uint8_t *p = data;

	while (len--)
		hash = (hash ^ *p++) * 0x100000001b3ULL;
	return hash;
}

void pattern(uint64_t offset, uint8_t *buf, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		uint64_t x = (offset + i) / 8 * 0x9e3779b97f4a7c15ULL;

		buf[i] = (uint8_t)(x >> ((offset + i) % 8 * 8));
	}
}
