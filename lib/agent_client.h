/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's side of the agent protocol (lib/proto.h): connections, a pool of
 * them, exec sessions, files.
 *
 * Theory of operation
 *
 * A `struct agent_conn` is one stream to the agent that carries one request at
 * a time. All calls block until the answer is there, unless said otherwise. A
 * connection belongs to one thread at a time, with two exceptions, which any
 * thread may call at any time while the connection lives: agent_conn_abort(),
 * and, while an exec runs on it, agent_exec_stdin(), _stdin_eof(), _signal(),
 * _winsize() and _ack() (so that a second thread can feed or kill what a first one reads).
 *
 * The guest is hostile: every length is checked, memory per connection is
 * bounded (about 64 KiB), and silence is bounded by the connection's timeout
 * where an answer is due at once.
 *
 * Errors: 0 or -errno, text in @e. A failure that the agent reports (no such
 * file, ...) has the guest's errno and leaves the connection idle and usable.
 * A failure of the transport or of the protocol makes it broken: see
 * agent_conn_broken(). agent_pool_put() takes care of the difference.
 */
#ifndef LIB_AGENT_CLIENT_H
#define LIB_AGENT_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/err.h"
#include "lib/proto.h"

struct agent_conn;
struct agent_pool;

/* Where an agent is. */
struct agent_addr {
	const char *path; /* Unix socket: of the VMM's vsock device, or of an agent in test mode */
	uint32_t vsock_port; /* PROTO_AGENT_PORT for a VMM's socket; 0 for a plain Unix socket */
	uint32_t timeout_ms; /* for connecting and each answer that is due at once; 0: 10000 */
};

/* What the agent said of itself. */
struct agent_hello {
	uint32_t version; /* of the protocol */
	uint32_t flags;	  /* PROTO_HELLO_* */
	uint8_t boot_id[16];
	char agent[64]; /* version text, printable ASCII */
};

/* ---- connections ---- */

/**
 * agent_connect() - Connect and exchange HELLO
 * @addr:	Borrowed during the call
 * @out:	The connection; release with agent_close()
 *
 * Return: 0, -ECONNREFUSED if nobody listens (VMM gone, or the guest's agent not up yet),
 *	   -ETIMEDOUT, -EPROTO, ...
 */
int agent_connect(const struct agent_addr *addr, struct agent_conn **out, struct err *e);
/* NULL is fine. */
void agent_close(struct agent_conn *c);
const struct agent_hello *agent_conn_hello(const struct agent_conn *c);
/* The transport or the protocol has failed; only agent_close() is left to do. */
bool agent_conn_broken(const struct agent_conn *c);
/* No request is under way and the connection is not broken: can be used again. */
bool agent_conn_idle(const struct agent_conn *c);
/*
 * From any thread: make the calls in progress, and all later ones, fail with
 * -ECANCELED or -EPIPE. The connection is to be closed by its owner as ever.
 */
void agent_conn_abort(struct agent_conn *c);
/* For poll(): readable means agent_exec_next(c, 0, ...) may have something. Borrowed. */
int agent_conn_fd(const struct agent_conn *c);

/* ---- pool: idle connections to one agent; all calls from any thread ---- */

/**
 * agent_pool_create() - A pool of connections to @addr (copied); makes none yet
 * @max_idle:	More idle ones than this are closed. In-use ones are not limited
 *
 * Return: NULL without memory
 */
struct agent_pool *agent_pool_create(const struct agent_addr *addr, unsigned int max_idle);
/* All connections must have been put back. NULL is fine. */
void agent_pool_destroy(struct agent_pool *p);
/* An idle connection that is still alive, or a new one. -ESHUTDOWN after agent_pool_abort(). */
int agent_pool_get(struct agent_pool *p, struct agent_conn **out, struct err *e);
/* Take back: kept if idle, else closed. NULL is fine. */
void agent_pool_put(struct agent_pool *p, struct agent_conn *c);
/* agent_conn_abort() on those in use, close the idle ones, refuse new ones. For kill. */
void agent_pool_abort(struct agent_pool *p);
/* Close the idle ones (after a guest reset); those in use fail by themselves. */
void agent_pool_flush(struct agent_pool *p);
/* As agent_pool_abort(), but new ones can be had: the guest goes away and comes back. */
void agent_pool_reset(struct agent_pool *p);

/* ---- exec ---- */

