/* SPDX-License-Identifier: Apache-2.0 */
/* Process 1 of a guest; see init.h. */
#include "guest-kernel/agent/init.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "guest-kernel/agent/guest.h"
#include "guest-kernel/agent/net.h"
#include "guest-kernel/agent/server.h"
#include "lib/clock.h"
#include "lib/log.h"

#define TERM_GRACE_MS 1000u /* between SIGTERM and SIGKILL at the end */

/* ---- the end ---- */

void guest_request_shutdown(enum proto_shutdown mode)
{
	kill(1, mode == PROTO_REBOOT ? SIGTERM : SIGUSR2);
}

/* Reap until no process is left, or the time is over (0: for ever). Return: none is left. */
static bool reap_all(uint64_t until_ms)
{
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	for (;;) {
		pid_t pid = waitpid(-1, NULL, WNOHANG);
		struct timespec ts = {.tv_nsec = 50000000};

		if (pid < 0 && errno == ECHILD)
			return true;
		if (pid > 0)
			continue;
		if (clock_mono_ms() >= until_ms)
			return false;
		sigtimedwait(&child, NULL, &ts);
	}
}

_Noreturn void guest_shutdown(enum proto_shutdown mode, pid_t server)
{
	/* What is frozen would not see it. */
	freezer_thaw_all(CGROUP_ROOT);
	/* The server first: then every process is, sooner or later, a child of this one. */
	if (server > 0)
		kill(server, SIGKILL);
	kill(-1, SIGTERM);
	/* What is stopped would not see it. */
	kill(-1, SIGCONT);
	if (!reap_all(clock_mono_ms() + TERM_GRACE_MS)) {
		kill(-1, SIGKILL);
		reap_all(clock_mono_ms() + TERM_GRACE_MS);
	}
	sync();
	umount2("/workspace", MNT_DETACH);
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0)
		sync();
	for (;;) {
		reboot(mode == PROTO_REBOOT ? RB_AUTOBOOT : RB_POWER_OFF);
		poll(NULL, 0, 1000);
	}
}

/* ---- the server ---- */

/* What the knock does not need; requests wait for its first part (agent_wait_ready()). */
static void *late_setup(void *arg)
{
	struct agent *a = arg;
	struct err e;

	guest_knock();
	guest_bind_workspace();
	net_up();
	/* Frozen by one that died before it could thaw them. */
	freezer_thaw_all(CGROUP_ROOT);
	agent_set_ready(a, guest_make_cgroup());
	if (guest_grow_root(0, &e))
		log_warn("%s", e.msg);
	return NULL;
}

static int server_process(int listen_fd)
{
	static struct agent agent;
	pthread_t thread;
	int rc = agent_init(&agent, false);

	prctl(PR_SET_NAME, "agent-server");
	if (!rc)
		rc = -pthread_create(&thread, NULL, late_setup, &agent);
	if (!rc)
		rc = server_run(&agent, listen_fd);
	log_error("server: %s", strerror(-rc));
	return 1;
}

static pid_t start_server(int listen_fd)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(server_process(listen_fd));
	if (pid < 0)
		log_error("fork: %s", strerror(errno));
	return pid;
}

/* A child has ended: reap all that have. Return: true if the server is one of them. */
static bool reap_children(pid_t server)
{
	bool ended = false;
	pid_t pid;

	while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
		ended |= pid == server;
	return ended;
}

/* Standard descriptors of a process that the kernel could give no console. */
static void open_standard(void)
{
	int fd = open("/dev/null", O_RDWR);

	while (fd >= 0 && fd < 2)
		fd = dup(fd);
	if (fd > 2)
		close(fd);
}

_Noreturn void init_run(void)
{
	int listen_fd, signo;
	pid_t server;
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	listen_fd = guest_listen();
	if (listen_fd < 0)
		log_error("vsock port %u: %s", PROTO_AGENT_PORT, strerror(-listen_fd));
	guest_setup();
	open_standard();
	reboot(RB_DISABLE_CAD);
	server = start_server(listen_fd);
	for (;;) {
		signo = sigwaitinfo(&all, NULL);
		if (signo == SIGTERM || signo == SIGINT)
			guest_shutdown(PROTO_REBOOT, server);
		if (signo == SIGUSR1 || signo == SIGUSR2)
			guest_shutdown(PROTO_POWEROFF, server);
		if (signo == SIGCHLD && reap_children(server)) {
			log_error("the agent's server died; starting it again");
			/* Not in a tight loop, should it die at once each time. */
			poll(NULL, 0, 100);
			server = start_server(listen_fd);
		}
	}
}
