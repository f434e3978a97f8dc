/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The freezer on a folder that looks like a cgroup hierarchy: what is written,
 * what is waited for. That processes do stand still is tested in guests.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest-kernel/agent/files.h"
#include "guest-kernel/agent/freezer.h"
#include "lib/fd.h"
#include "tests/unit/agent/fixture.h"

static struct freezer f;

static void put(const char *group, const char *file, const char *text)
{
	FILE *out;
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", scratch, group);
	if (mkdir(path, 0755))
		cr_assert_eq(errno, EEXIST);
	snprintf(path, sizeof(path), "%s/%s/%s", scratch, group, file);
	out = fopen(path, "w");
	cr_assert_not_null(out);
	fputs(text, out);
	fclose(out);
}

static char freeze_of(const char *group)
{
	char path[256], value = '?';
	FILE *in;

	snprintf(path, sizeof(path), "%s/%s/cgroup.freeze", scratch, group);
	in = fopen(path, "r");
	cr_assert_not_null(in);
	value = (char)fgetc(in);
	fclose(in);
	return value;
}

static void wait_for(const char *group, char value)
{
	while (freeze_of(group) != value)
		usleep(1000);
}

static void make_group(const char *name, const char *freeze, const char *events)
{
	put(name, "cgroup.freeze", freeze);
	put(name, "cgroup.events", events);
}

#define STILL  "populated 1\nfrozen 1\n"
#define MOVING "populated 1\nfrozen 0\n"

static void make_root(void)
{
	strcpy(scratch, "/tmp/dormouse-freezer-XXXXXX");
	cr_assert_not_null(mkdtemp(scratch));
	make_group("sandbox", "0\n", STILL);
	make_group("docker", "0\n", STILL);
	make_group("theirs", "1\n", STILL);
	cr_assert_eq(mkdir(in_scratch("no-group"), 0755), 0);
	put(".", "cgroup.procs", "1\n");
	freezer_init(&f, scratch);
}

static void remove_root(void)
{
	freezer_fini(&f);
	path_remove(scratch);
}

TestSuite(freezer, .init = make_root, .fini = remove_root, .timeout = 300);

Test(freezer, all_groups_are_frozen_and_only_ours_thawed)
{
	ok(freezer_freeze(&f, false, &fixture_err));
	cr_expect_eq(freeze_of("sandbox"), '1');
	cr_expect_eq(freeze_of("docker"), '1');
	ok(freezer_thaw(&f, &fixture_err));
	cr_expect_eq(freeze_of("sandbox"), '0');
	cr_expect_eq(freeze_of("docker"), '0');
	cr_expect_eq(freeze_of("theirs"), '1', "somebody in the guest froze it");
	ok(freezer_thaw(&f, &fixture_err));
}

Test(freezer, freezing_twice_is_freezing_once_and_takes_new_groups_along)
{
	ok(freezer_freeze(&f, true, &fixture_err));
	make_group("late", "0\n", STILL);
	ok(freezer_freeze(&f, false, &fixture_err));
	cr_expect_eq(freeze_of("late"), '1');
	ok(freezer_thaw(&f, &fixture_err));
	cr_expect_eq(freeze_of("sandbox"), '0');
	cr_expect_eq(freeze_of("docker"), '0');
	cr_expect_eq(freeze_of("late"), '0');
	cr_expect_eq(freeze_of("theirs"), '1');
}

static void *stop_later(void *arg)
{
	/* As the kernel: some time after it was told to. */
	wait_for("docker", '1');
	put("docker", "cgroup.events", STILL);
	return arg;
}

Test(freezer, it_waits_until_all_stand_still)
{
	pthread_t thread;
	char *text;

	put("docker", "cgroup.events", MOVING);
	f.wait_ms = UINT32_MAX;
	cr_assert_eq(pthread_create(&thread, NULL, stop_later, NULL), 0);
	ok(freezer_freeze(&f, false, &fixture_err));
	ok(fd_read_file(-1, in_scratch("docker/cgroup.events"), 100, &text, NULL));
	cr_expect_str_eq(text, STILL);
	free(text);
	pthread_join(thread, NULL);
}

static void *make_another(void *arg)
{
	/* A container engine that is not yet frozen itself. */
	wait_for("docker", '1');
	make_group("made-meanwhile", "0\n", STILL);
	put("docker", "cgroup.events", STILL);
	return arg;
}

Test(freezer, a_group_that_is_made_meanwhile_is_frozen_too)
{
	pthread_t thread;

	put("docker", "cgroup.events", MOVING);
	f.wait_ms = UINT32_MAX;
	cr_assert_eq(pthread_create(&thread, NULL, make_another, NULL), 0);
	ok(freezer_freeze(&f, false, &fixture_err));
	cr_expect_eq(freeze_of("made-meanwhile"), '1');
	pthread_join(thread, NULL);
	ok(freezer_thaw(&f, &fixture_err));
	cr_expect_eq(freeze_of("made-meanwhile"), '0');
}

Test(freezer, who_does_not_stop_is_named_and_nobody_stays_frozen)
{
	put("docker", "cgroup.events", MOVING);
	f.wait_ms = 1;
	cr_expect_eq(freezer_freeze(&f, false, &fixture_err), -ETIMEDOUT);
	cr_expect(strstr(fixture_err.msg, "docker"), "%s", fixture_err.msg);
	cr_expect_eq(freeze_of("sandbox"), '0');
	cr_expect_eq(freeze_of("docker"), '0');
	cr_expect_eq(freeze_of("theirs"), '1');
}

Test(freezer, nobody_stays_frozen_when_nobody_comes)
{
	f.limit_ms = 1;
	ok(freezer_freeze(&f, false, &fixture_err));
	wait_for("docker", '0');
	wait_for("sandbox", '0');
	/* And again: the thread is still there. */
	ok(freezer_freeze(&f, false, &fixture_err));
	wait_for("docker", '0');
	wait_for("sandbox", '0');
	cr_expect_eq(freeze_of("theirs"), '1');
}

Test(freezer, a_group_may_go_while_it_is_frozen)
{
	ok(freezer_freeze(&f, false, &fixture_err));
	ok(path_remove(in_scratch("docker")));
	ok(freezer_freeze(&f, false, &fixture_err));
	ok(freezer_thaw(&f, &fixture_err));
	cr_expect_eq(freeze_of("sandbox"), '0');
}

Test(freezer, who_comes_after_a_dead_agent_thaws_everything)
{
	ok(freezer_freeze(&f, false, &fixture_err));
	freezer_thaw_all(scratch);
	cr_expect_eq(freeze_of("sandbox"), '0');
	cr_expect_eq(freeze_of("docker"), '0');
	cr_expect_eq(freeze_of("theirs"), '0');
}

Test(freezer, without_a_hierarchy_it_is_refused)
{
	freezer_fini(&f);
	freezer_init(&f, in_scratch("missing"));
	cr_expect_eq(freezer_freeze(&f, false, &fixture_err), -ENOENT);
}