struct agent_exec_spec {
	uint64_t session;	 /* not 0, unique in the life of the guest: random is fine */
	const char *const *argv; /* NULL-terminated, at least one */
	const char *const
	    *sandbox_env;	/* "NAME=value", NULL-terminated; or NULL. Layered over PATH, HOME,
				 * ... and the image's /etc/environment (api.md 18.6) */
	const char *const *env; /* the same, per command: over everything */
	const char *cwd;	/* NULL: home. Relative: to home. Missing: -ENOENT */
	const char *user;	/* NULL: the sandbox user. Name or decimal uid */
	uint32_t timeout_ms;	/* 0: none. The agent kills the whole process group */
	uint32_t flags;		/* PROTO_EXEC_* */
	const void *label;	/* opaque; agent_sessions_next() tells it. NULL: none */
	size_t label_len;	/* at most PROTO_LABEL_MAX; agents that know no labels ignore it */
	uint16_t rows, cols;	/* PROTO_EXEC_PTY: size of the terminal; 0: 24 and 80 */
	bool manual_ack; /* the caller calls agent_exec_ack(); else a chunk is acknowledged when
			  * the next event is asked for */
};

enum agent_event_type {
	AGENT_STARTED,	  /* pid, stdin_*, start; always the first event */
	AGENT_STDOUT,	  /* data, len, offset */
	AGENT_STDERR,	  /* data, len, offset */
	AGENT_STDOUT_END, /* tunnels: the port will say no more; again after each attach */
	AGENT_STDIN_ROOM, /* agent_exec_stdin() may take more */
	AGENT_EXIT,	  /* exit; always the last event: the connection is idle again */
};

struct agent_exit {
	int code;	/* 0-255, or -1 when a signal ended the process */
	int signal;	/* 0, or the signal that ended it: a shell would say 128 + signal */
	bool timed_out; /* timeout_ms was over (then signal is SIGKILL) */
	bool held_open; /* a surviving child still had a pipe open */
	uint64_t stdout_len, stderr_len; /* of the whole streams */
};

struct agent_event {
	enum agent_event_type type;
	const uint8_t *data; /* borrowed until the next call that reads from the connection */
	size_t len;
	uint64_t offset;       /* of data in its stream, from the start of the session */
	uint64_t stdin_offset; /* AGENT_STARTED: the agent has the bytes below; go on here */
	bool stdin_ended;      /* AGENT_STARTED: and knows that no more will come */
	uint64_t start[2];     /* AGENT_STARTED: where stdout and stderr go on */
	uint64_t end[2];       /* AGENT_STARTED: how long they are so far */
	uint32_t pid;
	struct agent_exit exit;
};

/**
 * agent_exec_start() - Send a command; does not wait for an answer
 *
 * Failures of the start (cwd missing, user unknown) come from agent_exec_next().
 * A program that is not found, or not executable, is no failure: the session
 * ends with code 127 or 126 and a message on its stderr (api.md 4.2).
 *
 * Return: 0, -EMSGSIZE for arguments and environment over PROTO_REQUEST_MAX, -E...
 */
int agent_exec_start(struct agent_conn *c, const struct agent_exec_spec *s, struct err *e);

/**
 * agent_tunnel_start() - Have the agent connect to a TCP port of the guest; does not wait
 * @session:	As in struct agent_exec_spec
 * @port:	On 127.0.0.1, or ::1 where that refuses; 1-65535
 * @manual_ack:	As in struct agent_exec_spec
 *
 * Then it is driven like an exec: agent_exec_stdin() sends to the port, what it says are
 * AGENT_STDOUT events, agent_exec_stdin_eof() is a half-close, and so is AGENT_STDOUT_END.
 * AGENT_EXIT comes when both directions have ended: code 0, or 1 after a
 * reset, when bytes may be lost. Any agent_exec_signal() resets it. A session whose
 * connection was lost can be attached to within a minute of the guest's time.
 *
 * Return: 0; -EOPNOTSUPP: an old image whose agent cannot do this; -E... What keeps the guest
 *	   from connecting (-ECONNREFUSED, ...) comes from agent_exec_next()
 */
int agent_tunnel_start(struct agent_conn *c, uint64_t session, unsigned int port, bool manual_ack,
		       struct err *e);

/**
 * agent_exec_attach() - Go on with a session whose connection was lost; does not wait
 * @stdout_offset:	First byte that the caller lacks; likewise @stderr_offset
 * @manual_ack:		As in struct agent_exec_spec
 *
 * The events go on exactly there, and the bytes below are acknowledged by that: with
 * @manual_ack, too, they can never be asked for again. AGENT_STARTED tells from which
 * offset on stdin is to be sent again, and its EOF. agent_exec_next() returns -ESRCH if
 * the guest does not know the session (never started, or ended and forgotten after 10
 * minutes), -ERANGE if bytes from the offset on are gone because they were acknowledged.
 * If another connection has the session, it is taken from it (that one gets -ESTALE).
 *
 * AGENT_OLDEST for both: from the oldest bytes that the guest has. Of sessions with a label it
 * keeps the last MiB of each stream, whether acknowledged or not.
 */
