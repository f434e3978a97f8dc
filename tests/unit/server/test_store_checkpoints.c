/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

TestSuite(checkpoints, .init = setup, .fini = teardown);

static void reopen(void)
{
	store_close(store);
	cr_assert_eq(store_open(path, &store, NULL), 0);
}

static struct sandbox_row sandbox(const char *id)
{
	struct sandbox_row row = {.template = (char *)"base", .alias = (char *)""};

	snprintf(row.id, sizeof(row.id), "%s", id);
	row.base_image = (char *)"/images/base.ext4";
	return row;
}

static int insert(const char *id, const char *name, const char *parent)
{
	struct checkpoint_row row = {.name = (char *)name,
				     .full = true,
				     .base_image = (char *)"/images/base.ext4",
				     .template = (char *)"base",
				     .cpus = 2,
				     .memory_mib = 512,
				     .disk_mib = 20480,
				     .timeout_s = 300,
				     .port = 80,
				     .network = true,
				     .created_ms = 1000};
	int rc;

	snprintf(row.id, sizeof(row.id), "%s", id);
	snprintf(row.sandbox_id, sizeof(row.sandbox_id), "sb-1");
	snprintf(row.parent, sizeof(row.parent), "%s", parent);
	cr_assert_eq(chain_push(&row.layers, "l1"), 0);
	cr_assert_eq(chain_push(&row.layers, "l2"), 0);
	row.envs = json_pack("{ss}", "A", "b");
	rc = store_checkpoint_insert(store, &row, NULL, NULL);
	chain_fini(&row.layers);
	json_decref(row.envs);
	return rc;
}

Test(checkpoints, come_back_as_they_were)
{
	struct checkpoint_row row;

	cr_assert_eq(insert("c1", "it's", "c0"), 0);
	reopen();
	cr_assert_eq(store_checkpoint_get(store, "c1", &row, NULL), 0);
	cr_assert_str_eq(row.sandbox_id, "sb-1");
	cr_assert_str_eq(row.name, "it's");
	cr_assert_str_eq(row.parent, "c0");
	cr_assert(row.full && !row.promote && !row.is_public && !row.is_template &&
		  !row.automatic && !row.cold && row.network);
	cr_assert_eq(row.status, CHECKPOINT_PROCESSING);
	cr_assert(row.cpus == 2 && row.memory_mib == 512 && row.disk_mib == 20480);
	cr_assert(row.timeout_s == 300 && row.port == 80 && row.created_ms == 1000);
	cr_assert_eq(row.layers.n, 2);
	cr_assert_str_eq(row.layers.ids[1], "l2");
	cr_assert_str_eq(json_string_value(json_object_get(row.envs, "A")), "b");
	checkpoint_row_fini(&row);
	cr_assert_eq(store_checkpoint_get(store, "c2", &row, NULL), -ENOENT);
}

Test(checkpoints, names_are_unique_in_a_sandbox)
{
	struct err e;
	struct checkpoint_row row = {.name = (char *)"x",
				     .base_image = (char *)"b",
				     .template = (char *)"t",
				     .id = "c2",
				     .sandbox_id = "sb-1"};

	cr_assert_eq(insert("c1", "x", ""), 0);
	cr_assert_eq(store_checkpoint_insert(store, &row, NULL, &e), -EEXIST);
	cr_assert(strstr(e.msg, "\"x\""), "%s", e.msg);
	strcpy(row.sandbox_id, "sb-2");
	cr_assert_eq(store_checkpoint_insert(store, &row, NULL, &e), 0);
	cr_assert_eq(store_checkpoint_delete(store, "c1", &e), 0);
	cr_assert_eq(insert("c3", "x", ""), 0);
}

Test(checkpoints, a_row_and_its_sandbox_change_together_or_not_at_all)
{
	struct sandbox_row s = sandbox("sb-1"), got;
	struct checkpoint_row row = {.id = "nope", .status = CHECKPOINT_READY};

	cr_assert_eq(store_sandbox_insert(store, &s, NULL), 0);
	strcpy(s.current_checkpoint, "c1");
	cr_assert_eq(chain_push(&s.layers, "l1"), 0);
	cr_assert_eq(store_checkpoint_update(store, &row, &s, NULL), -ENOENT);
	cr_assert_eq(store_sandbox_get(store, "sb-1", &got, NULL), 0);
	cr_assert_eq(got.layers.n, 0);
	sandbox_row_fini(&got);

	cr_assert_eq(insert("c1", "x", ""), 0);
	strcpy(row.id, "c1");
	row.ram_bytes = 5;
	cr_assert_eq(store_checkpoint_update(store, &row, &s, NULL), 0);
	reopen();
	cr_assert_eq(store_sandbox_get(store, "sb-1", &got, NULL), 0);
	cr_assert_eq(got.layers.n, 1);
	cr_assert_str_eq(got.current_checkpoint, "c1");
	sandbox_row_fini(&got);
	cr_assert_eq(store_checkpoint_get(store, "c1", &row, NULL), 0);
	cr_assert(row.status == CHECKPOINT_READY && row.ram_bytes == 5);
	checkpoint_row_fini(&row);
	chain_fini(&s.layers);
}

