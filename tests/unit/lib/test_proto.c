/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/proto.h"

static struct err e;

/* A header as bytes, written out by hand: the layout is a contract. */
static void raw_header(uint8_t out[16], uint8_t version, uint8_t type, uint16_t flags, uint32_t len,
		       uint64_t id)
{
	out[0] = version;
	out[1] = type;
	for (int i = 0; i < 2; i++)
		out[2 + i] = (uint8_t)(flags >> (8 * i));
	for (int i = 0; i < 4; i++)
		out[4 + i] = (uint8_t)(len >> (8 * i));
	for (int i = 0; i < 8; i++)
		out[8 + i] = (uint8_t)(id >> (8 * i));
}

Test(proto, a_header_is_sixteen_little_endian_bytes)
{
	struct proto_header h = {
	    .version = 1, .type = PROTO_STDOUT, .len = 0x1234, .id = 0x1122334455667788ULL};
	uint8_t bytes[16], expect[16];

	proto_header_encode(&h, bytes);
	raw_header(expect, 1, 0x83, 0, 0x1234, 0x1122334455667788ULL);
	cr_expect_arr_eq(bytes, expect, 16);
	memset(&h, 0, sizeof(h));
	cr_expect_eq(proto_header_decode(bytes, PROTO_FROM_AGENT, &h, &e), 0);
	cr_expect_eq(h.type, PROTO_STDOUT);
	cr_expect_eq(h.len, 0x1234);
	cr_expect_eq(h.id, 0x1122334455667788ULL);
}

Test(proto, headers_are_checked_by_who_sent_them)
{
	static const struct {
		uint8_t version, type;
		uint16_t flags;
		uint32_t len;
		enum proto_side from;
		int rc;
	} cases[] = {
	    {1, PROTO_EXEC, 0, 0, PROTO_FROM_CLIENT, 0},
	    {1, PROTO_EXEC, 0, PROTO_REQUEST_MAX, PROTO_FROM_CLIENT, 0},
	    {1, PROTO_EXEC, 0, PROTO_REQUEST_MAX + 1, PROTO_FROM_CLIENT, -EMSGSIZE},
	    {1, PROTO_EXEC, 0, UINT32_MAX, PROTO_FROM_CLIENT, -EMSGSIZE},
	    {1, PROTO_EXEC, 0, 0, PROTO_FROM_AGENT, -EPROTO},
	    {1, PROTO_STDIN, 0, PROTO_FRAME_MAX, PROTO_FROM_CLIENT, 0},
	    {1, PROTO_STDIN, 0, PROTO_FRAME_MAX + 1, PROTO_FROM_CLIENT, -EMSGSIZE},
	    {1, PROTO_STDOUT, 0, PROTO_FRAME_MAX, PROTO_FROM_AGENT, 0},
	    {1, PROTO_STDOUT, 0, PROTO_FRAME_MAX + 1, PROTO_FROM_AGENT, -EMSGSIZE},
	    {1, PROTO_STDOUT, 0, 1, PROTO_FROM_CLIENT, -EPROTO},
	    {1, PROTO_HELLO, 0, 1, PROTO_FROM_AGENT, 0},
	    {1, PROTO_HELLO, 0, 1, PROTO_FROM_CLIENT, 0},
	    {1, PROTO_HELLO, 0, PROTO_FRAME_MAX + 1, PROTO_FROM_AGENT, -EMSGSIZE},
	    {0, PROTO_EXEC, 0, 0, PROTO_FROM_CLIENT, -EPROTONOSUPPORT},
	    {2, PROTO_EXEC, 0, 0, PROTO_FROM_CLIENT, -EPROTONOSUPPORT},
	    {1, PROTO_EXEC, 1, 0, PROTO_FROM_CLIENT, -EPROTO},
	    {1, PROTO_EXEC, 0x8000, 0, PROTO_FROM_CLIENT, -EPROTO},
	    {1, 0x00, 0, 0, PROTO_FROM_CLIENT, -EPROTO},
	    {1, 0x3f, 0, 0, PROTO_FROM_CLIENT, -EPROTO},
	    {1, 0xff, 0, 0, PROTO_FROM_AGENT, -EPROTO},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct proto_header h;
		uint8_t bytes[16];

		raw_header(bytes, cases[i].version, cases[i].type, cases[i].flags, cases[i].len,
			   77);
		cr_expect_eq(proto_header_decode(bytes, cases[i].from, &h, &e), cases[i].rc,
			     "case %zu: %s", i, e.msg);
		cr_expect_eq(h.id, 77, "the id is there for an error answer");
	}
}

