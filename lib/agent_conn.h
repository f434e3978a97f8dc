/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the agent client: what agent_client.c, agent_exec.c and agent_files.c share. */
#ifndef LIB_AGENT_CONN_H
#define LIB_AGENT_CONN_H

#include <pthread.h>
#include <stdatomic.h>

#include "lib/agent_client.h"

enum conn_state { CONN_IDLE, CONN_SIMPLE, CONN_EXEC, CONN_READ, CONN_WRITE, CONN_LIST };

struct agent_conn {
	int fd;
	int timeout_ms;
	struct agent_hello hello;
	atomic_bool broken, aborted;
	enum conn_state state; /* changed under lock; read by the owner without */
	uint64_t id;	       /* of the request under way, or of the last one */

	uint8_t *in; /* owned; one frame of the largest size an agent may send */
	size_t in_start, in_end;
	struct reader rest; /* what is left of the last CHUNK or ENTRIES frame, in `in` */

	char name[256]; /* of the last entry listed */

	pthread_mutex_t lock; /* for sending, and for all below */
	struct proto_buf out;
	bool manual_ack, started, room_wanted, stdin_known, oldest;
	uint64_t next[2], acked[2]; /* stdout, stderr: next byte expected; acknowledged */
	uint64_t stdin_sent, stdin_acked;

	struct agent_conn *pool_prev, *pool_next; /* in the pool's list of those in use */
};

/* A connection over @fd, which it takes, also on failure; as agent_connect(). */
int conn_create(int fd, const struct agent_addr *addr, struct agent_conn **out, struct err *e);

/* The transport or the peer has failed: nothing more can be done here. Return: @code. */
int conn_break(struct agent_conn *c, int code);

/* Begin the frame of a new request in c->out. -EBUSY if one is under way. */
int conn_request(struct agent_conn *c, enum proto_type type, enum conn_state state, struct err *e);
/* End the frame and send c->out. A frame that got too large leaves the connection idle. */
int conn_request_send(struct agent_conn *c, struct err *e);
/* Send c->out; the lock is held by the caller. */
int conn_send(struct agent_conn *c, struct err *e);
/* Send @head and then @body as they are. */
int conn_send_two(struct agent_conn *c, const void *head, size_t head_len, const void *body,
		  size_t body_len, struct err *e);
/* The request is over. */
void conn_done(struct agent_conn *c);

/**
 * conn_frame() - The next frame of the request under way
 * @timeout_ms:	-1: no limit
 * @payload:	Borrowed until the next call
 *
 * An ERROR frame ends the request and is returned as the guest's -errno.
 *
 * Return: 0, -ETIMEDOUT (connection still whole), or -errno
 */
int conn_frame(struct agent_conn *c, int timeout_ms, struct proto_header *h, struct reader *payload,
	       struct err *e);
/* As conn_frame() within the connection's timeout, whose passing breaks the connection. */
int conn_answer(struct agent_conn *c, struct proto_header *h, struct reader *payload,
		struct err *e);
/* For a frame that does not belong here. Breaks the connection. */
int conn_unexpected(struct agent_conn *c, const struct proto_header *h, struct err *e);

/*
 * Send the request in c->out and take its RESULT. A time that is over (-1: no limit)
 * breaks the connection: a late answer would be taken for that of the next request.
 */
int conn_simple_finish(struct agent_conn *c, int timeout_ms, struct reader *r, struct err *e);
/* The guest's text goes to logs and users: no control characters. */
void conn_printable(char *dst, size_t cap, const uint8_t *src, size_t len);

/* The TLVs that describe a file. A malformed answer breaks the connection. */
int conn_parse_stat(struct agent_conn *c, struct reader r, struct agent_stat *st, struct err *e);

#endif
