/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest RAM out of a cold image: loaded when it is touched, and in the background.
 *
 * Theory of operation
 *
 * The machine runs at once, over memory that is registered with userfaultfd. One thread
 * answers its faults: it reads the chunk of the page, checks it, and puts all of it in place
 * before anybody who waits for a page of it goes on. A second thread streams the rest
 * through io_uring: first what the machine wanted at its last wake, in that order, then
 * everything. When all is in, the memory is registered no more and both threads end: nothing
 * of this is left.
 *
 * If there is no record of a wake yet (ram_order.h), the second thread waits until the machine
 * has calmed down, so that the faults tell what it needs first; that is then recorded.
 *
 * A chunk goes from EMPTY to LOADING, by whoever claims it, to LOADED. Pages of zeros are not put
 * in place: a fault on one in a chunk that is loaded gets a page of zeros, and so does one on a
 * page that was given back to the host (guest_mem_discard()).
 *
 * A chunk that cannot be read, or is damaged, fails the pager. Nobody ever sees anything in
 * its place: it becomes inaccessible, so that KVM_RUN and system calls on it give EFAULT and
 * ram_pager_need() says -EIO. The machine cannot go on, and its owner ends it. The
 * threads of the process must reach RAM through guest_mem's functions alone, which ask
 * ram_pager_need() first: a direct access would be a SIGSEGV.
 *
 * fork(): the child sees zeros where nothing was loaded. So whoever copies the memory by
 * fork() calls ram_pager_finish() before.
 */
#ifndef SNAPSHOT_RAM_PAGER_H
#define SNAPSHOT_RAM_PAGER_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/err.h"
#include "snapshot/cold_image.h"

struct ram_pager;

enum ram_pager_mode {
	RAM_PAGER_FAULT, /* as above; as RAM_PAGER_EAGER if userfaultfd is not allowed */
	RAM_PAGER_EAGER, /* everything is loaded before ram_pager_start() returns */
};

struct ram_pager_config {
	const char *path;	  /* of the cold image */
	struct cold_image *image; /* already open, taken over; NULL: @path is opened */
	const uint8_t *image_id;  /* the image's, COLD_IMAGE_ID_BYTES; NULL: not compared */
	/* Private, anonymous, never touched or cleared; its size is the image's. Outlives us. */
	void *ram;
	uint64_t ram_bytes;
	const char *order_path; /* the record of faults; NULL: none is read or written */
	enum ram_pager_mode mode;
	int uffd;	      /* from uffd_open(), taken over; -1: it is opened here */
	unsigned int depth;   /* reads at once through io_uring; 0: the default */
	unsigned int calm_ms; /* without a fault: the machine is calm; 0: the default */
	bool no_uring;	      /* plain reads */
	/*
	 * The pager is done or has failed; from a thread of it, or one that needs memory; once. It
	 * must not call us. Whoever waits for memory that has failed waits until it returns.
	 */
	void (*over)(void *opaque, bool failed);
	void *opaque; /* borrowed */
};

/**
 * ram_pager_start() - Begin; the machine may run over the memory when this returns
 *
 * Return: 0; as cold_open(); -EINVAL for an image of another id or size; -EIO: damaged, found
 *	   by an eager load; or -errno. The memory is then partly filled and not registered
 */
int ram_pager_start(struct ram_pager **out, const struct ram_pager_config *c, struct err *e);

/**
 * ram_pager_finish() - Load everything now, with this thread's help
 *
 * Return: 0 when nothing is missing, -EIO if the pager has failed
 */
int ram_pager_finish(struct ram_pager *p, struct err *e);

/**
 * ram_pager_need() - Make memory accessible to this thread; any number may call
 * @at:		Within the memory
 *
 * Return: 0; -EIO if part of it can never be loaded
 */
int ram_pager_need(struct ram_pager *p, const void *at, uint64_t len_bytes);

/**
 * ram_pager_stop() - End the threads and release everything; NULL is fine
 *
 * Nobody may wait for a fault: the vCPUs are stopped. What was not loaded by
 * then reads as zero, so the memory must be cleared or given up, unless the pager was done.
 */
void ram_pager_stop(struct ram_pager *p);

enum ram_pager_state { RAM_PAGER_LOADING, RAM_PAGER_DONE, RAM_PAGER_FAILED };

struct ram_pager_progress {
	enum ram_pager_state state;
	bool on_fault;	   /* false: everything was loaded before the start returned */
	uint32_t chunks;   /* that hold anything */
	uint32_t loaded;   /* of them */
	uint32_t faults;   /* chunks that somebody had to wait for */
	uint32_t recorded; /* chunks of the record that was used; 0: there was none */
	uint64_t total_bytes, loaded_bytes;
	uint64_t done_us; /* from start to the last chunk; 0: not yet */
	struct err error; /* of RAM_PAGER_FAILED */
};
void ram_pager_progress(struct ram_pager *p, struct ram_pager_progress *out);

#endif
