/* SPDX-License-Identifier: Apache-2.0 */
/* One connection of a preview; see preview.h. */
#ifndef SERVER_PREVIEW_PROXY_H
#define SERVER_PREVIEW_PROXY_H

#include "server/manager/tunnel.h"
#include "server/preview/head.h"
#include "server/preview/preview.h"

/* From the client's first byte to the last. Does not close @fd. @client: its address, or NULL. */
void proxy_serve(struct manager *m, int fd, const char *client, struct preview_stats *stats);

/* Raw bytes from the beginning on; @early are the client's first. */
void proxy_forward(int fd, struct tunnel *t, const void *early, size_t early_len,
		   struct preview_stats *stats);

/* --- pump.c --- */

/* Bytes on their way, the first @sent of which are gone. */
struct pending {
	struct strbuf b;
	size_t sent;
	uint64_t *counted; /* atomic: all that went; borrowed */
};

enum pump_end {
	PUMP_DONE,	/* all was said */
	PUMP_ABORTED,	/* in the middle of something: the client must not take it for the whole */
	PUMP_NO_ANSWER, /* nothing was said to the client yet: it can be told why */
};

struct pump {
	int fd;		  /* the client; borrowed */
	struct tunnel *t; /* borrowed */
	struct head *request;
	bool raw; /* both directions are just bytes */

	struct head *answer;
	struct strbuf answer_head; /* as it came, until it is whole */
	struct pending up, down;
	bool answer_seen; /* its head, or an interim one, was passed on */
	bool client_end, client_gone, port_end, told_port, told_client;
	uint64_t quiet_until_ms; /* after the client's end; UINT64_MAX */
	struct err err;		 /* for PUMP_NO_ANSWER */
};

/* What is in p->up goes first. */
enum pump_end pump_run(struct pump *p);
void pump_fini(struct pump *p);
/* Send all of it, within a while. Return: 0 or -errno. */
int pump_send(int fd, const void *data, size_t len, int timeout_ms);

#endif
