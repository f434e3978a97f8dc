/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-blk (virtio 1.2, 5.2) on a disk backend (disk.h).
 *
 * Theory of operation
 *
 * A request is a chain: header (readable), data, one status byte (the last
 * writable one). Header and segment descriptions are copied and checked; data goes
 * straight between the backend and guest memory. Any number of requests is in
 * flight, at most the queue's size; each is a struct blk_req until its completion
 * writes the status and returns the chain.
 *
 * What is wrong with a request alone (sector out of range, unknown type) is
 * answered in its status. What leaves no place for a status breaks the device.
 *
 * A driver without VIRTIO_BLK_F_FLUSH believes in a write-through disk (5.2.6.2): for
 * it, each write is followed by a flush before it completes.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "devices/virtio.h"
#include "lib/log.h"

#define F_SIZE_MAX     (1ULL << 1)
#define F_SEG_MAX      (1ULL << 2)
#define F_RO	       (1ULL << 5)
#define F_BLK_SIZE     (1ULL << 6)
#define F_FLUSH	       (1ULL << 9)
#define F_TOPOLOGY     (1ULL << 10)
#define F_DISCARD      (1ULL << 13)
#define F_WRITE_ZEROES (1ULL << 14)

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };

#define SECTOR	      512u
#define QUEUE_SIZE    128
#define SEGMENT_BYTES (1u << 20)
#define REQUEST_BYTES (64u << 20) /* longer ones are refused: no driver makes them */
#define RANGE_SECTORS (1u << 22)  /* of one discard: 2 GiB */
#define ID_BYTES      20
#define UNMAP	      1u
#define CHAINS_A_TURN 64 /* then others get the lock */
#define NOTHING_TO_DO 1	 /* prepare(): the request is complete as it is */

struct blk_config {
	uint64_t capacity;
	uint32_t size_max, seg_max;
	uint8_t geometry[4];
	uint32_t blk_size;
	uint8_t physical_block_exp, alignment_offset;
	uint16_t min_io_size;
	uint32_t opt_io_size;
	uint8_t writeback, unused0;
	uint16_t num_queues;
	uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
	uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
	uint8_t write_zeroes_may_unmap, unused1[3];
};
_Static_assert(sizeof(struct blk_config) == 64, "60 bytes (5.2.4) and the padding of capacity");
_Static_assert(offsetof(struct blk_config, write_zeroes_may_unmap) == 56, "virtio 1.2, 5.2.4");

struct blk_header {
	uint32_t type, reserved;
	uint64_t sector;
};
_Static_assert(sizeof(struct blk_header) == 16, "virtio 1.2, 5.2.6");

struct blk_range {
	uint64_t sector;
	uint32_t num_sectors, flags;
};
_Static_assert(sizeof(struct blk_range) == 16, "virtio 1.2, 5.2.6");

struct blk {
	struct device *dev; /* borrowed, owns us */
	struct disk *disk;  /* borrowed, outlives us; NULL: none yet */
	bool read_only;
	unsigned int in_flight;
	bool in_turn; /* inside blk_notify(): the interrupt is sent at its end */
	char id[ID_BYTES];
};

struct blk_req {
	struct disk_req disk;
	struct blk *blk;
	uint64_t status_gpa;
	uint32_t in_bytes; /* written to the guest if all goes well, without the status */
	uint16_t head;
	struct iovec iov[];
};

static void complete(struct blk *b, uint16_t head, uint64_t status_gpa, uint32_t in_bytes,
		     uint8_t status)
{
	struct device *d = b->dev;
	struct virtq *q = &d->queues[0].q;

	d->stats.requests++;
	if (!device_active(d))
		return;
	/* The status byte follows the data: the length says that both were written. */
	if (guest_mem_write(d->mem, status_gpa, &status, 1) < 0 ||
	    virtq_push(q, head, in_bytes + 1) != VIRTQ_OK)
		device_break(d, "the used ring or a status byte");
}

static uint8_t status_of(struct device *d, const struct disk_req *r, int result)
{
	static const char *const names[] = {"read", "write", "flush", "discard", "write zeroes"};

	if (result == 0)
		return S_OK;
	d->stats.errors++;
	log_guest("blk: %s of %llu bytes at %llu: %s", names[r->op],
		  (unsigned long long)r->len_bytes, (unsigned long long)r->offset_bytes,
		  strerror(-result));
	return result == -EOPNOTSUPP ? S_UNSUPP : S_IOERR;
}

