/* SPDX-License-Identifier: Apache-2.0 */
/* What session.c and session_drive.c share. */
#ifndef SERVER_MANAGER_SESSION_INT_H
#define SERVER_MANAGER_SESSION_INT_H

#include "lib/clock.h"
#include "server/manager/internal.h"
#include "server/manager/outbuf.h"
#include "server/manager/session.h"

/* Which stream came up to where: the order in which stdout and stderr were read. */
struct order_segment {
	unsigned int stream;
	uint64_t end;
};

struct order {
	struct order_segment *segments; /* owned */
	size_t n, cap;
	uint64_t base; /* number of segments[0], counted from the first there ever was */
};

struct exec_reader {
	struct exec_session *x;	 /* a reference */
	struct sandbox *sandbox; /* a reference; NULL for a session that had ended */
	int fd;			 /* eventfd */
	/* Under x->lock. */
	struct exec_reader *next; /* in x->readers */
	uint64_t at[2], live_at[2];
	uint64_t segment; /* number of the one that `at` is in, or before */
	bool signalled, live_said, cut;
	bool room; /* EXEC_ROOM is to be said */
	/* In sandbox->readers, under its lock. */
	struct exec_reader *sandbox_prev, *sandbox_next;
};

struct exec_session {
	unsigned int refs;	 /* atomic */
	struct sandbox *sandbox; /* a reference while it runs; never NULL before the end */
	enum exec_kind kind;
	char id[9]; /* "": it has none */
	bool listed;
	uint64_t agent_id;  /* what the agent calls it */
	char *cmd;	    /* owned */
	json_t *args;	    /* owned; an array */
	int64_t started_ms; /* wall clock */
	size_t keep;
	bool foreground;
	int64_t max_alone_s; /* 0: no limit */
	bool removed;	     /* under lock; a terminal that was hung up */
	bool seen;	     /* under lock; a terminal that has had a client */
	bool followed;	     /* under lock; it has had a reader */
	uint16_t rows, cols; /* under lock; of a terminal, 0: not known */

	pthread_mutex_t lock; /* everything below but where said otherwise */
	pthread_cond_t changed;
	struct agent_conn *conn; /* owned; NULL while detached and after the end. Only the driver
				  * reads from it */
	uint32_t epoch;		 /* of the sandbox, when conn was made */
	struct outbuf out[2];
	struct order order;
	struct exec_reader *readers;
	bool held;		 /* the driver waits for readers */
	uint64_t alone_since_ms; /* monotonic; when the last reader left; 0: none has */
	struct outbuf in;	 /* stdin that the guest may not have yet */
	uint64_t in_sent;	 /* goes on there */
	bool has_stdin;
	bool in_open; /* stdin is a pipe, and its end was not written */
	bool in_eof_sent;
	bool resync; /* what is kept is to be replaced by what the guest keeps */
	uint64_t resync_until[2];
	bool in_full;  /* exec_write() had to leave something */
	bool in_known; /* the agent has said how much it has: more can be sent */
	enum exec_state state;
	int exit_code, rc;
	bool timed_out;
	char error[256];
	uint64_t ended_ms;	   /* monotonic */
	uint64_t read_offsets[2];  /* of the follower */
	uint64_t hold_until_ms;	   /* monotonic; 0: nobody follows */
	struct exec_session *next; /* in sandbox->sessions, under its lock; holds a reference */

	/* The driver's. */
	bool started;	       /* the agent has it: it can be attached to */
	bool leased;	       /* the sandbox counts it as a user: until the agent's first word */
	bool holds;	       /* the sandbox is not idle because of it */
	uint32_t boots;	       /* of the sandbox, when it started */
	uint32_t rewinds;      /* of the sandbox, when it was attached to */
	uint64_t next_byte[2]; /* first bytes that were not received */
	int failed_attaches;

	/* In sandbox->detached, under its lock; holds a reference. */
	struct exec_session *detached_next;

	/* Under loop_lock. */
	struct loop_source source; /* in the loop: holds a reference */
	struct exec_session *again_next;
	bool in_again, paused;
};

static inline struct exec_session *exec_get(struct exec_session *x)
{
	__atomic_add_fetch(&x->refs, 1, __ATOMIC_RELAXED);
	return x;
}

/* Its sandbox may be idle from now on. While there is x->sandbox. */
static inline void session_release_idle(struct exec_session *x)
{
	if (x->holds)
		idle_release(&x->sandbox->idle, clock_mono_ms());
	x->holds = false;
}

/*
 * Call @fn, under x->lock, while the session is connected: wakes its sandbox, waits. Not at all if
 * it has ended. Return: 0; -EINVAL of @fn; -EHOSTDOWN; as sandbox_use()
 */
int session_control(struct exec_session *x,
		    int (*fn)(struct exec_session *x, void *arg, struct err *e), void *arg,
		    struct err *e);

/* --- terminal.c ----------------------------------------------------------------------------- */

/* Has nobody looked at it for too long? Under x->lock. */
bool terminal_abandoned(struct exec_session *x, bool asleep, uint64_t now);
/* Hang up one that is not listed any more. Does not wait. */
void terminal_end(struct manager *m, struct exec_session *x);

/* --- session_label.c: what the guest keeps about a session, for a daemon that does not know it ---
 */

/* malloc'ed; at most PROTO_LABEL_MAX bytes; NULL without memory. */
char *label_make(const struct exec_session *x, const char *sandbox);
/* NULL if it is not of a session of @sandbox. The caller puts it; it has no sandbox yet. */
struct exec_session *label_parse(const void *label, size_t len, const char *sandbox);

/* session.c: an empty one; NULL without memory. */
struct exec_session *session_new(const struct exec_spec *spec);
/* session_drive.c: give it an id that is free, unless it has one that is, and list it. */
void session_list(struct sandbox *s, struct exec_session *x);

/* A reference to its sandbox; NULL after its end. */
struct sandbox *session_sandbox(struct exec_session *x);

/* --- session_read.c; all under x->lock -----------------------------------------------------------
 */

/* Output has come: note the order. */
void order_note(struct order *o, unsigned int stream, uint64_t end);
/* Forget what is about bytes that were dropped. */
void order_trim(struct order *o, const struct outbuf out[2]);
void order_fini(struct order *o);
/* Something has changed: wake waiters and readers. */
void session_notify(struct exec_session *x);
/* Cut its readers. */
void session_cut(struct exec_session *x);
/* Would the next bytes push out some that a reader has not read? Then it is held. */
bool session_must_wait(struct exec_session *x);

/* --- session_stdin.c; under x->lock
 * --------------------------------------------------------------- */

/* Send what there is, and tell readers of room. */
void stdin_pump(struct exec_session *x);
/* The agent has the bytes below @offset; a new connection goes on there. */
void stdin_resume(struct exec_session *x, uint64_t offset);

/* Let a paused one go on: it has a follower no more, or one with room. Under loop_lock. */
void session_unpause(struct manager *m, struct exec_session *x);

#endif
