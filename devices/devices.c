/* SPDX-License-Identifier: Apache-2.0 */
/* The devices of one VM: making them, wiring them to the loop, resetting them all. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "devices/virtio.h"
#include "lib/fd.h"

#define TAG_DEVICES   STATE_TAG('D', 'E', 'V', 'S') /* how many there are */
#define TAG_TRANSPORT STATE_TAG('V', 'I', 'R', 'T') /* registers and queues of device i */
#define TAG_DEVICE    STATE_TAG('V', 'D', 'E', 'V') /* what else it has */

struct devices {
	unsigned int n;
	int ack_fd;
	uint8_t *pages; /* n register pages; owned */
	struct device dev[DEVICES_MAX];
};

/* An edge for each notification: what the descriptor counts is not read, and says nothing. */
static void queue_notified(struct loop_source *s, uint32_t events)
{
	struct device_queue *q = container_of(s, struct device_queue, notify);
	struct device *d = q->dev;

	(void)events;
	d->stats.notifies++;
	/* May be left over from before a reset. */
	if (device_active(d))
		d->ops->queue_notify(d, (unsigned int)(q - d->queues));
}

void device_again(struct device *d, unsigned int q)
{
	uint64_t one = 1;

	if (write(d->queues[q].notify_fd, &one, sizeof(one)) < 0)
		return;
}

static void device_fini(struct device *d)
{
	if (!d->ops)
		return;
	d->ops->fini(d);
	for (unsigned int i = 0; i < d->ops->n_queues; i++) {
		loop_remove(d->loop, &d->queues[i].notify);
		fd_close(&d->queues[i].notify_fd);
	}
	fd_close(&d->irq_fd);
	d->ops = NULL;
}

static int device_init(struct device *d, const struct devices_env *env,
		       const struct device_config *c, struct err *e)
{
	int rc;

	d->ops = device_table[c->kind];
	d->kind = c->kind;
	d->mem = env->mem;
	d->loop = env->loop;
	d->features = VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC;
	for (unsigned int i = 0; i < DEVICE_MAX_QUEUES; i++)
		d->queues[i].notify_fd = -1;
	d->irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (d->irq_fd < 0)
		return err_sys(e, -errno, "eventfd");
	for (unsigned int i = 0; i < d->ops->n_queues; i++) {
		struct device_queue *q = &d->queues[i];

		q->dev = d;
		q->notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (q->notify_fd < 0)
			return err_sys(e, -errno, "eventfd");
		rc = loop_add(env->loop, &q->notify, q->notify_fd, EPOLLIN | EPOLLET,
			      queue_notified);
		if (rc < 0)
			return err_sys(e, rc, "epoll");
	}
	rc = d->ops->init(d, c, e);
	if (rc < 0)
		return rc;
	virtio_mmio_init(d);
	return 0;
}

