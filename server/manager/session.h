/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Commands in sandboxes: started, driven, collected.
 *
 * Theory of operation
 * -------------------
 * A session is one command on one agent connection. Somebody has to read that connection: the
 * thread of the request that started it, as long as the request lasts (exec_drive(): no hand-off
 * between threads on the short path), and the manager's loop from exec_background() on.
 *
 * Of each stream the last EXEC_KEEP_BYTES are kept. A client that follows the output tells up to
 * where it has read (exec_note_reader()): then, for a while, nothing it has not read is dropped,
 * and the command waits instead.
 *
 * A session outlives its connection: see session_drive.c. While its sandbox is hibernated it stands
 * still.
 */
#ifndef SERVER_MANAGER_SESSION_H
#define SERVER_MANAGER_SESSION_H

#include "server/manager/manager.h"

#define EXEC_KEEP_BYTES (8u << 20)

struct exec_session;

struct exec_spec {
	const char *cmd;
	json_t *args;	   /* array of strings or NULL; empty: cmd is a shell command line */
	json_t *envs;	   /* object of strings or NULL */
	const char *cwd;   /* NULL: the default */
	int64_t timeout_s; /* 0: none */
	bool with_stdin;
	bool foreground; /* somebody waits for it: the sandbox is not idle until it ends */
};

/**
 * exec_start() - Send a command to the agent
 * @out:	A reference; the caller drives it
 *
 * Return: 0; -EINVAL for an impossible specification; as sandbox_agent_get()
 */
int exec_start(struct sandbox *s, const struct exec_spec *spec, struct exec_session **out,
	       struct err *e);
void exec_put(struct exec_session *x);

/**
 * exec_drive() - Read the command's output on this thread
 *
 * Return: true if the command has ended; false after @timeout_ms, or when the daemon stops
 */
bool exec_drive(struct exec_session *x, int timeout_ms);

/**
 * exec_background() - Have the loop drive it from now on
 * @listed:	Make it known under its id
 *
 * The caller keeps its reference and must not drive it any more. Return: 0 or -errno: then the
 * command was left alone and its output is lost.
 */
int exec_background(struct exec_session *x, bool listed, struct err *e);

/* A listed session, or NULL. The caller puts it. */
struct exec_session *exec_find(struct sandbox *s, const char *id);

/* Call @fn for every listed session, newest first. */
void exec_each(struct sandbox *s, void (*fn)(void *arg, struct exec_session *x), void *arg);

/* To the process group; 0 also if it has ended. Wakes a hibernated sandbox. */
int exec_signal(struct exec_session *x, int signo, struct err *e);

/* If it has not ended and its sandbox is hibernated, wake that. */
int exec_wake(struct exec_session *x, struct err *e);

/* The client has read up to here and will come back for more. */
void exec_note_reader(struct exec_session *x, const uint64_t offsets[2]);

/**
 * exec_wait() - Wait until it has ended, or, if @from is given, has output beyond these offsets
 */
void exec_wait(struct exec_session *x, int timeout_ms, const uint64_t *from);

enum exec_state {
	EXEC_RUNNING,
	EXEC_ENDED,   /* exit_code counts */
	EXEC_REFUSED, /* the agent did not start it: error says why */
	EXEC_LOST,    /* the connection or the VM went away: rc, error */
};

/* What is known of a session; valid, and the session locked, from exec_view() to exec_view_end().
 */
struct exec_view {
	enum exec_state state;
	int exit_code; /* as the API gives it: 128 + signal, -1 after a timeout */
	bool timed_out;
	int rc;
	const char *error;
	struct {
		const uint8_t *data;
		size_t len;
		uint64_t start; /* offset of data in the stream; > 0: the beginning was dropped */
	} stream[2];		/* stdout, stderr */
};

void exec_view(struct exec_session *x, struct exec_view *v);
void exec_view_end(struct exec_session *x);

/* These never change. */
const char *exec_id(const struct exec_session *x);
const char *exec_command(const struct exec_session *x);
const json_t *exec_args(const struct exec_session *x);
int64_t exec_started_ms(const struct exec_session *x);

#endif
