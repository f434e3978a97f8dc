/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection, as the agent sees it: frames in, frames out. Input is bounded
 * by one frame of the largest legal size; output by what the callers put in
 * before they flush.
 */
#ifndef AGENT_PEER_H
#define AGENT_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/proto.h"

struct peer {
	int fd;	     /* owned */
	int wake_fd; /* owned; eventfd: another thread wants the session this one drives */
	bool lost;   /* nothing more can be sent or received */
	uint8_t *in; /* owned */
	size_t in_cap, in_start, in_end;
	struct proto_buf out;
	size_t out_sent;
	uint64_t last_session; /* its end was sent here, and seen when the next request comes */
};

/* Takes @fd, also on failure. Return: 0 or -errno. */
int peer_init(struct peer *p, int fd);
void peer_fini(struct peer *p);

/* Wait for the next whole frame. Return: 1, 0 if the connection ended, -errno if malformed. */
int peer_wait_frame(struct peer *p, struct proto_header *h, const uint8_t **payload, struct err *e);
/* Receive what is there, without waiting. Return: 0, -EPIPE at the end. */
int peer_receive(struct peer *p);
/* Take the next frame from what was received. Return: 1, 0 if none is whole, -errno. */
int peer_take_frame(struct peer *p, struct proto_header *h, const uint8_t **payload, struct err *e);

/* Send all of p->out. Return: 0 or -errno (and the connection is lost). */
int peer_flush(struct peer *p);
/* Send what goes without waiting. Return: 0 when all is sent, -EAGAIN, or -errno (lost). */
int peer_flush_some(struct peer *p);
/* Queue an ERROR frame for a failure. */
void peer_put_error(struct peer *p, uint64_t id, const struct err *e);

#endif