int agent_exec_attach(struct agent_conn *c, uint64_t session, uint64_t stdout_offset,
		      uint64_t stderr_offset, bool manual_ack, struct err *e);

#define AGENT_OLDEST UINT64_MAX

struct agent_session {
	uint64_t id;
	bool running;
	const uint8_t *label; /* borrowed until the next call */
	size_t label_len;
};

/* Begin to list the sessions that have labels; -EOPNOTSUPP: an old image, which knows none. */
int agent_sessions_open(struct agent_conn *c, struct err *e);
/* Return: 1 and a session, 0 at the end (the connection is idle again), or -errno. */
int agent_sessions_next(struct agent_conn *c, struct agent_session *s, struct err *e);

/**
 * agent_exec_next() - The next event of the running exec
 * @timeout_ms:	0: only what is there already; -1: as long as it takes
 *
 * Use with poll(): call with 0 until -EAGAIN, then wait on agent_conn_fd().
 *
 * Return: 0 and *@ev; -EAGAIN when the time is over (the exec goes on); a failure of
 *	   the start or of the connection. After a broken connection the process
 *	   goes on in the guest: agent_exec_attach() on a new connection.
 */
int agent_exec_next(struct agent_conn *c, int timeout_ms, struct agent_event *ev, struct err *e);

/**
 * agent_exec_stdin() - Send bytes to stdin, as many as the window has room for
 *
 * May be called before AGENT_STARTED. After AGENT_EXIT bytes are dropped.
 *
 * Return: bytes taken, 0 if the window is full (wait for AGENT_STDIN_ROOM), or -errno
 */
ssize_t agent_exec_stdin(struct agent_conn *c, const void *buf, size_t len, struct err *e);
/* The same, but as many as the socket has room for, too: does not wait. */
ssize_t agent_exec_stdin_now(struct agent_conn *c, const void *buf, size_t len, struct err *e);
/* How many bytes of stdin the agent has passed on: these will never be asked for again. */
uint64_t agent_exec_stdin_acked(struct agent_conn *c);
/* The process reads EOF after all bytes sent so far. */
int agent_exec_stdin_eof(struct agent_conn *c, struct err *e);
/* Signal @signo (1-64) to the process group; no failure if it has ended already. */
int agent_exec_signal(struct agent_conn *c, int signo, struct err *e);
/* Another size for its terminal; SIGWINCH in any case. Sizes of 0 are refused. */
int agent_exec_winsize(struct agent_conn *c, uint16_t rows, uint16_t cols, struct err *e);
/*
 * manual_ack only: bytes below these offsets will never be asked for again. The agent
 * holds at most PROTO_WINDOW unacknowledged bytes per stream, then the process waits.
 */
int agent_exec_ack(struct agent_conn *c, uint64_t stdout_offset, uint64_t stderr_offset,
		   struct err *e);

struct agent_output {
	struct agent_exit exit;
	char *out, *err; /* malloc'ed, NUL-terminated, the caller frees them */
	size_t out_len, err_len;
	bool truncated; /* a stream was longer than the limit; its first bytes are here */
};

/**
 * agent_exec_run() - Run a command to its end and collect its output
 * @max:	Bytes to keep per stream; the rest is read and dropped
 * @out:	Set on success
 */
int agent_exec_run(struct agent_conn *c, const struct agent_exec_spec *s, size_t max,
		   struct agent_output *out, struct err *e);

/* ---- files: with root's rights; relative paths start at the sandbox user's home ---- */

struct agent_stat {
	uint32_t mode; /* st_mode with the file's type */
	uint32_t uid, gid;
	uint64_t size; /* bytes; 0 for files like those of /proc, which have content all the same */
	uint64_t mtime_ns;
};

/* Follows symlinks. */
int agent_stat(struct agent_conn *c, const char *path, struct agent_stat *st, struct err *e);

/**
 * agent_read_open() - Begin to read a file
 * @st:	Set. For a directory S_ISDIR(st->mode) holds and the read gives 0 bytes
 *
 * On success go on with agent_read() until it returns 0 or fails. To stop early,
 * close the connection (agent_pool_put() does so).
 */
int agent_read_open(struct agent_conn *c, const char *path, struct agent_stat *st, struct err *e);
/* Return: bytes put into @buf, 0 at the end (the connection is idle again), or -errno. */
ssize_t agent_read(struct agent_conn *c, void *buf, size_t len, struct err *e);

