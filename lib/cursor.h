/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bounds-checked little-endian reading and writing of byte buffers.
 *
 * A cursor that runs out sets `failed` and stays failed: reads return 0, writes
 * do nothing. So a parser reads all its fields and checks once, at the end.
 * Cursors borrow their buffer.
 */
#ifndef LIB_CURSOR_H
#define LIB_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct reader {
	const uint8_t *data; /* borrowed */
	size_t len, pos;
	bool failed;
};

struct writer {
	uint8_t *data; /* borrowed */
	size_t cap, pos;
	bool failed;
};

struct reader reader_of(const void *data, size_t len);
uint8_t read_u8(struct reader *r);
uint16_t read_u16(struct reader *r);
uint32_t read_u32(struct reader *r);
uint64_t read_u64(struct reader *r);
/* Return a pointer into the buffer to the next @n bytes, or NULL and failed. */
const uint8_t *read_bytes(struct reader *r, size_t n);
size_t reader_left(const struct reader *r);

struct writer writer_of(void *data, size_t cap);
void write_u8(struct writer *w, uint8_t v);
void write_u16(struct writer *w, uint16_t v);
void write_u32(struct writer *w, uint32_t v);
void write_u64(struct writer *w, uint64_t v);
void write_bytes(struct writer *w, const void *src, size_t n);

#endif
