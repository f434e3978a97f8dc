/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Driving a real dormouse-vmm over its control socket, for tests with tiny guests.
 *
 * A failed check prints where and ends the test, not the program: each test runs in a
 * process of its own. Waits are for events; their limit only ends a test that hangs.
 */
#ifndef TESTS_KVM_HARNESS_H
#define TESTS_KVM_HARNESS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

#include "lib/err.h"
#include "lib/vmm_client.h"

#define WAIT_MS 30000

struct machine {
	char dir[64]; /* temporary directory with everything of this machine */
	char socket[96], console[96];
	pid_t pid;
	int pidfd;
	struct vmm_client *client;
	struct events *events;
};

#define check(cond, ...)                                                                           \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "# %s:%d: %s: ", __FILE__, __LINE__, #cond);               \
			fprintf(stderr, "" __VA_ARGS__);                                           \
			fputc('\n', stderr);                                                       \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

/* Start a VMM and connect. */
void machine_start(struct machine *m);
/* Kill it if it still runs, and remove its directory. */
void machine_cleanup(struct machine *m);

/* "configure" with guest @name, 64 MiB, the console in a file; @more: further fields, or NULL. */
int machine_configure_guest(struct machine *m, const char *name, json_t *more, struct err *e);
/* Both must succeed. */
void machine_boot_guest(struct machine *m, const char *name, json_t *more);
/* An operation that must succeed. Return: its answer. */
json_t *machine_must(struct machine *m, const char *op);
/* Send one line as it is, on a connection of its own. Return: the answer. */
json_t *machine_send_line(struct machine *m, const char *line);

json_t *machine_any_event(struct machine *m);
/* The next event, which must have this name. */
json_t *machine_next_event(struct machine *m, const char *name);
/* The client's own view: another connection with its own events. */
void machine_connect(struct machine *m);

/* Wait for the process to end. Return: its exit status, or 128 + signal. */
int machine_wait(struct machine *m);
/* Everything that the guest has written. Return: a string to be freed. */
char *machine_console(const struct machine *m);
/* Make a file of @len bytes that begins with @head. Return: its path, to be freed. */
char *machine_file(const struct machine *m, const char *name, const char *head, size_t len);

struct test {
	const char *name;
	void (*run)(void);
};

/* Run all as TAP. @skip: why none can run, or NULL. Return: the exit status. */
int run_tests(const struct test *tests, int n, const char *skip);

#endif
