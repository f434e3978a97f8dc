/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of server/manager/ share. */
#ifndef SERVER_MANAGER_INTERNAL_H
#define SERVER_MANAGER_INTERNAL_H

#include <pthread.h>
#include <sys/types.h>

#include "lib/loop.h"
#include "lib/vmm_client.h"
#include "server/manager/autoscale.h"
#include "server/manager/idle.h"
#include "server/manager/images.h"
#include "server/manager/jobs.h"
#include "server/manager/layers.h"
#include "server/manager/manager.h"

#define TABLE_BUCKETS 1024 /* a power of two */
#define TICK_MS	      1000

/* For sh: runs the script that is its first argument. Images of containers often have no bash. */
#define RUN_IN_BASH_OR_SH                                                                          \
	"if command -v bash >/dev/null; then exec bash -c \"$1\"; fi; exec sh -c \"$1\""

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
	uint32_t
	    life; /* random; the lower half of the numbers of sessions that this daemon starts */
	int again_fd; /* eventfd: sessions in `again` have more to read */
	struct loop_source again_source;
	struct exec_session *again; /* under loop_lock */
	unsigned int background;    /* atomic: sessions that the loop drives */
	bool interrupted;	    /* atomic */
	unsigned int imports;	    /* atomic: under way, see import.c */
	struct jobs jobs;
	struct operation_stats ops[OP_COUNT];
	struct pool *pool;	     /* owned; shells made in advance */
	struct templates *templates; /* owned */
	struct builds *builds;	     /* owned */
	struct upkeep *upkeep;	     /* owned */
	struct net_shared *net;	     /* owned; net.h */
};

/* A file, whatever its name. */
struct file_id {
	dev_t dev;
	ino_t ino;
};

/* The VMM process of a sandbox, as this daemon knows it. */
struct vm {
	pid_t pid;
	int pidfd;		   /* -1: none */
	bool ours;		   /* started by this process: has to be reaped */
	struct vmm_client *client; /* owned; NULL after the end */
	struct loop_source source; /* on pidfd */
	uint64_t closed_ms;	   /* when the control connection ended; 0: it has not */
	unsigned int calls;	   /* in progress on client */
	bool expected;		   /* we end it: that is no news of the sandbox */
};

/* Its dormouse-net, as this daemon knows it; net.h. */
struct net {
	pthread_mutex_t lock; /* held while one is started, or is told the policy; before `lock` */
	unsigned int questions; /* atomic: of its metadata service, being answered */
	/* Under the sandbox's `lock`: */
	struct vmm_client *client; /* owned; NULL: none */
	unsigned int calls;	   /* in progress on client */
	bool starting;		   /* a job is at it */
};

struct sandbox {
	struct manager *m;	   /* borrowed; outlives us */
	unsigned int refs;	   /* atomic; one is the table's */
	char id[SANDBOX_ID_SIZE];  /* never changes; as in the row */
	struct sandbox *next;	   /* in its bucket; under table_lock */
	pthread_mutex_t lifecycle; /* held over a whole create, delete, hibernate, wake, ... */
	uint32_t epoch;		   /* atomic: counts VMs and rollbacks; connections die with one */
	uint32_t rewinds;	   /* atomic: counts rollbacks; streams go back in time with one */
	uint32_t boots;		   /* atomic: counts boots of the guest; processes die with one */
	unsigned int tunnels;	   /* atomic: open ones */
	struct net net;		   /* net.h */
	struct idle idle;	   /* its members are atomic */
	uint64_t idle_saved_ms;	   /* atomic: idle.touched_ms that its directory has */

	pthread_mutex_t lock;	/* everything below */
	pthread_cond_t changed; /* ready, row.status, vm.closed_ms, vm.calls, changing, users */
	struct sandbox_row row; /* sizes, envs, metadata never change once announced */
	int64_t idle_told_ms;	/* what idle_expiry_ms() said last */
	struct vm vm;
	struct vm_wait *waits;	       /* owned; checkpoints under way */
	bool changing;		       /* a lifecycle operation is at it: data operations wait */
	bool doomed;		       /* a deletion waits for `lifecycle`: others give up */
	unsigned int users;	       /* data operations that must not be cut short */
	unsigned int wakes;	       /* attempts that have ended */
	struct err wake_err;	       /* of the last one that failed */
	bool announced;		       /* the row is in the store */
	bool ready;		       /* the agent listens */
	char cold_reason[200];	       /* sandbox_cold_reason() */
	char exit_reason[160];	       /* what the VMM said last about its end, "" if nothing */
	bool exit_orderly;	       /* the guest powered itself off */
	struct exec_session *sessions; /* listed ones, newest first */
	struct exec_session *detached; /* background ones without a connection */
	bool attaching;		       /* a job is at them */
	struct exec_reader *readers;   /* of its sessions */
	bool settled;		       /* all sessions of the guest are in `sessions` */
	pthread_mutex_t settle_lock;   /* held while that is being done; before `lock` */
	bool expiring;		       /* a job is at its idle timeout */
	bool sampling;		       /* a job asks what it uses */
	struct autoscale autoscale;

