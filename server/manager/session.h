/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions: commands, terminals and TCP connections in sandboxes; started, driven, followed, fed.
 *
 * Theory of operation
 * -------------------
 * A session is one process (or socket) of the guest on one agent connection. Somebody has to read
 * that connection: the thread of the request that started it, as long as the request lasts
 * (exec_drive(): no hand-off between threads on the short path), and the manager's loop from
 * exec_background() on.
 *
 * Of each stream the last `keep` bytes are kept, with absolute offsets, and in which order stdout
 * and stderr came. Any number of *readers* follow a session that the loop drives, each at its own
 * pace: exec_attach(), then exec_read() whenever exec_reader_fd() is readable. A reader that is
 * behind by EXEC_BEHIND_BYTES (or `keep`, if that is less) holds the command back: nothing is
 * dropped that an attached reader has not read, and the agent still has it if we are killed. A
 * client that polls instead tells up to where it has read (exec_note_reader()): within `keep`
 * nothing that it has not read is dropped, for a while.
 *
 * stdin: exec_write() takes bytes in order, as many as there is room for, and they stay here until
 * the guest has them: so they are complete, whatever becomes of the connection.
 *
 * A session outlives its connection: see session_drive.c. While its sandbox is hibernated it stands
 * still. Its readers are *cut* then, as at a rollback: clients are to attach again.
 *
 * Who moves bytes between a client and a session does, on a thread of its own:
 *
 *   poll the client (for reading only while all that came from it was taken by exec_write(), for
 *   writing only while something is to be written) and exec_reader_fd();
 *   exec_read() only when the client has taken what was read before: that is the backpressure.
 */
#ifndef SERVER_MANAGER_SESSION_H
#define SERVER_MANAGER_SESSION_H

#include "server/manager/manager.h"

#define EXEC_KEEP_BYTES	  (8u << 20)   /* of each stream, if the spec says nothing else */
#define EXEC_BEHIND_BYTES (768u << 10) /* the most that a reader is behind, in each stream */
#define EXEC_REPLAY_BYTES (1u << 20)   /* of both, for a new reader that is not the first */
#define EXEC_STDIN_BYTES  (512u << 10) /* on the way to the guest; then exec_write() waits */

struct exec_session;
struct exec_reader;

enum exec_kind { EXEC_COMMAND, EXEC_TERMINAL, EXEC_TUNNEL, EXEC_AGENT };

