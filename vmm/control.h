/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket: JSON lines, any number of controllers. docs/vmm.md is the
 * protocol. Everything runs on the loop's thread, under its lock, but for
 * control_event(), which any thread that holds the lock may call.
 */
#ifndef VMM_CONTROL_H
#define VMM_CONTROL_H

#include <jansson.h>
#include <stdbool.h>

#include "lib/err.h"

struct vm;
struct control;

/* @listen_fd: taken over, closed by control_destroy(). */
int control_create(struct control **out, struct vm *vm, int listen_fd, struct err *e);
/* What controllers have not taken yet is written, as far as they take it soon. */
void control_destroy(struct control *c);

/* Tell all controllers. @event is taken over; without a control socket it is dropped. */
void control_event(struct vm *vm, json_t *event);

/**
 * ops_handle() - Carry out one request
 * @line:	Any JSON value
 * @passed_fd:	The descriptor that came with it, -1 for none; set to -1 if it was taken over
 *
 * Return: the answer, complete; NULL if memory ran out
 */
json_t *ops_handle(struct vm *vm, json_t *line, int *passed_fd);

/*
 * Add what "info" and "metrics" say to an answer. Return: 0 or -ENOMEM.
 * @memory: with what is in use of it, which takes a walk through the page tables of all RAM
 */
int info_fill(struct vm *vm, bool memory, json_t *answer);
int metrics_fill(struct vm *vm, json_t *answer);

/* net.c: operations; as those in ops.c. */
int op_net_attach(struct vm *vm, json_t *body, json_t *answer, struct err *e);
int op_net_detach(struct vm *vm, json_t *body, json_t *answer, struct err *e);
int op_net_limits(struct vm *vm, json_t *body, json_t *answer, struct err *e);
/* What "info" says of it; null without such a device. */
json_t *net_info(const struct vm *vm);
/* Add to "metrics". Return: 0 or -ENOMEM */
int net_metrics(const struct vm *vm, json_t *metrics);

#endif
