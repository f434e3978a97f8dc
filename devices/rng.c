/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-entropy (virtio 1.2, 5.4): random bytes of the host. */
#include <sys/random.h>

#include "devices/virtio.h"

/* One request gets at most this; a driver asks again for more (5.4.6.1). */
#define RNG_MAX_BYTES 256u

static int rng_init(struct device *d, const struct device_config *c, struct err *e)
{
	(void)d, (void)c, (void)e;
	return 0;
}

static bool rng_serve(struct device *d, unsigned int queue, const struct virtq_chain *c)
{
	struct virtq *q = &d->queues[queue].q;
	uint8_t bytes[RNG_MAX_BYTES];
	uint32_t len =
	    c->in_bytes < sizeof(bytes) ? (uint32_t)c->in_bytes : (uint32_t)sizeof(bytes);
	ssize_t got = getrandom(bytes, len, GRND_NONBLOCK);

	if (c->n_out || !len)
		return false;
	/* Before the host's pool is ready there is nothing to give. */
	len = got < 0 ? 0 : (uint32_t)got;
	d->stats.in_bytes += len;
	return virtq_chain_write(q, c, 0, bytes, len) >= 0 &&
	       virtq_push(q, c->head, len) == VIRTQ_OK;
}

static void rng_notify(struct device *d, unsigned int queue)
{
	device_serve_all(d, queue, rng_serve);
}

/* Nothing outlives a notification. */
static void rng_nothing(struct device *d)
{
	(void)d;
}

const struct device_ops rng_ops = {
    .name = "rng",
    .virtio_id = 4,
    .n_queues = 1,
    .queue_max = {8},
    .init = rng_init,
    .reset = rng_nothing,
    .queue_notify = rng_notify,
    .fini = rng_nothing,
};
