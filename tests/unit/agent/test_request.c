/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "guest-kernel/agent/request.h"
#include "tests/unit/agent/fixture.h"

static struct proto_buf b;
static struct request r;

static int parse(enum proto_type type)
{
	int rc;

	request_fini(&r);
	rc = request_parse(type, b.data, b.len, &r, &fixture_err);
	proto_buf_reset(&b);
	return rc;
}

static void done(void)
{
	request_fini(&r);
	proto_buf_fini(&b);
}

TestSuite(request, .fini = done);

static void put_exec(void)
{
	proto_put_tlv_u64(&b, PROTO_TAG_SESSION, PROTO_MANDATORY, 9);
	proto_put_tlv_str(&b, PROTO_TAG_ARG, PROTO_MANDATORY, "sh");
}

Test(request, an_exec_has_its_lists_in_order)
{
	put_exec();
	proto_put_tlv_str(&b, PROTO_TAG_ARG, PROTO_MANDATORY, "");
	proto_put_tlv_str(&b, PROTO_TAG_ENV, PROTO_MANDATORY, "A=1");
	proto_put_tlv_str(&b, PROTO_TAG_ARG, PROTO_MANDATORY, "-c");
	proto_put_tlv_str(&b, PROTO_TAG_ARG, PROTO_MANDATORY, "x y");
	proto_put_tlv_str(&b, 0x999, 0, "skipped");
	cr_assert_eq(parse(PROTO_EXEC), 0, "%s", fixture_err.msg);
	cr_assert_eq(r.argc, 4);
	cr_expect_str_eq(r.argv[0], "sh");
	cr_expect_str_eq(r.argv[1], "");
	cr_expect_str_eq(r.argv[2], "-c");
	cr_expect_str_eq(r.argv[3], "x y");
	cr_expect_null(r.argv[4]);
	cr_expect_str_eq(r.env[0], "A=1");
	cr_expect_null(r.env[1]);
	cr_expect_null(r.sandbox_env);
	cr_expect_eq(r.session, 9);
}

Test(request, an_unknown_mandatory_field_is_refused_and_named)
{
	put_exec();
	proto_put_tlv_str(&b, 0x999, PROTO_MANDATORY, "x");
	cr_expect_eq(parse(PROTO_EXEC), -EOPNOTSUPP);
	cr_expect(strstr(fixture_err.msg, "0x999"), "%s", fixture_err.msg);
	/* Known, but not to this request. */
	proto_put_tlv_str(&b, PROTO_TAG_PATH, PROTO_MANDATORY, "/x");
	cr_expect_eq(parse(PROTO_PING), -EOPNOTSUPP);
}

Test(request, bad_values_are_refused)
{
	cr_expect_eq(parse(PROTO_EXEC), -EINVAL, "no session, no program");
	proto_put_tlv_u64(&b, PROTO_TAG_SESSION, 0, 1);
	cr_expect_eq(parse(PROTO_EXEC), -EINVAL, "no program");
	proto_put_tlv_u64(&b, PROTO_TAG_SESSION, 0, 0);
	proto_put_tlv_str(&b, PROTO_TAG_ARG, 0, "x");
	cr_expect_eq(parse(PROTO_EXEC), -EINVAL, "session 0");
	put_exec();
	proto_put_tlv_u64(&b, PROTO_TAG_SESSION, 0, 2);
	cr_expect_eq(parse(PROTO_EXEC), -EINVAL, "two sessions");
	put_exec();
	proto_put_tlv_u32(&b, PROTO_TAG_EXEC_FLAGS, 0, 0x80);
	cr_expect_eq(parse(PROTO_EXEC), -EINVAL, "unknown flag");
	put_exec();
	proto_put_tlv_u32(&b, PROTO_TAG_ROWS, 0, 0);
	cr_expect_eq(parse(PROTO_EXEC), -EINVAL, "no rows");
	put_exec();
	proto_put_tlv_u32(&b, PROTO_TAG_COLS, 0, 65536);
	cr_expect_eq(parse(PROTO_EXEC), -EINVAL, "more columns than fit");
	put_exec();
	proto_put_tlv(&b, PROTO_TAG_CWD, 0, "a\0b", 3);
	cr_expect_eq(parse(PROTO_EXEC), -EINVAL, "NUL inside");
	put_exec();
	proto_put_tlv_str(&b, PROTO_TAG_ENV, 0, "no equals sign");
	cr_expect_eq(parse(PROTO_EXEC), -EINVAL, "environment without a value");
	put_exec();
	proto_put_tlv_str(&b, PROTO_TAG_SANDBOX_ENV, 0, "=x");
	cr_expect_eq(parse(PROTO_EXEC), -EINVAL, "environment without a name");
	proto_put_tlv_u64(&b, PROTO_TAG_SESSION, 0, 1);
	proto_put_tlv_str(&b, PROTO_TAG_ARG, 0, "");
	cr_expect_eq(parse(PROTO_EXEC), -EINVAL, "empty program");
	proto_put_tlv_str(&b, PROTO_TAG_PATH, 0, "");
	cr_expect_eq(parse(PROTO_FILE_READ), -EINVAL, "empty path");
	cr_expect_eq(parse(PROTO_FILE_READ), -EINVAL, "no path");
	proto_put_tlv_u32(&b, PROTO_TAG_SHUTDOWN_MODE, 0, 2);
	cr_expect_eq(parse(PROTO_SHUTDOWN), -EINVAL, "no such mode");
	proto_put_tlv_u64(&b, PROTO_TAG_SHUTDOWN_MODE, 0, 0);
	cr_expect_eq(parse(PROTO_SHUTDOWN), -EPROTO, "wrong size");
	proto_put_bytes(&b, "\1", 1);
	cr_expect_eq(parse(PROTO_PING), -EPROTO, "cut short");
}

