/* SPDX-License-Identifier: Apache-2.0 */
/* What the threads of the pager share; see ram_pager.h. */
#ifndef SNAPSHOT_RAM_PAGER_INT_H
#define SNAPSHOT_RAM_PAGER_INT_H

#include <pthread.h>

#include "snapshot/ram_pager.h"

enum chunk_state { CHUNK_EMPTY, CHUNK_LOADING, CHUNK_LOADED, CHUNK_BAD };

struct ram_pager {
	struct cold_image image; /* owned */
	uint8_t *ram;		 /* borrowed */
	char *order_path;	 /* owned; NULL: none */
	int uffd, stop_fd;	 /* owned */
	unsigned int depth, calm_ms;
	bool no_uring;
	void (*over)(void *opaque, bool failed);
	void *opaque; /* borrowed */
	uint64_t start_ns;

	uint8_t *state; /* owned; enum chunk_state of each chunk, atomic */

	pthread_mutex_t lock;	/* guards what follows */
	pthread_cond_t changed; /* a chunk left CHUNK_LOADING, or anything below changed */
	struct ram_pager_progress now;
	uint32_t *order; /* owned; chunks in the order in which they were waited for */
	bool hurry;	 /* somebody waits for all of it */
	bool stopping;

	uint32_t *plan; /* owned; what was recorded at an earlier wake; the prefetcher's */
	uint32_t plan_n;

	pthread_mutex_t need_lock; /* guards need_codec; taken before lock */
	struct cold_codec *need_codec, *fault_codec, *prefetch_codec; /* owned */

	pthread_t fault_thread, prefetch_thread;
	bool faulting, prefetching; /* these threads exist */
};

static inline enum chunk_state pager_chunk(const struct ram_pager *p, uint32_t chunk)
{
	return __atomic_load_n(&p->state[chunk], __ATOMIC_ACQUIRE);
}

/* Is this chunk the caller's to load? */
static inline bool pager_claim(struct ram_pager *p, uint32_t chunk)
{
	uint8_t empty = CHUNK_EMPTY;

	return __atomic_compare_exchange_n(&p->state[chunk], &empty, CHUNK_LOADING, false,
					   __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/**
 * pager_load() - Load a chunk that the caller has claimed
 * @stored:	Its stored bytes; NULL: they are read here
 *
 * Return: 0; -EIO: the pager has failed now
 */
int pager_load(struct ram_pager *p, uint32_t chunk, const void *stored, struct cold_codec *k);

/* Somebody waits for a chunk that he has claimed. */
void pager_note_fault(struct ram_pager *p, uint32_t chunk);

/* The pager fails, for a reason that is not one chunk's. */
void pager_fail(struct ram_pager *p, const struct err *e);

/* Every chunk is loaded: give the memory back to the kernel's own faults, record, tell. */
void pager_done(struct ram_pager *p);

bool pager_must_end(struct ram_pager *p);

/* The thread that streams; ram_prefetch.c. */
void *prefetch_main(void *pager);

#endif
