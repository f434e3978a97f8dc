/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Machines that are saved and go on, for tests of it, above all with the guest
 * tests/guests/dirty.S: it counts, leaves a trail in memory, and ends with "torn" as soon as its
 * memory and its registers are not of one instant. A failed check ends the test (harness.h).
 */
#ifndef TESTS_KVM_DIRTY_H
#define TESTS_KVM_DIRTY_H

#include <stdint.h>

#include "tests/kvm/harness.h"

#define COUNT_GPA  0x50000
#define RING_GPA   0x200000
#define RING_PAGES 256u
#define STEPS	   600 /* more than twice around the ring */

/* What is saved first. All files of a test are in its directory. */
extern struct machine source;

/* The path of a file there. Of the last 16 calls, not to be freed. */
const char *at(const char *name);

/* Members of answers and events: they must be there. */
json_int_t number(json_t *o, const char *name);
const char *text(json_t *o, const char *name);

/* @body, which is taken, with the name of the operation. */
json_t *request(const char *op, json_t *body);
/* It must succeed. Return: the answer. */
json_t *must(struct machine *m, const char *op, json_t *body);
/* It must fail with @code and say @reason. */
void refused(struct machine *m, const char *op, json_t *body, int code, const char *reason);

const char *state_of(struct machine *m);
json_int_t exits(struct machine *m);
/* Until the guest has made @steps more exits. */
void run_on(struct machine *m, json_int_t steps);

/* NAME.ram must be sound, and of one instant. Return: how far its guest has counted */
uint64_t count_in(const char *name);
/* Has the guest printed this? */
bool printed(struct machine *m, const char *what);
/* It counts on, in another generation, and has noticed nothing else. */
void expect_life(struct machine *m);
/* End the machine, and its process. */
void end(struct machine *m);

#endif