static void put_renew(size_t generation, size_t entropy, uint64_t realtime)
{
	static const uint8_t bytes[PROTO_ENTROPY_MAX + 1] = {7, 0, 9};

	proto_put_tlv(&b, PROTO_TAG_GENERATION, PROTO_MANDATORY, bytes, generation);
	proto_put_tlv(&b, PROTO_TAG_ENTROPY, PROTO_MANDATORY, bytes, entropy);
	proto_put_tlv_u64(&b, PROTO_TAG_REALTIME, PROTO_MANDATORY, realtime);
}

Test(request, a_renew_has_bytes_and_strings)
{
	put_renew(16, 64, 5);
	proto_put_tlv_str(&b, PROTO_TAG_HOSTNAME, 0, "sandbox-1.example");
	proto_put_tlv_str(&b, PROTO_TAG_MACHINE_ID, 0, "0123456789abcdef0123456789abcdef");
	proto_put_tlv_u32(&b, PROTO_TAG_RENEW_FLAGS, 0, PROTO_RENEW_GROW_ROOT);
	proto_put_tlv_u64(&b, PROTO_TAG_ROOT_BYTES, 0, 1 << 30);
	cr_assert_eq(parse(PROTO_RENEW), 0, "%s", fixture_err.msg);
	cr_expect_eq(r.generation_len, 16);
	cr_expect_eq(r.generation[0], 7);
	cr_expect_eq(r.generation[2], 9, "a NUL is a byte like any other");
	cr_expect_eq(r.entropy_len, 64);
	cr_expect_eq(r.entropy[2], 9);
	cr_expect_eq(r.realtime_ns, 5);
	cr_expect_eq(r.root_bytes, 1 << 30);
	cr_expect_str_eq(r.hostname, "sandbox-1.example");
	cr_expect_str_eq(r.machine_id, "0123456789abcdef0123456789abcdef");
	put_renew(16, PROTO_ENTROPY_MAX, INT64_MAX);
	cr_expect_eq(parse(PROTO_RENEW), 0, "%s", fixture_err.msg);
	cr_expect_null(r.hostname);
}

Test(request, bad_freezes_and_renews_are_refused)
{
	put_renew(15, 64, 5);
	cr_expect_eq(parse(PROTO_RENEW), -EINVAL, "short generation");
	put_renew(16, 0, 5);
	cr_expect_eq(parse(PROTO_RENEW), -EINVAL, "no entropy");
	put_renew(16, PROTO_ENTROPY_MAX + 1, 5);
	cr_expect_eq(parse(PROTO_RENEW), -EINVAL, "too much entropy");
	put_renew(16, 64, 1ULL << 63);
	cr_expect_eq(parse(PROTO_RENEW), -EINVAL, "time out of range");
	put_renew(16, 64, 5);
	proto_put_tlv_str(&b, PROTO_TAG_MACHINE_ID, 0, "0123456789ABCDEF0123456789ABCDEF");
	cr_expect_eq(parse(PROTO_RENEW), -EINVAL, "upper case");
	put_renew(16, 64, 5);
	proto_put_tlv_u32(&b, PROTO_TAG_RENEW_FLAGS, 0, 2);
	cr_expect_eq(parse(PROTO_RENEW), -EINVAL, "unknown flag");
	proto_put_tlv_u64(&b, PROTO_TAG_REALTIME, 0, 1);
	cr_expect_eq(parse(PROTO_RENEW), -EINVAL, "fields missing");
	proto_put_tlv_u32(&b, PROTO_TAG_FREEZE_FLAGS, 0, 2);
	cr_expect_eq(parse(PROTO_FREEZE), -EINVAL, "unknown flag");
	cr_expect_eq(parse(PROTO_FREEZE), 0, "flags may be left out");
	proto_put_tlv_u32(&b, PROTO_TAG_FREEZE_FLAGS, PROTO_MANDATORY, 0);
	cr_expect_eq(parse(PROTO_THAW), -EOPNOTSUPP, "not of this request");
}

Test(request, very_many_strings_are_no_trouble)
{
	proto_put_tlv_u64(&b, PROTO_TAG_SESSION, 0, 1);
	for (int i = 0; i < 100000; i++)
		proto_put_tlv_str(&b, PROTO_TAG_ARG, 0, i ? "" : "x");
	cr_assert_eq(parse(PROTO_EXEC), 0, "%s", fixture_err.msg);
	cr_expect_eq(r.argc, 100000);
	cr_expect_str_eq(r.argv[99999], "");
	cr_expect_null(r.argv[100000]);
}

Test(request, a_connect_names_a_session_and_a_port)
{
	proto_put_tlv_u64(&b, PROTO_TAG_SESSION, PROTO_MANDATORY, 9);
	proto_put_tlv_u32(&b, PROTO_TAG_PORT, PROTO_MANDATORY, 65535);
	cr_assert_eq(parse(PROTO_CONNECT), 0, "%s", fixture_err.msg);
	cr_expect_eq(r.session, 9);
	cr_expect_eq(r.port, 65535);
	proto_put_tlv_u64(&b, PROTO_TAG_SESSION, 0, 9);
	cr_expect_eq(parse(PROTO_CONNECT), -EINVAL, "no port");
	for (unsigned int i = 0; i < 2; i++) {
		proto_put_tlv_u64(&b, PROTO_TAG_SESSION, 0, 9);
		proto_put_tlv_u32(&b, PROTO_TAG_PORT, 0, i ? 65536 : 0);
		cr_expect_eq(parse(PROTO_CONNECT), -EINVAL);
	}
	proto_put_tlv_u32(&b, PROTO_TAG_PORT, 0, 80);
	cr_expect_eq(parse(PROTO_CONNECT), -EINVAL, "no session");
}