	struct agent_pool *pool; /* never changes */
	char **envs;		 /* "NAME=value", NULL-terminated; never changes once announced */
	char *workdir;		 /* owned; NULL: at home; the same */
	char *dir;		 /* owned; never changes */
	struct file_id *given;	 /* owned; what the process was given to read, see jail.h */
	size_t given_n;
};

/* manager.c: call @fn for every sandbox, without the table locked meanwhile. */
void for_each_sandbox(struct manager *m, void (*fn)(struct sandbox *s));

/* sandbox.c */
struct sandbox *sandbox_new(struct manager *m, struct sandbox_row *row, struct err *e);
/* Give a shell, which has an id only, its row. @row is taken over on success. */
int sandbox_set_row(struct sandbox *s, struct sandbox_row *row);
/* sandbox_copy_row() under s->lock. */
int sandbox_copy_row_locked(struct sandbox *s, struct sandbox_row *row);
int sandbox_status_error(struct sandbox *s, struct err *e); /* under s->lock */
char *sandbox_path(const struct sandbox *s, const char *name);
void table_insert(struct manager *m, struct sandbox *s);
void table_remove(struct manager *m, struct sandbox *s);
/* Wait on s->changed until @deadline_ms of the monotonic clock. Under s->lock. */
int sandbox_wait(struct sandbox *s, uint64_t deadline_ms);
uint32_t sandbox_epoch(const struct sandbox *s);
uint32_t sandbox_boots(const struct sandbox *s);
uint32_t sandbox_rewinds(const struct sandbox *s);
bool sandbox_hibernated(struct sandbox *s);

/**
 * sandbox_use() - Before work in the guest that must not be cut short; sandbox_unuse() after
 *
 * Waits while a lifecycle operation is at the sandbox, wakes it if it is hibernated.
 *
 * Return: 0; as sandbox_find(); -EHOSTDOWN after a long time
 */
int sandbox_use(struct sandbox *s, struct err *e);
void sandbox_unuse(struct sandbox *s);
/* As sandbox_use(), but leaves it asleep: -EAGAIN at @deadline_ms, or when the daemon stops. */
int sandbox_await(struct sandbox *s, uint64_t deadline_ms, struct err *e);

/**
 * sandbox_change_begin() - Keep data operations off, and let those in progress end
 * @patience_ms:	After that they are cut short by what comes
 *
 * Under s->lifecycle. sandbox_change_end() is due after success.
 *
 * Return: 0; as sandbox_find() if it does not run and cannot be woken
 */
int sandbox_change_begin(struct sandbox *s, int patience_ms, struct err *e);
void sandbox_change_end(struct sandbox *s);
#define CHANGE_PATIENCE_MS 10000

/*
 * Change the row but for its settings, in the store and then in memory, as one step for all
 * others. Under `lifecycle`, whose holder may read the row without s->lock: what it reads is
 * replaced by nobody else. @change is called on a copy, under s->lock.
 */
int sandbox_update_row(struct sandbox *s, void (*change)(struct sandbox_row *row, const void *arg),
		       const void *arg, struct err *e);
/* Change settings (store_sandbox_set_settings()) in the same way, at any time: nothing else of the
 * row is touched. */
int sandbox_update_settings(struct sandbox *s,
			    void (*change)(struct sandbox_row *row, const void *arg),
			    const void *arg, struct err *e);
/* In memory only. */
void sandbox_set_status(struct sandbox *s, enum sandbox_status status);
/* Its VM is gone, its disk is not: status error, for good or until it is woken. */
void sandbox_set_failed(struct sandbox *s, const char *why);
/* Under `lifecycle`. Return: 0; -EINVAL if it does not run; -ESHUTDOWN */
int sandbox_check_running(struct sandbox *s, struct err *e);
/* Any that is not deleted. Return: 0; -ENOENT unknown; -ESHUTDOWN deleted */
int sandbox_find_known(struct manager *m, const char *id, struct sandbox **out, struct err *e);

