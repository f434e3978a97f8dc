/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metadata service: HTTP from the guest, over connections that libslirp makes.
 *
 * What it is asked is told to the server in words of ours, and what that answers is sent: no byte
 * of a request but a number of megabytes gets further.
 */
#ifndef SERVER_NET_METADATA_H
#define SERVER_NET_METADATA_H

#include <http_parser.h>
#include <jansson.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#define METADATA_CONNS	   16
#define METADATA_HEAD_MAX  4096
#define METADATA_BODY_MAX  1024
#define METADATA_WHILE_MS  10000 /* for a request to come, or an answer to be taken */
#define METADATA_ANSWER_MS 60000 /* for the server to answer */

struct metadata_request {
	http_parser parser;
	char path[64], body[METADATA_BODY_MAX];
	size_t path_len, body_len, total;
	bool complete;
};

void metadata_request_init(struct metadata_request *r);
/* Return: 0; -EBADMSG: it is no request, or too long. No more is to be fed then, or when complete.
 */
int metadata_request_feed(struct metadata_request *r, const char *data, size_t len);

/* What a complete request is about. */
struct metadata_question {
	const char *what;  /* "status", "limits", "metadata", "scale"; NULL: it is answered here */
	int64_t memory_mb; /* of "scale" */
	int status;	   /* without `what` */
	const char *text;  /* static JSON, the same */
};
void metadata_request_read(const struct metadata_request *r, struct metadata_question *q);

struct metadata;

/* Ask the server. Return: false if there is none to ask. */
typedef bool metadata_ask(void *arg, uint32_t id, const struct metadata_question *q);

struct metadata *metadata_create(metadata_ask *ask, void *arg);
void metadata_destroy(struct metadata *m);
/* A new connection; @fd is taken over. */
void metadata_accept(struct metadata *m, int fd);
/* The server's answer to question @id; @body: borrowed. One that is not waited for is dropped. */
void metadata_answer(struct metadata *m, uint32_t id, int status, const json_t *body);
/* The server is gone: who waits for it is told so. */
void metadata_fail(struct metadata *m);

/* As stack_prepare(), of METADATA_CONNS entries at most. */
size_t metadata_prepare(struct metadata *m, struct pollfd *p, int *timeout_ms);
void metadata_dispatch(struct metadata *m, const struct pollfd *p, size_t n);

#endif
