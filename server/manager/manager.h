/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sandboxes: their making, finding, listing, ending, and taking over after a restart.
 *
 * Theory of operation
 * -------------------
 * Each sandbox is a dormouse-vmm process and a directory <state>/sandboxes/<id>/. The process
 * survives the daemon. What exists is decided by three things, in this order: a row in the store
 * (the sandbox was announced to a client), the directory, the process.
 *
 *   create   directory -> process -> guest runs -> agent answers -> row -> answer to the client
 *   delete   row is marked -> process killed -> directory removed -> answer to the client
 *
 * create.c, template.h and pool.h tell how a guest comes to run, hibernate.c how it sleeps and
 * wakes.
 *
 * So at a start: a process or directory without a live row is a leftover and is removed; a live
 * row whose process answers on its control socket is taken over; a running one without a process
 * becomes `error`, and its files stay until it is woken or deleted.
 *
 * Lifecycle operations (create, delete, hibernate, wake, restart, checkpoint, rollback) take turns
 * on the sandbox's `lifecycle` lock. Those during which nobody can work in the guest also keep data
 * operations off (sandbox_change_begin()): these wait, as they wait for a booting guest, and the
 * change waits for those that have begun. A deletion waits for nobody: it ends the VMM process, and
 * so whatever waits for that.
 *
 * Threads: everything may be called from any thread. One background thread runs a loop (lib/loop.h)
 * for what no request waits for: the ends of VMM processes, commands that outlive their request,
 * and a tick once a second. Lock order: sandbox lifecycle -> loop lock -> table -> sandbox ->
 * session -> store. No lock but `lifecycle` is held over anything that waits for a guest.
 */
#ifndef SERVER_MANAGER_MANAGER_H
#define SERVER_MANAGER_MANAGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/agent_client.h"
#include "lib/err.h"
#include "server/config.h"
#include "server/stats.h"
#include "server/store/store.h"

struct manager;
struct sandbox;

/**
 * manager_start() - Lock the state directory, open the store, take over what runs, clean up
 * @c:		Borrowed; must outlive the manager
 *
 * Return: 0; -EBUSY if another process has the state directory; -ENAMETOOLONG if sockets in it
 *	   would have too long names; -errno
 */
int manager_start(const struct config *c, struct manager **out, struct err *e);

/* Wakes everything that waits for guests: such requests end soon, with an error or "running". */
void manager_interrupt(struct manager *m);

bool manager_interrupted(const struct manager *m);

/* VMs go on, unless the configuration says otherwise. No call may be in progress. NULL is fine. */
void manager_stop(struct manager *m);

const struct config *manager_config(const struct manager *m);
struct images;
const struct images *manager_images(const struct manager *m);
unsigned int manager_running_count(struct manager *m);

#define MANAGER_STATUSES 4 /* of enum sandbox_status */

struct manager_figures {
	unsigned int by_status[MANAGER_STATUSES]; /* sandboxes that are not deleted */
	unsigned int background;		  /* commands that no request's thread reads */
	unsigned int shells;			  /* in the pool */
};

void manager_figures(struct manager *m, struct manager_figures *f);
/* OP_COUNT of them; counts go on. */
const struct operation_stats *manager_operations(const struct manager *m);

/* --- sandboxes --------------------------------------------------------------------------- */

#define SANDBOX_DEFAULT_CPUS	   1
#define SANDBOX_DEFAULT_MEMORY_MIB 1024
#define SANDBOX_DEFAULT_DISK_MIB   20480

/* What a create request asks for; all borrowed. Checked by sandbox_create(). */
struct sandbox_spec {
	const char *template; /* "" and the aliases of base are fine */
	const char *alias;
	int64_t cpus, memory_mib, disk_mib, timeout_s, port;
	bool network;
	json_t *envs, *metadata;  /* objects of strings, or NULL */
	const char *preview_hash; /* of the token for its previews, or NULL */
	const char *workdir;	  /* where its commands begin; NULL or "": at home */
};

/* As sandbox_create() checks it first. */
int sandbox_check_spec(struct manager *m, const struct sandbox_spec *spec, struct err *e);

/**
 * sandbox_create() - Make a sandbox whose agent answers
 * @out:	A reference: sandbox_put()
 *
 * Blocks for as long as the guest boots. On failure nothing is left.
 *
 * Return: 0; -EINVAL; -ENOENT for an unknown template; -EAGAIN at the limit of sandboxes;
 *	   -ENOSPC; -ETIMEDOUT if the guest does not come up; ...
 */
int sandbox_create(struct manager *m, const struct sandbox_spec *spec, struct sandbox **out,
		   struct err *e);

/**
 * sandbox_find() - For operations inside a sandbox
 * @out:	A reference: sandbox_put()
 *
 * Return: 0; -ENOENT unknown; -ESHUTDOWN stopped; -EHOSTDOWN its VM has died
 */
int sandbox_find(struct manager *m, const char *id, struct sandbox **out, struct err *e);