Test(proto, tlvs_are_taken_one_by_one_and_a_cut_anywhere_is_noticed)
{
	struct proto_buf b = {0};
	uint8_t payload[64];
	size_t len;

	proto_begin(&b, PROTO_EXEC, 1);
	proto_put_tlv_u32(&b, PROTO_TAG_TIMEOUT_MS, PROTO_MANDATORY, 0x01020304);
	proto_put_tlv_str(&b, PROTO_TAG_ARG, 0, "arg");
	proto_put_tlv(&b, PROTO_TAG_CWD, 0, NULL, 0);
	cr_assert_eq(proto_end(&b), 0);
	len = b.len - PROTO_HEADER_LEN;
	cr_assert_eq(len, (8 + 4) + (8 + 3) + 8);
	memcpy(payload, b.data + PROTO_HEADER_LEN, len);
	for (size_t cut = 0; cut <= len; cut++) {
		bool whole = cut == 0 || cut == 12 || cut == 23 || cut == 31;
		/* Of its exact size, so that the sanitizer sees a step too far. */
		uint8_t *copy = malloc(cut + 1);
		struct reader r;
		struct proto_tlv t;
		int rc;

		memcpy(copy, payload, cut);
		r = reader_of(copy, cut);
		while ((rc = proto_tlv_next(&r, &t, &e)) > 0)
			;
		cr_expect_eq(rc, whole ? 0 : -EPROTO, "cut at %zu", cut);
		free(copy);
	}
	proto_buf_fini(&b);
}

Test(proto, a_length_beyond_the_payload_is_no_overflow)
{
	uint8_t bytes[8] = {0x11, 0, 0, 0, 0xff, 0xff, 0xff, 0xff};
	struct reader r = reader_of(bytes, sizeof(bytes));
	struct proto_tlv t;

	cr_expect_eq(proto_tlv_next(&r, &t, &e), -EPROTO);
	bytes[2] = 2; /* an unknown flag */
	memset(bytes + 4, 0, 4);
	r = reader_of(bytes, sizeof(bytes));
	cr_expect_eq(proto_tlv_next(&r, &t, &e), -EPROTO);
}

Test(proto, an_unknown_field_is_skipped_unless_it_is_mandatory)
{
	struct proto_tlv t = {.tag = 0x777};

	cr_expect_eq(proto_tlv_unknown(&t, &e), 0);
	t.flags = PROTO_MANDATORY;
	cr_expect_eq(proto_tlv_unknown(&t, &e), -EOPNOTSUPP);
	cr_expect(strstr(e.msg, "0x777"), "%s", e.msg);
}

Test(proto, numbers_and_strings_have_their_exact_form)
{
	static const uint8_t bytes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
	struct proto_tlv t = {.tag = 1, .len = 4, .value = bytes};
	uint32_t v32 = 0;
	uint64_t v64 = 0;
	char *s = NULL;

	cr_expect_eq(proto_tlv_u32(&t, &v32, &e), 0);
	cr_expect_eq(v32, 0x04030201);
	cr_expect_eq(proto_tlv_u64(&t, &v64, &e), -EPROTO);
	t.len = 8;
	cr_expect_eq(proto_tlv_u32(&t, &v32, &e), -EPROTO);
	cr_expect_eq(proto_tlv_u64(&t, &v64, &e), 0);
	cr_expect_eq(v64, 0x0807060504030201ULL);
	cr_expect_eq(proto_tlv_str(&t, 7, &s, &e), -ENAMETOOLONG);
	cr_expect_eq(proto_tlv_str(&t, 8, &s, &e), 0);
	cr_expect_eq(strlen(s), 8);
	t.value = (const uint8_t *)"ab\0defgh";
	cr_expect_eq(proto_tlv_str(&t, 8, &s, &e), -EINVAL);
	t.len = 0;
	t.value = NULL;
	cr_expect_eq(proto_tlv_str(&t, 8, &s, &e), 0);
	cr_expect_str_eq(s, "");
	free(s);
}

Test(proto, a_frame_that_is_too_large_is_taken_back)
{
	static uint8_t big[PROTO_REQUEST_MAX];
	struct proto_buf b = {0};
	size_t before;

	proto_begin(&b, PROTO_PING, 1);
	cr_expect_eq(proto_end(&b), 0);
	before = b.len;
	proto_begin(&b, PROTO_EXEC, 2);
	proto_put_tlv(&b, PROTO_TAG_ARG, 0, big, sizeof(big));
	cr_expect_eq(proto_end(&b), -EMSGSIZE);
	cr_expect_eq(b.len, before);
	proto_begin(&b, PROTO_STDIN, 2);
	proto_put_bytes(&b, big, PROTO_FRAME_MAX + 1);
	cr_expect_eq(proto_end(&b), -EMSGSIZE);
	proto_begin(&b, PROTO_EXEC, 2);
	for (int i = 0; i < 5; i++)
		proto_put_tlv(&b, PROTO_TAG_ARG, 0, big, sizeof(big));
	cr_expect_eq(proto_end(&b), -EMSGSIZE);
	proto_begin(&b, PROTO_EXEC, 2);
	proto_put_tlv(&b, PROTO_TAG_ARG, 0, big, sizeof(big) - PROTO_TLV_LEN);
	cr_expect_eq(proto_end(&b), 0, "the buffer is usable after a failure");
	proto_buf_fini(&b);
}
