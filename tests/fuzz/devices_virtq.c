/* SPDX-License-Identifier: Apache-2.0 */
/* A virtqueue whose rings, descriptors and indirect tables are the input. */
#include <stdlib.h>
#include <string.h>

#include "devices/virtq.h"
#include "lib/cursor.h"

#define RAM 0x8000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static _Alignas(4096) uint8_t ram[RAM];

static void use_chain(struct virtq *q, const struct virtq_chain *c)
{
	struct iovec iov[VIRTQ_MAX_CHAIN];
	uint64_t sum = 0;
	uint8_t buf[64];
	int n;

	if (c->n_out + c->n_in == 0 || c->n_out + c->n_in > VIRTQ_MAX_CHAIN)
		abort();
	n = virtq_chain_iov(q, c, true, 0, c->in_bytes, iov, VIRTQ_MAX_CHAIN);
	for (int i = 0; i < n; i++) {
		uint8_t *p = iov[i].iov_base;

		if (iov[i].iov_len && (p < ram || p + iov[i].iov_len > ram + RAM))
			abort();
		sum += iov[i].iov_len;
	}
	if (n >= 0 && sum != c->in_bytes)
		abort();
	if (virtq_chain_read(q, c, 1, buf, sizeof(buf)) == 0 && c->out_bytes < 1 + sizeof(buf))
		abort();
	virtq_chain_write(q, c, c->in_bytes / 2, buf, sizeof(buf));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct reader r = reader_of(data, size);
	struct virtq_geometry g = {.size = 1u << (read_u8(&r) % 10)};
	struct guest_mem mem = {0};
	uint8_t flags = read_u8(&r);
	struct virtq_chain c;
	struct virtq q;

	g.desc = read_u16(&r) & ~15u;
	g.avail = read_u16(&r) & ~1u;
	g.used = read_u16(&r) & ~3u;
	memset(ram, 0, sizeof(ram));
	memcpy(ram, data + r.pos, reader_left(&r) < RAM ? reader_left(&r) : RAM);
	/* A hole in the middle. */
	if (guest_mem_add(&mem, 0, ram, RAM / 2) < 0 ||
	    guest_mem_add(&mem, RAM / 2 + 0x1000, ram + RAM / 2, RAM / 2) < 0)
		abort();
	if (virtq_start(&q, &mem, &g, 256, flags & 1, flags & 2) < 0)
		return 0;
	for (int i = 0; i < 300; i++) {
		enum virtq_status s = virtq_pop(&q, &c);

		if (s != VIRTQ_OK)
			break;
		use_chain(&q, &c);
		if (flags & 4)
			continue;
		virtq_push(&q, c.head, i);
		virtq_needs_interrupt(&q);
		virtq_enable_notify(&q);
	}
	return 0;
}
