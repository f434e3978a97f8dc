/* SPDX-License-Identifier: Apache-2.0 */
/* Who runs commands: the files of /etc, and what imported images say. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest-kernel/agent/files.h"
#include "guest-kernel/agent/users.h"
#include "lib/fd.h"

static char etc[64];
static struct userdb db;
static struct user u;
static struct err e;

static void put(const char *name, const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", etc, name);
	cr_assert_eq(fd_write_file_atomic(AT_FDCWD, path, text, strlen(text), 0644), 0);
}

static void setup(void)
{
	strcpy(etc, "/tmp/dormouse-users-XXXXXX");
	cr_assert_not_null(mkdtemp(etc));
	userdb_init(&db);
	put("passwd", "root:x:0:0::/root:/bin/bash\napp:x:12:34:,,,:/srv:/bin/ash\n"
		      "# no:x:1:1::/:\nbroken:x:1x:1::/:\nbare:x:77:88:::\n");
	put("group", "root:x:0:\napps:x:34:\nwheel:x:10:root,app\nstaff:x:50:app\nodd:x:-1:\n");
}

static void teardown(void)
{
	userdb_fini(&db);
	path_remove(etc);
}

TestSuite(users, .init = setup, .fini = teardown);

static bool find(const char *who)
{
	memset(&u, 0x5a, sizeof(u));
	e.code = 0;
	return !userdb_find(&db, etc, who, &u, &e);
}

static bool is(const char *name, uid_t uid, gid_t gid, size_t groups)
{
	return !strcmp(u.name, name) && u.uid == uid && u.gid == gid && u.groups_len == groups &&
	       u.groups[0] == gid;
}

Test(users, a_name_or_a_number_has_its_groups)
{
	cr_assert(find("app") && is("app", 12, 34, 3));
	cr_assert(u.groups[1] == 10 && u.groups[2] == 50);
	cr_assert_str_eq(u.home, "/srv");
	cr_assert_str_eq(u.shell, "/bin/ash");
	cr_assert(find("12") && is("app", 12, 34, 3));
	cr_assert(find("bare") && is("bare", 77, 88, 1));
	cr_assert_str_eq(u.home, "/");
	cr_assert_str_eq(u.shell, "/bin/sh");
	cr_assert(find("4242") && is("4242", 4242, 4242, 1));
}

Test(users, behind_a_colon_is_the_only_group)
{
	cr_assert(find("app:wheel") && is("app", 12, 10, 1));
	cr_assert(find("app:50") && is("app", 12, 50, 1));
	cr_assert(find("app:4243") && is("app", 12, 4243, 1), "a number needs no entry");
	cr_assert(find("12:staff") && is("app", 12, 50, 1));
	cr_assert(find("4242:wheel") && is("4242", 4242, 10, 1));
	cr_assert(find("0:0") && is("root", 0, 0, 1));
}

Test(users, what_is_no_user_is_refused_by_its_name)
{
	static const char *const bad[] = {
	    "nobody",  "",	     "app:",	    ":wheel",	      "app:none",
	    "app:odd", "none:wheel", "app:wheel:x", "broken",	      "# no",
	    "-1",      "app:-1",     "4294967295",  "app:4294967295", "12x"};
	char name[80];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		cr_assert_not(find(bad[i]), "\"%s\"", bad[i]);
		cr_assert_eq(e.code, -EINVAL);
		cr_assert(strstr(e.msg, bad[i]), "%s", e.msg);
	}
	/* One that fits no entry, with a group. */
	memset(name, 'n', sizeof(name));
	strcpy(name + 64, ":0");
	cr_assert_not(find(name));
}

Test(users, they_are_as_the_files_are_now)
{
	cr_assert_not(find("new:new"));
	put("passwd", "new:x:5:6::/new:/bin/sh\n");
	put("group", "new:x:7:\n");
	cr_assert(find("new:new") && is("new", 5, 7, 1));
	cr_assert_not(find("app"));
}

static const char *setting(const char *key, size_t size)
{
	static char value[64];

	memset(value, 0x5a, sizeof(value));
	return userdb_setting(&db, etc, key, value, size) ? value : NULL;
}

Test(users, settings_of_an_imported_image)
{
	cr_assert_null(setting("user", 64), "there is no file");
	put("dormouse-image", "user=app:wheel\nworkdir=/srv/a=b c\n");
	cr_assert_str_eq(setting("user", 64), "app:wheel");
	cr_assert_str_eq(setting("workdir", 64), "/srv/a=b c");
	cr_assert_null(setting("work", 64), "the beginning of a name is none");
	cr_assert_null(setting("srv/a", 64));
	/* As a build step may change it. */
	put("dormouse-image", "workdir=/tmp");
	cr_assert_str_eq(setting("workdir", 64), "/tmp");
	cr_assert_null(setting("user", 64));
}

Test(users, settings_that_do_not_fit_or_say_nothing_are_none)
{
	put("dormouse-image", "\n\nuser\nuser=\nuserx=1\n=user\nworkdir=1234567\n");
	cr_assert_null(setting("user", 64));
	cr_assert_str_eq(setting("workdir", 8), "1234567", "with its NUL it fits just so");
	cr_assert_null(setting("workdir", 7));
	put("dormouse-image", "");
	cr_assert_null(setting("user", 64));
}