static void disk_done(struct disk_req *r, int result)
{
	struct blk_req *req = container_of(r, struct blk_req, disk);
	struct blk *b = req->blk;
	struct device *d = b->dev;

	if (result == 0 && !device_has(d, F_FLUSH) && r->op != DISK_READ && r->op != DISK_FLUSH) {
		r->op = DISK_FLUSH;
		b->disk->ops->submit(b->disk, r);
		b->disk->ops->kick(b->disk);
		return;
	}
	if (r->op == DISK_READ && result == 0)
		d->stats.in_bytes += r->len_bytes;
	if (r->op == DISK_WRITE && result == 0)
		d->stats.out_bytes += r->len_bytes;
	complete(b, req->head, req->status_gpa, result ? 0 : req->in_bytes,
		 status_of(d, r, result));
	b->in_flight--;
	free(req);
}

/* The backend delivered a batch of completions. */
static void disk_batch(void *opaque)
{
	struct blk *b = opaque;

	if (!b->in_turn)
		device_signal_used(b->dev, 0);
}

static bool in_range(const struct blk *b, uint64_t sector, uint64_t len_bytes)
{
	uint64_t sectors = b->disk->size_bytes / SECTOR;

	return len_bytes % SECTOR == 0 && sector <= sectors &&
	       len_bytes / SECTOR <= sectors - sector;
}

static int prepare_range(struct blk *b, const struct virtq_chain *c, uint32_t type,
			 struct disk_req *r)
{
	struct blk_range range;

	if (b->read_only)
		return -EROFS;
	/* max_*_seg is 1. */
	if (c->out_bytes != sizeof(struct blk_header) + sizeof(range) ||
	    virtq_chain_read(&b->dev->queues[0].q, c, sizeof(struct blk_header), &range,
			     sizeof(range)) < 0)
		return -EINVAL;
	if (range.flags & ~(type == T_WRITE_ZEROES ? UNMAP : 0u))
		return -EOPNOTSUPP;
	if (range.num_sectors > RANGE_SECTORS ||
	    !in_range(b, range.sector, (uint64_t)range.num_sectors * SECTOR))
		return -EINVAL;
	r->op = type == T_DISCARD ? DISK_DISCARD : DISK_WRITE_ZEROES;
	r->offset_bytes = range.sector * SECTOR;
	r->len_bytes = (uint64_t)range.num_sectors * SECTOR;
	return r->len_bytes ? 0 : NOTHING_TO_DO;
}

static int prepare_rw(struct blk *b, const struct virtq_chain *c, const struct blk_header *h,
		      struct disk_req *r)
{
	bool in = h->type == T_IN;
	uint64_t len = in ? c->in_bytes - 1 : c->out_bytes - sizeof(*h);
	int n;

	if (!in && b->read_only)
		return -EROFS;
	if (len > REQUEST_BYTES || !in_range(b, h->sector, len))
		return -EINVAL;
	r->op = in ? DISK_READ : DISK_WRITE;
	r->offset_bytes = h->sector * SECTOR;
	r->len_bytes = len;
	if (!len)
		return NOTHING_TO_DO;
	n = virtq_chain_iov(&b->dev->queues[0].q, c, in, in ? 0 : sizeof(*h), len, r->iov,
			    VIRTQ_MAX_CHAIN + GUEST_MEM_MAX_REGIONS);
	if (n < 0)
		return n;
	r->iov_n = (unsigned int)n;
	return 0;
}

static int get_id(struct blk *b, const struct virtq_chain *c, struct disk_req *r)
{
	uint32_t len = c->in_bytes - 1 < ID_BYTES ? (uint32_t)c->in_bytes - 1 : ID_BYTES;

	if (virtq_chain_write(&b->dev->queues[0].q, c, 0, b->id, len) < 0)
		return -EFAULT;
	r->len_bytes = len;
	return NOTHING_TO_DO;
}

/**
 * prepare() - Turn a chain into a request to the backend
 * @r:		With iov set to an array for the data
 *
 * Return: 0, NOTHING_TO_DO, or -errno for the status
 */
