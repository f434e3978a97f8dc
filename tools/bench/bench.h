/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dormouse-bench: what time travel costs the host.
 *
 * Theory of operation
 *
 * Real dormouse-vmm processes are driven over their control sockets, as a server does. The guest is
 * tests/guests/bench.S: it fills memory, so that images are not holes, and then either waits
 * to be forked, or dirties memory from user mode, which runs on the processor on every
 * machine. So these are times of the host's side, for real, also where no Linux guest boots.
 *
 * What is measured in the VMM's process is what the VMM itself reports: pause_us,
 * rollback_us, restore_us, and to_first_exit_us, which is from the arrival of the request to the
 * first exit of the guest. Where a process has to be made first, the clock is ours.
 */
#ifndef TOOLS_BENCH_BENCH_H
#define TOOLS_BENCH_BENCH_H

#include <jansson.h>
#include <stdbool.h>

#include "lib/err.h"
#include "tools/bench/stats.h"
#include "tools/bench/vmm.h"

struct bench {
	/* options */
	const char *vmm, *guests, *json_path;
	bool linux_guest, realtime, no_jail;
	char *kernel, *image; /* of the Linux guest */
	int samples, forks, memory_mib, fill_mib;
	/* state */
	char dir[100];		/* scratch, ours, removed at the end */
	struct vmm_spawn spawn; /* program and jail of every VMM; borrows from here */
	const char *readable[4], *writable[2];
	json_t *series; /* array: what was measured */
	json_t *facts;	/* object: what is told beside it */
	unsigned int next_dir;
};

/* The sizes that promises are made for. */
#define DIRTY_SMALL_MIB 8
#define DIRTY_LARGE_MIB 64
#define CHAIN_DEPTH	32

/* Print a series, keep it in the results, free its samples. Return: 0 or -errno. */
int bench_add(struct bench *b, struct series *s, struct err *e);
/* A new empty directory. Return: 0 or -errno. */
int bench_make_dir(struct bench *b, char *out, size_t len, struct err *e);
/* Remove a directory of files, with what is in it. */
void bench_remove_dir(const char *dir);

/* A machine at an instant: what a restore needs. */
struct scene {
	char dir[160];
	char state[200], ram[200];
	json_t *layers; /* owned array of paths, oldest first */
};

/**
 * scene_make() - Boot a guest, let it come to rest, take a checkpoint of it, end it
 * @dirty_mib:	0: a guest that waits to be forked; else one that dirties so much
 * @hibernate:	As for a hibernation: it ends with the checkpoint, its disk keeps its layer
 */
int scene_make(struct bench *b, int dirty_mib, bool hibernate, struct scene *s, struct err *e);
/* The checkpoint alone, of a machine that works in @s->dir. The machine stays paused. */
int scene_save(struct scene *s, struct vmm *v, bool hibernate, struct err *e);
/* The writable layer of a hibernation belongs to it: a copy of it for @v. */
int scene_bring_overlay(const struct scene *s, const struct vmm *v, struct err *e);
/* Remove its files. A struct of zeros is fine. */
void scene_fini(struct scene *s);

/* The disks of a machine on @layers whose writable layer is @overlay. */
json_t *scene_disks(const struct bench *b, json_t *layers, const char *overlay);
/* The request that makes @v the machine of @s, with its own overlay in v->dir. */
json_t *scene_restore_request(const struct bench *b, const struct scene *s, const struct vmm *v);
/* A shell that can become it. */
json_t *scene_prepare_request(const struct bench *b, const struct vmm *v);

/* A new process in a directory of its own, connected. */
int machine_start(struct bench *b, struct vmm *v, struct err *e);
/* The process ends, its directory goes. */
void machine_end(struct vmm *v);
/* machine_start(), then restore @s, then wait until the guest has dirtied all it dirties. */
int machine_restore(struct bench *b, const struct scene *s, struct vmm *v, struct err *e);

/* Microseconds from the restore request to the guest's first exit; waits for that exit. */
int machine_first_exit(struct vmm *v, double *us, struct err *e);
/* Wait until the guest has gone through @rounds whole rounds. */
int machine_wait_rounds(struct vmm *v, int rounds, struct err *e);
/* A checkpoint into @s->dir under the number @n, with a new layer; waits until it is durable. */
int machine_checkpoint(struct bench *b, struct vmm *v, struct scene *s, unsigned int n,
		       double *pause_us, struct err *e);

/* What each subcommand measures. Return: 0 or -errno. */
int bench_fork(struct bench *b, struct err *e);
int bench_checkpoint(struct bench *b, struct err *e);
int bench_rollback(struct bench *b, struct err *e);
int bench_wake(struct bench *b, struct err *e);
int bench_depth(struct bench *b, struct err *e);
int bench_memory(struct bench *b, struct err *e);
/* All of --linux. */
int bench_linux(struct bench *b, struct err *e);

/* The machine and the backend, as an object. */
json_t *bench_machine(void);

#endif