/* create.c */

/* What a sandbox begins with. All borrowed. */
struct sandbox_origin {
	/* Its disk, and its memory if it is a full one; pinned by the caller. NULL: base_image. */
	const struct checkpoint_row *checkpoint;
	const char *base_image;
	/* Of an image or snapshot, pinned: `checkpoint` is a template of it, or itself. NULL: none.
	 * Its disk is what boots if the template cannot be used, and the sandbox is a fork of it.
	 */
	const struct checkpoint_row *image;
	/* What a fork of memory grows to, once it is there; 0: it stays as it was captured. */
	int64_t grow_mib;
};

/**
 * sandbox_create_from() - As sandbox_create(), from a checkpoint
 * @spec:	Complete: nothing is taken over from the checkpoint but disk and memory. CPUs and
 *memory are those of the checkpoint, if it is a full one; its disk is not larger
 */
int sandbox_create_from(struct manager *m, const struct sandbox_spec *spec,
			const struct sandbox_origin *origin, struct sandbox **out, struct err *e);
int sandbox_check_timeout(int64_t timeout_s, struct err *e);

/* The steps of it, for templates. */
int sandbox_make_shell(struct manager *m, struct sandbox **out, struct err *e);
int sandbox_start(struct sandbox *s, const struct sandbox_spec *spec,
		  const struct sandbox_origin *origin, struct err *e);
void sandbox_discard(struct sandbox *s);

/* Count one more that runs. -EAGAIN at the limit. */
int manager_reserve(struct manager *m, struct err *e);
void manager_unreserve(struct manager *m);
/* Does this failure pass, and what failed work when it is tried again? */
bool lifecycle_passes(int rc);
/* So that no errno of a VMM or an agent looks like a mistake of the client's. */
int lifecycle_errno(int rc);

/* The guest boots: wait for its agent. */
int sandbox_wait_guest(struct sandbox *s, struct err *e);
/* The same, and give it its identity. */
int sandbox_finish_boot(struct sandbox *s, struct err *e);
/* A restored guest, with its identity renewed. */
void sandbox_set_ready(struct sandbox *s);
/* It runs: from here on the end of the VM is a story of its own. -EIO if it has ended already. */
int sandbox_go_live(struct sandbox *s, struct err *e);

/* power.c: boot a running sandbox from the disk that its row has, in a new process. A failure is in
 * its row. */
int sandbox_boot_anew(struct sandbox *s, struct err *e);

/* hibernate.c */
/* For work in the guest. Collapses with other wakes; -ESHUTDOWN, or why it cannot be woken. */
int sandbox_wake_implicitly(struct sandbox *s, struct err *e);
void hibernation_remove(struct sandbox *s, const char *id);
/* Under `lifecycle`, with data operations kept off; it runs. If it fails, it runs on. */
int sandbox_hibernate_now(struct sandbox *s, struct err *e);

/* idle.c */
/* On the loop's thread, once a second. */
void idle_tick(struct sandbox *s);
/* Make the last work in it outlive the daemon; and find it again. */
void idle_save(struct sandbox *s);
void idle_load(struct sandbox *s);
int idle_set_timeout(struct sandbox *s, int64_t timeout_s, struct err *e);
/* By the wall clock, 0: never; the same as long as nobody works in it. Under s->lock. */
int64_t idle_expiry_ms(struct sandbox *s);
/* When somebody last worked in it; 0 if it does not run. The same. */
int64_t idle_used_ms(const struct sandbox *s);

/* vm.c */
int vm_spawn(struct sandbox *s, const char *image, struct err *e);
int vm_adopt(struct sandbox *s, bool *paused, bool *restored, struct err *e);
int vm_watch(struct sandbox *s);
void vm_kill(struct sandbox *s);
void vm_end(struct sandbox *s);
void vm_interrupt(struct sandbox *s);
/* As vm_kill(), of a sandbox that runs; it is `stopped` then, as after a poweroff. */
void vm_stop(struct sandbox *s, const char *why);
/* From here on the end of the process is no news. */
void vm_expect_end(struct sandbox *s);
/* It is again; a sandbox whose VM has ended meanwhile gets its error. Return: the VM lives */
bool vm_unexpect_end(struct sandbox *s);
void vm_leave(struct sandbox *s);
void vm_check_overdue(struct sandbox *s);
/* vmm_client_call() on its control connection. Any thread; -EPIPE without one. */
int vm_call(struct sandbox *s, json_t *request, int timeout_ms, json_t **answer, struct err *e);
/* With a descriptor that goes along; @fd stays the caller's. */
int vm_call_fd(struct sandbox *s, json_t *request, int fd, int timeout_ms, json_t **answer,
	       struct err *e);
