/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "lib/state.h"

#define TAG_A STATE_TAG('A', 'A', 'A', 'A')
#define TAG_B STATE_TAG('B', 'B', 'B', 'B')

struct thing {
	uint8_t a;
	uint16_t b;
	uint32_t c;
	uint64_t d;
	bool e;
	char text[5];
};

static const struct thing some = {1, 0x203, 0x4050607, 0x8090a0b0c0d0e0f, true, "abcd"};

static void thing_state(struct thing *t, struct state_io *io, uint32_t instance)
{
	if (!state_begin(io, TAG_A, instance, 1, STATE_MANDATORY))
		return;
	state_u8(io, &t->a);
	state_u16(io, &t->b);
	state_u32(io, &t->c);
	state_u64(io, &t->d);
	state_bool(io, &t->e);
	state_bytes(io, t->text, sizeof(t->text));
	state_expect(io, 77, "answers");
	state_end(io);
}

/* Two things; owned by the caller. */
static uint8_t *saved(size_t *len)
{
	struct thing t = some;
	struct state_io io;
	struct err e;

	state_save_init(&io);
	thing_state(&t, &io, 0);
	t.c = 5;
	thing_state(&t, &io, 1);
	cr_assert_eq(state_finish(&io, &e), 0, "%s", e.msg);
	*len = io.len;
	return io.data;
}

static int restore(const void *data, size_t len, struct thing *t, struct err *e)
{
	struct state_io io;
	int rc = state_restore_init(&io, data, len, e);

	if (!rc) {
		thing_state(&t[0], &io, 0);
		thing_state(&t[1], &io, 1);
		rc = state_finish(&io, e);
	}
	state_fini(&io);
	return rc;
}

/* Make the checksums of a stream of one section right again. */
static void mend(uint8_t *data, size_t len)
{
	uint32_t n, crc;

	memcpy(&n, data + 16 + 12, 4);
	crc = (uint32_t)crc32(0, data + 16, 16);
	crc = (uint32_t)crc32(crc, data + 36, n);
	memcpy(data + 16 + 16, &crc, 4);
	crc = (uint32_t)crc32(0, data, (uInt)(len - 28));
	memcpy(data + len - 4, &crc, 4);
	crc = (uint32_t)crc32(0, data + len - 28, 16);
	crc = (uint32_t)crc32(crc, data + len - 8, 8);
	memcpy(data + len - 12, &crc, 4);
}

/* One section AAAA 0 with a u32. */
static uint8_t *one(size_t *len, uint16_t version, uint16_t flags)
{
	struct state_io io;
	uint32_t v = 3;

	state_save_init(&io);
	cr_assert(state_begin(&io, TAG_A, 0, version, flags));
	state_u32(&io, &v);
	state_end(&io);
	cr_assert_eq(state_finish(&io, NULL), 0);
	*len = io.len;
	return io.data;
}

Test(state, what_is_saved_is_restored_and_saved_the_same_again)
{
	struct thing t[2] = {0};
	struct state_io again;
	struct err e;
	size_t len;
	uint8_t *data = saved(&len);

	cr_assert_eq(restore(data, len, t, &e), 0, "%s", e.msg);
	cr_expect_eq(t[0].a, some.a);
	cr_expect_eq(t[0].b, some.b);
	cr_expect_eq(t[0].c, some.c);
	cr_expect_eq(t[0].d, some.d);
	cr_expect_eq(t[0].e, true);
	cr_expect_str_eq(t[0].text, "abcd");
	cr_expect_eq(t[1].c, 5);
	state_save_init(&again);
	thing_state(&t[0], &again, 0);
	thing_state(&t[1], &again, 1);
	cr_assert_eq(state_finish(&again, NULL), 0);
	cr_assert_eq(again.len, len);
	cr_expect_arr_eq(again.data, data, len);
	state_fini(&again);
	free(data);
}

Test(state, its_layout_is_the_documented_one)
{
	static const uint8_t want[] = {
	    'D', 'O', 'R', 'M', 'S', 'T', 'A', 'T', 1, 0, 0, 0, 68, 0, 0, 0, /* header */
	    'A', 'A', 'A', 'A', 0,   0,	  0,   0,   2, 0, 1, 0, 4,  0, 0, 0, /* section */
	};
	size_t len;
	uint8_t *data = one(&len, 2, STATE_MANDATORY);

	cr_assert_eq(len, 68);
	cr_expect_arr_eq(data, want, sizeof(want));
	cr_expect_arr_eq(data + 36, "\3\0\0\0END.", 8);
	free(data);
}

Test(state, truncated_at_any_byte_it_is_refused)
{
	struct thing t[2] = {0};
	struct err e;
	size_t len;
	uint8_t *data = saved(&len);

	for (size_t n = 0; n < len; n++) {
		/* A copy of that size, so that a read past its end is seen. */
		uint8_t *cut = malloc(n ? n : 1);

		memcpy(cut, data, n);
		cr_assert_eq(restore(cut, n, t, &e), -EINVAL, "at %zu", n);
		free(cut);
	}
	cr_expect_eq(t[0].a, 0, "nothing was restored");
	cr_expect_eq(restore(data, 40, t, &e), -EINVAL);
	cr_expect(strstr(e.msg, "truncated: 40 of"), "%s", e.msg);
	free(data);
}

