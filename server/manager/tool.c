/* SPDX-License-Identifier: Apache-2.0 */
/* Programs of ours on files of the store; see tool.h. */
#include "server/manager/tool.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/fd.h"
#include "server/manager/internal.h"

#define OUT_MAX (1u << 20)
#define TURN_MS 200 /* between two looks whether the daemon stops */

int tool_init(struct tool *t, const struct manager *m, const char *name, struct err *e)
{
	char *path;

	memset(t, 0, sizeof(*t));
	if (asprintf(&path, "%s/%s", m->config->tools, name) < 0)
		return err_set(e, -ENOMEM, "out of memory");
	t->argv[t->n++] = path;
	if (access(path, X_OK))
		return err_sys(e, errno == ENOENT ? -ENOSYS : -errno, "%s", path);
	return 0;
}

void tool_add(struct tool *t, const char *arg)
{
	/* A NULL among them, or no place: tool_run() sees it. */
	if (t->n < TOOL_ARGS)
		t->argv[t->n] = arg;
	t->n++;
}

void tool_fini(struct tool *t)
{
	free((char *)t->argv[0]);
	t->argv[0] = NULL;
}

static bool is_complete(const struct tool *t)
{
	for (size_t i = 0; i < t->n && i < TOOL_ARGS; i++)
		if (!t->argv[i])
			return false;
	return t->n && t->n < TOOL_ARGS;
}

/* System calls only: it is a copy of one thread of many. */
static void child(const struct tool *t, pid_t parent, int null, int out, int err)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (size_t i = 0; i < t->n_fds; i++)
		fcntl(t->fds[i], F_SETFD, 0);
	if (getppid() == parent && dup2(null, 0) >= 0 && dup2(out, 1) >= 0 && dup2(err, 2) >= 0)
		execv(t->argv[0], (char *const *)t->argv);
	_exit(127);
}

struct running {
	const struct tool *t;
	struct manager *m;
	pid_t pid;
	struct pollfd p[2]; /* its output, its errors */
	size_t len[2];
	struct tool_result *r;
	bool canceled;
};

/* More than fits is read and dropped, or it would wait for us. */
static void take_errors(struct running *run, const char *data, size_t n)
{
	char *said = run->r->said;
	size_t room = sizeof(run->r->said) - 1;

	if (n > room) {
		data += n - room;
		n = room;
	}
	if (run->len[1] + n > room) {
		size_t drop = run->len[1] + n - room;

		memmove(said, said + drop, run->len[1] - drop);
		run->len[1] -= drop;
	}
	memcpy(said + run->len[1], data, n);
	run->len[1] += n;
	said[run->len[1]] = '\0';
}

static void pass_lines(struct running *run)
{
	char *line = run->r->out, *end;

	while ((end = strchr(line, '\n'))) {
		*end = '\0';
		run->t->on_line(run->t->ctx, line);
		line = end + 1;
	}
	run->len[0] = strlen(line);
	memmove(run->r->out, line, run->len[0] + 1);
}

static void take_output(struct running *run, const char *data, size_t n)
{
	char *grown;

	if (run->len[0] + n >= OUT_MAX)
		return;
	grown = realloc(run->r->out, run->len[0] + n + 1);
	if (!grown)
		return;
	memcpy(grown + run->len[0], data, n);
	run->len[0] += n;
	grown[run->len[0]] = '\0';
	run->r->out = grown;
	if (run->t->on_line)
		pass_lines(run);
}

static void read_some(struct running *run, int which)
{
	char data[4096];
	ssize_t n = read(run->p[which].fd, data, sizeof(data));

	if (n < 0 && errno == EINTR)
		return;
	if (n <= 0) {
		close(run->p[which].fd);
		run->p[which].fd = -1;
	} else if (which) {
		take_errors(run, data, (size_t)n);
	} else {
		take_output(run, data, (size_t)n);
	}
}

static void follow(struct running *run)
{
	while (run->p[0].fd >= 0 || run->p[1].fd >= 0) {
		if (poll(run->p, 2, TURN_MS) > 0)
			for (int i = 0; i < 2; i++)
				if (run->p[i].fd >= 0 && run->p[i].revents)
					read_some(run, i);
		if (!run->canceled && manager_interrupted(run->m)) {
			run->canceled = true;
			kill(run->pid, SIGKILL);
		}
	}
}

static int start(const struct tool *t, struct running *run, struct err *e)
{
	cleanup_close int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int out[2] = {-1, -1}, err[2] = {-1, -1}, rc = 0;
	pid_t parent = getpid();

	if (null < 0 || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
		rc = -errno;
	run->pid = rc ? -1 : fork();
	if (!run->pid)
		child(t, parent, null, out[1], err[1]);
	if (!rc && run->pid < 0)
		rc = -errno;
	fd_close(&out[1]);
	fd_close(&err[1]);
	if (rc) {
		fd_close(&out[0]);
		fd_close(&err[0]);
		return err_sys(e, rc, "running %s", t->argv[0]);
	}
	run->p[0] = (struct pollfd){.fd = out[0], .events = POLLIN};
	run->p[1] = (struct pollfd){.fd = err[0], .events = POLLIN};
	return 0;
}

int tool_run(const struct tool *t, struct manager *m, struct tool_result *r, struct err *e)
{
	struct running run = {.t = t, .m = m, .r = r};
	int status = 0, rc;

	memset(r, 0, sizeof(*r));
	if (!is_complete(t))
		return err_set(e, -ENOMEM, "out of memory");
	rc = start(t, &run, e);
	if (rc)
		return rc;
	follow(&run);
	while (waitpid(run.pid, &status, 0) < 0 && errno == EINTR)
		;
	r->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	while (run.len[1] && r->said[run.len[1] - 1] == '\n')
		r->said[--run.len[1]] = '\0';
	if (!run.canceled)
		return 0;
	free(r->out);
	r->out = NULL;
	return err_set(e, -ECANCELED, "the server is stopping");
}

int tool_must(const struct tool *t, struct manager *m, struct err *e)
{
	struct tool_result r;
	int rc = tool_run(t, m, &r, e);

	if (rc)
		return rc;
	free(r.out);
	if (r.status)
		return err_set(e, -EIO, "%s", *r.said ? r.said : "it failed, and did not say why");
	return 0;
}
