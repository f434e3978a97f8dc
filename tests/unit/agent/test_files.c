/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "guest-kernel/agent/files.h"
#include "lib/fd.h"
#include "tests/unit/agent/fixture.h"

TestSuite(files, .init = agent_start, .fini = agent_stop, .timeout = 300);

static void put(struct agent_conn *c, const char *path, const char *text)
{
	ok(agent_write_open(c, path, &fixture_err));
	ok(agent_write(c, text, strlen(text), &fixture_err));
	ok(agent_write_commit(c, &fixture_err));
}

/* The whole file, NUL-terminated; the caller frees it. */
static char *get(struct agent_conn *c, const char *path, struct agent_stat *st)
{
	struct agent_stat own;
	char *text = calloc(1, 1 << 20);
	size_t len = 0;
	ssize_t n;

	ok(agent_read_open(c, path, st ? st : &own, &fixture_err));
	while ((n = agent_read(c, text + len, (1 << 20) - 1 - len, &fixture_err)) > 0)
		len += (size_t)n;
	cr_assert_eq(n, 0, "%s", fixture_err.msg);
	cr_expect(agent_conn_idle(c));
	return text;
}

static void expect_content(struct agent_conn *c, const char *path, const char *text)
{
	char *got = get(c, path, NULL);

	cr_expect_str_eq(got, text);
	free(got);
}

static struct stat stat_of(const char *path)
{
	struct stat st;

	cr_assert_eq(lstat(path, &st), 0, "%s: %s", path, strerror(errno));
	return st;
}

Test(files, a_hundred_megabytes_go_there_and_back_unchanged)
{
	enum { LEN = 100 << 20, STEP = 1 << 20 };
	static uint8_t buf[STEP];
	struct agent_conn *c = dial();
	uint64_t put_hash = HASH_START, got_hash = HASH_START, total = 0;
	struct agent_stat st;
	ssize_t n;

	ok(agent_write_open(c, "big", &fixture_err));
	for (uint64_t at = 0; at < LEN; at += STEP) {
		memset(buf, (int)(at / STEP), sizeof(buf));
		pattern(at, buf, 4096);
		put_hash = hash_of(put_hash, buf, 8192);
		ok(agent_write(c, buf, sizeof(buf), &fixture_err));
	}
	ok(agent_write_commit(c, &fixture_err));
	ok(agent_read_open(c, "big", &st, &fixture_err));
	cr_expect_eq(st.size, LEN);
	for (size_t fill = 0; (n = agent_read(c, buf + fill, STEP - fill, &fixture_err)) > 0;) {
		total += (uint64_t)n;
		fill = (fill + (size_t)n) % STEP;
		if (fill)
			continue;
		got_hash = hash_of(got_hash, buf, 8192);
		/* Past what is hashed one value repeats. */
		cr_assert_eq(memcmp(buf + 8192, buf + 8193, STEP - 8193), 0);
	}
	cr_expect_eq(n, 0);
	cr_expect_eq(total, LEN);
	cr_expect_eq(got_hash, put_hash);
	agent_close(c);
}

Test(files, relative_paths_start_at_home_and_dots_are_normalised)
{
	struct agent_conn *c = dial();
	struct stat st;

	put(c, "a/./b/../file", "x");
	cr_expect_eq(stat(in_scratch("home/a/file"), &st), 0);
	/* Lexically: nobody asked for a/b to exist. */
	cr_expect_eq(stat(in_scratch("home/a/b"), &st), -1);
	agent_close(c);
}

Test(files, paths_are_resolved_without_leaving_the_root)
{
	static const struct {
		const char *path, *expect;
	} cases[] = {
	    {"/", "/"},
	    {"//", "/"},
	    {"/..", "/"},
	    {"/../../x", "/x"},
	    {"/a/./b//c/", "/a/b/c"},
	    {"/a/../..", "/"},
	    {"x", "/home/u/x"},
	    {"../x", "/home/x"},
	    {"", "/home/u"},
	    {".", "/home/u"},
	    {"/...", "/..."},
	    {"/..a/b..", "/..a/b.."},
	};
	char out[PATH_MAX], longest[PATH_MAX + 10];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		cr_expect_eq(path_resolve("/home/u", cases[i].path, out), 0);
		cr_expect_str_eq(out, cases[i].expect, "%s gives %s", cases[i].path, out);
	}
	memset(longest, 'a', sizeof(longest));
	longest[0] = '/';
	longest[PATH_MAX - 1] = '\0';
	cr_expect_eq(path_resolve("/", longest, out), 0);
	longest[PATH_MAX - 1] = 'a';
	longest[PATH_MAX] = '\0';
	cr_expect_eq(path_resolve("/", longest, out), -ENAMETOOLONG);
}