#define VM_CALL_MS 30000

/* machine.c: what a VMM is asked to do; see docs/vmm.md. Under `lifecycle`, but where said. */

/* A disk as the VMM gets it: paths, made of a chain. */
struct vm_disk {
	char *base;    /* owned */
	char **layers; /* owned, NULL-terminated; immutable ones, oldest first */
	char *overlay; /* owned; the one that is written to */
	int64_t size_mib;
};

/* vm_disk_fini() is due after success. */
int vm_disk_of_row(struct vm_disk *d, const struct sandbox *s, struct err *e);
void vm_disk_fini(struct vm_disk *d);

/* A machine's memory and state in files; all borrowed. */
struct vm_image {
	const char *state, *ram;
	bool cold; /* ram is in the cold format */
	/* vm_rollback() only: the disk from then on; the last layer is made. */
	const char *base_image;
	const struct chain *layers;
};

struct vm_checkpoint {
	const char *name;	 /* unique: its id */
	const char *state, *ram; /* NULL: disk only */
	const char *parent_ram;	 /* NULL: the image that RAM was restored from */
	const char *overlay;	 /* the new top layer; NULL: the disk stays on the one it has */
	bool resume;
};

int vm_prepare(struct sandbox *s, int64_t cpus, int64_t memory_mib, struct err *e);
int vm_boot(struct sandbox *s, const struct vm_disk *d, struct err *e);
/* The guest is frozen: guest_renew(). It runs, if @resume. */
int vm_restore(struct sandbox *s, const struct vm_disk *d, const struct vm_image *image,
	       bool resume, struct err *e);
int vm_resume(struct sandbox *s, struct err *e);
int vm_reset(struct sandbox *s, struct err *e);

/**
 * vm_checkpoint_begin() - Take a checkpoint; its files are written when this has returned
 *
 * Waits for one that is being written. Returns when the guest runs again, or stays
 * paused. After success vm_checkpoint_wait() is due.
 */
int vm_checkpoint_begin(struct sandbox *s, const struct vm_checkpoint *c, struct err *e);
/**
 * vm_checkpoint_wait() - Until the checkpoint @name is durable, or has failed
 *
 * Any thread, without locks. Return: 0; -EIO and why; -ECANCELED when the daemon stops
 */
int vm_checkpoint_wait(struct sandbox *s, const char *name, uint64_t *ram_bytes,
		       uint64_t *disk_bytes, struct err *e);
/* Until none is being written. */
void vm_checkpoints_settle(struct sandbox *s);
#define CHECKPOINT_WRITE_MS 600000

/**
 * vm_rollback() - Put another image into the running machine
 *
 * Between sandbox_change_begin() and _end(), so that nobody's request is cut short. The guest
 * is frozen then: guest_renew() is due, and sandbox_set_ready(). Commands that the image does not
 * know end when they are attached to again.
 *
 * Return: 0; -errno: the VM may have ended, see sandbox_find()
 */
int vm_rollback(struct sandbox *s, const struct vm_image *image, struct err *e);

/* For vm.c. */
void vm_on_checkpoint(struct sandbox *s, json_t *event);
void vm_checkpoints_fail(struct sandbox *s);
void vm_waits_free(struct sandbox *s);

/* guest.c: what its agent is asked to do around checkpoints and restores. */

/* A connection from the pool, tried for as long as a boot may take. agent_pool_put() */
int guest_reach(struct sandbox *s, struct agent_conn **conn, struct err *e);
/* @sync: and what files hold is on the disk. For 10 s at most: then the guest thaws itself. */
int guest_freeze(struct sandbox *s, bool sync, struct err *e);
int guest_thaw(struct sandbox *s, struct err *e);
/* After a boot, restore or rollback: identity, clock, size of the disk; then processes thaw. */
int guest_renew(struct sandbox *s, struct err *e);

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
/* Nothing is listed any more. */
void sessions_unlist(struct sandbox *s);
/* The daemon stops: and nothing is to be attached to any more. */
void sessions_drop(struct sandbox *s);
/* Attach detached ones again, or end them, whichever is due; on a thread of its own. */
void sessions_kick(struct sandbox *s);
/* Readers are to come back later: what they read from goes to sleep, or back in time. */
void sessions_cut(struct sandbox *s);
/* Wake those who wait for results. */
void sessions_interrupt(struct sandbox *s);

#endif
