/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-balloon (virtio 1.2, 5.5): memory that the guest gives back.
 *
 * Theory of operation
 *
 * Free page reporting is what matters: the guest tells of free pages by itself,
 * and we drop them from the host. The classic balloon (inflate, deflate, a target
 * in config space) makes a guest smaller than it was booted. It is not deflated when
 * the guest is out of memory: it is the guest's size, and the guest shows it as such. Older
 * versions offered that, and drivers that were saved with them still do it. Statistics and
 * free page hints are not offered: each queue costs exits at boot.
 *
 * The queue of free page reporting is number 2 here: queues that are not
 * offered take no number (5.5.2).
 */
#include <errno.h>
#include <stddef.h>
#include <unistd.h>

#include "devices/virtio.h"
#include "lib/log.h"

#define F_DEFLATE_ON_OOM (1ULL << 2)
#define F_REPORTING	 (1ULL << 5)

#define PFN_SHIFT 12
/* The page numbers of one inflate or deflate request that are taken at a time. */
#define PFN_BATCH 256

enum { INFLATE, DEFLATE, REPORTING, N_QUEUES };

struct balloon_config {
	uint32_t num_pages, actual;
};
_Static_assert(sizeof(struct balloon_config) == 8, "virtio 1.2, 5.5.4");

static int balloon_init(struct device *d, const struct device_config *c, struct err *e)
{
	struct balloon_config config = {.num_pages = c->balloon.target_pages};

	(void)e;
	d->features |= F_REPORTING;
	d->features_once |= F_DEFLATE_ON_OOM;
	device_config_init(d, &config, sizeof(config));
	d->config_writable_from = offsetof(struct balloon_config, actual);
	d->config_writable_to = sizeof(config);
	return 0;
}

static void balloon_reset(struct device *d)
{
	struct balloon_config config;

	device_config_get(d, 0, &config, sizeof(config));
	config.actual = 0;
	device_config_init(d, &config, sizeof(config));
}

/* Drop what is RAM; a guest that names something else has only hurt itself. */
static void discard(struct device *d, uint64_t gpa, uint64_t len)
{
	int rc = guest_mem_discard(d->mem, gpa, len);

	if (rc < 0)
		log_guest("balloon: range %#llx + %#llx not dropped: error %d",
			  (unsigned long long)gpa, (unsigned long long)len, -rc);
}

/* The readable part is an array of page numbers; neighbours are dropped together. */
static int inflate(struct device *d, const struct virtq *q, const struct virtq_chain *c)
{
	uint32_t pfns[PFN_BATCH];
	uint64_t first = 0, n = 0;

	if (c->n_in || c->out_bytes % sizeof(pfns[0]) || c->out_bytes > 1 << 20)
		return -EINVAL;
	for (uint64_t off = 0; off < c->out_bytes;) {
		uint64_t left = c->out_bytes - off;
		uint32_t len = left < sizeof(pfns) ? (uint32_t)left : (uint32_t)sizeof(pfns);

		if (virtq_chain_read(q, c, off, pfns, len) < 0)
			return -EFAULT;
		for (uint32_t i = 0; i < len / sizeof(pfns[0]); i++) {
			if (n && pfns[i] == first + n) {
				n++;
				continue;
			}
			if (n)
				discard(d, first << PFN_SHIFT, n << PFN_SHIFT);
			first = pfns[i];
			n = 1;
		}
		off += len;
	}
	if (n)
		discard(d, first << PFN_SHIFT, n << PFN_SHIFT);
	return 0;
}

/* The writable buffers are the free pages themselves (5.5.6.7). */
static int report(struct device *d, const struct virtq_chain *c)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	if (c->n_out)
		return -EINVAL;
	for (unsigned int i = 0; i < c->n_in; i++) {
		const struct virtq_buf *b = &c->bufs[i];

		if (b->gpa % page || b->len_bytes % page)
			return -EINVAL;
		if (b->len_bytes)
			discard(d, b->gpa, b->len_bytes);
	}
	return 0;
}

static bool serve(struct device *d, unsigned int queue, const struct virtq_chain *c)
{
	struct virtq *q = &d->queues[queue].q;
	int rc = 0;

	if (queue == INFLATE)
		rc = inflate(d, q, c);
	else if (queue == REPORTING)
		rc = report(d, c);
	/* Deflate: the pages come back by being touched. */
	return rc >= 0 && virtq_push(q, c->head, 0) == VIRTQ_OK;
}

static void balloon_notify(struct device *d, unsigned int queue)
{
	device_serve_all(d, queue, serve);
}

void device_balloon_set_target(struct device *d, uint32_t pages)
{
	struct balloon_config config;

	device_config_get(d, 0, &config, sizeof(config));
	if (config.num_pages != pages)
		device_config_update(d, offsetof(struct balloon_config, num_pages), &pages,
				     sizeof(pages));
}

uint32_t device_balloon_actual(const struct device *d)
{
	uint32_t actual;

	device_config_get(d, offsetof(struct balloon_config, actual), &actual, sizeof(actual));
	return actual;
}

static void balloon_state(struct device *d, struct state_io *io)
{
	struct balloon_config config;

	device_config_get(d, 0, &config, sizeof(config));
	state_u32(io, &config.num_pages);
	state_u32(io, &config.actual);
	if (state_ok(io))
		device_config_init(d, &config, sizeof(config));
}

static void balloon_fini(struct device *d)
{
	(void)d;
}

const struct device_ops balloon_ops = {
    .name = "balloon",
    .virtio_id = 5,
    .n_queues = N_QUEUES,
    .queue_max = {128, 128, 32},
    .init = balloon_init,
    .reset = balloon_reset,
    .queue_notify = balloon_notify,
    .state = balloon_state,
    .state_version = 1,
    .fini = balloon_fini,
};
