/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of a disk of layers share: requests, flushing, sealing. */
#ifndef SNAPSHOT_LAYERS_PRIV_H
#define SNAPSHOT_LAYERS_PRIV_H

#include <pthread.h>

#include "snapshot/aio.h"
#include "snapshot/chain.h"
#include "snapshot/disk_layers.h"

/* One round of flushing, for all requests that had come when it began. */
struct flush_round {
	struct aio_op sync;
	enum { ROUND_DATA, ROUND_MAP, ROUND_DIR } phase;
	struct disk_req *reqs;
	unsigned int link;    /* of the chain: the layer that is being made durable */
	unsigned int pending; /* writes of the map */
	int result;
	uint32_t n;
	uint32_t *sectors;	     /* owned, as the next three */
	struct layer_sector *copies; /* n each */
	struct aio_op *ops;
	struct iovec *iov;
	bool running;
};

/* The sealing of what a switch left below the writable layer. */
struct seal_job {
	bool running, threaded, closing;
	bool cancel; /* read by the thread */
	struct disk_req flush;
	unsigned int link; /* of the chain: the layer that is being sealed */
	struct layer_header h;
	pthread_t thread;
	int result; /* the thread's */
	struct err e;
	int event_fd; /* owned; written when the next step is due, also by the thread */
	struct loop_source source;
	void (*sealed)(void *opaque, int result);
	void *opaque;
};

struct layers_disk {
	struct disk disk;
	struct aio aio;
	struct chain chain;
	struct layer *top;   /* the chain's last, if it is writable; else NULL */
	char *later_path;    /* owned: of top, which is not open yet; else NULL */
	char *later_base;    /* owned: of the base, if it is not open yet either */
	struct layer *next;  /* owned: what disk_layers_prepare() has made; or NULL */
	unsigned int writes; /* in flight */
	struct disk_req *deferred, **deferred_end;
	struct disk_req *flushes; /* that wait for the next round */
	struct flush_round round;
	struct seal_job seal;
	struct loop *loop; /* borrowed */
	int (*fault)(void *opaque, const char *point);
	void *fault_opaque;
};

static inline struct layers_disk *layers_of(struct disk *disk)
{
	return container_of(disk, struct layers_disk, disk);
}

/* 0, or what the test wants to happen at @point. */
static inline int layers_fault(struct layers_disk *d, const char *point)
{
	return d->fault ? d->fault(d->fault_opaque, point) : 0;
}

static inline void layers_start_op(struct layers_disk *d, struct aio_op *op, const char *point)
{
	int rc = layers_fault(d, point);

	if (rc < 0)
		op->done(op, rc);
	else
		aio_submit(&d->aio, op);
}

/* layers_io.c: reads, writes, discards. */
void layers_read(struct layers_disk *d, struct disk_req *r);
void layers_write(struct layers_disk *d, struct disk_req *r);

/* layers_flush.c */
void layers_flush(struct layers_disk *d, struct disk_req *r);

/* layers_sealing.c */
void layers_seal_init(struct layers_disk *d);
/* Begin, in the loop, to seal what is writable below the top. Return: 0 or -errno. */
int layers_seal_start(struct layers_disk *d, void (*sealed)(void *opaque, int result), void *opaque,
		      struct err *e);
/* No sealing after: a running one reports -ECANCELED. */
void layers_seal_stop(struct layers_disk *d);

#endif
