/* SPDX-License-Identifier: Apache-2.0 */
/* Starting commands and serving their sessions; see exec.h. */
#include "guest-kernel/agent/exec.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest-kernel/agent/env.h"
#include "guest-kernel/agent/spawn.h"
#include "guest-kernel/agent/tty.h"
#include "lib/clock.h"
#include "lib/fd.h"

/* What a command runs with, put together from the request and the image. */
struct command {
	struct user user;
	struct env env;
	char *cwd; /* owned */
};

static void command_fini(struct command *c)
{
	env_fini(&c->env);
	free(c->cwd);
}

/* malloc'ed, or NULL. */
static char *join(const char *dir, const char *name)
{
	char *path;

	return asprintf(&path, "%s/%s", dir, name) < 0 ? NULL : path;
}

static char *make_cwd(struct agent *a, const struct user *u, const char *cwd)
{
	char said[PATH_MAX];
	struct stat st;

	if (cwd && cwd[0] == '/')
		return strdup(cwd);
	if (cwd && cwd[0])
		return join(u->home, cwd);
	if (userdb_setting(&a->users, a->etc, "workdir", said, sizeof(said)))
		return strdup(stat(said, &st) < 0 ? "/" : said);
	/* Nobody asked for the home directory: without one any place will do. */
	return strdup(stat(u->home, &st) < 0 ? "/" : u->home);
}

static int make_command(struct agent *a, const struct request *r, struct command *c, struct err *e)
{
	char *etc_env;
	int rc = r->user && r->user[0] ? userdb_find(&a->users, a->etc, r->user, &c->user, e)
				       : agent_default_user(a, &c->user, NULL);

	if (rc)
		return rc;
	env_add_base(&c->env, &c->user);
	if (r->flags & PROTO_EXEC_PTY)
		env_add(&c->env, "TERM=xterm-256color");
	etc_env = userdb_environment(&a->users, a->etc);
	env_add_file(&c->env, etc_env);
	free(etc_env);
	for (char **v = r->sandbox_env; v && *v; v++)
		env_add(&c->env, *v);
	for (char **v = r->env; v && *v; v++)
		env_add(&c->env, *v);
	c->cwd = make_cwd(a, &c->user, r->cwd);
	if (c->cwd)
		env_set(&c->env, "PWD", c->cwd);
	/* The caller releases both by command_fini(), which the analyzer does not follow. */
	if (!c->cwd || env_finish(&c->env)) /* NOLINT(clang-analyzer-unix.Malloc) */
		return err_set(e, -ENOMEM, "out of memory");
	return 0;
}

struct pipes {
	int child[3]; /* owned, except that /dev/null is the agent's */
	bool null_in;
	bool borrowed; /* all of child is the session's */
};

static int make_pipes(struct agent *a, struct session *s, bool with_stdin, struct pipes *p)
{
	int fds[2];

	*p = (struct pipes){.child = {a->null_fd, -1, -1}, .null_in = !with_stdin};
	for (int i = 0; i < 2; i++) {
		if (pipe2(fds, O_CLOEXEC) < 0)
			return -errno;
		s->out_fd[i] = fds[0];
		p->child[i + 1] = fds[1];
	}
	if (with_stdin) {
		if (pipe2(fds, O_CLOEXEC) < 0)
			return -errno;
		p->child[0] = fds[0];
		s->in_fd = fds[1];
		return fd_set_nonblock(s->in_fd);
	}
	return 0;
}

/* Instead of pipes; the child's ends are the session's own, which close_pipes() leaves alone. */
static int make_terminal(struct session *s, const struct request *r, const struct user *u,
			 struct pipes *p)
{
	int rc = tty_open(u, (uint16_t)r->rows, (uint16_t)r->cols, &s->out_fd[0], &s->tty_fd);

