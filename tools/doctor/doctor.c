/* SPDX-License-Identifier: Apache-2.0 */
/* Running checks in processes of their own, and the verdict; see doctor.h. */
#include "tools/doctor/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"

void check_ok(struct check_result *r, const char *fmt, ...)
{
	va_list ap;

	r->status = CHECK_OK;
	r->cost[0] = r->fix[0] = '\0';
	va_start(ap, fmt);
	vsnprintf(r->detail, sizeof(r->detail), fmt, ap);
	va_end(ap);
}

void check_not_ok(struct check_result *r, enum check_status status, const char *cost,
		  const char *fix, const char *fmt, ...)
{
	va_list ap;

	r->status = status;
	snprintf(r->cost, sizeof(r->cost), "%s", cost);
	snprintf(r->fix, sizeof(r->fix), "%s", fix);
	va_start(ap, fmt);
	vsnprintf(r->detail, sizeof(r->detail), fmt, ap);
	va_end(ap);
}

const char *check_status_name(enum check_status s)
{
	switch (s) {
	case CHECK_OK:
		return "ok";
	case CHECK_DEGRADED:
		return "degraded";
	case CHECK_MISSING:
		break;
	}
	return "missing";
}

enum check_status doctor_speed_status(double ns_per_turn)
{
	/* The limits sit between the two kinds of machine, a factor of ten from each. */
	if (ns_per_turn < 0 || ns_per_turn >= 200)
		return CHECK_MISSING;
	return ns_per_turn < 30 ? CHECK_OK : CHECK_DEGRADED;
}

/* In the child: nothing of ours may print, and it must not outlive us. */
static void __attribute__((noreturn))
run_in_child(const struct check *c, const struct doctor_options *o, int out_fd, pid_t parent)
{
	struct check_result r = {.status = CHECK_MISSING, .ns_per_turn = -1};

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	c->run(o, &r);
	_exit(fd_write_full(out_fd, &r, sizeof(r)) < 0);
}

/* Return: true if all of @r came within the time. */
static bool read_result(int fd, int timeout_ms, struct check_result *r)
{
	uint64_t end = clock_mono_ms() + (uint64_t)timeout_ms;
	size_t have = 0;

	while (have < sizeof(*r)) {
		uint64_t now = clock_mono_ms();
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t n;

		if (now >= end || poll(&p, 1, (int)(end - now)) == 0) {
			errno = ETIMEDOUT;
			return false;
		}
		n = read(fd, (char *)r + have, sizeof(*r) - have);
		if (n == 0)
			errno = EPIPE;
		if (n == 0 || (n < 0 && errno != EINTR))
			return false;
		if (n > 0)
			have += (size_t)n;
	}
	return true;
}

void check_run(const struct check *c, const struct doctor_options *o, int timeout_ms,
	       struct check_result *r)
{
	int pipe_fds[2], failure = 0;
	pid_t parent = getpid(), pid;

	memset(r, 0, sizeof(*r));
	r->ns_per_turn = -1;
	if (pipe2(pipe_fds, O_CLOEXEC) < 0) {
		check_not_ok(r, CHECK_MISSING, "not checked", "run it again", "pipe: %s",
			     strerror(errno));
		return;
	}
	pid = fork();
	if (pid == 0)
		run_in_child(c, o, pipe_fds[1], parent);
	close(pipe_fds[1]);
	if (pid < 0 || !read_result(pipe_fds[0], timeout_ms, r))
		failure = errno;
	close(pipe_fds[0]);
	if (pid > 0) {
		kill(pid, SIGKILL);
		/* One that is stuck in the kernel cannot be waited for. */
		if (failure != ETIMEDOUT)
			waitpid(pid, NULL, 0);
	}
	if (failure) {
		r->ns_per_turn = -1;
		check_not_ok(r, CHECK_MISSING, "unknown: the check gave no answer",
			     "run `dormouse doctor` again; report it if it stays",
			     failure == ETIMEDOUT ? "did not finish within %d ms"
						  : "the check died (limit %d ms)",
			     timeout_ms);
	}
}

bool doctor_verdict(const struct check *checks, const struct check_result *results, size_t n,
		    bool kvm_only)
{
	for (size_t i = 0; i < n; i++) {
		if (results[i].status == CHECK_MISSING && checks[i].essential &&
		    (checks[i].is_kvm || !kvm_only))
			return false;
	}
	return true;
}

json_t *doctor_json(const struct check *checks, const struct check_result *results, size_t n)
{
	json_t *list = json_array(), *ns = json_null();

	for (size_t i = 0; i < n; i++) {
		const struct check_result *r = &results[i];

		if (r->ns_per_turn >= 0)
			ns = json_real(r->ns_per_turn);
		json_array_append_new(list,
				      json_pack("{s:s, s:s, s:s, s:s, s:s}", "name", checks[i].name,
						"status", check_status_name(r->status), "detail",
						r->detail, "cost", r->cost, "fix", r->fix));
	}
	return json_pack("{s:b, s:{s:b, s:o}, s:o}", "ok",
			 doctor_verdict(checks, results, n, false), "kvm", "usable",
			 doctor_verdict(checks, results, n, true), "nsPerTurn", ns, "checks", list);
}
