/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The controller's connection: JSON lines, in the manner of dormouse-vmm's (docs/network.md). One
 * at a time: a server that was started again takes the place of the one that is gone.
 */
#ifndef SERVER_NET_CONTROL_H
#define SERVER_NET_CONTROL_H

#include <jansson.h>
#include <stdbool.h>

#include "lib/err.h"

#define CONTROL_LINE_MAX (64u << 10)

/* Do what @request asks for. @answer: members to add to the answer. Return: 0, or -errno and why */
typedef int control_handle(void *arg, const char *op, json_t *request, json_t *answer,
			   struct err *e);

struct control {
	int fd; /* -1: nobody */
	char *in;
	size_t used;
	control_handle *handle;
	void *arg;
};

void control_init(struct control *c, control_handle *handle, void *arg);
void control_fini(struct control *c);
/* @fd: taken over; who was there before is cut off. */
void control_accept(struct control *c, int fd);
/* When it can be read. Return: false if the controller is gone */
bool control_read(struct control *c);
/* @message: taken over; NULL fails. Return: false: nobody, or who was there is gone */
bool control_send(struct control *c, json_t *message);

#endif
