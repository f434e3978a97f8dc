/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/store/store.h"

static char dir[] = "/tmp/dm-store-XXXXXX";
static char path[64];
static struct store *store;

static void open_store(void)
{
	struct err e = {0};

	cr_assert_eq(store_open(path, &store, &e), 0, "%s", e.msg);
}

static void setup(void)
{
	cr_assert_not_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/db", dir);
	open_store();
}

static void teardown(void)
{
	char command[80];

	store_close(store);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	cr_assert_eq(system(command), 0);
}

TestSuite(store, .init = setup, .fini = teardown);

static void insert(const char *id, int64_t created_ms)
{
	struct sandbox_row row = {
	    .status = SANDBOX_RUNNING,
	    .template = (char *)"base",
	    .alias = (char *)"it's",
	    .cpus = 2,
	    .memory_mib = 512,
	    .disk_mib = 20480,
	    .timeout_s = 300,
	    .port = 80,
	    .network = true,
	    .created_ms = created_ms,
	    .vmm_pid = 7,
	};

	snprintf(row.id, sizeof(row.id), "%s", id);
	row.envs = json_pack("{ss}", "A", "'; DROP TABLE sandboxes; --");
	row.metadata = json_object();
	cr_assert_eq(store_sandbox_insert(store, &row, NULL), 0);
	json_decref(row.envs);
	json_decref(row.metadata);
}

Test(store, a_row_comes_back_as_it_was_after_reopening)
{
	struct sandbox_row row;

	insert("sb-1", 1000);
	store_close(store);
	open_store();
	cr_assert_eq(store_sandbox_get(store, "sb-1", &row, NULL), 0);
	cr_assert_str_eq(row.id, "sb-1");
	cr_assert_eq(row.status, SANDBOX_RUNNING);
	cr_assert_str_eq(row.alias, "it's");
	cr_assert_str_eq(json_string_value(json_object_get(row.envs, "A")),
			 "'; DROP TABLE sandboxes; --");
	cr_assert(row.cpus == 2 && row.memory_mib == 512 && row.disk_mib == 20480 &&
		  row.timeout_s == 300 && row.port == 80 && row.network);
	cr_assert(row.created_ms == 1000 && row.ended_ms == 0 && row.vmm_pid == 7);
	cr_assert_null(row.error);
	sandbox_row_fini(&row);
}

Test(store, unknown_and_duplicate_ids)
{
	struct sandbox_row row;

	cr_assert_eq(store_sandbox_get(store, "sb-1", &row, NULL), -ENOENT);
	insert("sb-1", 1);
	memset(&row, 0, sizeof(row));
	snprintf(row.id, sizeof(row.id), "sb-1");
	row.template = row.alias = (char *)"";
	cr_assert_eq(store_sandbox_insert(store, &row, NULL), -EIO);
}

Test(store, an_end_is_kept_and_a_deletion_is_final)
{
	struct sandbox_row row;

	insert("sb-1", 1);
	cr_assert_eq(store_sandbox_set_ended(store, "sb-1", SANDBOX_ERROR, "why", 50, NULL), 0);
	cr_assert_eq(store_sandbox_get(store, "sb-1", &row, NULL), 0);
	cr_assert(row.status == SANDBOX_ERROR && row.ended_ms == 50 && !row.deleted);
	cr_assert_str_eq(row.error, "why");
	sandbox_row_fini(&row);

	cr_assert_eq(store_sandbox_set_deleted(store, "sb-1", 90, NULL), 0);
	/* News that come late do not bring it back. */
	cr_assert_eq(store_sandbox_set_ended(store, "sb-1", SANDBOX_ERROR, "late", 99, NULL), 0);
	cr_assert_eq(store_sandbox_get(store, "sb-1", &row, NULL), 0);
	cr_assert(row.status == SANDBOX_STOPPED && row.ended_ms == 50 && row.deleted);
	sandbox_row_fini(&row);
}

static void collect(void *arg, struct sandbox_row *row)
{
	strcat(arg, row->id);
}

static void expect_list(bool deleted, int limit, const char *ids)
{
	char found[256] = "";

	cr_assert_eq(store_sandbox_each(store, deleted, limit, collect, found, NULL), 0);
	cr_assert_str_eq(found, ids);
}

Test(store, lists_newest_first_and_forgets_old_deleted_ones)
{
	insert("a", 1);
	insert("c", 3);
	insert("b", 2);
	insert("d", 4);
	expect_list(false, -1, "dcba");
	expect_list(false, 2, "dc");
	store_sandbox_set_deleted(store, "a", 10, NULL);
	store_sandbox_set_deleted(store, "b", 20, NULL);
	store_sandbox_set_deleted(store, "c", 30, NULL);
	expect_list(true, -1, "cba");
	cr_assert_eq(store_sandbox_prune(store, 15, 100, NULL), 0);
	expect_list(true, -1, "cb");
	cr_assert_eq(store_sandbox_prune(store, 0, 1, NULL), 0);
	expect_list(true, -1, "c");
	expect_list(false, -1, "d");
}

