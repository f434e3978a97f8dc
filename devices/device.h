/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The devices of one VM, as the VMM sees them.
 *
 * Theory of operation
 *
 * devices_create() makes all devices from a list, in the order of the list: the
 * device with index i owns the i-th DEVICE_MMIO_BYTES of the virtio-mmio window.
 * The VMM decides where that window is and which interrupt each device has.
 *
 * Threads: one lock, the one of the loop, guards every device. The VMM takes it
 * around every function below (vCPU threads: around each access); handlers that
 * the loop calls run under it already. No function blocks on the guest, on a
 * client or on the console. Only devices_quiesce(), devices_reset(),
 * devices_destroy() and a reset of the disk by its driver wait, for disk I/O.
 *
 * Exits. Three things keep the number of exits to user space low; the VMM should
 * set up all three, and everything also works without them:
 *   - notify: an ioeventfd per queue at DEVICE_MMIO_NOTIFY, 4 bytes, datamatch =
 *     the queue's index, on device_notify_fd(). The loop serves it.
 *   - register page: all reads of registers are loads from a page that the device
 *     keeps up to date. devices_register_pages() returns these pages, which
 *     can be mapped read-only into the guest at the start of the window (a memory
 *     slot with KVM_MEM_READONLY): then reads do not exit, only writes do.
 *   - interrupt acknowledge: the "used buffer" bit of InterruptStatus stays set
 *     once it has been set, as interrupts are edges and a driver looks at its rings
 *     on every one. So acknowledging it alone (value 1) changes nothing, and can be
 *     swallowed in the kernel by an ioeventfd at DEVICE_MMIO_ACK, 4 bytes, datamatch
 *     1, on devices_ack_fd(), which nobody reads. Other values must exit.
 *
 * Interrupts: a device writes 1 to device_irq_fd() for each edge. Bind it with
 * KVM_IRQFD (edge-triggered).
 */
#ifndef DEVICES_DEVICE_H
#define DEVICES_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "devices/disk.h"
#include "devices/guest_mem.h"
#include "lib/err.h"
#include "lib/loop.h"
#include "lib/state.h"

#define DEVICE_MMIO_BYTES  0x1000u
#define DEVICE_MMIO_NOTIFY 0x50u /* QueueNotify */
#define DEVICE_MMIO_ACK	   0x64u /* InterruptACK */
#define DEVICES_MAX	   10

#define DEVICE_MEM_BLOCK     (2ull << 20)  /* what is plugged and unplugged at a time */
#define DEVICE_MEM_MAX_BYTES (64ull << 30) /* of a region */

/*
 * The order of a standard machine's devices on the bus. Kinds that came later come last: a state
 * that was saved without them is restored into a machine that has them.
 */
enum device_kind {
	DEVICE_BLK,
	DEVICE_VSOCK,
	DEVICE_RNG,
	DEVICE_BALLOON,
	DEVICE_MEM,
	DEVICE_NET,
	DEVICE_KINDS
};

/* What is behind a network device; it decides the features (docs/devices.md). */
enum net_backend {
	NET_USER, /* a SOCK_SEQPACKET socket to a program: frames of up to 64 KiB */
	NET_TAP	  /* a tap device with IFF_VNET_HDR: frames of an Ethernet, offloads of the host */
};
#define NET_MAC_BYTES 6u

