/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions: a process or a TCP connection within the guest (a tunnel), its streams, and
 * what a client has not yet acknowledged of them.
 *
 * Theory of operation
 *
 * Each session is driven by one thread at a time: session_drive() moves bytes
 * between the process and the rings, and between the rings and a connection.
 * When the connection is lost the same thread goes on without one: the process
 * runs, and waits when a ring is full. A connection that attaches takes the
 * session from its driver: it says so under the table's lock, wakes it through
 * its eventfd, and becomes the driver when that one has let go. Fields of a
 * session belong to its driver, except those marked, which the lock protects.
 *
 * A tunnel (tunnel.h) has no process. Its stdin goes to the socket and its stdout comes
 * from there; each direction ends by itself, and with both the session. Whoever it was
 * for may be gone for good, as after a fork: left without a connection, it is reset
 * after TUNNEL_ORPHAN_MS.
 *
 * An ended session stays in the table until the client has surely seen its end
 * (it sends another request on that connection), or it is too old or there are
 * too many.
 */
#ifndef AGENT_SESSION_H
#define AGENT_SESSION_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "guest-kernel/agent/peer.h"
#include "guest-kernel/agent/ring.h"

#define SESSIONS_MAX	     4096u	 /* running and ended together */
#define SESSIONS_ENDED_MAX   512u	 /* ended ones */
#define SESSIONS_ENDED_BYTES (16u << 20) /* their output, in all */
#define SESSIONS_ENDED_MS    600000u	 /* how long one is kept */
#define SESSION_GRACE_MS     150u	 /* for EOF after the main process has ended */
#define SESSION_SEGMENTS_MAX 4096u
#define SESSION_KEEP	     (1u << 20) /* of each stream, acknowledged or not, with a label */
#define TUNNEL_ORPHAN_MS     60000u	/* CLOCK_MONOTONIC stands still while the machine does */

/* Which stream was read up to where: keeps stdout and stderr in the order they were read. */
struct segment {
	unsigned int stream;
	uint64_t end;
};

struct session {
	uint64_t id;
	pid_t pid;	/* and process group; 0: a tunnel, or the program could not be executed */
	int pidfd;	/* -1 once waited for */
	int in_fd;	/* -1 if closed, or stdin is /dev/null */
	int out_fd[2];	/* -1 at EOF */
	int tty_fd;	/* a terminal's slave side, until the process ends; -1 without one */
	bool terminal;	/* in_fd and out_fd[0] are its master's side */
	struct ring in; /* start: what the pipe has taken; end: what the client has sent */
	struct ring out[2];
	uint64_t in_eof;	  /* length of stdin, UINT64_MAX while not known */
	struct segment *segments; /* owned */
	size_t segments_len, segments_cap;
	uint64_t segments_base; /* number of the first one, of all there ever were */
	uint8_t *label;		/* owned; NULL: without; under the lock */
	size_t label_len;

	bool die_with_conn;
	bool tunnel;	       /* in_fd and out_fd[0] are one socket */
	bool reset;	       /* of a tunnel: it ended in disorder, bytes may be lost */
	uint64_t deadline_ms;  /* UINT64_MAX: none */
	uint64_t grace_end_ms; /* after exited: no longer than this for EOF */
	uint64_t must_read[2]; /* after exited: what was written before that */
	bool exited, timed_out, held_open;
	bool finished;		  /* exited, and all output is in the rings */
	int end_code, end_status; /* as waitid() says */

	/* Under the table's lock. */
	struct session *next;
	struct peer *driver; /* NULL: nobody; only for ended sessions, or about to be taken */
	bool driven, wanted; /* a thread drives it; another one waits for it */
	uint64_t ended_ms;   /* 0 while it runs */
};

struct sessions {
	pthread_mutex_t lock;
	pthread_cond_t released;
	struct session *first; /* newest first */
	unsigned int len, ended_len;
	unsigned int orphan_ms; /* TUNNEL_ORPHAN_MS, but for tests */
};

void sessions_init(struct sessions *t);
void sessions_fini(struct sessions *t);

/* An empty session, driven by @p. -EEXIST for a known id, -EBUSY for too many, -ENOMEM. */
int sessions_add(struct sessions *t, uint64_t id, struct peer *p, struct session **out,
		 struct err *e);
/* Take a session over from whoever drives it. Blocks until that is done. -ESRCH if unknown. */
int sessions_take(struct sessions *t, uint64_t id, struct peer *p, struct session **out,
		  struct err *e);
/* Does somebody wait for it? */
bool sessions_wanted(struct sessions *t, struct session *s);
/* The driver lets go. @s is no longer the caller's; ended ones may be evicted. */
void sessions_release(struct sessions *t, struct session *s);
/* The driver removes the session. */
void sessions_remove(struct sessions *t, struct session *s);
/* The client has seen the end of this one; nothing happens if it is unknown or driven. */
void sessions_forget(struct sessions *t, uint64_t id);

/* Read once from a stream of the process into its ring; closes it at EOF. */
void session_read(struct session *s, unsigned int stream);
/*
 * After the end of the process: read what it had written to its terminal. Others may have that
 * open still and write on, so the end is where nothing is there for the moment.
 */
void session_drain_terminal(struct session *s);
/* Take the terminal away, as a line that is hung up: SIGHUP to the session's leader. */
void session_hang_up(struct session *s);
/* Bytes that the agent itself says on a stream of the session. */
int session_say(struct session *s, unsigned int stream, const char *text, size_t len);
/* End both directions of a tunnel at once; the peer sees a reset. */
void session_reset_tunnel(struct session *s);
/* Forget output that the client has. False if it never was sent. */
bool session_ack(struct session *s, const uint64_t to[2]);
/*
 * The stream, and how many bytes of it, to be sent next after @sent. 0: none. @segment: 0 at
 * first, then what the last call has put there; @sent never goes back meanwhile.
 */
size_t session_next_output(const struct session *s, const uint64_t sent[2], uint64_t *segment,
			   unsigned int *stream);

/* What is known of a session with a label, for who lists them. */
struct session_info {
	uint64_t id;
	bool running;
	uint8_t label[PROTO_LABEL_MAX];
	size_t label_len;
};

/*
 * sessions_next() - The next session with a label, in the order of ids
 * @after:	Id of the one before; 0 at first
 *
 * Return: false at the end
 */
bool sessions_next(struct sessions *t, uint64_t after, struct session_info *info);
/* The driver gives a new session its label; -ENOMEM */
int session_set_label(struct sessions *t, struct session *s, const void *label, size_t len);
/* The driver takes it off: the session is not listed any more. */
void sessions_unlabel(struct sessions *t, struct session *s);

enum drive_end {
	DRIVE_FINISHED, /* its end was sent (or there was no connection to send it to) */
	DRIVE_TAKEN,	/* another connection wants it */
	DRIVE_LOST,	/* the connection was lost or broke the protocol: drive on without one */
};

/**
 * session_drive() - Move bytes until the session is finished or taken away
 * @p:		The connection, or one that is lost
 * @id:		Of the request that is being answered
 * @sent:	Offsets of output from which on the client is served
 *
 * Answers STARTED first, and last EXIT.
 */
enum drive_end session_drive(struct sessions *t, struct session *s, struct peer *p, uint64_t id,
			     const uint64_t sent[2]);

#endif
