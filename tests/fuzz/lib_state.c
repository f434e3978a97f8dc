/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reader of saved machine states against any stream.
 *
 * Input: a byte that chooses raw bytes or sections; then either the stream itself,
 * or sections as {tag, instance, version, flags, length, payload} that get valid
 * headers and checksums, so that the fuzzer need not find them.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/cursor.h"
#include "lib/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What the reader knows: tags 0 and 1, with fields chosen by the instance. */
static void use(struct state_io *io)
{
	uint8_t bytes[64] = {0};

	for (uint32_t i = 0; i < 4; i++) {
		uint32_t v = i, n = 0;
		uint64_t w = 0;
		bool b = false;

		if (!state_begin(io, i & 1, i >> 1, 3, i & 1))
			continue;
		state_u32(io, &v);
		if (state_version(io) > 1)
			state_bool(io, &b);
		state_count(io, &n, sizeof(bytes), "bytes");
		state_bytes(io, bytes, n);
		if (n > sizeof(bytes))
			abort();
		while (i == 3 && state_left(io) >= sizeof(w))
			state_u64(io, &w);
		state_end(io);
	}
	state_finish(io, NULL);
}

static void build(struct state_io *out, struct reader *r)
{
	state_save_init(out);
	while (reader_left(r)) {
		uint32_t tag = read_u8(r), instance = read_u8(r);
		uint16_t version = read_u8(r) % 5, flags = read_u8(r) % 3;
		size_t len = read_u8(r);
		const uint8_t *p;

		if (len > reader_left(r))
			len = reader_left(r);
		p = read_bytes(r, len);
		if (!state_begin(out, tag, instance, version, flags))
			break;
		if (p)
			state_bytes(out, (void *)(uintptr_t)p, len);
		state_end(out);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct reader r = reader_of(data, size);
	struct state_io in, out = {0};

	if (read_u8(&r) & 1) {
		build(&out, &r);
		/* A tag that was there twice, or too many: nothing to read. */
		if (state_finish(&out, NULL) == 0 &&
		    state_restore_init(&in, out.data, out.len, NULL) == 0)
			use(&in);
		state_fini(&out);
		return 0;
	}
	if (state_restore_init(&in, data + r.pos, size - r.pos, NULL) == 0)
		use(&in);
	state_fini(&in);
	return 0;
}
