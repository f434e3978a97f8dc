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

static void rng_notify(struct device *d, unsigned int queue)
{
	struct virtq *q = &d->queues[queue].q;
	struct virtq_chain c;
	enum virtq_status s;
	uint8_t bytes[RNG_MAX_BYTES];

	do {
		while ((s = virtq_pop(q, &c)) == VIRTQ_OK) {
			uint32_t len = c.in_bytes < sizeof(bytes) ? (uint32_t)c.in_bytes
								  : (uint32_t)sizeof(bytes);
			ssize_t got = getrandom(bytes, len, GRND_NONBLOCK);

			if (c.n_out || !len) {
				device_break(d, "a request without a writable buffer");
				return;
			}
			/* Before the host's pool is ready there is nothing to give. */
			len = got < 0 ? 0 : (uint32_t)got;
			if (virtq_chain_write(q, &c, 0, bytes, len) < 0 ||
			    virtq_push(q, c.head, len) != VIRTQ_OK) {
				device_break(d, "the used ring");
				return;
			}
			d->stats.requests++;
			d->stats.in_bytes += len;
		}
	} while (s == VIRTQ_EMPTY && virtq_enable_notify(q));
	if (s == VIRTQ_BROKEN)
		device_break(d, "a malformed descriptor chain");
	device_signal_used(d, queue);
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