	if (rc)
		return rc;
	s->terminal = true;
	s->in_fd = fcntl(s->out_fd[0], F_DUPFD_CLOEXEC, 3);
	if (s->in_fd < 0)
		return -errno;
	*p = (struct pipes){.child = {s->tty_fd, s->tty_fd, s->tty_fd}, .borrowed = true};
	return 0;
}

static void close_pipes(struct pipes *p)
{
	if (p->borrowed)
		return;
	if (!p->null_in)
		fd_close(&p->child[0]);
	fd_close(&p->child[1]);
	fd_close(&p->child[2]);
}

/* The session of a program that could not be executed: its end, as a shell would report it. */
static int fail_session(struct session *s, const char *program, int error)
{
	char text[512];
	const char *end = s->terminal ? "\r\n" : "\n";
	int len = snprintf(text, sizeof(text), "%.256s: %s%s", program,
			   error == ENOENT ? "command not found" : strerror(error), end);

	s->pid = 0;
	s->exited = true;
	s->end_code = CLD_EXITED;
	s->end_status = error == ENOENT ? 127 : 126;
	session_hang_up(s);
	fd_close(&s->out_fd[1]);
	return session_say(s, s->terminal ? 0 : 1, text, (size_t)len);
}

static void reap(struct session *s)
{
	siginfo_t si;

	waitid(P_PIDFD, (id_t)s->pidfd, &si, WEXITED);
	fd_close(&s->pidfd);
}

static int start(struct agent *a, const struct request *r, struct session *s, struct err *e)
{
	struct command c = {0};
	struct spawn sp = {.argv = r->argv, .user = &c.user, .pidfd = -1};
	struct pipes pipes = {.child = {-1, -1, -1}, .null_in = true};
	int rc = make_command(a, r, &c, e);

	if (!rc && (r->flags & PROTO_EXEC_PTY)) {
		rc = make_terminal(s, r, &c.user, &pipes);
		if (rc)
			err_sys(e, rc, "a terminal for the command");
	} else if (!rc) {
		rc = make_pipes(a, s, r->flags & PROTO_EXEC_STDIN, &pipes);
		if (rc)
			err_sys(e, rc, "pipes for the command");
	}
	if (rc)
		goto out;
	sp.envp = c.env.list;
	sp.path = env_get(&c.env, "PATH");
	sp.cwd = c.cwd;
	sp.cgroup_fd = agent_wait_ready(a);
	memcpy(sp.fds, pipes.child, sizeof(sp.fds));
	sp.terminal = s->terminal;
	if (!sp.path)
		sp.path = "/bin:/usr/bin";
	rc = spawn_process(&sp);
	if (rc) {
		err_sys(e, rc, "start a process");
		goto out;
	}
	s->pid = sp.pid;
	s->pidfd = sp.pidfd;
	if (sp.failed)
		reap(s);
	if (sp.failed == SPAWN_CWD)
		rc = err_sys(e, -sp.error, "working directory %s", c.cwd);
	else if (sp.failed == SPAWN_USER)
		rc = err_sys(e, -sp.error, "become user %s", c.user.name);
	else if (sp.failed == SPAWN_EXEC)
		rc = fail_session(s, r->argv[0], sp.error);
	else if (r->timeout_ms)
		s->deadline_ms = clock_mono_ms() + r->timeout_ms;
out:
	close_pipes(&pipes);
	command_fini(&c);
	return rc;
}

/* Drive it to its end, with the connection and, if that is lost, without. */
void session_serve(struct agent *a, struct peer *p, uint64_t id, struct session *s,
		   const uint64_t sent[2])
{
	enum drive_end end = session_drive(&a->sessions, s, p, id, sent);
	uint64_t session = s->id;
	struct err e;

	if (end == DRIVE_LOST) {
		/* Let the client see it now, not when the process ends. */
		shutdown(p->fd, SHUT_RDWR);
		if (s->die_with_conn && s->pid && !s->exited)
			kill(-s->pid, SIGKILL);
		end = session_drive(&a->sessions, s, p, id, sent);
	}
	if (s->die_with_conn && end == DRIVE_FINISHED) {
		sessions_remove(&a->sessions, s);
		return;
	}
	sessions_release(&a->sessions, s);
	if (end == DRIVE_FINISHED)
		p->last_session = session;
	if (end != DRIVE_TAKEN || p->lost)
		return;
	err_set(&e, -ESTALE, "session %016llx was attached to by another connection",
		(unsigned long long)session);
	peer_put_error(p, id, &e);
	peer_flush(p);
}

