/* SPDX-License-Identifier: Apache-2.0 */
/* FREEZE, THAW and RENEW against agents that are made up; with a real one: tests/unit/agent. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/agent_conn.h"
#include "lib/fd.h"

TestSuite(agent_renew, .timeout = 300);

static struct err e;
static const struct agent_identity identity = {.generation = "0123456789abcde", .realtime_ns = 1};

/* Connected to an agent that has said HELLO with these flags and @answer, and closed. */
static struct agent_conn *scripted(uint32_t flags, const struct proto_buf *answer)
{
	struct agent_addr addr = {.timeout_ms = UINT32_MAX};
	struct proto_buf b = {0};
	struct agent_conn *c;
	int fds[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	proto_begin(&b, PROTO_HELLO, 1);
	proto_put_tlv_u32(&b, PROTO_TAG_VERSION, 0, PROTO_VERSION);
	proto_put_tlv_u32(&b, PROTO_TAG_HELLO_FLAGS, 0, flags);
	proto_end(&b);
	proto_put_bytes(&b, answer->data, answer->len);
	cr_assert_eq(fd_write_full(fds[1], b.data, b.len), 0);
	proto_buf_fini(&b);
	shutdown(fds[1], SHUT_WR);
	cr_assert_eq(conn_create(fds[0], &addr, &c, &e), 0, "%s", e.msg);
	return c;
}

static int renew(struct proto_buf *answer, bool *broken)
{
	struct agent_conn *c = scripted(PROTO_HELLO_RENEW, answer);
	int rc = agent_renew(c, &identity, &e);

	*broken = agent_conn_broken(c);
	agent_close(c);
	proto_buf_fini(answer);
	return rc;
}

static void begin(struct proto_buf *b, const void *generation, size_t len)
{
	proto_begin(b, PROTO_RESULT, 2);
	proto_put_tlv(b, PROTO_TAG_GENERATION, 0, generation, len);
	proto_put_tlv_str(b, 0x7777, 0, "from the future");
}

Test(agent_renew, an_agent_that_cannot_is_not_asked)
{
	struct proto_buf none = {0};
	struct agent_conn *c = scripted(PROTO_HELLO_TEST, &none);

	cr_expect_eq(agent_freeze(c, true, &e), -EOPNOTSUPP);
	cr_expect_eq(agent_thaw(c, &e), -EOPNOTSUPP);
	cr_expect_eq(agent_renew(c, &identity, &e), -EOPNOTSUPP);
	cr_expect(agent_conn_idle(c), "an old agent ends connections on what it does not know");
	agent_close(c);
}

Test(agent_renew, the_generation_must_be_confirmed)
{
	struct proto_buf b = {0};
	bool broken;

	begin(&b, identity.generation, 16);
	proto_end(&b);
	cr_expect_eq(renew(&b, &broken), 0, "%s", e.msg);
	cr_expect_not(broken);
	begin(&b, "another one.....", 16);
	proto_end(&b);
	cr_expect_eq(renew(&b, &broken), -EPROTO);
	cr_expect(broken);
	begin(&b, identity.generation, 15);
	proto_end(&b);
	cr_expect_eq(renew(&b, &broken), -EPROTO);
	proto_begin(&b, PROTO_RESULT, 2);
	proto_end(&b);
	cr_expect_eq(renew(&b, &broken), -EPROTO);
	begin(&b, identity.generation, 16);
	proto_put_tlv_str(&b, 0x7778, PROTO_MANDATORY, "?");
	proto_end(&b);
	cr_expect_eq(renew(&b, &broken), -EOPNOTSUPP);
	cr_expect(broken);
}

Test(agent_renew, all_failures_are_told_in_one_line_of_printable_text)
{
	struct proto_buf b = {0};
	char longer[400];
	bool broken;

	begin(&b, identity.generation, 16);
	proto_put_tlv_str(&b, PROTO_TAG_FAILURE, 0, "clock: not permitted");
	proto_put_tlv_str(&b, PROTO_TAG_FAILURE, 0, "machine id:\n\x1b[1m full");
	proto_end(&b);
	cr_expect_eq(renew(&b, &broken), -EREMOTEIO);
	cr_expect_str_eq(e.msg, "clock: not permitted; machine id:??[1m full");
	cr_expect_not(broken);
	begin(&b, identity.generation, 16);
	proto_put_tlv_str(&b, PROTO_TAG_FAILURE, 0, "");
	proto_end(&b);
	cr_expect_eq(renew(&b, &broken), -EREMOTEIO);
	cr_expect_str_eq(e.msg, "unknown");
	/* More than there is room for. */
	memset(longer, 'x', sizeof(longer));
	longer[sizeof(longer) - 1] = '\0';
	begin(&b, identity.generation, 16);
	for (int i = 0; i < 10; i++)
		proto_put_tlv_str(&b, PROTO_TAG_FAILURE, 0, longer + 390 - i * 35);
	proto_end(&b);
	cr_expect_eq(renew(&b, &broken), -EREMOTEIO);
	cr_expect_eq(strlen(e.msg), sizeof(e.msg) - 1);
}

Test(agent_renew, a_guest_that_cannot_freeze_says_why)
{
	struct proto_buf b = {0};
	struct agent_conn *c;

	proto_begin(&b, PROTO_ERROR, 2);
	proto_put_tlv_u32(&b, PROTO_TAG_ERRNO, 0, ETIMEDOUT);
	proto_put_tlv_str(&b, PROTO_TAG_MESSAGE, 0, "cgroup sandbox does not stand still");
	proto_end(&b);
	c = scripted(PROTO_HELLO_RENEW, &b);
	cr_expect_eq(agent_freeze(c, false, &e), -ETIMEDOUT);
	cr_expect(strstr(e.msg, "stand still"), "%s", e.msg);
	cr_expect(agent_conn_idle(c), "it is the guest's own time that was over");
	agent_close(c);
	proto_buf_fini(&b);
}
