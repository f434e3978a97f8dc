/* SPDX-License-Identifier: Apache-2.0 */
/* Bounds-checked byte cursors; see cursor.h. */
#include "lib/cursor.h"

#include <string.h>

struct reader reader_of(const void *data, size_t len)
{
	return (struct reader){.data = data, .len = len};
}

size_t reader_left(const struct reader *r)
{
	return r->failed ? 0 : r->len - r->pos;
}

const uint8_t *read_bytes(struct reader *r, size_t n)
{
	const uint8_t *p;

	if (r->failed || n > r->len - r->pos) {
		r->failed = true;
		return NULL;
	}
	p = r->data + r->pos;
	r->pos += n;
	return p;
}

static uint64_t read_le(struct reader *r, size_t n)
{
	const uint8_t *p = read_bytes(r, n);
	uint64_t v = 0;

	for (size_t i = 0; p && i < n; i++)
		v |= (uint64_t)p[i] << (8 * i);
	return v;
}

uint8_t read_u8(struct reader *r)
{
	return (uint8_t)read_le(r, 1);
}

uint16_t read_u16(struct reader *r)
{
	return (uint16_t)read_le(r, 2);
}

uint32_t read_u32(struct reader *r)
{
	return (uint32_t)read_le(r, 4);
}

uint64_t read_u64(struct reader *r)
{
	return read_le(r, 8);
}

struct writer writer_of(void *data, size_t cap)
{
	return (struct writer){.data = data, .cap = cap};
}

void write_bytes(struct writer *w, const void *src, size_t n)
{
	if (w->failed || n > w->cap - w->pos) {
		w->failed = true;
		return;
	}
	if (n)
		memcpy(w->data + w->pos, src, n);
	w->pos += n;
}

static void write_le(struct writer *w, uint64_t v, size_t n)
{
	uint8_t b[8];

	for (size_t i = 0; i < n; i++)
		b[i] = (uint8_t)(v >> (8 * i));
	write_bytes(w, b, n);
}

void write_u8(struct writer *w, uint8_t v)
{
	write_le(w, v, 1);
}

void write_u16(struct writer *w, uint16_t v)
{
	write_le(w, v, 2);
}

void write_u32(struct writer *w, uint32_t v)
{
	write_le(w, v, 4);
}

void write_u64(struct writer *w, uint64_t v)
{
	write_le(w, v, 8);
}