static int prepare(struct blk *b, const struct virtq_chain *c, struct disk_req *r)
{
	struct blk_header h;

	if (virtq_chain_read(&b->dev->queues[0].q, c, 0, &h, sizeof(h)) < 0)
		return -EINVAL;
	switch (h.type) {
	case T_IN:
	case T_OUT:
		return prepare_rw(b, c, &h, r);
	case T_FLUSH:
		r->op = DISK_FLUSH;
		return 0;
	case T_GET_ID:
		return get_id(b, c, r);
	case T_DISCARD:
	case T_WRITE_ZEROES:
		return prepare_range(b, c, h.type, r);
	default:
		return -EOPNOTSUPP;
	}
}

/* Return: 0, or -EINVAL if the chain has no place for a status. */
static int handle(struct blk *b, const struct virtq_chain *c)
{
	struct iovec iov[VIRTQ_MAX_CHAIN + GUEST_MEM_MAX_REGIONS];
	struct disk_req r = {.iov = iov, .done = disk_done};
	const struct virtq_buf *last = &c->bufs[c->n_out + c->n_in - 1];
	uint64_t status_gpa;
	struct blk_req *req;
	int rc;

	if (c->out_bytes < sizeof(struct blk_header) || !c->n_in || !last->len_bytes)
		return -EINVAL;
	status_gpa = last->gpa + last->len_bytes - 1;
	rc = prepare(b, c, &r);
	req = rc == 0 ? malloc(sizeof(*req) + r.iov_n * sizeof(iov[0])) : NULL;
	if (rc == 0 && !req)
		rc = -ENOMEM;
	if (rc) {
		uint32_t in_bytes = rc == NOTHING_TO_DO ? (uint32_t)r.len_bytes : 0;
		uint8_t status = S_OK;

		if (rc < 0)
			status = rc == -EOPNOTSUPP ? S_UNSUPP : S_IOERR;
		complete(b, c->head, status_gpa, in_bytes, status);
		return 0;
	}
	*req = (struct blk_req){.disk = r, .blk = b, .status_gpa = status_gpa, .head = c->head};
	req->in_bytes = r.op == DISK_READ ? (uint32_t)r.len_bytes : 0;
	memcpy(req->iov, iov, r.iov_n * sizeof(iov[0]));
	req->disk.iov = req->iov;
	b->in_flight++;
	b->disk->ops->submit(b->disk, &req->disk);
	return 0;
}

static void blk_notify(struct device *d, unsigned int queue)
{
	struct blk *b = d->priv;
	struct virtq *q = &d->queues[queue].q;
	enum virtq_status s = VIRTQ_EMPTY;
	unsigned int turns = 0;
	struct virtq_chain c;

	b->in_turn = true;
	virtq_disable_notify(q);
	do {
		while (turns < CHAINS_A_TURN && (s = virtq_pop(q, &c)) == VIRTQ_OK) {
			turns++;
			if (handle(b, &c) < 0) {
				device_break(d, "a request without header or status");
				break;
			}
		}
	} while (turns < CHAINS_A_TURN && device_active(d) && s == VIRTQ_EMPTY &&
		 virtq_enable_notify(q));
	if (s == VIRTQ_BROKEN)
		device_break(d, "a malformed descriptor chain");
	else if (turns == CHAINS_A_TURN)
		device_again(d, queue);
	b->disk->ops->kick(b->disk);
	b->in_turn = false;
	device_signal_used(d, queue);
}

/* What a driver is told of the disk; without one, of an empty one. */
static void show_disk(struct device *d)
{
	struct blk *b = d->priv;
	uint32_t block_bytes = b->disk ? b->disk->block_bytes : SECTOR;
	struct blk_config config = {
	    .capacity = b->disk ? b->disk->size_bytes / SECTOR : 0,
	    .size_max = SEGMENT_BYTES,
	    .seg_max = VIRTQ_MAX_CHAIN - 2,
	    .blk_size = SECTOR,
	    .min_io_size = (uint16_t)(block_bytes / SECTOR),
	    .max_discard_sectors = RANGE_SECTORS,
	    .max_discard_seg = 1,
	    .discard_sector_alignment = block_bytes / SECTOR,
	    .max_write_zeroes_sectors = RANGE_SECTORS,
	    .max_write_zeroes_seg = 1,
	    .write_zeroes_may_unmap = 1,
	};

	/* Physical blocks: what the backend writes without reading. */
	config.physical_block_exp = (uint8_t)__builtin_ctz(block_bytes / SECTOR);
	d->features &= ~(F_RO | F_DISCARD | F_WRITE_ZEROES);
	d->features |= F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY;
	d->features |= b->read_only ? F_RO : F_DISCARD | F_WRITE_ZEROES;
	device_config_init(d, &config, sizeof(config));
}