Test(store, a_newer_schema_is_refused)
{
	struct store *other;
	struct err e;
	sqlite3 *db;

	store_close(store);
	cr_assert_eq(sqlite3_open(path, &db), SQLITE_OK);
	sqlite3_exec(db, "UPDATE meta SET value=value+90", NULL, NULL, NULL);
	cr_assert_eq(store_open(path, &other, &e), -ENOTSUP);
	cr_assert_not_null(strstr(e.msg, "version is 9"));
	sqlite3_exec(db, "UPDATE meta SET value=value-90", NULL, NULL, NULL);
	sqlite3_close(db);
	open_store();
}

static void collect_port(void *arg, struct preview_row *row)
{
	char text[32];

	snprintf(text, sizeof(text), "%lld%s ", (long long)row->port,
		 row->custom ? row->custom : "");
	strcat(arg, text);
}

static void expect_previews(const char *id, const char *ports)
{
	char found[256] = "";

	cr_assert_eq(store_preview_each(store, id, collect_port, found, NULL), 0);
	cr_assert_str_eq(found, ports);
}

static int insert_preview(const char *id, const char *sandbox, int64_t port, const char *custom)
{
	struct preview_row row = {.port = port, .custom = (char *)custom, .created_ms = 5};

	snprintf(row.id, sizeof(row.id), "%s", id);
	snprintf(row.sandbox_id, sizeof(row.sandbox_id), "%s", sandbox);
	return store_preview_insert(store, &row, NULL);
}

Test(store, previews_are_one_per_port_and_go_with_their_sandbox)
{
	struct preview_row row;

	insert("a", 1);
	insert("b", 2);
	cr_assert_eq(insert_preview("p1", "a", 8080, NULL), 0);
	cr_assert_eq(insert_preview("p2", "a", 80, "x.example"), 0);
	cr_assert_eq(insert_preview("p3", "b", 80, NULL), 0);
	cr_assert_eq(insert_preview("p4", "a", 80, NULL), -EEXIST);
	cr_assert_eq(insert_preview("p5", "nope", 80, NULL), -ENOENT);
	expect_previews("a", "80x.example 8080 ");
	cr_assert_eq(store_preview_get(store, "a", 80, &row, NULL), 0);
	cr_assert(!strcmp(row.id, "p2") && !strcmp(row.custom, "x.example") && row.created_ms == 5);
	cr_assert_eq(json_object_size(row.auth_config), 0);
	preview_row_fini(&row);
	cr_assert_eq(store_preview_delete(store, "a", 81, NULL), -ENOENT);
	cr_assert_eq(store_preview_delete(store, "a", 80, NULL), 0);
	cr_assert_eq(store_preview_get(store, "a", 80, &row, NULL), -ENOENT);
	store_sandbox_set_deleted(store, "a", 10, NULL);
	expect_previews("a", "");
	expect_previews("b", "80 ");
	cr_assert_eq(insert_preview("p6", "a", 80, NULL), -ENOENT, "it was deleted");
}

Test(store, the_hash_of_a_preview_token_is_kept)
{
	struct sandbox_row row;

	insert("a", 1);
	cr_assert_eq(store_sandbox_get(store, "a", &row, NULL), 0);
	cr_assert_str_eq(row.preview_hash, "");
	strcpy(row.preview_hash, "abc");
	cr_assert_eq(store_sandbox_set_settings(store, &row, NULL), 0);
	sandbox_row_fini(&row);
	cr_assert_eq(store_sandbox_get(store, "a", &row, NULL), 0);
	cr_assert_str_eq(row.preview_hash, "abc");
	sandbox_row_fini(&row);
}

/* Who changes one of the two has an old copy of the other, at times. */
Test(store, settings_and_the_rest_of_a_row_do_not_touch_each_other)
{
	struct sandbox_row row, other;

	insert("a", 1);
	cr_assert_eq(store_sandbox_get(store, "a", &row, NULL), 0);
	cr_assert_eq(store_sandbox_get(store, "a", &other, NULL), 0);
	row.timeout_s = 77;
	row.tagged_ms = 5;
	json_decref(row.tags);
	row.tags = json_pack("{s:s}", "k", "v");
	row.vmm_pid = 1;
	cr_assert_eq(store_sandbox_set_settings(store, &row, NULL), 0);
	other.vmm_pid = 4711;
	cr_assert_eq(store_sandbox_update(store, &other, NULL), 0);
	sandbox_row_fini(&row);
	sandbox_row_fini(&other);
	cr_assert_eq(store_sandbox_get(store, "a", &row, NULL), 0);
	cr_expect_eq(row.timeout_s, 77);
	cr_expect_eq(row.tagged_ms, 5);
	cr_expect_str_eq(json_string_value(json_object_get(row.tags, "k")), "v");
	cr_expect_eq(row.vmm_pid, 4711);
	sandbox_row_fini(&row);
}
