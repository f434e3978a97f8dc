/* SPDX-License-Identifier: Apache-2.0 */
/* FREEZE, THAW and RENEW over the wire, with an agent that may touch nothing of this machine. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "guest-kernel/agent/agent.h"
#include "lib/fd.h"
#include "tests/unit/agent/fixture.h"

#define OLD_ID "00000000000000000000000000000000\n"
#define NEW_ID "0123456789abcdef0123456789abcdef"

static struct agent_identity identity = {.generation = {1, 2, 3}, .machine_id = NEW_ID};

TestSuite(renew, .init = agent_start, .fini = agent_stop, .timeout = 300);

static char *machine_id(void)
{
	char *text;

	ok(fd_read_file(-1, in_scratch("machine-id"), 100, &text, NULL));
	return text;
}

static void put_old_id(void)
{
	FILE *out = fopen(in_scratch("machine-id"), "w");

	fputs(OLD_ID, out);
	fclose(out);
}

Test(renew, freeze_and_thaw_can_be_said_in_any_order)
{
	struct agent_conn *c = dial();

	cr_expect(agent_conn_hello(c)->flags & PROTO_HELLO_RENEW);
	ok(agent_thaw(c, &fixture_err));
	ok(agent_freeze(c, false, &fixture_err));
	ok(agent_freeze(c, true, &fixture_err));
	ok(agent_ping(c, &fixture_err));
	ok(agent_thaw(c, &fixture_err));
	ok(agent_thaw(c, &fixture_err));
	agent_close(c);
}

Test(renew, the_machine_id_is_replaced_as_a_whole)
{
	struct agent_conn *c = dial();
	struct stat st;
	char *text;
	FILE *old;
	char line[64];

	put_old_id();
	old = fopen(in_scratch("machine-id"), "r");
	ok(agent_renew(c, &identity, &fixture_err));
	text = machine_id();
	cr_expect_str_eq(text, NEW_ID "\n");
	free(text);
	cr_expect_eq(stat(in_scratch("machine-id"), &st), 0);
	cr_expect_eq(st.st_mode & 0777, 0444);
	cr_expect_str_eq(fgets(line, sizeof(line), old), OLD_ID, "who reads it sees one of them");
	fclose(old);
	/* Again, and where it was missing. */
	ok(agent_renew(c, &identity, &fixture_err));
	unlink(in_scratch("machine-id"));
	ok(agent_renew(c, &identity, &fixture_err));
	text = machine_id();
	cr_expect_str_eq(text, NEW_ID "\n");
	free(text);
	agent_close(c);
}

/* After a restart of the server it is told again; connections must not end by that. */
Test(renew, a_generation_is_new_once)
{
	static const uint8_t one[PROTO_GENERATION_LEN] = {1}, two[PROTO_GENERATION_LEN] = {2},
			     zero[PROTO_GENERATION_LEN];
	struct agent a;

	ok(agent_init(&a, true));
	cr_expect(agent_enter_generation(&a, zero));
	cr_expect_not(agent_enter_generation(&a, zero));
	cr_expect(agent_enter_generation(&a, one));
	cr_expect(agent_enter_generation(&a, two));
	cr_expect_not(agent_enter_generation(&a, two));
	cr_expect(agent_enter_generation(&a, one));
	agent_fini(&a);
}

Test(renew, what_is_not_asked_for_stays)
{
	struct agent_conn *c = dial();
	struct agent_identity id = identity;
	char *text;

	put_old_id();
	id.machine_id[0] = '\0';
	ok(agent_renew(c, &id, &fixture_err));
	text = machine_id();
	cr_expect_str_eq(text, OLD_ID);
	free(text);
	agent_close(c);
}

Test(renew, a_part_that_fails_is_named_and_the_connection_lives)
{
	struct agent_conn *c = dial();

	/* A directory cannot be replaced by a file. */
	cr_assert_eq(mkdir(in_scratch("machine-id"), 0755), 0);
	cr_expect_eq(agent_renew(c, &identity, &fixture_err), -EREMOTEIO);
	cr_expect(strstr(fixture_err.msg, "machine id"), "%s", fixture_err.msg);
	cr_expect(strstr(fixture_err.msg, "directory"), "%s", fixture_err.msg);
	cr_expect(agent_conn_idle(c));
	rmdir(in_scratch("machine-id"));
	ok(agent_renew(c, &identity, &fixture_err));
	agent_close(c);
}

Test(renew, bad_values_are_refused_and_nothing_is_done)
{
	struct agent_conn *c = dial();
	struct agent_identity id = identity;
	char *text;

	put_old_id();
	id.hostname = "no spaces";
	cr_expect_eq(agent_renew(c, &id, &fixture_err), -EINVAL);
	id.hostname = "";
	cr_expect_eq(agent_renew(c, &id, &fixture_err), -EINVAL);
	id = identity;
	id.flags = 0x80;
	cr_expect_eq(agent_renew(c, &id, &fixture_err), -EINVAL);
	id = identity;
	strcpy(id.machine_id, "abc");
	cr_expect_eq(agent_renew(c, &id, &fixture_err), -EINVAL);
	strcpy(id.machine_id, "../../../../../../../../../../xx");
	cr_expect_eq(agent_renew(c, &id, &fixture_err), -EINVAL);
	id = identity;
	id.realtime_ns = -1;
	cr_expect_eq(agent_renew(c, &id, &fixture_err), -EINVAL);
	text = machine_id();
	cr_expect_str_eq(text, OLD_ID);
	free(text);
	agent_close(c);
}

Test(renew, a_test_agent_leaves_this_machine_alone)
{
	struct agent_conn *c = dial();
	struct agent_identity id = identity;
	struct timespec t;
	char name[65];

	id.hostname = "dormouse-unit-test";
	id.realtime_ns = 1000000000; /* 1970 */
	id.flags = PROTO_RENEW_GROW_ROOT;
	id.root_bytes = UINT64_MAX;
	ok(agent_renew(c, &id, &fixture_err));
	clock_gettime(CLOCK_REALTIME, &t);
	cr_expect_gt(t.tv_sec, 1000000);
	gethostname(name, sizeof(name));
	cr_expect_str_neq(name, id.hostname);
	agent_close(c);
}
