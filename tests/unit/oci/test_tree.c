/* SPDX-License-Identifier: Apache-2.0 */
/* Paths, whiteouts and layers: what is left of an image's files. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "server/oci/tree.h"

static int dropped;

static void count_drop(void *ctx, struct tree_file *f)
{
	(void)ctx;
	cr_assert_eq(f->links, 0);
	dropped++;
}

static struct tree tree;
static struct err e;

static void begin(void)
{
	dropped = 0;
	cr_assert_eq(tree_init(&tree, count_drop, NULL), 0);
}

static void end(void)
{
	tree_fini(&tree);
}

TestSuite(tree, .init = begin, .fini = end);

static int put(const char *path, unsigned int layer, uint32_t mode, const char *target)
{
	struct tree_file *f = tree_file_new(mode);
	int rc;

	if (target) {
		f->target = strdup(target);
		f->size = strlen(target);
	}
	rc = tree_put(&tree, path, layer, f, &e);
	if (rc)
		tree_file_free(f);
	return rc;
}

static int file(const char *path, unsigned int layer)
{
	return put(path, layer, S_IFREG | 0644, NULL);
}

static int dir(const char *path, unsigned int layer)
{
	return put(path, layer, S_IFDIR | 0700, NULL);
}

static int symlink_to(const char *path, const char *target)
{
	return put(path, 1, S_IFLNK | 0777, target);
}

static bool there(const char *path)
{
	return tree_find(&tree, path) != NULL;
}

Test(tree, every_way_to_write_a_path_is_below_the_root)
{
	static const char *const paths[] = {"a/b",   "./a/b",	"/a/b", "a//b",
					    "a/./b", "///a/b/", "a/b/."};

	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		cr_assert_eq(file(paths[i], 1), 0, "%s", paths[i]);
		cr_assert_eq(tree.n, 2, "%s", paths[i]);
	}
	cr_assert(there("a/b"));
	cr_assert_eq(tree_find(&tree, "a")->file->mode, S_IFDIR | 0755);
}

Test(tree, what_leads_out_is_refused_and_named)
{
	static const char *const paths[] = {"..", "../a", "a/../b", "/..", "a/..", "./../x"};

	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		cr_assert_eq(file(paths[i], 1), -EINVAL, "%s", paths[i]);
		cr_assert(strstr(e.msg, paths[i]), "%s", e.msg);
		cr_assert_eq(tree_mark(&tree, "a/../.wh.b", 1, &e), -EINVAL);
	}
	cr_assert_eq(tree.n, 0);
}

Test(tree, links_on_the_way_stay_within_the_tree)
{
	cr_assert_eq(dir("usr/bin", 1), 0);
	cr_assert_eq(symlink_to("bin", "usr/bin"), 0);
	cr_assert_eq(symlink_to("out", "../../../usr"), 0);
	cr_assert_eq(symlink_to("abs", "/usr"), 0);
	cr_assert_eq(symlink_to("new", "usr/made/here"), 0);
	cr_assert_eq(file("bin/sh", 1), 0);
	cr_assert_eq(file("out/a", 1), 0);
	cr_assert_eq(file("abs/b", 1), 0);
	cr_assert_eq(file("new/c", 1), 0);
	cr_assert(there("usr/bin/sh") && there("usr/a") && there("usr/b") &&
		  there("usr/made/here/c"));
	/* The link itself is what the last part names. */
	cr_assert(S_ISLNK(tree_find(&tree, "bin")->file->mode));
	cr_assert(S_ISDIR(tree_find_end(&tree, "bin")->file->mode));
}

Test(tree, links_in_circles_end)
{
	cr_assert_eq(symlink_to("a", "b"), 0);
	cr_assert_eq(symlink_to("b", "a"), 0);
	cr_assert_eq(symlink_to("self", "self/self"), 0);
	cr_assert_eq(file("a/x", 1), -ELOOP);
	cr_assert_neq(file("self/x", 1), 0);
	cr_assert_null(tree_find_end(&tree, "a"));
}

Test(tree, a_file_is_no_directory)
{
	cr_assert_eq(file("f", 1), 0);
	cr_assert_eq(file("f/x", 1), -ENOTDIR);
	cr_assert_eq(file("/", 1), -ENOTDIR);
	cr_assert_eq(dir("/", 1), 0);
	cr_assert_eq(tree.root->file->mode, S_IFDIR | 0700);
}

Test(tree, names_have_a_length)
{
	char name[TREE_PATH_MAX + 2];

	memset(name, 'a', sizeof(name));
	name[TREE_NAME_MAX] = '\0';
	cr_assert_eq(file(name, 1), 0);
	name[TREE_NAME_MAX] = 'a';
	name[TREE_NAME_MAX + 1] = '\0';
	cr_assert_eq(file(name, 1), -ENAMETOOLONG);
	for (size_t i = 0; i < TREE_PATH_MAX; i++)
		name[i] = i % 2 ? '/' : 'a';
	name[TREE_PATH_MAX] = '\0';
	cr_assert_eq(file(name, 1), -ENAMETOOLONG);
}

