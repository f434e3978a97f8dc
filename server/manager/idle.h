/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When a sandbox has been idle for long enough (api.md 18.1).
 *
 * Theory of operation
 * -------------------
 * The timeout counts from the last work in the sandbox (idle_touch()). Work that goes on while
 * nobody says a word, a command that somebody waits for, holds it (idle_hold()): as long as it does
 * the timeout does not count. Once a second the manager looks (idle_look()); when a timeout is
 * over, the sandbox hibernates, on a thread of its own. Whether it is over is asked once more when
 * data operations are kept off: what began in between has touched it, and it runs on.
 *
 * The last work is kept as the time of change of the sandbox's directory, a second late at most: so
 * a daemon that is killed loses no deadline and begins none anew. It needs no more than that: a VM
 * does not outlive the machine's page cache.
 *
 * Times are of the monotonic clock, in milliseconds, and given by the caller.
 */
#ifndef SERVER_MANAGER_IDLE_H
#define SERVER_MANAGER_IDLE_H

#include <stdbool.h>
#include <stdint.h>

struct idle {
	uint64_t touched_ms; /* atomic */
	unsigned int holds;  /* atomic */
};

void idle_touch(struct idle *i, uint64_t now_ms);
/* Taken by any thread while the sandbox has a user; given back by any thread. */
void idle_hold(struct idle *i);
void idle_release(struct idle *i, uint64_t now_ms);

/**
 * idle_look() - Is the timeout over?
 * @timeout_s:	0: it never is
 * @busy:	Somebody works in it at this moment
 */
bool idle_look(struct idle *i, int64_t timeout_s, bool busy, uint64_t now_ms);

/* How long until it is over, if nobody works in it; 0: it is. @timeout_s: above 0. */
uint64_t idle_left_ms(const struct idle *i, int64_t timeout_s, uint64_t now_ms);

/* For a daemon that starts: the last work was @ago_ms ago, by a clock that may have been set. */
void idle_resume(struct idle *i, int64_t ago_ms, uint64_t now_ms);

#endif
