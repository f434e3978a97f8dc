/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <criterion/redirect.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake_server.h"
#include "lib/fd.h"
#include "tools/cli/cp.h"

struct side_case {
	char text[40];
	bool remote, stdio;
	char id[20], path[40];
};

ParameterizedTestParameters(cp, sides_are_told_apart)
{
	static struct side_case cases[] = {
	    {"sb-1:/a", true, false, "sb-1", "/a"},	    {"sb-1:", true, false, "sb-1", "."},
	    {"sb-1:b:c", true, false, "sb-1", "b:c"},	    {"./a:b", false, false, "", "./a:b"},
	    {"/x/sb-1:/a", false, false, "", "/x/sb-1:/a"}, {":/a", false, false, "", ":/a"},
	    {"plain", false, false, "", "plain"},	    {"-", false, true, "", "-"},
	    {"s_b:/a", false, false, "", "s_b:/a"},
	};
	return cr_make_param_array(struct side_case, cases, sizeof(cases) / sizeof(cases[0]));
}

ParameterizedTest(struct side_case *c, cp, sides_are_told_apart)
{
	struct cp_side s;

	cp_parse_side(c->text, &s);
	cr_assert_eq(s.remote, c->remote);
	cr_assert_eq(s.stdio, c->stdio);
	cr_assert_str_eq(s.id, c->id);
	cr_assert_str_eq(s.path, c->path);
}

Test(cp, the_base_name_of_a_path)
{
	char out[10];

	cr_assert_eq(cp_base_name("/a/b.txt", out, sizeof(out)), 0);
	cr_assert_str_eq(out, "b.txt");
	cr_assert_eq(cp_base_name("dir///", out, sizeof(out)), 0);
	cr_assert_str_eq(out, "dir");
	cr_assert_lt(cp_base_name("/", out, sizeof(out)), 0);
	cr_assert_lt(cp_base_name("", out, sizeof(out)), 0);
	cr_assert_lt(cp_base_name(".", out, sizeof(out)), 0);
	cr_assert_lt(cp_base_name("a/..", out, sizeof(out)), 0);
	cr_assert_lt(cp_base_name("0123456789", out, sizeof(out)), 0);
}

/* --- copies against a directory that plays the guest ------------------------ */
static struct fake_server server;

