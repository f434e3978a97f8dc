/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>

#include "lib/cursor.h"

Test(cursor, what_is_written_is_read)
{
	uint8_t buf[15];
	struct writer w = writer_of(buf, sizeof(buf));
	struct reader r;

	write_u8(&w, 0xab);
	write_u16(&w, 0x1234);
	write_u32(&w, 0xdeadbeef);
	write_u64(&w, 0x0102030405060708ULL);
	cr_assert(!w.failed);
	cr_assert_eq(w.pos, 15);
	cr_assert_eq(buf[1], 0x34, "little-endian");

	r = reader_of(buf, w.pos);
	cr_assert_eq(read_u8(&r), 0xab);
	cr_assert_eq(read_u16(&r), 0x1234);
	cr_assert_eq(read_u32(&r), 0xdeadbeef);
	cr_assert_eq(read_u64(&r), 0x0102030405060708ULL);
	cr_assert(!r.failed);
	cr_assert_eq(reader_left(&r), 0);
}

Test(cursor, a_read_past_the_end_fails_and_stays_failed)
{
	uint8_t buf[3] = {1, 2, 3};
	struct reader r = reader_of(buf, 3);

	cr_assert_eq(read_u32(&r), 0);
	cr_assert(r.failed);
	cr_assert_eq(read_u8(&r), 0, "also where bytes are left");
	cr_assert_null(read_bytes(&r, 0));
}

Test(cursor, a_write_past_the_end_changes_nothing)
{
	uint8_t buf[4] = {9, 9, 9, 9};
	struct writer w = writer_of(buf, 3);

	write_u32(&w, 0);
	cr_assert(w.failed);
	cr_assert_eq(buf[0], 9);
	cr_assert_eq(buf[3], 9);
}

Test(cursor, lengths_near_the_type_limit_do_not_wrap)
{
	uint8_t buf[4] = {0};
	struct reader r = reader_of(buf, 4);

	read_u8(&r);
	cr_assert_null(read_bytes(&r, SIZE_MAX));
	cr_assert(r.failed);
}