/* Any sandbox that is not deleted, in whatever state. Return: NULL if there is none. */
struct sandbox *sandbox_find_any(struct manager *m, const char *id);

void sandbox_put(struct sandbox *s);

/* Copy what is known, for sandboxes in every state, deleted ones included. -ENOENT if unknown. */
int sandbox_get_row(struct manager *m, const char *id, struct sandbox_row *row, struct err *e);
int sandbox_copy_row(struct sandbox *s, struct sandbox_row *row);
/* For who has created it: why it was booted although it was to go on from memory, or "". */
const char *sandbox_cold_reason(const struct sandbox *s);

/**
 * sandbox_hibernate() - Write it to disk and end its process; returns when that is durable
 * @row:	Copy of it; the caller releases it after success
 * @already:	Set if it was hibernated before
 *
 * Return: 0; -ENOENT; -ESHUTDOWN; -EINVAL if it does not run; -EIO, -ENOSPC, ...: it runs on
 */
int sandbox_hibernate(struct manager *m, const char *id, struct sandbox_row *row, bool *already,
		      struct err *e);

struct wake_result {
	bool cold;	  /* its memory was lost: it has booted from its disk */
	char reason[200]; /* then: why */
};

/**
 * sandbox_wake() - Have it run, with its processes if there is any way
 * @timeout_s:	New idle timeout; NULL: as configured
 * @row:	Copy of it; the caller releases it after success
 *
 * Fine if it runs. One whose VM has died boots from its disk.
 *
 * Return: 0; -ENOENT unknown, or nothing to wake; -EINVAL; -EAGAIN no room; -EIO, ...
 */
int sandbox_wake(struct manager *m, const char *id, const int64_t *timeout_s,
		 struct sandbox_row *row, struct wake_result *w, struct err *e);

/* The idle timeout, which begins anew. 0: never. Return: 0; -ENOENT; -ESHUTDOWN; -EINVAL */
int sandbox_set_timeout(struct manager *m, const char *id, int64_t timeout_s, struct err *e);

/**
 * sandbox_set_network() - Open or close the internet for a sandbox, in whatever state it is
 *
 * When it returns, nothing gets through any more that may not; connections that exist are reset.
 *
 * Return: 0; -ENOENT unknown; -ESHUTDOWN deleted; -EIO, ...: stored, but its network did not take
 * it
 */
int sandbox_set_network(struct manager *m, const char *id, bool enabled, struct err *e);

/**
 * sandbox_set_tags() - Replace all of them
 * @tags:	An object; what is in it is checked
 * @row:	Copy of it; the caller releases it after success
 *
 * Return: 0; -ENOENT; -ESHUTDOWN deleted; -EINVAL
 */
int sandbox_set_tags(struct manager *m, const char *id, const json_t *tags, struct sandbox_row *row,
		     struct err *e);

/*
 * Boot it again from its disk: in the same VMM process, or in a new one. Return when the agent
 * answers. 0; -ENOENT; -ESHUTDOWN; -EINVAL if it does not run; -EIO, ...
 */
int sandbox_reboot(struct manager *m, const char *id, struct err *e);
int sandbox_power_cycle(struct manager *m, const char *id, struct err *e);

/* Kill, remove the files, mark. Idempotent. -ENOENT if unknown. */
int sandbox_delete(struct manager *m, const char *id, struct err *e);

/**
 * sandbox_list() - Copies of rows, newest first
 * @status:	NULL: all but stopped ones; else only those with this status name
 * @rows, @n:	Set; the caller releases each row and frees the array
 */
int sandbox_list(struct manager *m, const char *status, struct sandbox_row **rows, size_t *n,
		 struct err *e);

const char *sandbox_id(const struct sandbox *s);

/**
 * sandbox_agent_get() - A connection to the agent, for one request
 *
 * Waits while the guest reboots.
 *
 * Return: 0; -ESHUTDOWN, -EHOSTDOWN as sandbox_find(), also if the agent cannot be reached
 */
int sandbox_agent_get(struct sandbox *s, struct agent_conn **out, struct err *e);
/* NULL is fine. */
void sandbox_agent_put(struct sandbox *s, struct agent_conn *conn);

/**
 * sandbox_explain() - Why a request to the agent failed
 * @conn:	On which; may be NULL
 * @rc, @e:	What the agent client said
 *
 * Return: @rc for what the agent itself refused; else -ESHUTDOWN or -EHOSTDOWN, and @e says what
 *	   happened to the sandbox
 */
int sandbox_explain(struct sandbox *s, const struct agent_conn *conn, int rc, struct err *e);

/*
 * Somebody works in it: the idle timeout begins anew. Cheap, any thread; whoever moves bytes of a
 * sandbox says so as they come.
 */
void sandbox_touch(struct sandbox *s);

/* The guest's console log for reading, or -errno. */
int sandbox_open_console(struct sandbox *s);

#endif