Test(files, a_new_file_is_0644_with_parents_0755_and_an_old_one_keeps_its_mode)
{
	struct agent_conn *c = dial();

	put(c, "p/q/new", "1");
	cr_expect_eq(stat_of(in_scratch("home/p")).st_mode & 07777, 0755);
	cr_expect_eq(stat_of(in_scratch("home/p/q/new")).st_mode & 07777, 0644);
	cr_assert_eq(chmod(in_scratch("home/p/q/new"), 04751), 0);
	put(c, "p/q/new", "longer text");
	cr_expect_eq(stat_of(in_scratch("home/p/q/new")).st_mode & 07777, 04751);
	put(c, "p/q/new", "");
	cr_expect_eq(stat_of(in_scratch("home/p/q/new")).st_size, 0);
	agent_close(c);
}

Test(files, a_write_follows_symlinks_also_dangling_ones)
{
	struct agent_conn *c = dial();

	cr_assert_eq(symlink("sub/target", in_scratch("home/link")), 0);
	cr_assert_eq(symlink("link", in_scratch("home/link2")), 0);
	put(c, "link2", "through");
	cr_expect(S_ISLNK(stat_of(in_scratch("home/link")).st_mode));
	cr_expect(S_ISREG(stat_of(in_scratch("home/sub/target")).st_mode));
	put(c, "link2", "again");
	expect_content(c, "sub/target", "again");
	cr_expect(S_ISLNK(stat_of(in_scratch("home/link2")).st_mode));
	cr_assert_eq(symlink("loop", in_scratch("home/loop")), 0);
	ok(agent_write_open(c, "loop", &fixture_err));
	cr_expect_eq(agent_write_commit(c, &fixture_err), -ELOOP);
	agent_close(c);
}

Test(files, an_upload_that_breaks_leaves_the_old_content_and_nothing_else)
{
	struct agent_conn *c = dial();
	static uint8_t junk[300000];
	struct agent_entry entry;

	put(c, "file", "old");
	ok(agent_write_open(c, "file", &fixture_err));
	ok(agent_write(c, junk, sizeof(junk), &fixture_err));
	agent_close(c);
	c = dial();
	/* The agent may still be reading what was sent: whenever it is done, this holds. */
	expect_content(c, "file", "old");
	ok(agent_list_open(c, ".", &fixture_err));
	cr_assert_eq(agent_list_next(c, &entry, &fixture_err), 1);
	cr_expect_str_eq(entry.name, "file");
	cr_expect_eq(agent_list_next(c, &entry, &fixture_err), 0);
	agent_close(c);
}

Test(files, a_file_with_several_links_stays_one_file)
{
	struct agent_conn *c = dial();

	put(c, "one", "old content");
	cr_assert_eq(link(in_scratch("home/one"), in_scratch("home/two")), 0);
	put(c, "one", "new");
	expect_content(c, "two", "new");
	cr_expect_eq(stat_of(in_scratch("home/one")).st_ino,
		     stat_of(in_scratch("home/two")).st_ino);
	agent_close(c);
}

Test(files, a_write_to_a_directory_or_below_a_file_fails_and_the_connection_lives)
{
	static uint8_t junk[1 << 20];
	struct agent_conn *c = dial();
	int rc;

	cr_assert_eq(mkdir(in_scratch("home/dir"), 0755), 0);
	ok(agent_write_open(c, "dir", &fixture_err));
	/* It may be noticed while there is still data to be sent. */
	do
		rc = agent_write(c, junk, sizeof(junk), &fixture_err);
	while (!rc);
	cr_expect_eq(rc, -EISDIR);
	cr_expect(agent_conn_idle(c));
	put(c, "file", "x");
	ok(agent_write_open(c, "file/below", &fixture_err));
	cr_expect_eq(agent_write_commit(c, &fixture_err), -ENOTDIR);
	ok(agent_ping(c, &fixture_err));
	agent_close(c);
}

Test(files, files_of_proc_have_content_though_their_size_is_0)
{
	struct agent_conn *c = dial();
	struct agent_stat st;
	char *text = get(c, "/proc/self/status", &st);

	cr_expect_eq(st.size, 0);
	cr_expect(strstr(text, "Name:"), "%s", text);
	free(text);
	if (!geteuid() && !access("/proc/sys/kernel/domainname", W_OK)) {
		char *old = get(c, "/proc/sys/kernel/domainname", NULL);

		put(c, "/proc/sys/kernel/domainname", old);
		expect_content(c, "/proc/sys/kernel/domainname", old);
		free(old);
	}
	agent_close(c);
}