static char *at(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static char *at(const char *fmt, ...)
{
	static char paths[8][400];
	static int turn;
	char *p = paths[turn++ % 8];
	int n = snprintf(p, 400, "%s/", server.dir);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(p + n, (size_t)(400 - n), fmt, ap);
	va_end(ap);
	return p;
}

static void put(const char *path, const void *data, size_t len)
{
	cr_assert_eq(fd_write_file_atomic(AT_FDCWD, path, data, len, 0644), 0, "%s", path);
}

static void expect_file(const char *path, const char *text)
{
	char *got;

	cr_assert_eq(fd_read_file(AT_FDCWD, path, 1 << 20, &got, NULL), 0, "%s", path);
	cr_assert_str_eq(got, text, "%s", path);
	free(got);
}

static void begin(void)
{
	fake_start(&server, false, fake_files);
	mkdir(at("guest"), 0755);
	mkdir(at("host"), 0755);
}

static void end(void)
{
	fake_stop(&server);
}

Test(cp, a_file_goes_in_and_out, .init = begin, .fini = end, .timeout = 60)
{
	size_t len = 5000000;
	char *data = malloc(len), *got;
	size_t got_len;

	for (size_t i = 0; i < len; i++)
		data[i] = (char)(i * 7919 >> 8);
	put(at("host/big"), data, len);
	cr_assert_eq(fake_dormouse("cp", at("host/big"), "sb-1:/copy \xc3\xbc&", NULL), 0);
	cr_assert_eq(fake_dormouse("cp", "sb-1:/copy \xc3\xbc&", at("host/back"), NULL), 0);
	cr_assert_eq(fd_read_file(AT_FDCWD, at("host/back"), 1 << 24, &got, &got_len), 0);
	cr_assert_eq(got_len, len);
	cr_assert_eq(memcmp(got, data, len), 0);
	free(got);
	free(data);
}

Test(cp, an_existing_directory_takes_the_file_under_its_name, .init = begin, .fini = end,
     .timeout = 30)
{
	mkdir(at("guest/d"), 0755);
	put(at("host/f"), "1", 1);
	cr_assert_eq(fake_dormouse("cp", at("host/f"), "sb-1:/d", NULL), 0);
	expect_file(at("guest/d/f"), "1");
	mkdir(at("host/in"), 0755);
	cr_assert_eq(fake_dormouse("cp", "sb-1:/d/f", at("host/in"), NULL), 0);
	expect_file(at("host/in/f"), "1");
}

Test(cp, a_tree_goes_in_and_out_and_says_what_it_leaves_out, .init = begin, .fini = end,
     .timeout = 60)
{
	mkdir(at("host/t"), 0755);
	mkdir(at("host/t/sub"), 0755);
	mkdir(at("host/t/empty"), 0755);
	put(at("host/t/a"), "A", 1);
	put(at("host/t/sub/.hidden"), "H", 1);
	put(at("host/t/none"), "", 0);
	cr_assert_eq(symlink("a", at("host/t/to-file")), 0);
	cr_assert_eq(symlink("..", at("host/t/sub/to-dir")), 0);
	cr_assert_eq(mkfifo(at("host/t/pipe"), 0600), 0);
	cr_redirect_stdout();
	cr_redirect_stderr();
	cr_assert_eq(fake_dormouse("cp", "--json", at("host/t"), "sb-1:/t2", NULL), EXIT_FAILED);
	fflush(stdout);
	cr_assert_stdout_eq_str("{\"files\":4,\"directories\":3,\"bytes\":3,\"skipped\":2}\n");
	expect_file(at("guest/t2/a"), "A");
	expect_file(at("guest/t2/sub/.hidden"), "H");
	expect_file(at("guest/t2/to-file"), "A");
	expect_file(at("guest/t2/none"), "");
	cr_assert_eq(access(at("guest/t2/pipe"), F_OK), -1);

	cr_assert_eq(fake_dormouse("cp", "sb-1:/t2", at("host/back"), NULL), 0);
	expect_file(at("host/back/sub/.hidden"), "H");
	expect_file(at("host/back/none"), "");
	cr_assert_eq(access(at("host/back/empty"), F_OK), 0);
}

Test(cp, a_link_to_a_directory_in_the_guest_is_skipped_not_made_a_file, .init = begin, .fini = end,
     .timeout = 30)
{
	mkdir(at("guest/t"), 0755);
	mkdir(at("guest/t/real"), 0755);
	cr_assert_eq(symlink("real", at("guest/t/link")), 0);
	cr_redirect_stderr();
	cr_assert_eq(fake_dormouse("cp", "sb-1:/t", at("host/t"), NULL), EXIT_FAILED);
	fflush(stderr);
	cr_assert_stderr_eq_str("dormouse cp: /t/link: skipped: a symbolic link to a directory\n");
	cr_assert_eq(access(at("host/t/link"), F_OK), -1);
	cr_assert_eq(access(at("host/t/real"), F_OK), 0);
}

Test(cp, standard_input_and_output, .init = begin, .fini = end, .timeout = 30)
{
	int fd;

	put(at("host/in"), "streamed", 8);
	fd = open(at("host/in"), O_RDONLY);
	dup2(fd, STDIN_FILENO);
	cr_assert_eq(fake_dormouse("cp", "-", "sb-1:/s", NULL), 0);
	expect_file(at("guest/s"), "streamed");
	cr_assert_eq(dup2(open(at("host/out"), O_WRONLY | O_CREAT, 0600), STDOUT_FILENO), 1);
	cr_assert_eq(fake_dormouse("cp", "sb-1:/s", "-", NULL), 0);
	expect_file(at("host/out"), "streamed");
}

Test(cp, a_failure_names_the_file_and_leaves_no_half_one, .init = begin, .fini = end, .timeout = 30)
{
	cr_redirect_stderr();
	put(at("host/keep"), "old", 3);
	cr_assert_eq(fake_dormouse("cp", "sb-1:/missing", at("host/keep"), NULL), EXIT_FAILED);
	cr_assert_eq(fake_dormouse("cp", at("host/missing"), "sb-1:/x", NULL), EXIT_FAILED);
	expect_file(at("host/keep"), "old");
	cr_assert_eq(access(at("host/keep.dormouse-part"), F_OK), -1);
}

static const char *hostile_list;

static void hostile(struct fake_server *s, const struct fake_request *r, int fd)
{
	(void)s;
	if (strstr(r->target, "/files/list"))
		fake_reply(fd, 200, hostile_list);
	else
		fake_reply(fd, 200, "evil");
}

Test(cp, names_from_a_hostile_guest_do_not_leave_the_destination, .timeout = 60)
{
	static const char *const lists[] = {
	    "[{\"name\":\"../../x\",\"isDir\":false,\"size\":4}]",
	    "[{\"name\":\"..\",\"isDir\":true}]",
	    "[{\"name\":\"/etc/x\",\"isDir\":false}]",
	    "[{\"name\":\"\",\"isDir\":false}]",
	    "[{\"isDir\":false}]",
	    "[17]",
	    /* a directory in itself, for ever */
	    "[{\"name\":\"d\",\"isDir\":true}]",
	};

	fake_start(&server, false, hostile);
	cr_redirect_stderr();
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		hostile_list = lists[i];
		cr_expect_eq(fake_dormouse("cp", "sb-1:/t", at("out%zu", i), NULL), EXIT_FAILED,
			     "%s", lists[i]);
	}
	cr_expect_eq(access(at("x"), F_OK), -1);
	fake_stop(&server);
}

Test(cp, a_local_link_in_the_way_is_replaced_and_never_written_through, .timeout = 30)
{
	fake_start(&server, false, hostile);
	cr_redirect_stderr();
	hostile_list = "[{\"name\":\"f\",\"isDir\":false,\"size\":4}]";
	put(at("victim"), "safe", 4);
	mkdir(at("out"), 0755);
	mkdir(at("out/t"), 0755);
	cr_assert_eq(symlink("../../victim", at("out/t/f")), 0);
	cr_assert_eq(fake_dormouse("cp", "sb-1:/t", at("out"), NULL), 0);
	expect_file(at("victim"), "safe");
	expect_file(at("out/t/f"), "evil");

	hostile_list = "[{\"name\":\"d\",\"isDir\":true}]";
	cr_assert_eq(symlink("/tmp", at("out/t/d")), 0);
	cr_assert_eq(fake_dormouse("cp", "sb-1:/t", at("out"), NULL), EXIT_FAILED);
	fake_stop(&server);
}