int devices_create(struct devices **out, const struct devices_env *env,
		   const struct device_config *configs, unsigned int n, struct err *e)
{
	struct devices *ds;
	int rc;

	*out = NULL;
	if (!n || n > DEVICES_MAX)
		return err_set(e, -EINVAL, "%u devices: 1 to %d are possible", n, DEVICES_MAX);
	ds = calloc(1, sizeof(*ds));
	if (!ds)
		return err_set(e, -ENOMEM, "out of memory");
	ds->n = n;
	ds->ack_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	/* Shared, so that a memory slot over it survives a fork of the process as it is. */
	ds->pages = mmap(NULL, (size_t)n * DEVICE_MMIO_BYTES, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (ds->ack_fd < 0 || ds->pages == MAP_FAILED) {
		rc = err_sys(e, -errno, "device registers");
		goto fail;
	}
	for (unsigned int i = 0; i < n; i++) {
		struct device *d = &ds->dev[i];

		if ((unsigned int)configs[i].kind >= DEVICE_KINDS ||
		    !device_table[configs[i].kind]) {
			rc = err_set(e, -EINVAL, "device %u: unknown kind", i);
			goto fail;
		}
		d->regs = ds->pages + (size_t)i * DEVICE_MMIO_BYTES;
		rc = device_init(d, env, &configs[i], e);
		if (rc < 0) {
			rc = err_wrap(e, rc, "device %u (%s)", i, d->ops->name);
			goto fail;
		}
	}
	*out = ds;
	return 0;
fail:
	devices_destroy(ds);
	return rc;
}

void devices_destroy(struct devices *ds)
{
	if (!ds)
		return;
	for (unsigned int i = 0; i < ds->n; i++)
		device_fini(&ds->dev[i]);
	if (ds->pages && ds->pages != MAP_FAILED)
		munmap(ds->pages, (size_t)ds->n * DEVICE_MMIO_BYTES);
	fd_close(&ds->ack_fd);
	free(ds);
}

void devices_reset(struct devices *ds)
{
	for (unsigned int i = 0; i < ds->n; i++) {
		struct device *d = &ds->dev[i];
		uint64_t edge;

		d->ops->reset(d);
		virtio_mmio_reset(d);
		if (d->ops->power_on)
			d->ops->power_on(d);
		/* An edge that nobody consumed yet belongs to the old life. */
		if (read(d->irq_fd, &edge, sizeof(edge)) < 0)
			continue;
	}
}

void devices_quiesce(struct devices *ds)
{
	for (unsigned int i = 0; i < ds->n; i++)
		if (ds->dev[i].ops->quiesce)
			ds->dev[i].ops->quiesce(&ds->dev[i]);
}

static void device_state(struct device *d, uint32_t i, struct state_io *io)
{
	if (state_begin(io, TAG_TRANSPORT, i, 1, STATE_MANDATORY)) {
		virtio_mmio_state(d, io);
		state_end(io);
	}
	if (d->ops->state &&
	    state_begin(io, TAG_DEVICE, i, d->ops->state_version, STATE_MANDATORY)) {
		d->ops->state(d, io);
		state_end(io);
	}
}

/* Devices that are newer than the saved machine are behind those that it had. */
static void count_state(const struct devices *ds, uint64_t *n, struct state_io *io)
{
	uint64_t least = ds->n;

	while (least && ds->dev[least - 1].ops->may_be_unsaved)
		least--;
	state_u64(io, n);
	if (state_ok(io) && (*n > ds->n || *n < least))
		state_fail(io, -EINVAL, "devices: %llu in the saved state, %u here",
			   (unsigned long long)*n, ds->n);
}

int devices_state(struct devices *ds, struct state_io *io)
{
	uint64_t n = ds->n;

	if (state_restoring(io))
		devices_reset(ds);
	if (state_begin(io, TAG_DEVICES, 0, 1, STATE_MANDATORY)) {
		count_state(ds, &n, io);
		state_end(io);
	}
	for (unsigned int i = 0; i < n && state_ok(io); i++)
		device_state(&ds->dev[i], i, io);
	if (state_restoring(io) && !state_ok(io))
		devices_reset(ds);
	return io->err.code;
}

void devices_post_restore(struct devices *ds)
{
	for (unsigned int i = 0; i < ds->n; i++) {
		struct device *d = &ds->dev[i];

		if (d->ops->post_restore && device_active(d))
			d->ops->post_restore(d);
		virtio_mmio_post_restore(d);
	}
}

unsigned int devices_count(const struct devices *ds)
{
	return ds->n;
}

struct device *devices_get(struct devices *ds, unsigned int index)
{
	return index < ds->n ? &ds->dev[index] : NULL;
}

struct device *devices_find(struct devices *ds, enum device_kind kind)
{
	for (unsigned int i = 0; i < ds->n; i++)
		if (ds->dev[i].kind == kind)
			return &ds->dev[i];
	return NULL;
}

void *devices_register_pages(struct devices *ds, uint64_t *len_bytes)
{
	*len_bytes = (uint64_t)ds->n * DEVICE_MMIO_BYTES;
	return ds->pages;
}

int devices_ack_fd(struct devices *ds)
{
	return ds->ack_fd;
}

int device_notify_fd(struct device *d, unsigned int queue)
{
	return queue < d->ops->n_queues ? d->queues[queue].notify_fd : -1;
}

int device_irq_fd(struct device *d)
{
	return d->irq_fd;
}

unsigned int device_queue_count(const struct device *d)
{
	return d->ops->n_queues;
}

const char *device_name(const struct device *d)
{
	return d->ops->name;
}

const struct device_stats *device_stats(const struct device *d)
{
	return &d->stats;
}
