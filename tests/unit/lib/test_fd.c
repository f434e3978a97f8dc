/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fd.h"

static char dir[] = "/tmp/dormouse-fd-XXXXXX";

static int scratch(void)
{
	int fd;

	cr_assert_not_null(mkdtemp(dir));
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cr_assert_geq(fd, 0);
	return fd;
}

static void remove_scratch(void)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -rf %s", dir);
	cr_assert_eq(system(command), 0);
}

TestSuite(fd, .fini = remove_scratch);

Test(fd, an_atomic_write_replaces_and_leaves_no_temporary)
{
	int d = scratch();
	char *text;
	size_t len;

	cr_assert_eq(fd_write_file_atomic(d, "a", "one", 3, 0600), 0);
	cr_assert_eq(fd_write_file_atomic(d, "a", "second", 6, 0600), 0);
	cr_assert_eq(fd_read_file(d, "a", 100, &text, &len), 0);
	cr_assert_eq(len, 6);
	cr_assert_str_eq(text, "second");
	cr_assert_eq(faccessat(d, "a.tmp", F_OK, 0), -1);
	free(text);
}

Test(fd, a_file_over_the_limit_is_refused)
{
	int d = scratch();
	char *text;

	cr_assert_eq(fd_write_file_atomic(d, "a", "12345", 5, 0600), 0);
	cr_assert_eq(fd_read_file(d, "a", 5, &text, NULL), 0);
	free(text);
	cr_assert_eq(fd_read_file(d, "a", 4, &text, NULL), -EFBIG);
}

Test(fd, a_path_cannot_leave_its_directory)
{
	int d = scratch();

	cr_assert_eq(symlinkat("/etc/passwd", d, "link"), 0);
	cr_assert_eq(fd_open_beneath(d, "../x", O_RDONLY, 0), -EXDEV);
	cr_assert_eq(fd_open_beneath(d, "/etc/passwd", O_RDONLY, 0), -EXDEV);
	cr_assert_eq(fd_open_beneath(d, "link", O_RDONLY, 0), -EXDEV);
	cr_assert_geq(fd_open_beneath(d, "new", O_RDWR | O_CREAT, 0600), 0);
}

Test(fd, a_directory_is_read_from_its_beginning_each_time)
{
	int d = scratch();

	cr_assert_eq(fd_write_file_atomic(d, "a", "", 0, 0600), 0);
	for (int i = 0; i < 2; i++) {
		DIR *listing = fd_opendir(d, ".");
		int names = 0;

		cr_assert_not_null(listing);
		while (readdir(listing))
			names++;
		cr_assert_eq(names, 3, ". and .. and a, not %d", names);
		closedir(listing);
	}
	cr_assert_null(fd_opendir(d, "a"));
	cr_assert_eq(errno, ENOTDIR);
	cr_assert_null(fd_opendir(d, "none"));
	cr_assert_eq(errno, ENOENT);
	cr_assert_eq(symlinkat(".", d, "link"), 0);
	cr_assert_null(fd_opendir(d, "link"));
}

Test(fd, a_live_socket_is_not_replaced_and_a_dead_one_is)
{
	char path[64];
	struct err e;
	int first;

	scratch();
	snprintf(path, sizeof(path), "%s/s", dir);
	first = fd_unix_listen(path, 0600, &e);
	cr_assert_geq(first, 0, "%s", e.msg);
	cr_assert_eq(fd_unix_listen(path, 0600, &e), -EADDRINUSE);
	close(first);
	cr_assert_geq(fd_unix_listen(path, 0600, &e), 0, "%s", e.msg);
}