struct exec_spec {
	enum exec_kind kind;
	const char *cmd;
	json_t *args;	   /* array of strings or NULL; empty: cmd is a shell command line */
	json_t *envs;	   /* object of strings or NULL */
	const char *cwd;   /* NULL: the default */
	int64_t timeout_s; /* 0: none */
	bool or_sh; /* cmd, a path without args, is /bin/sh in images that have no such file */
	bool with_stdin;
	unsigned int rows, cols; /* EXEC_TERMINAL; its cmd is a program, with or without args */
	unsigned int port; /* EXEC_TUNNEL: a TCP port of the guest's loopback; no cmd, args, ... */
	bool listed;	   /* exec_background() is going to list it */
	size_t keep;	   /* bytes of each stream; 0: EXEC_KEEP_BYTES */
	/* Kill it so long after the last reader has left; 0: never. A terminal is hung up, also if
	 * nobody ever came. */
	int64_t max_alone_s;
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

/**
 * exec_settle() - Know all sessions that the guest has
 *
 * After a restart of the daemon, and after a rollback, it is the guest who knows them. Does
 * nothing where that was asked already; else wakes a hibernated sandbox. Before exec_each().
 *
 * Return: 0; as sandbox_agent_get()
 */
int exec_settle(struct sandbox *s, struct err *e);

#define EXEC_KIND(kind) (1u << (kind))

/**
 * exec_find() - The listed session with an id
 * @kinds:	EXEC_KIND()s that it may be of
 * @out:	A reference
 *
 * One that is not known, or has ended, is looked for after exec_settle() only: the guest may have
 * it, or have gone back to when it ran.
 *
 * Return: 0; -ENOENT, without a text; as exec_settle()
 */
int exec_find(struct sandbox *s, unsigned int kinds, const char *id, struct exec_session **out,
	      struct err *e);

/* Call @fn for every listed session, newest first. */
void exec_each(struct sandbox *s, void (*fn)(void *arg, struct exec_session *x), void *arg);

/* To the process group; 0 also if it has ended. Wakes a hibernated sandbox. */
int exec_signal(struct exec_session *x, int signo, struct err *e);

/* Another size for a terminal. Otherwise as exec_signal(). */
int exec_resize(struct exec_session *x, unsigned int rows, unsigned int cols, struct err *e);
/* Somebody has attached to a terminal, and not as the first: let its program draw everything. */
void exec_redraw(struct exec_session *x);
/* Hang a terminal up and forget it; its readers are cut. Otherwise as exec_signal(). */
int exec_hang_up(struct sandbox *s, struct exec_session *x, struct err *e);
/* It was hung up. */
bool exec_removed(struct exec_session *x);

/* If it has not ended and its sandbox is hibernated, wake that. */
int exec_wake(struct exec_session *x, struct err *e);

/* The client has read up to here and will come back for more. */
void exec_note_reader(struct exec_session *x, const uint64_t offsets[2]);

/**
 * exec_wait() - Wait until it has ended, or, if @from is given, has output beyond these offsets
 */
void exec_wait(struct exec_session *x, int timeout_ms, const uint64_t *from);

/* --- readers ------------------------------------------------------------------------------------
 */

/**
 * exec_attach() - Follow a session, one that has ended, too
 * @from:	Where to begin in stdout and stderr; NULL: so that at most EXEC_REPLAY_BYTES of
 *		what came before now are read, or all that is kept if nobody was here before
 * @out:	Belongs to one thread; exec_detach()
 *
 * Waits while the session is being fetched from the guest, after a restart or a rollback.
 *
 * Return: 0; -EAGAIN if that takes too long; -ERANGE if the bytes at @from are not here (any more);
 *-ENOMEM, -EMFILE
 */
int exec_attach(struct exec_session *x, const uint64_t from[2], struct exec_reader **out,
		struct err *e);
void exec_detach(struct exec_reader *r);

/* Readable when exec_read() may have something else than EXEC_NOTHING. */
int exec_reader_fd(const struct exec_reader *r);

enum exec_news {
	EXEC_NOTHING, /* for now */
	EXEC_STDOUT,  /* bytes */
	EXEC_STDERR,
	EXEC_LIVE, /* once: what follows came after exec_attach() */
	EXEC_ROOM, /* for stdin, where exec_write() had taken less than it was given */
	EXEC_END,  /* all was read, and it has ended: exec_view() says how */
	EXEC_CUT,  /* the server lets go of its readers; the session may go on */
};

/**
 * exec_read() - What comes next; does not wait
 * @buf, @max:	For bytes. With 0 bytes only EXEC_ROOM, EXEC_CUT and EXEC_NOTHING come: for who has
 *		not passed on yet what was read before
 * @len:	How many there are
 *
 * EXEC_END and EXEC_CUT are said again each time.
 */
enum exec_news exec_read(struct exec_reader *r, void *buf, size_t max, size_t *len);
/* Offsets of what this reader is going to read next. */
void exec_reader_at(struct exec_reader *r, uint64_t at[2]);
/* How many readers there are. */
unsigned int exec_readers(struct exec_session *x);

/* --- stdin --------------------------------------------------------------------------------------
 */

/**
 * exec_write() - Bytes for stdin, after all that was written before
 * @timeout_ms:	How long to wait for room; 0: take what fits
 *
 * Return: bytes taken, fewer than @len (0, too) when the time is over; -EPIPE after the end of
 *	   the command or of stdin; -ENOMEM
 */
ssize_t exec_write(struct exec_session *x, const void *buf, size_t len, int timeout_ms,
		   struct err *e);
/* The end of stdin, after all that was written. Nothing happens after the end of the command. */
void exec_write_eof(struct exec_session *x);

/* --- what is known of it
 * -------------------------------------------------------------------------- */

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
enum exec_kind exec_kind(const struct exec_session *x);
const char *exec_id(const struct exec_session *x);
const char *exec_command(const struct exec_session *x);
const json_t *exec_args(const struct exec_session *x);
int64_t exec_started_ms(const struct exec_session *x);

#endif