struct device_config {
	enum device_kind kind;
	union {
		struct {
			/* Borrowed, outlives the device; NULL: device_set_disk() gives it one. */
			struct disk *disk;
			bool read_only;	    /* as is a disk that is read-only itself */
			const char *serial; /* up to 20 bytes (GET_ID), copied; may be NULL */
		} blk;
		struct {
			uint32_t guest_cid; /* 3 or more */
			/*
			 * Clients connect to this Unix socket and write "CONNECT <port>\n".
			 * A guest's connection to host port P goes to "<uds_path>_<P>".
			 * Copied. The socket exists from devices_create() on; clients that
			 * come before the guest's driver wait. NULL: device_set_vsock() says
			 * it and the context id.
			 */
			const char *uds_path;
			/*
			 * A guest's request to connect to port knock_port of the host calls
			 * this, under the lock, and is then refused. NULL: none.
			 */
			void (*on_knock)(void *opaque);
			void *opaque; /* borrowed */
			uint32_t knock_port;
		} vsock;
		struct {
			uint32_t target_pages; /* of 4 KiB, to be given up at start */
		} balloon;
		struct {
			/* Its region, of which nothing is memory yet: multiples of a block. */
			uint64_t gpa, region_bytes;
			/* Called when the guest has plugged or unplugged; or NULL. */
			void (*changed)(void *opaque);
			void *opaque; /* borrowed */
		} mem;
		struct {
			enum net_backend backend;
			uint8_t mac[NET_MAC_BYTES];
			/*
			 * Called under the lock when a frame of the guest waits for a backend: once
			 * until device_net_attach() or device_net_detach(), and at most once a
			 * second. May be NULL.
			 */
			void (*on_wanted)(void *opaque);
			void *opaque; /* borrowed */
		} net;
	};
};

struct devices_env {
	const struct guest_mem *mem; /* borrowed; regions may be added until the first vCPU runs */
	struct loop *loop;	     /* borrowed; its lock is the device lock */
};

struct device_stats {
	uint64_t notifies;   /* queue notifications handled */
	uint64_t interrupts; /* edges sent */
	uint64_t requests;   /* descriptor chains handled */
	uint64_t errors;     /* requests that failed for reasons of the host */
	uint64_t broken;     /* times that DEVICE_NEEDS_RESET was set */
	uint64_t in_bytes;   /* to the guest */
	uint64_t out_bytes;  /* from the guest */
};

struct device;
struct devices;

/**
 * devices_create() - Make the devices of a VM and put them into the loop
 * @configs:	Array of @n entries; index = place on the bus. Only borrowed during the call
 * @e:		Which device and why
 *
 * Return: 0 or -errno
 */
int devices_create(struct devices **out, const struct devices_env *env,
		   const struct device_config *configs, unsigned int n, struct err *e);

/* Waits for disk I/O, closes all connections. NULL is allowed. */
void devices_destroy(struct devices *ds);

/**
 * devices_reset() - Power-on state for all devices: for a reset of the VM
 *
 * No vCPU may run. Waits for disk I/O in flight; closes the connections of vsock
 * clients. The listening socket and the disk stay.
 */
void devices_reset(struct devices *ds);

/**
 * devices_quiesce() - Wait until no device has I/O in flight
 *
 * No vCPU may run (else it starts new I/O). On return all completions are in the
 * guest's rings and no thread or kernel touches guest memory for the devices.
 * Requests that the guest queued and nobody took yet stay in its rings. This holds
 * until the lock is released: then clients of vsock, and notifications that were sent
 * before, may set devices to work again.
 */
void devices_quiesce(struct devices *ds);

/**
 * devices_state() - Save or restore the state of all devices, without the disks' content
 *
 * No vCPU may run. To save, devices_quiesce() comes first, under the same lock: a device with
 * requests in flight is refused. To restore, the devices must have been made from the same list, or
 * from one with newer kinds behind it; they are reset first, and after a failure again. What is
 * restored is checked like a guest's input. Connections of vsock are not part of the state: see
 * devices_post_restore().
 *
 * Return: 0, or the failure of @io
 */
int devices_state(struct devices *ds, struct state_io *io);

/**
 * devices_post_restore() - A guest is about to go on with a restored state
 *
 * Guest memory is what it was when the state was saved, and interrupts reach the guest. Queues and
 * interrupts are looked at again, as notifications may have been on their way; vsock
 * tells the guest that all connections are gone, and takes clients; a disk that has
 * grown says so.
 */
void devices_post_restore(struct devices *ds);

unsigned int devices_count(const struct devices *ds);
struct device *devices_get(struct devices *ds, unsigned int index);
/* The first device of a kind, or NULL. */
struct device *devices_find(struct devices *ds, enum device_kind kind);

/* See "Exits" above. The memory lives until devices_destroy(). */
void *devices_register_pages(struct devices *ds, uint64_t *len_bytes);
int devices_ack_fd(struct devices *ds);

