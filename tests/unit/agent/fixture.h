/* SPDX-License-Identifier: Apache-2.0 */
/* A real agent in test mode, in a process of its own, and ways to talk to it. */
#ifndef TESTS_AGENT_FIXTURE_H
#define TESTS_AGENT_FIXTURE_H

#include <criterion/criterion.h>
#include <stdint.h>

#include "lib/agent_client.h"

extern char scratch[64];       /* a folder of the test's own, removed after it */
extern char home[96];	       /* the default user's home, in it */
extern struct err fixture_err; /* of the last failed call */

void agent_start(void);
void agent_stop(void);
/* A new connection; asserts. */
struct agent_conn *dial(void);
/* A path in the scratch folder; valid until the fourth next call. */
const char *in_scratch(const char *name);

/* `sh -c SCRIPT`, collected; asserts that it could be run. Release with output_free(). */
struct agent_output sh(struct agent_conn *c, const char *script);
struct agent_output run_spec(struct agent_conn *c, struct agent_exec_spec *spec);
void output_free(struct agent_output *o);
uint64_t new_session(void);
/* FNV-1a, continued from @hash (start with HASH_START). */
#define HASH_START 0xcbf29ce484222325ULL
uint64_t hash_of(uint64_t hash, const void *data, size_t len);
/* A repeatable stream of bytes: fills @buf with what is at @offset of it. */
void pattern(uint64_t offset, uint8_t *buf, size_t len);

#define ok(expr)                                                                                   \
	do {                                                                                       \
		int rc_ = (int)(expr);                                                             \
		cr_assert_eq(rc_, 0, "%s: %d %s", #expr, rc_, fixture_err.msg);                    \
	} while (0)

#endif
