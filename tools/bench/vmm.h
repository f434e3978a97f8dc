/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A dormouse-vmm process under measurement.
 *
 * Requests are sent and answers read by the measuring thread itself, with no reader thread
 * between: a thread hand-off costs as much as some of what is measured.
 */
#ifndef TOOLS_BENCH_VMM_H
#define TOOLS_BENCH_VMM_H

#include <jansson.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/err.h"
#include "lib/vmm_client.h"

/* Only ends what would hang for ever: a lab is slow. */
#define VMM_HANG_MS 180000

struct vmm {
	char dir[160]; /* of this machine alone; the caller's to make and to remove */
	char socket[200];
	pid_t pid; /* 0: none */
	int pidfd, fd;
	char *buf; /* owned: what was read and not used */
	size_t used, size;
	json_int_t next_id;
	json_t *events;	  /* owned array: not yet taken */
	uint64_t sent_ns; /* when the last request was on its way */
};

/* Start a process in @dir; of @how, program and jail are used. Return: 0 or -errno. */
int vmm_start(struct vmm *v, const struct vmm_spawn *how, const char *dir, struct err *e);
/* Connect to a started one. */
int vmm_connect(struct vmm *v, struct err *e);
/* Kill it, wait, free. A struct of zeros is fine. */
void vmm_stop(struct vmm *v);
/* Send SIGKILL alone: whoever stops many need not wait for each. */
void vmm_kill(const struct vmm *v);

/* Send a request; takes the reference. vmm_finish() must follow. */
int vmm_send(struct vmm *v, json_t *request, struct err *e);
/* Wait for the answer of the last request. @answer: set to a new reference; may be NULL. */
int vmm_finish(struct vmm *v, json_t **answer, struct err *e);
int vmm_call(struct vmm *v, json_t *request, json_t **answer, struct err *e);
/* A request of its operation alone. */
int vmm_op(struct vmm *v, const char *op, json_t **answer, struct err *e);

/* Wait for the event @name; others before it are dropped. The machine's end is an error. */
int vmm_event(struct vmm *v, const char *name, json_t **event, struct err *e);

/* The number @field of an answer. Return: 0, or -EPROTO if it is not there. */
int vmm_number(const json_t *answer, const char *field, double *out, struct err *e);

#endif
