/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's side of a VMM's control socket: start a dormouse-vmm, talk to it.
 *
 * Theory of operation
 * -------------------
 * The protocol is in docs/vmm.md. A client owns one connection and one thread
 * that reads from it. vmm_client_call() may be called from any number of threads at
 * once: each call has its own id, and sleeps until the reader hands it the answer.
 * Events go to a callback, on the reader's thread, in the order they came.
 * When the connection ends, for whatever reason, every waiting and every later call
 * returns -EPIPE and on_close is called once. The machine outlives its clients.
 */
#ifndef LIB_VMM_CLIENT_H
#define LIB_VMM_CLIENT_H

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

#include "lib/err.h"

struct vmm_spawn {
	const char *program;	 /* path of dormouse-vmm */
	const char *socket_path; /* where it is to listen */
	const char *log_path;	 /* appended to; NULL: inherits stderr */
	bool with_parent;	 /* killed when the calling thread ends; for tests and tools */
	/* Of its jail (docs/vmm.md); NULL-terminated arrays. Without both there is no jail. */
	const char *const *readable, *const *writable;
};

/**
 * vmm_client_spawn() - Start a VMM process
 *
 * It runs in a session of its own and survives the caller, but for with_parent. The socket is made
 * here and handed over, so that vmm_client_connect() works at once. No other descriptor is
 * inherited. The caller reaps the process: waitid(P_PIDFD, *pidfd).
 *
 * @s:		Borrowed for the call
 * @pid:	Set to the process id
 * @pidfd:	Set to a pidfd (close-on-exec) that the caller closes
 *
 * Return: 0, or -errno: -EADDRINUSE if another process listens there
 */
int vmm_client_spawn(const struct vmm_spawn *s, pid_t *pid, int *pidfd, struct err *e);

struct vmm_client;

/* Both are called on the reader's thread and may not call vmm_client_call() or
 * vmm_client_destroy() of the same client. */
struct vmm_client_ops {
	/* @name: the value of "event"; @event: the whole object; both borrowed. May be NULL. */
	void (*on_event)(void *arg, const char *name, json_t *event);
	/* The connection has ended; no more events come. May be NULL. */
	void (*on_close)(void *arg);
};

/**
 * vmm_client_connect() - Connect to a running VMM and start the reader
 * @ops:	Copied
 * @arg:	Handed to the callbacks; must outlive the client
 * @out:	Set to the client; vmm_client_destroy() frees it
 *
 * Events of before are not repeated: ask "info" for the state after connecting.
 *
 * Return: 0 or -errno
 */
int vmm_client_connect(const char *socket_path, const struct vmm_client_ops *ops, void *arg,
		       struct vmm_client **out, struct err *e);

/**
 * vmm_client_call() - Send one request and wait for its answer
 * @request:	{"op": ..., ...} without "id"; the reference is taken over, also on failure; NULL
 *		(a failed json_pack) is -ENOMEM
 * @timeout_ms:	How long to wait for the answer
 * @answer:	Set to the answer object, to be released by json_decref(); may be NULL
 *
 * Any thread. A refusal by the VMM returns its errno and its message.
 *
 * Return: 0 or -errno: -EPIPE the connection has ended, -ETIMEDOUT
 */
int vmm_client_call(struct vmm_client *c, json_t *request, int timeout_ms, json_t **answer,
		    struct err *e);

/* As vmm_client_call(), with a descriptor that goes along; @fd stays the caller's. */
int vmm_client_call_fd(struct vmm_client *c, json_t *request, int fd, int timeout_ms,
		       json_t **answer, struct err *e);

/* As vmm_client_call() with {"op": @op}. */
int vmm_client_op(struct vmm_client *c, const char *op, int timeout_ms, json_t **answer,
		  struct err *e);

/* The number of "ENOSPC" and the like, as the VMM names what failed; EIO for NULL and unknown
 * names. */
int vmm_errno(const char *name);

/* End the connection: calls in progress, on any thread, return -EPIPE. */
void vmm_client_abort(struct vmm_client *c);

/* Close the connection, wait for the reader, free. No call may be in progress. NULL is fine. */
void vmm_client_destroy(struct vmm_client *c);

#endif
