/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/store/store.h"

static char dir[] = "/tmp/dm-store-XXXXXX";
static char path[64];
static struct store *store;

static void setup(void)
{
	cr_assert_not_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/db", dir);
	cr_assert_eq(store_open(path, &store, NULL), 0);
}

static void teardown(void)
{
	char command[80];

	store_close(store);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	cr_assert_eq(system(command), 0);
}

TestSuite(images, .init = setup, .fini = teardown);

static void reopen(void)
{
	store_close(store);
	cr_assert_eq(store_open(path, &store, NULL), 0);
}

static struct checkpoint_row checkpoint(const char *id, const char *name)
{
	struct checkpoint_row row = {.name = (char *)name,
				     .status = CHECKPOINT_READY,
				     .base_image = (char *)"/base.ext4",
				     .template = (char *)"base",
				     .workdir = (char *)"/app"};

	snprintf(row.id, sizeof(row.id), "%s", id);
	return row;
}

static int insert_image(const char *key, const char *id, int64_t used_ms)
{
	struct checkpoint_row c = checkpoint(id, key);
	struct image_row row = {.base_version = (char *)"v1", .steps = 2, .used_ms = used_ms};

	snprintf(row.key, sizeof(row.key), "%s", key);
	snprintf(row.checkpoint_id, sizeof(row.checkpoint_id), "%s", id);
	return store_image_insert(store, &row, &c, NULL);
}

static void collect(void *arg, struct image_row *row)
{
	strcat(arg, row->key);
}

Test(images, come_back_as_they_were_and_go_with_their_checkpoint)
{
	char keys[32] = "";
	struct checkpoint_row c;
	struct image_row row;

	cr_assert_eq(insert_image("k1", "c1", 5), 0);
	cr_assert_eq(insert_image("k2", "c2", 7), 0);
	cr_assert_eq(insert_image("k1", "c3", 5), -EEXIST);
	cr_assert_eq(store_checkpoint_get(store, "c3", &c, NULL), -ENOENT);
	reopen();
	cr_assert_eq(store_image_each(store, collect, keys, NULL), 0);
	cr_assert_str_eq(keys, "k2k1");
	cr_assert_eq(store_image_used(store, "k1", "h", 9, NULL), 0);
	cr_assert_eq(store_image_used(store, "k1", "", 10, NULL), 0);
	cr_assert_eq(store_image_get(store, "k1", &row, NULL), 0);
	cr_assert(!strcmp(row.hash, "h") && row.used_ms == 10 && row.steps == 2);
	cr_assert(!strcmp(row.base_version, "v1") && !strcmp(row.checkpoint_id, "c1"));
	image_row_fini(&row);
	cr_assert_eq(store_checkpoint_get(store, "c1", &c, NULL), 0);
	cr_assert_str_eq(c.workdir, "/app");
	checkpoint_row_fini(&c);
	cr_assert_eq(store_checkpoint_delete(store, "c1", NULL), 0);
	cr_assert_eq(store_image_get(store, "k1", &row, NULL), -ENOENT);
}

static int insert_snapshot(const char *name, const char *id)
{
	struct snapshot_row row = {.name = (char *)name, .manifest = (char *)"{}"};

	snprintf(row.id, sizeof(row.id), "%s", id);
	snprintf(row.hash, sizeof(row.hash), "h");
	return store_snapshot_insert(store, &row, NULL);
}

static enum snapshot_status status_of(const char *name)
{
	struct snapshot_row row;
	enum snapshot_status status;

	cr_assert_eq(store_snapshot_get(store, name, &row, NULL), 0);
	status = row.status;
	snapshot_row_fini(&row);
	return status;
}

Test(images, a_snapshot_becomes_ready_with_its_checkpoint)
{
	struct checkpoint_row c = checkpoint("c1", "snapshot s1");
	struct snapshot_row row;
	struct err e;

	cr_assert_eq(insert_snapshot("a/b", "s1"), 0);
	cr_assert_eq(insert_snapshot("a/b", "s2"), -EEXIST);
	cr_assert_eq(status_of("a/b"), SNAPSHOT_BUILDING);
	cr_assert_eq(store_snapshot_end(store, "s1", &c, "v1", NULL, NULL), 0);
	reopen();
	cr_assert_eq(insert_snapshot("a/b", "s2"), -EEXIST);
	cr_assert_eq(store_snapshot_used(store, "a/b", 3, NULL), 0);
	cr_assert_eq(store_snapshot_set_public(store, "a/b", true, NULL), 0);
	cr_assert_eq(store_snapshot_get(store, "a/b", &row, NULL), 0);
	cr_assert(row.status == SNAPSHOT_READY && row.is_public && row.used_ms == 3);
	cr_assert(!strcmp(row.checkpoint_id, "c1") && !strcmp(row.base_version, "v1"));
	snapshot_row_fini(&row);
	cr_assert_eq(store_snapshot_delete(store, "a/b", NULL), 0);
	cr_assert_eq(store_checkpoint_get(store, "c1", &c, NULL), -ENOENT);
	cr_assert_eq(store_snapshot_delete(store, "a/b", &e), -ENOENT);
	cr_assert_str_eq(e.msg, "snapshot not found: a/b");
	cr_assert_eq(store_snapshot_used(store, "a/b", 3, NULL), -ENOENT);
}

Test(images, a_snapshot_that_was_deleted_gets_no_checkpoint)
{
	struct checkpoint_row c = checkpoint("c1", "snapshot s1");

	cr_assert_eq(insert_snapshot("a", "s1"), 0);
	cr_assert_eq(store_snapshot_delete(store, "a", NULL), 0);
	/* Another one of this name does not get it either. */
	cr_assert_eq(insert_snapshot("a", "s2"), 0);
	cr_assert_eq(store_snapshot_end(store, "s1", &c, "v1", NULL, NULL), -ENOENT);
	cr_assert_eq(store_checkpoint_get(store, "c1", &c, NULL), -ENOENT);
	cr_assert_eq(status_of("a"), SNAPSHOT_BUILDING);
}

Test(images, a_failed_snapshot_gives_its_name_away)
{
	struct snapshot_row row;

	cr_assert_eq(insert_snapshot("a", "s1"), 0);
	cr_assert_eq(store_snapshot_end(store, "s1", NULL, "", "step 1", NULL), 0);
	cr_assert_eq(store_snapshot_get(store, "a", &row, NULL), 0);
	cr_assert(row.status == SNAPSHOT_FAILED && !strcmp(row.error, "step 1"));
	snapshot_row_fini(&row);
	cr_assert_eq(insert_snapshot("a", "s2"), 0);
	cr_assert_eq(store_snapshot_fail_building(store, "restarted", NULL), 0);
	cr_assert_eq(status_of("a"), SNAPSHOT_FAILED);
}
