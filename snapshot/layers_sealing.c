/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sealing in the background.
 *
 * Theory of operation
 *
 * A switch leaves a layer that never changes again. In the loop, after the machine runs
 * on, a FLUSH of our own makes it durable, with its map, and the entry of the new top
 * with it (a sealed layer cannot become the top again). Then a thread reads it and
 * writes its checksums: that takes as long as the layer is large, and would keep the
 * device lock from the vCPUs. The thread works on the file alone (layer_seal.h);
 * between switch and end nobody else writes that file. At the end, in the loop, the
 * lock becomes a shared one, so that other processes may open the layer.
 *
 * What an earlier sealing failed at is tried again by the next.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "snapshot/layer_seal.h"
#include "snapshot/layers_priv.h"

static void report(struct layers_disk *d, int result)
{
	struct seal_job *s = &d->seal;

	if (!s->running)
		return;
	s->running = false;
	loop_remove(d->loop, &s->source);
	fd_close(&s->event_fd);
	/* The last: it may switch again. */
	s->sealed(s->opaque, result);
}

static void *thread_main(void *opaque)
{
	struct layers_disk *d = opaque;
	struct seal_job *s = &d->seal;
	struct layer_seal_env env = {d->fault, d->fault_opaque, &s->cancel};
	const struct layer *l = d->chain.links[s->link].layer;
	uint64_t one = 1;

	s->result = layer_seal(l->fd, &s->h, l->path, &env, &s->e);
	if (write(s->event_fd, &one, sizeof(one)) < 0)
		log_error("layer %s: sealing: %s", l->path, strerror(errno));
	return NULL;
}

/* Signals are for the threads that expect them. */
static int start_thread(struct layers_disk *d)
{
	sigset_t all, before;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = -pthread_create(&d->seal.thread, NULL, thread_main, d);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	d->seal.threaded = rc == 0;
	return rc;
}

/* The oldest layer that is not sealed, or the end. */
static void next_layer(struct layers_disk *d)
{
	struct seal_job *s = &d->seal;
	struct layer *l = NULL;
	int rc;

	for (s->link = d->chain.n - 1; s->link > 0; s->link--) {
		struct layer *below = d->chain.links[s->link - 1].layer;

		if (!below || !below->writable)
			break;
		l = below;
	}
	if (!l) {
		report(d, 0);
		return;
	}
	s->h = l->h;
	rc = start_thread(d);
	if (rc < 0)
		report(d, rc);
}

static void thread_ended(struct layers_disk *d)
{
	struct seal_job *s = &d->seal;
	struct layer *l = d->chain.links[s->link].layer;
	int rc = s->result;

	pthread_join(s->thread, NULL);
	s->threaded = false;
	if (rc == 0)
		rc = layer_lock(l->fd, false);
	if (rc < 0) {
		if (rc != -ECANCELED)
			log_error("%s", s->result < 0 ? s->e.msg : "layer: lock");
		report(d, rc);
		return;
	}
	l->h = s->h;
	l->writable = false;
	next_layer(d);
}

static void flushed(struct disk_req *r, int result)
{
	struct layers_disk *d = container_of(r, struct layers_disk, seal.flush);

	if (d->seal.closing)
		result = -ECANCELED;
	if (result < 0)
		report(d, result);
	else
		next_layer(d);
}

static void due(struct loop_source *source, uint32_t events)
{
	struct layers_disk *d = container_of(source, struct layers_disk, seal.source);
	uint64_t count;

	(void)events;
	if (read(d->seal.event_fd, &count, sizeof(count)) < 0)
		return;
	if (d->seal.threaded) {
		thread_ended(d);
		return;
	}
	d->seal.flush = (struct disk_req){.op = DISK_FLUSH, .done = flushed};
	layers_flush(d, &d->seal.flush);
	aio_kick(&d->aio);
}

void layers_seal_init(struct layers_disk *d)
{
	d->seal.event_fd = -1;
}

int layers_seal_start(struct layers_disk *d, void (*sealed)(void *opaque, int result), void *opaque,
		      struct err *e)
{
	struct seal_job *s = &d->seal;
	int rc;

	*s = (struct seal_job){.sealed = sealed, .opaque = opaque};
	/* One: due at once, but not before the loop comes to it. */
	s->event_fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	rc = s->event_fd < 0 ? -errno : loop_add(d->loop, &s->source, s->event_fd, EPOLLIN, due);
	s->running = rc == 0;
	if (s->running)
		return 0;
	fd_close(&s->event_fd);
	return err_sys(e, rc, "disk: sealing cannot be started");
}

void layers_seal_stop(struct layers_disk *d)
{
	struct seal_job *s = &d->seal;

	if (!s->running)
		return;
	s->closing = true;
	__atomic_store_n(&s->cancel, true, __ATOMIC_RELEASE);
	/* One may have come to its end nevertheless, and another layer be next. */
	while (s->threaded)
		thread_ended(d);
	/* A FLUSH in flight reports it; one that has not begun does not begin. */
	aio_drain(&d->aio);
	report(d, -ECANCELED);
}