Test(checkpoints, all_of_a_sandbox_is_kept)
{
	struct sandbox_row s = sandbox("sb-1"), got;

	cr_assert_eq(store_sandbox_insert(store, &s, NULL), 0);
	s.status = SANDBOX_HIBERNATED;
	cr_assert_eq(chain_push(&s.pending, "p1"), 0);
	strcpy(s.pending_checkpoint, "c9");
	strcpy(s.hibernation, "h1");
	strcpy(s.from_checkpoint, "f1");
	s.hibernation_bytes = 7;
	s.patch_sequence = 3;
	s.patch_error = (char *)"exit 1";
	cr_assert_eq(store_sandbox_update(store, &s, NULL), 0);
	cr_assert_eq(store_sandbox_get(store, "sb-1", &got, NULL), 0);
	cr_assert_eq(got.status, SANDBOX_HIBERNATED);
	cr_assert(got.pending.n == 1 && got.layers.n == 0);
	cr_assert_str_eq(got.pending.ids[0], "p1");
	cr_assert_str_eq(got.pending_checkpoint, "c9");
	cr_assert_str_eq(got.hibernation, "h1");
	cr_assert_str_eq(got.from_checkpoint, "f1");
	cr_assert_str_eq(got.base_image, "/images/base.ext4");
	cr_assert(got.hibernation_bytes == 7 && got.patch_sequence == 3);
	cr_assert_str_eq(got.patch_error, "exit 1");
	sandbox_row_fini(&got);
	chain_fini(&s.pending);
}

static void count(void *arg, struct checkpoint_row *row)
{
	(void)row;
	++*(int *)arg;
}

Test(checkpoints, children_of_a_deleted_one_go_to_its_parent)
{
	struct sandbox_row s = sandbox("sb-1"), got;
	struct checkpoint_row row;
	int n = 0;

	cr_assert_eq(insert("c1", "1", ""), 0);
	cr_assert_eq(insert("c2", "2", "c1"), 0);
	cr_assert_eq(insert("c3", "3", "c2"), 0);
	strcpy(s.current_checkpoint, "c2");
	cr_assert_eq(store_sandbox_insert(store, &s, NULL), 0);
	cr_assert_eq(store_checkpoint_delete(store, "c2", NULL), 0);
	cr_assert_eq(store_checkpoint_delete(store, "c2", NULL), -ENOENT);
	cr_assert_eq(store_checkpoint_get(store, "c3", &row, NULL), 0);
	cr_assert_str_eq(row.parent, "c1");
	checkpoint_row_fini(&row);
	cr_assert_eq(store_sandbox_get(store, "sb-1", &got, NULL), 0);
	cr_assert_str_eq(got.current_checkpoint, "c1");
	sandbox_row_fini(&got);
	cr_assert_eq(store_checkpoint_each(store, "sb-1", count, &n, NULL), 0);
	cr_assert_eq(n, 2);
	cr_assert_eq(store_checkpoint_each(store, NULL, count, &n, NULL), 0);
	cr_assert_eq(n, 4);
}

Test(checkpoints, those_in_the_making_fail_at_a_start)
{
	struct checkpoint_row row;

	cr_assert_eq(insert("c1", "1", ""), 0);
	cr_assert_eq(store_checkpoint_fail_processing(store, "why", 9, NULL), 0);
	cr_assert_eq(store_checkpoint_get(store, "c1", &row, NULL), 0);
	cr_assert_eq(row.status, CHECKPOINT_FAILED);
	cr_assert_str_eq(row.error, "why");
	cr_assert_eq(row.done_ms, 9);
	checkpoint_row_fini(&row);
}

static int64_t add_patch(const char *id)
{
	struct patch_row row = {.script = (char *)"true", .description = (char *)""};

	snprintf(row.id, sizeof(row.id), "%s", id);
	strcpy(row.checkpoint_id, "c1");
	return store_patch_insert(store, &row, NULL) ?: row.sequence;
}

Test(checkpoints, patches_have_an_order)
{
	struct patch_row row;
	bool in_use;

	cr_assert_eq(add_patch("p0"), -ENOENT);
	cr_assert_eq(insert("c1", "1", ""), 0);
	cr_assert_eq(store_checkpoint_in_use(store, "c1", &in_use, NULL), 0);
	cr_assert(!in_use);
	for (int i = 1; i <= 3; i++)
		cr_assert_eq(add_patch((const char *[]){"p1", "p2", "p3"}[i - 1]), i);
	cr_assert_eq(store_checkpoint_in_use(store, "c1", &in_use, NULL), 0);
	cr_assert(in_use);
	cr_assert_eq(store_patch_delete(store, "c1", "p2", NULL), 0);
	cr_assert_eq(store_patch_delete(store, "c1", "p2", NULL), -ENOENT);
	cr_assert_eq(add_patch("p4"), 4);
	cr_assert_eq(store_patch_next(store, "c1", 1, &row, NULL), 0);
	cr_assert_str_eq(row.id, "p3");
	cr_assert_str_eq(row.script, "true");
	patch_row_fini(&row);
	cr_assert_eq(store_patch_next(store, "c1", 4, &row, NULL), -ENOENT);
	cr_assert_eq(store_checkpoint_delete(store, "c1", NULL), 0);
	cr_assert_eq(store_patch_next(store, "c1", 0, &row, NULL), -ENOENT);
}

Test(store_checkpoints, chains_are_compared_by_what_their_ids_say)
{
	struct chain a = {0}, b = {0};

	cr_assert(chain_begins(&a, &b));
	for (int i = 0; i < 3; i++) {
		cr_assert_eq(chain_push(&a, i ? "l" : "first"), 0);
		/* What is behind the NUL is nobody's. */
		memset(a.ids[i] + 6, 0x40 + i, UUID_SIZE - 6);
	}
	cr_assert_eq(chain_push(&b, "first"), 0);
	cr_assert(chain_begins(&a, &b) && !chain_begins(&b, &a));
	cr_assert_eq(chain_push(&b, "other"), 0);
	cr_assert(!chain_begins(&a, &b));
	chain_fini(&a);
	chain_fini(&b);
}
