/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a virtio device implements, and what the transport does for it.
 *
 * Internal to devices/ (and its tests): the VMM uses device.h.
 */
#ifndef DEVICES_VIRTIO_H
#define DEVICES_VIRTIO_H

#include "devices/device.h"
#include "devices/virtq.h"

#define VIRTIO_F_INDIRECT_DESC (1ULL << 28)
#define VIRTIO_F_EVENT_IDX     (1ULL << 29)
#define VIRTIO_F_VERSION_1     (1ULL << 32)

#define VIRTIO_STATUS_ACKNOWLEDGE 1u
#define VIRTIO_STATUS_DRIVER	  2u
#define VIRTIO_STATUS_DRIVER_OK	  4u
#define VIRTIO_STATUS_FEATURES_OK 8u
#define VIRTIO_STATUS_NEEDS_RESET 64u
#define VIRTIO_STATUS_FAILED	  128u

#define VIRTIO_INT_USED	  1u
#define VIRTIO_INT_CONFIG 2u

#define DEVICE_MAX_QUEUES 4

struct device_ops {
	const char *name;
	uint32_t virtio_id;
	unsigned int n_queues;
	/* Sizes of the queues; powers of two, at most VIRTQ_MAX_SIZE. */
	uint16_t queue_max[DEVICE_MAX_QUEUES];
	/* Set features, config space (device_config_set()) and d->priv. */
	int (*init)(struct device *d, const struct device_config *c, struct err *e);
	/* Driver is ready, queues are started. May be NULL. */
	void (*activate)(struct device *d);
	/* Back to the state after init; waits for own I/O in flight. Queues are still as they were.
	 */
	void (*reset)(struct device *d);
	/* The machine is at power-on, not just the device; after reset(). May be NULL. */
	void (*power_on)(struct device *d);
	/* The driver put something into queue @q, or may have. Only called while active. */
	void (*queue_notify)(struct device *d, unsigned int q);
	/* The driver wrote config space, whose bytes are changed already. May be NULL. */
	void (*config_written)(struct device *d, uint32_t offset, uint32_t len_bytes);
	/* After return: no I/O in flight. May be NULL, for a device that never has any. */
	void (*quiesce)(struct device *d);
	/*
	 * Save or restore, after quiesce or reset, what is not in the queues and registers of the
	 * transport; what is restored is as suspect as what a guest says. Both may be NULL.
	 */
	void (*state)(struct device *d, struct state_io *io);
	/* The guest is about to go on with a restored state, in which the device is active. */
	void (*post_restore)(struct device *d);
	uint16_t state_version; /* of what state() saves; it must know older ones */
	/* States of machines that were saved before there was this kind: it is at power-on. */
	bool may_be_unsaved;
	/* Also after a failed init, with what that left. */
	void (*fini)(struct device *d);
};

extern const struct device_ops blk_ops, vsock_ops, rng_ops, balloon_ops, mem_ops, net_ops;

/* Every device, by kind: table.c. */
extern const struct device_ops *const device_table[DEVICE_KINDS];

struct device_queue {
	struct virtq q;
	struct virtq_geometry geo; /* as the driver writes it; latched into q at DRIVER_OK */
	bool ready;		   /* QueueReady */
	struct loop_source notify;
	int notify_fd;
	struct device *dev;
};

struct device {
	const struct device_ops *ops;
	enum device_kind kind;
	const struct guest_mem *mem; /* borrowed */
	struct loop *loop;	     /* borrowed */
	uint8_t *regs;		     /* register page; borrowed from struct devices */
	int irq_fd;
	struct device_stats stats;

	uint64_t features;	  /* offered; set by init */
	uint64_t features_once;	  /* offered by older versions: a saved driver may have them */
	uint64_t driver_features; /* accepted by the driver */
	uint32_t device_sel, driver_sel, queue_sel;
	uint32_t status;
	uint32_t config_bytes, config_generation;
	uint32_t config_writable_from, config_writable_to; /* what the driver may write */
	struct device_queue queues[DEVICE_MAX_QUEUES];

	void *priv; /* owned by the device: its ops make and free it */
};

static inline bool device_has(const struct device *d, uint64_t feature)
{
	return d->driver_features & feature;
}

/* Interrupt the driver if it wants to hear of what was pushed to queue @q: once per batch. Return:
 * whether it was. */
bool device_signal_used(struct device *d, unsigned int q);

/* Call queue_notify() for @q again soon, after others had a turn. */
void device_again(struct device *d, unsigned int q);

/**
 * device_break() - The driver broke the protocol: DEVICE_NEEDS_RESET (virtio 1.2, 2.1.2)
 * @why:	For the log, which is limited
 *
 * The device does nothing more until its driver resets it.
 */
void device_break(struct device *d, const char *why);

/**
 * device_serve_all() - Serve every chain that waits in a queue, at once
 * @serve:	Pushes the chain when it is done. Return: false if it is malformed, which breaks the
 * device
 *
 * For devices whose requests never wait. Counts the requests, and interrupts the driver in the end.
 */
void device_serve_all(struct device *d, unsigned int queue,
		      bool (*serve)(struct device *d, unsigned int queue,
				    const struct virtq_chain *c));

/* Set the device's part of config space, at init or reset: no interrupt. */
void device_config_init(struct device *d, const void *config, uint32_t len_bytes);
/* Change it later: new generation and an interrupt. */
void device_config_update(struct device *d, uint32_t offset, const void *data, uint32_t len_bytes);
void device_config_get(const struct device *d, uint32_t offset, void *data, uint32_t len_bytes);

/* The transport (virtio_mmio.c), for devices.c. */
void virtio_mmio_init(struct device *d);
void virtio_mmio_reset(struct device *d);
void virtio_mmio_state(struct device *d, struct state_io *io);
void virtio_mmio_post_restore(struct device *d);

#endif