Test(files, reading_a_directory_gives_nothing_and_says_what_it_is)
{
	struct agent_conn *c = dial();
	struct agent_stat st;
	char *text = get(c, "/tmp", &st);

	cr_expect(S_ISDIR(st.mode));
	cr_expect_str_eq(text, "");
	free(text);
	cr_expect_eq(agent_read_open(c, "/no/such", &st, &fixture_err), -ENOENT);
	cr_expect(strstr(fixture_err.msg, "/no/such"));
	ok(agent_ping(c, &fixture_err));
	agent_close(c);
}

Test(files, a_sparse_file_comes_with_all_its_zeros)
{
	struct agent_conn *c = dial();
	static uint8_t buf[1 << 16];
	uint64_t total = 0, set = 0;
	struct agent_stat st;
	ssize_t n;
	int fd = open(in_scratch("home/sparse"), O_RDWR | O_CREAT | O_CLOEXEC, 0644);

	cr_assert_eq(ftruncate(fd, 20 << 20), 0);
	cr_assert_eq(pwrite(fd, "x", 1, 10 << 20), 1);
	close(fd);
	ok(agent_read_open(c, "sparse", &st, &fixture_err));
	while ((n = agent_read(c, buf, sizeof(buf), &fixture_err)) > 0) {
		for (ssize_t i = 0; i < n; i++)
			if (buf[i])
				set += total + (uint64_t)i;
		total += (uint64_t)n;
	}
	cr_expect_eq(total, 20 << 20);
	cr_expect_eq(set, 10 << 20);
	agent_close(c);
}

Test(files, a_listing_is_sorted_and_has_hidden_files_and_symlinks_as_such)
{
	static const char *const expect[] = {".hidden", "B", "a", "dir", "link"};
	struct agent_conn *c = dial();
	struct agent_entry entry;

	put(c, "a", "12345");
	put(c, "B", "");
	put(c, ".hidden", "1");
	ok(agent_mkdir(c, "dir/deep", &fixture_err));
	cr_assert_eq(symlink("dir", in_scratch("home/link")), 0);
	ok(agent_list_open(c, home, &fixture_err));
	for (int i = 0; i < 5; i++) {
		cr_assert_eq(agent_list_next(c, &entry, &fixture_err), 1);
		cr_expect_str_eq(entry.name, expect[i]);
		if (i == 2)
			cr_expect_eq(entry.size, 5);
		cr_expect_eq(S_ISDIR(entry.mode), i == 3);
		cr_expect_eq(S_ISLNK(entry.mode), i == 4);
		cr_expect_gt(entry.mtime_ns, 1000000000ull * 1600000000);
	}
	cr_expect_eq(agent_list_next(c, &entry, &fixture_err), 0);
	ok(agent_list_open(c, "dir/deep", &fixture_err));
	cr_expect_eq(agent_list_next(c, &entry, &fixture_err), 0);
	ok(agent_list_open(c, "a", &fixture_err));
	cr_expect_eq(agent_list_next(c, &entry, &fixture_err), -ENOTDIR);
	ok(agent_list_open(c, "none", &fixture_err));
	cr_expect_eq(agent_list_next(c, &entry, &fixture_err), -ENOENT);
	agent_close(c);
}