void session_refuse(struct peer *p, uint64_t id, const struct err *e)
{
	peer_put_error(p, id, e);
	peer_flush(p);
}

void exec_serve(struct agent *a, struct peer *p, uint64_t id, const struct request *r)
{
	static const uint64_t from_start[2] = {0, 0};
	struct session *s;
	struct err e = {0};
	int rc = sessions_add(&a->sessions, r->session, p, &s, &e);

	if (rc) {
		session_refuse(p, id, &e);
		return;
	}
	s->die_with_conn = r->flags & PROTO_EXEC_DIE_WITH_CONN;
	rc = r->label_len ? session_set_label(&a->sessions, s, r->label, r->label_len) : 0;
	if (!rc)
		rc = start(a, r, s, &e);
	if (rc) {
		sessions_remove(&a->sessions, s);
		if (e.code != rc)
			err_sys(&e, rc, "start %s", r->argv[0]);
		session_refuse(p, id, &e);
		return;
	}
	session_serve(a, p, id, s, from_start);
}

void attach_serve(struct agent *a, struct peer *p, uint64_t id, const struct request *r)
{
	uint64_t sent[2] = {r->stdout_offset, r->stderr_offset};
	struct session *s;
	struct err e = {0};

	if (sessions_take(&a->sessions, r->session, p, &s, &e)) {
		session_refuse(p, id, &e);
		return;
	}
	for (int i = 0; i < 2; i++)
		if (sent[i] == UINT64_MAX)
			sent[i] = s->out[i].start;
	if (sent[0] < s->out[0].start || sent[1] < s->out[1].start || sent[0] > s->out[0].end ||
	    sent[1] > s->out[1].end) {
		err_set(&e, -ERANGE,
			"session %016llx has bytes %llu-%llu of stdout and %llu-%llu of stderr",
			(unsigned long long)s->id, (unsigned long long)s->out[0].start,
			(unsigned long long)s->out[0].end, (unsigned long long)s->out[1].start,
			(unsigned long long)s->out[1].end);
		session_refuse(p, id, &e);
		/* Nobody drives it now: this thread goes on, as after a lost connection. */
		p->lost = true;
		shutdown(p->fd, SHUT_RDWR);
	} else {
		/*
		 * The client has what is below. Its acknowledgements of that may have been
		 * lost with the last connection: if they had left the ring full, each side
		 * would wait for the other.
		 */
		session_ack(s, sent);
	}
	session_serve(a, p, id, s, sent);
}

int sessions_serve(struct agent *a, struct peer *p, uint64_t id, struct err *e)
{
	uint8_t value[PROTO_SESSION_ENTRY_LEN + PROTO_LABEL_MAX];
	struct session_info info = {0};
	int rc = 0;

	/* A frame per session: there are few, and labels are long. */
	while (!rc && sessions_next(&a->sessions, info.id, &info)) {
		struct writer w = writer_of(value, sizeof(value));

		write_u64(&w, info.id);
		write_u32(&w, info.running);
		write_bytes(&w, info.label, info.label_len);
		proto_begin(&p->out, PROTO_ENTRIES, id);
		proto_put_tlv(&p->out, PROTO_TAG_SESSION_ENTRY, 0, value, w.pos);
		rc = proto_end(&p->out);
		if (!rc)
			rc = peer_flush(p);
	}
	if (rc)
		return err_sys(e, rc, "list sessions");
	proto_begin(&p->out, PROTO_END, id);
	proto_end(&p->out);
	return 0;
}