/**
 * agent_write_open() - Begin to write a file: all of it, replacing what was there
 *
 * Parents are created (0755), new files are 0644, existing ones keep mode and owner,
 * symlinks are followed. Until agent_write_commit() the file has its old content;
 * without it (connection closed or lost) it keeps it.
 * Does not wait for an answer: failures come from one of the next calls.
 */
int agent_write_open(struct agent_conn *c, const char *path, struct err *e);
int agent_write(struct agent_conn *c, const void *buf, size_t len, struct err *e);
int agent_write_commit(struct agent_conn *c, struct err *e);

struct agent_entry {
	const char *name; /* borrowed until the next call; may hold any byte but '/' and NUL */
	uint32_t mode;	  /* by lstat */
	uint64_t size, mtime_ns;
};

/* Begin to list a directory, sorted by name (strcmp), without "." and "..". */
int agent_list_open(struct agent_conn *c, const char *path, struct err *e);
/* Return: 1 and an entry, 0 at the end (the connection is idle again), or -errno. */
int agent_list_next(struct agent_conn *c, struct agent_entry *entry, struct err *e);

/* With parents, 0755; no failure if it is a directory already. */
int agent_mkdir(struct agent_conn *c, const char *path, struct err *e);
/* Recursive, never through symlinks; no failure if missing; -EBUSY for `/` and mount points. */
int agent_remove(struct agent_conn *c, const char *path, struct err *e);

/* ---- the guest ---- */

int agent_ping(struct agent_conn *c, struct err *e);
/* sync(2) in the guest. */
int agent_sync(struct agent_conn *c, struct err *e);
/*
 * End all processes (TERM, then KILL), sync, and power off or reboot. Returns when
 * the agent has accepted it; the VM's end is seen at the VMM.
 */
int agent_shutdown(struct agent_conn *c, enum proto_shutdown mode, struct err *e);

/* ---- quiescing and identity, around a checkpoint and after a restore ---- */

/**
 * agent_freeze() - Let no process of the guest run until agent_thaw() or agent_renew()
 * @do_sync:	sync(2), too: then what is on the disk is all there is
 *
 * For the moments around a checkpoint. The agent itself goes on: files can be read and
 * written meanwhile, sessions attached to; a new command starts with the thaw. Who is
 * frozen already stays so, and the time starts anew. Nobody stays frozen for longer than
 * PROTO_FREEZE_MS of the guest's CLOCK_MONOTONIC, which stands still while the machine
 * does. Waits for the connection's timeout, with @do_sync for a minute more.
 *
 * Return: 0: all stand still, and the disk has everything if that was asked for.
 *	   -ETIMEDOUT from the guest (connection idle): a process could not be stopped in
 *	   time, or sync took too long: nothing is frozen. -EOPNOTSUPP: an old image whose
 *	   agent cannot do this
 */
int agent_freeze(struct agent_conn *c, bool do_sync, struct err *e);
/* Undo it; no failure if nothing is frozen. */
int agent_thaw(struct agent_conn *c, struct err *e);

/* What a restored machine is to be from now on. */
struct agent_identity {
	uint8_t generation[PROTO_GENERATION_LEN]; /* the VM's new generation id */
	int64_t realtime_ns;  /* since 1970; 0: agent_renew() takes this host's, as it sends */
	const char *hostname; /* 1-PROTO_HOSTNAME_MAX of [A-Za-z0-9.-]; NULL: stays */
	char machine_id[PROTO_MACHINE_ID_LEN + 1]; /* lower-case hex digits; "": stays */
	uint8_t entropy[64]; /* random; never used for another machine or another time */
	uint32_t flags;	     /* PROTO_RENEW_* */
	uint64_t root_bytes; /* with PROTO_RENEW_GROW_ROOT: size of the root disk, which the
			      * guest may not have noticed yet; 0: what it says */
};

/**
 * agent_renew() - Make a restored guest another one, then let its processes run
 *
 * Clock, entropy, host name, machine id, size of the root file system; then as
 * agent_thaw(). All is done when this returns. A part that fails does not keep the
 * others, nor the thaw, from being done: a full disk, say, must not end the sandbox.
 * Can be repeated. Waits for the connection's timeout, with PROTO_RENEW_GROW_ROOT for a
 * minute more.
 *
 * Return: 0, -EREMOTEIO: done, but parts failed; @e names each and why, the connection is
 *	   idle, processes run. -EINVAL for a bad @id: nothing was done. -EOPNOTSUPP as
 *	   above: nothing was done
 */
int agent_renew(struct agent_conn *c, const struct agent_identity *id, struct err *e);

#endif
