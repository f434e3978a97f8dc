/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_disk.h"

#include <stdlib.h>
#include <string.h>

#include "lib/loop.h"

static void do_now(struct fake_disk *f, struct disk_req *r)
{
	uint8_t *at = f->bytes + r->offset_bytes;

	if (r->op != DISK_FLUSH &&
	    (r->offset_bytes > FAKE_DISK_BYTES || r->len_bytes > FAKE_DISK_BYTES - r->offset_bytes))
		abort(); /* the device must not let it through */
	if (!f->fail && r->op == DISK_FLUSH)
		f->flushes++;
	if (!f->fail && (r->op == DISK_DISCARD || r->op == DISK_WRITE_ZEROES))
		memset(at, 0, r->len_bytes);
	for (unsigned int i = 0; !f->fail && i < r->iov_n; i++) {
		if (r->op == DISK_READ)
			memcpy(r->iov[i].iov_base, at, r->iov[i].iov_len);
		else if (r->op == DISK_WRITE)
			memcpy(at, r->iov[i].iov_base, r->iov[i].iov_len);
		at += r->iov[i].iov_len;
	}
	r->done(r, f->fail);
}

static void submit(struct disk *d, struct disk_req *r)
{
	struct fake_disk *f = container_of(d, struct fake_disk, disk);

	if (!f->hold) {
		do_now(f, r);
		return;
	}
	r->next = f->first;
	f->first = r;
	f->held++;
}

static void kick(struct disk *d)
{
	container_of(d, struct fake_disk, disk)->kicks++;
}

static void drain(struct disk *d)
{
	fake_disk_release(container_of(d, struct fake_disk, disk));
}

static const struct disk_ops ops = {.submit = submit, .kick = kick, .drain = drain};

void fake_disk_init(struct fake_disk *f)
{
	memset(f, 0, sizeof(*f));
	f->disk.ops = &ops;
	f->disk.size_bytes = FAKE_DISK_BYTES;
	f->disk.block_bytes = 4096;
}

void fake_disk_release(struct fake_disk *f)
{
	while (f->first) {
		struct disk_req *r = f->first;

		f->first = r->next;
		f->held--;
		do_now(f, r);
	}
	if (f->disk.batch)
		f->disk.batch(f->disk.batch_opaque);
}