Test(tree, folders_have_a_depth)
{
	char path[2 * 600 + 1];

	for (size_t i = 0; i < 600; i++)
		memcpy(path + 2 * i, "d/", 3);
	cr_assert_eq(dir(path, 1), 0);
	/* The rest of the way through a link. */
	cr_assert_eq(symlink_to("deep", path), 0);
	cr_assert_eq(tree.n, 601);
	snprintf(path, sizeof(path), "deep/");
	for (size_t i = 0; i < 500; i++)
		memcpy(path + 5 + 2 * i, "e/", 3);
	cr_assert_eq(dir(path, 1), -ENAMETOOLONG);
}

Test(tree, a_later_layer_replaces_files_and_joins_directories)
{
	cr_assert_eq(file("d/old", 1), 0);
	cr_assert_eq(file("f", 1), 0);
	cr_assert_eq(dir("d", 2), 0);
	cr_assert_eq(dir("f", 2), 0);
	cr_assert(there("d/old") && S_ISDIR(tree_find(&tree, "f")->file->mode));
	cr_assert_eq(tree_find(&tree, "d")->file->mode, S_IFDIR | 0700);
	cr_assert_eq(file("d", 3), 0);
	cr_assert(!there("d/old") && S_ISREG(tree_find(&tree, "d")->file->mode));
}

Test(tree, hard_links_are_one_file)
{
	cr_assert_eq(file("a", 1), 0);
	cr_assert_eq(tree_put(&tree, "b", 1, tree_find(&tree, "a")->file, &e), 0);
	cr_assert_eq(tree_find(&tree, "b")->file->links, 2);
	cr_assert_eq(file("a", 2), 0);
	cr_assert_eq(dropped, 0);
	cr_assert_eq(tree_mark(&tree, ".wh.b", 2, &e), 1);
	cr_assert_eq(dropped, 1);
	cr_assert(there("a") && !there("b"));
	/* Over the folder that has the file. */
	cr_assert_eq(file("d/x", 2), 0);
	cr_assert_eq(tree_put(&tree, "d", 2, tree_find(&tree, "d/x")->file, &e), 0);
	cr_assert_eq(tree_find(&tree, "d")->file->links, 1);
	cr_assert_eq(tree_put(&tree, "e", 2, tree.root->file, &e), -EMLINK);
}

Test(tree, whiteouts_remove_what_is_below)
{
	cr_assert_eq(file("d/a", 1), 0);
	cr_assert_eq(file("d/b", 1), 0);
	cr_assert_eq(file("g/x/y", 1), 0);
	cr_assert_eq(tree_mark(&tree, "d/.wh.a", 2, &e), 1);
	cr_assert_eq(tree_mark(&tree, ".wh.g", 2, &e), 1);
	cr_assert(!there("d/a") && there("d/b") && !there("g"));
	/* Of what is not there, and in no folder. */
	cr_assert_eq(tree_mark(&tree, ".wh.none", 2, &e), 1);
	cr_assert_eq(tree_mark(&tree, "none/.wh.none", 2, &e), 1);
	cr_assert_eq(tree_mark(&tree, "d/b", 2, &e), 0);
}

Test(tree, whiteouts_leave_what_their_own_layer_has)
{
	cr_assert_eq(file("d/old", 1), 0);
	cr_assert_eq(file("d/new", 2), 0);
	cr_assert_eq(tree_mark(&tree, ".wh.d", 2, &e), 1);
	cr_assert(!there("d/old") && there("d/new"));
	cr_assert_eq(file("o/old", 1), 0);
	cr_assert_eq(file("o/new", 2), 0);
	cr_assert_eq(tree_mark(&tree, "o/.wh..wh..opq", 2, &e), 1);
	cr_assert(!there("o/old") && there("o/new"));
	cr_assert_eq(tree_mark(&tree, "o/.wh..wh..opq", 3, &e), 1);
	cr_assert(there("o") && !there("o/new"));
	/* Of the whole. */
	cr_assert_eq(tree_mark(&tree, ".wh..wh..opq", 4, &e), 1);
	cr_assert_eq(tree.n, 0);
}

Test(tree, whiteouts_of_folders_above_are_refused)
{
	cr_assert_eq(file("d/a", 1), 0);
	cr_assert_eq(tree_mark(&tree, "d/.wh..", 2, &e), -EINVAL);
	cr_assert_eq(tree_mark(&tree, "d/.wh...", 2, &e), -EINVAL);
	cr_assert_eq(tree_mark(&tree, "d/.wh.", 2, &e), -EINVAL);
	cr_assert_eq(tree_mark(&tree, "d/a/.wh.x", 2, &e), -ENOTDIR);
	/* What some tools leave for themselves. */
	cr_assert_eq(tree_mark(&tree, "d/.wh..wh.plnk", 2, &e), 1);
	cr_assert(there("d/a"));
}

Test(tree, many_files_are_found_again)
{
	char name[32];

	for (int i = 0; i < 20000; i++) {
		snprintf(name, sizeof(name), "d%d/f%d", i % 7, i);
		cr_assert_eq(file(name, 1), 0);
	}
	for (int i = 0; i < 20000; i += 2) {
		snprintf(name, sizeof(name), "d%d/.wh.f%d", i % 7, i);
		cr_assert_eq(tree_mark(&tree, name, 2, &e), 1);
	}
	for (int i = 0; i < 20000; i++) {
		snprintf(name, sizeof(name), "d%d/f%d", i % 7, i);
		cr_assert_eq(there(name), i % 2);
	}
	cr_assert_eq(dropped, 10000);
}