Test(state, with_any_bit_flipped_it_is_refused_and_nothing_restored)
{
	struct thing t[2] = {0};
	struct err e;
	size_t len;
	uint8_t *data = saved(&len);

	for (size_t bit = 0; bit < 8 * len; bit++) {
		data[bit / 8] ^= (uint8_t)(1u << bit % 8);
		cr_assert_lt(restore(data, len, t, &e), 0, "bit %zu", bit);
		data[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	cr_expect_eq(t[0].a, 0, "nothing was restored");
	cr_expect_eq(restore(data, len, t, &e), 0);
	free(data);
}

struct damage {
	size_t at;
	uint8_t value;
	bool mend;
	int rc;
	const char *why;
};

Test(state, damages_are_named)
{
	static const struct damage table[] = {
	    {0, 'X', true, -EINVAL, "this is no saved machine state"},
	    {8, 2, true, -ENOTSUP, "saved in format 2; this program knows format 1 only"},
	    {12, 69, true, -EINVAL, "truncated: 68 of 69 bytes"},
	    {12, 67, true, -EINVAL, "1 bytes follow its end"},
	    {16, 'Z', false, -EINVAL, "damaged: checksum of section ZAAA 0 at byte 16"},
	    {16, 7, false, -EINVAL, "damaged: checksum of section 0x41414107 0 at byte 16"},
	    {24, 3, true, -ENOTSUP, "section AAAA 0 has version 3; this program knows up to 2"},
	    {24, 0, true, -ENOTSUP, "section AAAA 0 has version 0; this program knows up to 2"},
	    {26, 3, true, -ENOTSUP, "section AAAA 0 has unknown flags 0x2"},
	    {29, 1, false, -EINVAL, "damaged: the section at byte 16 is too long"},
	    {36, 4, false, -EINVAL, "damaged: checksum of section AAAA 0 at byte 16"},
	    {16, 'C', true, -EINVAL, "section AAAA 0 is missing"},
	    {60, 2, true, -EINVAL, "damaged: 1 of 2 sections"},
	    {40, 'F', true, -EINVAL, "damaged: the section at byte 68 is too long"},
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		const struct damage *d = &table[i];
		struct state_io io;
		struct err e = {0};
		uint32_t v = 0;
		size_t len;
		uint8_t *data = one(&len, 2, STATE_MANDATORY);
		int rc;

		data[d->at] = d->value;
		if (d->mend)
			mend(data, len);
		rc = state_restore_init(&io, data, len, &e);
		if (!rc) {
			if (state_begin(&io, TAG_A, 0, 2, STATE_MANDATORY)) {
				state_u32(&io, &v);
				state_end(&io);
			}
			rc = state_finish(&io, &e);
		}
		cr_expect_eq(rc, d->rc, "%zu: %d", i, rc);
		cr_expect_str_eq(e.msg, d->why, "%zu: %s", i, e.msg);
		cr_expect_eq(v, 0);
		state_fini(&io);
		free(data);
	}
}

Test(state, an_unknown_section_is_skipped_if_optional_and_refused_if_mandatory)
{
	static const uint16_t flags[] = {STATE_OPTIONAL, STATE_MANDATORY};

	for (int i = 0; i < 2; i++) {
		struct state_io io;
		struct err e;
		size_t len;
		uint8_t *data = one(&len, 1, flags[i]);

		cr_assert_eq(state_restore_init(&io, data, len, &e), 0);
		cr_expect_not(state_begin(&io, TAG_B, 0, 1, STATE_OPTIONAL), "is not there");
		cr_expect(state_ok(&io));
		if (flags[i] == STATE_OPTIONAL) {
			cr_expect_eq(state_finish(&io, &e), 0);
			cr_expect_eq(io.skipped, 1);
		} else {
			cr_expect_eq(state_finish(&io, &e), -ENOTSUP);
			cr_expect_str_eq(
			    e.msg, "section AAAA 0 (version 1) is mandatory, and unknown here");
		}
		state_fini(&io);
		free(data);
	}
}

Test(state, a_section_that_is_read_too_far_or_not_to_its_end_is_refused)
{
	struct state_io io;
	struct err e;
	size_t len;
	uint8_t *data = one(&len, 1, STATE_MANDATORY);
	uint64_t wide = 9;
	uint16_t narrow = 9;

	cr_assert_eq(state_restore_init(&io, data, len, &e), 0);
	cr_assert(state_begin(&io, TAG_A, 0, 1, STATE_MANDATORY));
	state_u64(&io, &wide);
	state_end(&io);
	cr_expect_eq(state_finish(&io, &e), -EINVAL);
	cr_expect_str_eq(e.msg, "section AAAA 0: it ends too early");
	cr_expect_eq(wide, 9, "left as it was");

	cr_assert_eq(state_restore_init(&io, data, len, &e), 0);
	cr_assert(state_begin(&io, TAG_A, 0, 1, STATE_MANDATORY));
	state_u16(&io, &narrow);
	state_end(&io);
	cr_expect_eq(state_finish(&io, &e), -EINVAL);
	cr_expect_str_eq(e.msg, "section AAAA 0: 2 bytes too long");
	free(data);
}

Test(state, an_older_section_can_be_told_from_a_newer_one)
{
	struct state_io io;
	size_t len;
	uint8_t *data = one(&len, 1, STATE_MANDATORY);
	uint32_t v;

	cr_assert_eq(state_restore_init(&io, data, len, NULL), 0);
	cr_assert(state_begin(&io, TAG_A, 0, 2, STATE_MANDATORY));
	cr_expect_eq(state_version(&io), 1);
	state_u32(&io, &v);
	state_end(&io);
	cr_expect_eq(state_finish(&io, NULL), 0);
	free(data);
}

Test(state, a_section_is_saved_and_restored_once)
{
	struct state_io io;
	struct err e;
	size_t len;
	uint8_t *data = one(&len, 1, STATE_MANDATORY);
	uint32_t v = 0;

	state_save_init(&io);
	cr_assert(state_begin(&io, TAG_A, 0, 1, STATE_OPTIONAL));
	state_end(&io);
	cr_expect_not(state_begin(&io, TAG_A, 0, 1, STATE_OPTIONAL));
	cr_expect_eq(state_finish(&io, &e), -E2BIG);
	state_fini(&io);

	cr_assert_eq(state_restore_init(&io, data, len, &e), 0);
	cr_assert(state_begin(&io, TAG_A, 0, 1, STATE_MANDATORY));
	state_u32(&io, &v);
	state_end(&io);
	cr_expect_not(state_begin(&io, TAG_A, 0, 1, STATE_MANDATORY));
	cr_expect_eq(state_finish(&io, &e), -EINVAL);
	free(data);
}

Test(state, values_are_checked_and_the_first_failure_is_told)
{
	struct state_io io;
	uint32_t n = 4, got = 0;
	bool flag = false;
	uint8_t two = 2;
	struct err e;

	state_save_init(&io);
	cr_assert(state_begin(&io, TAG_A, 3, 1, STATE_MANDATORY));
	state_u32(&io, &n);
	state_u8(&io, &two);
	state_end(&io);
	cr_assert_eq(state_finish(&io, &e), 0);
	for (int i = 0; i < 2; i++) {
		static const char *const why[] = {
		    "section AAAA 3: 4 cats; at most 3 are possible",
		    "section AAAA 3: a flag has the value 2",
		};
		struct state_io in;

		cr_assert_eq(state_restore_init(&in, io.data, io.len, &e), 0);
		cr_assert(state_begin(&in, TAG_A, 3, 1, STATE_MANDATORY));
		state_count(&in, &got, i ? 4 : 3, "cats");
		state_bool(&in, &flag);
		state_end(&in);
		cr_expect_eq(state_finish(&in, &e), -EINVAL);
		cr_expect_str_eq(e.msg, why[i], "%s", e.msg);
		cr_expect_not(flag);
	}
	state_fini(&io);
}

Test(state, what_is_expected_must_be_the_same)
{
	struct state_io io, in;
	struct err e;

	state_save_init(&io);
	cr_assert(state_begin(&io, TAG_A, 0, 1, STATE_MANDATORY));
	state_expect(&io, 100, "bytes of the disk");
	state_end(&io);
	cr_assert_eq(state_finish(&io, &e), 0);
	cr_assert_eq(state_restore_init(&in, io.data, io.len, &e), 0);
	cr_assert(state_begin(&in, TAG_A, 0, 1, STATE_MANDATORY));
	state_expect(&in, 200, "bytes of the disk");
	state_end(&in);
	cr_expect_eq(state_finish(&in, &e), -EINVAL);
	cr_expect_str_eq(e.msg,
			 "section AAAA 0: bytes of the disk: 100 in the saved state, 200 here");
	state_fini(&io);
}

Test(state, a_state_without_bounds_is_not_saved)
{
	static const uint8_t chunk[1 << 16];
	struct state_io io;
	struct err e;

	state_save_init(&io);
	cr_assert(state_begin(&io, TAG_A, 0, 1, STATE_MANDATORY));
	for (int i = 0; i < 100; i++)
		state_bytes(&io, (void *)(uintptr_t)chunk, sizeof(chunk));
	state_end(&io);
	cr_expect_eq(state_finish(&io, &e), -E2BIG);
	cr_expect_leq(io.cap, STATE_MAX_BYTES);
	state_fini(&io);

	state_save_init(&io);
	for (uint32_t i = 0; i <= STATE_MAX_SECTIONS; i++)
		if (state_begin(&io, TAG_A, i, 1, STATE_OPTIONAL))
			state_end(&io);
	cr_expect_eq(state_finish(&io, &e), -E2BIG);
	state_fini(&io);
}
