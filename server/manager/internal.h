/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of server/manager/ share. */
#ifndef SERVER_MANAGER_INTERNAL_H
#define SERVER_MANAGER_INTERNAL_H

#include <pthread.h>
#include <sys/types.h>

#include "lib/loop.h"
#include "lib/vmm_client.h"
#include "server/manager/images.h"
#include "server/manager/layers.h"
#include "server/manager/manager.h"

#define TABLE_BUCKETS 1024 /* a power of two */
#define TICK_MS	      1000

struct exec_session;

struct manager {
	const struct config *config; /* borrowed */
	char *state_dir;	     /* owned; absolute, without symlinks */
	int lock_fd;		     /* flock on <state>/lock */
	int sandboxes_fd;	     /* directory <state>/sandboxes */
	struct store *store;
	struct images images;
	struct layers *layers; /* owned; layers.h */

	pthread_mutex_t table_lock;
	struct sandbox *buckets[TABLE_BUCKETS];
	unsigned int running; /* atomic; with status running, and creates in progress */

	pthread_mutex_t loop_lock;
	struct loop loop;
	pthread_t loop_thread;
	bool loop_running;
	int tick_fd;
	struct loop_source tick;
	uint64_t ticks;
	int again_fd; /* eventfd: sessions in `again` have more to read */
	struct loop_source again_source;
	struct exec_session *again; /* under loop_lock */
	unsigned int background;    /* atomic: sessions that the loop drives */
	bool interrupted;	    /* atomic */
};

/* The VMM process of a sandbox, as this daemon knows it. */
struct vm {
	pid_t pid;
	int pidfd;		   /* -1: none */
	bool ours;		   /* started by this process: has to be reaped */
	struct vmm_client *client; /* owned; NULL after the end */
	struct loop_source source; /* on pidfd */
	uint64_t closed_ms;	   /* when the control connection ended; 0: it has not */
};

struct sandbox {
	struct manager *m;	   /* borrowed; outlives us */
	unsigned int refs;	   /* atomic; one is the table's */
	struct sandbox *next;	   /* in its bucket; under table_lock */
	pthread_mutex_t lifecycle; /* held over a whole delete */

	pthread_mutex_t lock;	/* everything below */
	pthread_cond_t changed; /* ready, row.status, vm.closed_ms */
	struct sandbox_row row; /* id, sizes, envs, metadata never change */
	struct vm vm;
	bool announced;		       /* the row is in the store */
	bool ready;		       /* the agent listens */
	char exit_reason[160];	       /* what the VMM said last about its end, "" if nothing */
	bool exit_orderly;	       /* the guest powered itself off */
	struct exec_session *sessions; /* listed ones, newest first */

	struct agent_pool *pool; /* never changes */
	char **envs;		 /* "NAME=value", NULL-terminated; never changes */
	char *dir;		 /* owned; never changes */
};

/* sandbox.c */
struct sandbox *sandbox_new(struct manager *m, struct sandbox_row *row, struct err *e);
int sandbox_status_error(struct sandbox *s, struct err *e); /* under s->lock */
char *sandbox_path(const struct sandbox *s, const char *name);
void table_insert(struct manager *m, struct sandbox *s);
void table_remove(struct manager *m, struct sandbox *s);
int64_t wall_ms(void);
/* Wait on s->changed until @deadline_ms of the monotonic clock. Under s->lock. */
int sandbox_wait(struct sandbox *s, uint64_t deadline_ms);

/* vm.c */
int vm_start(struct sandbox *s, const char *image, struct err *e);
int vm_adopt(struct sandbox *s, struct err *e);
int vm_watch(struct sandbox *s);
void vm_kill(struct sandbox *s);
void vm_leave(struct sandbox *s);
void vm_check_overdue(struct sandbox *s);

/* recover.c */
int recover(struct manager *m, struct err *e);
/* Remove the directory of a sandbox. Return: 0 or -errno. */
int remove_dir(struct manager *m, const char *id);

/* session.c */
int sessions_start(struct manager *m);
/* Wait, not for long, until the loop drives no session: after their connections were aborted. */
void sessions_drain(struct manager *m);
/* On the loop's thread. */
void sessions_tick(struct sandbox *s);
/* Their commands get an end with an error; nothing is listed any more. */
void sessions_drop(struct sandbox *s);
/* Wake those who wait for results. */
void sessions_interrupt(struct sandbox *s);

#endif