/* Borrowed descriptors, there until devices_destroy(). */
int device_notify_fd(struct device *d, unsigned int queue);
int device_irq_fd(struct device *d);
unsigned int device_queue_count(const struct device *d);
const char *device_name(const struct device *d);
const struct device_stats *device_stats(const struct device *d);
/* DRIVER_OK and not broken: queues may be worked on. */
bool device_active(const struct device *d);

/**
 * device_set_disk() - Give a block device its disk, in place of the one it had
 * @disk:	Borrowed, outlives the device or the next call; NULL: none, to be set before a guest
 *		runs again
 *
 * No vCPU runs and nothing is in flight. The device is at power-on afterwards: for a guest that
 * is about to be restored, or to boot.
 */
void device_set_disk(struct device *d, struct disk *disk, bool read_only);

/**
 * device_set_vsock() - Say where the clients of a vsock device come from
 * @uds_path:	As in the config
 *
 * Once, for a device that was made without; no vCPU runs. Return: 0 or -errno
 */
int device_set_vsock(struct device *d, uint32_t guest_cid, const char *uds_path, struct err *e);

/**
 * device_mmio_read() - A guest's load from a device's registers
 * @offset:	From the start of the device's DEVICE_MMIO_BYTES
 * @data:	Set to @len_bytes bytes, whatever the access: what is no register reads as 0
 *
 * Any offset and length are harmless.
 */
void device_mmio_read(struct device *d, uint64_t offset, void *data, unsigned int len_bytes);

/* A guest's store; any offset and length are harmless, what is no register is ignored. */
void device_mmio_write(struct device *d, uint64_t offset, const void *data, unsigned int len_bytes);

/**
 * device_balloon_set_target() - Ask the guest to give up memory
 * @pages:	Of 4 KiB; 0 gives everything back
 */
void device_balloon_set_target(struct device *d, uint32_t pages);
/* What the guest says it has given up, in pages of 4 KiB. */
uint32_t device_balloon_actual(const struct device *d);

struct device_mem_info {
	uint64_t region_bytes, usable_bytes, requested_bytes, plugged_bytes;
	bool has_driver; /* the guest's driver works */
};

/* That much of the region, from its start, is memory: there before the call. Whole blocks. */
void device_mem_set_usable(struct device *d, uint64_t bytes);
/* The guest is to have plugged that much, at most what is usable. Whole blocks. */
void device_mem_request(struct device *d, uint64_t bytes);
void device_mem_get(const struct device *d, struct device_mem_info *out);
/* Is the block of the region plugged that begins at this offset? */
bool device_mem_is_plugged(const struct device *d, uint64_t offset_bytes);

/**
 * device_net_attach() - Give a network device its backend, in place of the one it had
 * @kind:	Must be the one that the device was made for
 * @fd:		read() and write() move one frame each, with a struct virtio_net_hdr_v1 before it;
 *		read() of a socket may give several (lib/net_message.h).
 *		Taken over, also on failure. It is made non-blocking
 *
 * A backend that ends is taken away, as by device_net_detach().
 *
 * Return: 0, or -EINVAL if @fd is nothing of that kind
 */
int device_net_attach(struct device *d, enum net_backend kind, int fd, struct err *e);

/* Frames wait for another one, as far as there is room, and ask for it (on_wanted). */
void device_net_detach(struct device *d);

/* Limits of one direction; 0: none. */
struct net_limit {
	uint64_t bytes_per_s, frames_per_s;
};

/**
 * device_net_limit() - Limit what goes through a network device
 * @in:		To the guest. @out: from it
 *
 * What is beyond a limit waits: the guest's in its queue, the backend's in its own. Bursts of a
 * tenth of a second pass. The limits hold until they are changed, also beyond a reset.
 */
void device_net_limit(struct device *d, const struct net_limit *in, const struct net_limit *out);

struct net_info {
	enum net_backend backend;
	bool attached;
	bool wanted; /* a frame waits for a backend, and has asked for it */
	uint32_t mtu;
	struct net_limit in, out;
	uint64_t in_frames, out_frames, in_bytes, out_bytes; /* without virtio's headers */
	uint64_t in_dropped, out_dropped;		     /* frames */
};

void device_net_info(const struct device *d, struct net_info *out);

#endif