static void set_disk(struct blk *b, struct disk *disk, bool read_only)
{
	if (b->disk)
		b->disk->batch = NULL;
	b->disk = disk;
	b->read_only = read_only || (disk && disk->read_only);
	if (!disk)
		return;
	disk->batch = disk_batch;
	disk->batch_opaque = b;
}

void device_set_disk(struct device *d, struct disk *disk, bool read_only)
{
	set_disk(d->priv, disk, read_only);
	show_disk(d);
	virtio_mmio_reset(d);
}

static int blk_init(struct device *d, const struct device_config *c, struct err *e)
{
	struct blk *b = calloc(1, sizeof(*b));

	if (!b)
		return err_set(e, -ENOMEM, "out of memory");
	d->priv = b;
	b->dev = d;
	if (c->blk.serial)
		memcpy(b->id, c->blk.serial, strnlen(c->blk.serial, sizeof(b->id)));
	set_disk(b, c->blk.disk, c->blk.read_only);
	show_disk(d);
	return 0;
}

/* Requests in flight reach into guest memory. */
static void blk_quiesce(struct device *d)
{
	struct blk *b = d->priv;

	if (b->in_flight)
		b->disk->ops->drain(b->disk);
}

static void set_capacity(struct device *d, uint64_t sectors)
{
	struct blk_config config;

	device_config_get(d, 0, &config, sizeof(config));
	config.capacity = sectors;
	device_config_init(d, &config, sizeof(config));
}

static void blk_reset(struct device *d)
{
	struct blk *b = d->priv;

	blk_quiesce(d);
	if (b->disk)
		set_capacity(d, b->disk->size_bytes / SECTOR);
}

static uint64_t shown_capacity(struct device *d)
{
	struct blk_config config;

	device_config_get(d, 0, &config, sizeof(config));
	return config.capacity;
}

/* A disk may have grown since, as disks do in forks: the driver hears of it afterwards. */
static void blk_state(struct device *d, struct state_io *io)
{
	struct blk *b = d->priv;
	uint64_t capacity = shown_capacity(d), sectors = b->disk->size_bytes / SECTOR;
	uint32_t heads = b->in_flight;

	state_expect(io, b->read_only, "disk is read-only");
	state_u64(io, &capacity);
	/* Quiesce has waited for all. A later version may save them to be submitted again. */
	state_count(io, &heads, 0, "requests in flight");
	if (!state_ok(io) || !state_restoring(io))
		return;
	if (capacity > sectors)
		state_fail(io, -EINVAL, "a disk of %llu sectors, which has %llu here",
			   (unsigned long long)capacity, (unsigned long long)sectors);
	else
		set_capacity(d, capacity);
}

static void blk_post_restore(struct device *d)
{
	struct blk *b = d->priv;
	uint64_t sectors = b->disk->size_bytes / SECTOR;

	if (shown_capacity(d) != sectors)
		device_config_update(d, offsetof(struct blk_config, capacity), &sectors,
				     sizeof(sectors));
}

static void blk_fini(struct device *d)
{
	if (!d->priv)
		return;
	blk_quiesce(d);
	set_disk(d->priv, NULL, true);
	free(d->priv);
	d->priv = NULL;
}

const struct device_ops blk_ops = {
    .name = "blk",
    .virtio_id = 2,
    .n_queues = 1,
    .queue_max = {QUEUE_SIZE},
    .init = blk_init,
    .reset = blk_reset,
    .queue_notify = blk_notify,
    .quiesce = blk_quiesce,
    .state = blk_state,
    .post_restore = blk_post_restore,
    .state_version = 1,
    .fini = blk_fini,
};
