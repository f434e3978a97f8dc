/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse-agent: process 1 of a guest, or, on a Unix socket, its server alone. */
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest-kernel/agent/init.h"
#include "guest-kernel/agent/server.h"
#include "lib/fd.h"
#include "lib/log.h"

static int usage(FILE *to)
{
	fprintf(to,
		"usage: dormouse-agent --unix PATH [--user NAME] [--home DIR] [--etc DIR]\n"
		"\n"
		"As process 1 it takes no arguments: it sets the guest up and serves on vsock.\n"
		"With --unix it is an ordinary process that serves the same protocol.\n"
		"\n"
		"  --unix PATH  socket to listen on; \"ready\" is printed when it does\n"
		"  --user NAME  who runs commands by default (default: the caller)\n"
		"  --home DIR   that user's home (default: as in passwd)\n"
		"  --etc DIR    where passwd, group and environment are (default: /etc)\n"
		"  --version\n");
	return to == stderr ? 2 : 0;
}

static int serve_unix(const char *path, struct agent *a)
{
	struct err e;
	sigset_t pipe_only;
	int fd = fd_unix_listen(path, 0600, &e);

	if (fd < 0) {
		fprintf(stderr, "dormouse-agent: %s\n", e.msg);
		return 1;
	}
	sigemptyset(&pipe_only);
	sigaddset(&pipe_only, SIGPIPE);
	sigprocmask(SIG_BLOCK, &pipe_only, NULL);
	umask(022);
	agent_set_ready(a, -1);
	puts("ready");
	fflush(stdout);
	log_error("accept: %s", strerror(-server_run(a, fd)));
	return 1;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
	    {"unix", required_argument, NULL, 'u'},
	    {"user", required_argument, NULL, 'n'},
	    {"home", required_argument, NULL, 'H'},
	    {"etc", required_argument, NULL, 'e'},
	    {"version", no_argument, NULL, 'v'},
	    {"help", no_argument, NULL, 'h'},
	    {NULL, 0, NULL, 0},
	};
	static struct agent agent;
	const char *path = NULL;
	int c;

	/* A heap per thread would cost more memory than waiting for each other costs time. */
	mallopt(M_ARENA_MAX, 2);
	log_init("agent", LOG_INFO, 2);
	if (getpid() == 1)
		init_run();
	if (agent_init(&agent, true)) {
		perror("dormouse-agent: /dev/null");
		return 1;
	}
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'u':
			path = optarg;
			break;
		case 'n':
			agent.user = optarg;
			break;
		case 'H':
			agent.home = optarg;
			break;
		case 'e':
			agent.etc = optarg;
			break;
		case 'v':
			puts(AGENT_VERSION);
			return 0;
		default:
			return usage(c == 'h' ? stdout : stderr);
		}
	}
	if (!path || optind != argc)
		return usage(stderr);
	return serve_unix(path, &agent);
}
