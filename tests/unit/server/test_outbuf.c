/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <string.h>

#include "server/manager/outbuf.h"

#define KEEP 1000u

/* Byte n of the stream; no short period, so that a shift shows. */
static uint8_t nth(uint64_t n)
{
	return (uint8_t)(n * 2654435761u >> 13);
}

static void append(struct outbuf *b, uint64_t at, size_t len)
{
	uint8_t bytes[5000];

	for (size_t i = 0; i < len; i++)
		bytes[i] = nth(at + i);
	cr_assert_eq(outbuf_append(b, bytes, len, KEEP), 0);
}

static void check(const struct outbuf *b, uint64_t total)
{
	cr_assert_eq(outbuf_end(b), total);
	cr_assert_geq(b->len, total < KEEP ? total : KEEP);
	cr_assert_leq(b->len, KEEP + KEEP / 4 > total ? total : KEEP + KEEP / 4);
	for (size_t i = 0; i < b->len; i++)
		cr_assert_eq(b->data[i], nth(b->start + i));
}

Test(outbuf, keeps_the_end_of_a_stream_of_any_chunks)
{
	static const size_t steps[] = {1, 7, 100, 249, 250, 251, 999, 1000};

	for (size_t s = 0; s < sizeof(steps) / sizeof(steps[0]); s++) {
		struct outbuf b = {0};
		uint64_t at = 0;

		for (int i = 0; i < 400; i++, at += steps[s]) {
			append(&b, at, steps[s]);
			check(&b, at + steps[s]);
		}
		outbuf_fini(&b);
	}
}

Test(outbuf, drops_nothing_before_it_must)
{
	struct outbuf b = {0};

	append(&b, 0, KEEP);
	append(&b, KEEP, KEEP / 4);
	cr_assert_eq(b.start, 0);
	append(&b, KEEP + KEEP / 4, 1);
	cr_assert_eq(b.start, KEEP / 4 + 1);
	cr_assert_eq(b.len, KEEP);
	outbuf_fini(&b);
}

Test(outbuf, nothing_is_nothing)
{
	struct outbuf b = {0};

	cr_assert_eq(outbuf_append(&b, NULL, 0, KEEP), 0);
	cr_assert_eq(outbuf_end(&b), 0);
	outbuf_fini(&b);
}
