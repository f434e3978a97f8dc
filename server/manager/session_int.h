/* SPDX-License-Identifier: Apache-2.0 */
/* What session.c and session_drive.c share. */
#ifndef SERVER_MANAGER_SESSION_INT_H
#define SERVER_MANAGER_SESSION_INT_H

#include "lib/clock.h"
#include "server/manager/internal.h"
#include "server/manager/outbuf.h"
#include "server/manager/session.h"

struct exec_session {
	unsigned int refs;	 /* atomic */
	struct sandbox *sandbox; /* a reference while it runs; never NULL before the end */
	char id[9];
	uint64_t agent_id;  /* what the agent calls it */
	char *cmd;	    /* owned */
	json_t *args;	    /* owned; an array */
	int64_t started_ms; /* wall clock */

	pthread_mutex_t lock; /* everything below but where said otherwise */
	pthread_cond_t changed;
	struct agent_conn *conn; /* owned; NULL while detached and after the end. Only the driver
				  * reads from it */
	uint32_t epoch;		 /* of the sandbox, when conn was made */
	struct outbuf out[2];
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

/* Let a paused one go on: it has a follower no more, or one with room. Under loop_lock. */
void session_unpause(struct manager *m, struct exec_session *x);

#endif