Test(files, a_directory_of_many_long_names_is_listed_in_many_frames)
{
	struct agent_conn *c = dial();
	char path[512], name[240], last[256] = "";
	struct agent_entry entry;
	int count = 0, rc;

	memset(name, 'n', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	for (int i = 0; i < 2000; i++) {
		snprintf(path, sizeof(path), "%s/%d-%s", home, i, name);
		close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
	}
	ok(agent_list_open(c, ".", &fixture_err));
	while ((rc = agent_list_next(c, &entry, &fixture_err)) > 0) {
		cr_assert_lt(strcmp(last, entry.name), 0);
		strcpy(last, entry.name);
		count++;
	}
	cr_expect_eq(rc, 0, "%s", fixture_err.msg);
	cr_expect_eq(count, 2000);
	agent_close(c);
}

Test(files, mkdir_makes_parents_and_minds_what_is_there)
{
	struct agent_conn *c = dial();

	ok(agent_mkdir(c, "x/y/z", &fixture_err));
	ok(agent_mkdir(c, "x/y/z", &fixture_err));
	put(c, "file", "");
	cr_expect_eq(agent_mkdir(c, "file", &fixture_err), -EEXIST);
	cr_expect_eq(agent_mkdir(c, "file/sub", &fixture_err), -ENOTDIR);
	cr_expect_eq(stat_of(in_scratch("home/x/y")).st_mode & 07777, 0755);
	agent_close(c);
}

Test(files, removal_is_recursive_and_does_not_leave_through_symlinks)
{
	struct agent_conn *c = dial();

	cr_assert_eq(mkdir(in_scratch("outside"), 0755), 0);
	cr_assert_eq(fd_write_file_atomic(AT_FDCWD, in_scratch("outside/keep"), "k", 1, 0644), 0);
	put(c, "tree/a/b/c", "x");
	put(c, "tree/a/d", "x");
	cr_assert_eq(symlink("../../outside", in_scratch("home/tree/link")), 0);
	cr_assert_eq(symlink("/", in_scratch("home/tree/a/root")), 0);
	ok(agent_remove(c, "tree", &fixture_err));
	cr_expect_eq(access(in_scratch("home/tree"), F_OK), -1);
	cr_expect_eq(access(in_scratch("outside/keep"), F_OK), 0);
	/* A symlink itself is removed, not what it points to. */
	cr_assert_eq(symlink("../outside", in_scratch("home/link")), 0);
	ok(agent_remove(c, "link", &fixture_err));
	cr_expect_eq(access(in_scratch("outside/keep"), F_OK), 0);
	ok(agent_remove(c, "link", &fixture_err));
	ok(agent_remove(c, "no/such/thing", &fixture_err));
	agent_close(c);
}

Test(files, a_tree_deeper_than_any_path_can_name_is_removed)
{
	struct agent_conn *c = dial();
	int fd = open(home, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	for (int i = 0; i < 3000; i++) {
		int next;

		cr_assert_eq(mkdirat(fd, "deep", 0755), 0);
		cr_assert_eq(symlinkat("/", fd, "link"), 0);
		next = openat(fd, "deep", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		close(fd);
		fd = next;
	}
	close(fd);
	ok(agent_remove(c, "deep", &fixture_err));
	cr_expect_eq(access(in_scratch("home/deep"), F_OK), -1);
	agent_close(c);
}

Test(files, the_root_and_mount_points_are_not_removed)
{
	struct agent_conn *c = dial();

	cr_expect_eq(agent_remove(c, "/", &fixture_err), -EBUSY);
	cr_expect_eq(agent_remove(c, "/tmp/../..", &fixture_err), -EBUSY);
	cr_expect_eq(agent_remove(c, "/proc", &fixture_err), -EBUSY);
	agent_close(c);
}

Test(files, stat_follows_symlinks)
{
	struct agent_conn *c = dial();
	struct agent_stat st;

	put(c, "file", "1234");
	cr_assert_eq(symlink("file", in_scratch("home/link")), 0);
	ok(agent_stat(c, "link", &st, &fixture_err));
	cr_expect(S_ISREG(st.mode));
	cr_expect_eq(st.size, 4);
	cr_expect_eq(st.uid, geteuid());
	cr_expect_eq(agent_stat(c, "none", &st, &fixture_err), -ENOENT);
	agent_close(c);
}

Test(files, new_files_belong_to_the_user_in_its_places_and_to_root_elsewhere)
{
	struct user u = {.uid = 1000, .gid = 1001, .home = "/home/sandbox"};
	static const struct {
		const char *path;
		bool mine;
	} cases[] = {
	    {"/home/sandbox/x", true},
	    {"/home/sandbox", false},
	    {"/home/sandbox2/x", false},
	    {"/tmp/x", true},
	    {"/tmp", false},
	    {"/workspace/a/b", true},
	    {"/etc/x", false},
	    {"/", false},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uid_t uid;
		gid_t gid;

		path_owner(&u, cases[i].path, &uid, &gid);
		cr_expect_eq(uid, cases[i].mine ? 1000 : geteuid(), "%s", cases[i].path);
		cr_expect_eq(gid, cases[i].mine ? 1001 : getegid(), "%s", cases[i].path);
	}
}

Test(files, sync_answers_and_shutdown_is_refused_outside_of_a_guest)
{
	struct agent_conn *c = dial();

	ok(agent_sync(c, &fixture_err));
	cr_expect_eq(agent_shutdown(c, PROTO_POWEROFF, &fixture_err), -EPERM);
	cr_expect_eq(agent_shutdown(c, PROTO_REBOOT, &fixture_err), -EPERM);
	ok(agent_ping(c, &fixture_err));
	agent_close(c);
}
