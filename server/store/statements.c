/* SPDX-License-Identifier: Apache-2.0 */
/* Every statement there is. */
#include "server/store/internal.h"

#define COLUMNS                                                                                    \
	"id, status, deleted, template, alias, error, cpus, memory_mib, disk_mib, timeout_s, "     \
	"port, network, envs, metadata, created_ms, ended_ms, vmm_pid, base_image, layers, "       \
	"pending, pending_checkpoint, hibernation, hibernation_bytes, from_checkpoint, "           \
	"current_checkpoint, patch_sequence, patch_error, tags, tagged_ms, "                       \
	"preview_hash, workdir, scaled_mib, cpu_percent, auto_min_mib, auto_max_mib, "             \
	"scale_locked, mounts"

#define CP_COLUMNS                                                                                 \
	"id, sandbox_id, name, is_template, automatic, is_full, promote, is_public, cold, "        \
	"status, "                                                                                 \
	"error, parent, base_image, layers, cpus, memory_mib, disk_mib, timeout_s, port, "         \
	"network, "                                                                                \
	"template, envs, metadata, ram_bytes, state_bytes, disk_bytes, created_ms, done_ms, "      \
	"workdir, scaled_mib"

#define PREVIEW_COLUMNS "id, sandbox_id, port, custom, auth_config, created_ms"

#define MARKS_27 "?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?"
#define MARKS_28 MARKS_27 ",?"
#define MARKS_29 MARKS_28 ",?"
#define MARKS_30 MARKS_29 ",?"
#define MARKS_37 MARKS_30 ",?,?,?,?,?,?,?"

#define IMAGE_COLUMNS "key, checkpoint_id, hash, base_version, steps, created_ms, used_ms"
#define SNAP_COLUMNS                                                                               \
	"name, id, hash, checkpoint_id, status, error, manifest, base_version, runtime_mib, "      \
	"is_public, created_ms, used_ms"

#define PARENT_OF_1 "(SELECT parent FROM checkpoints WHERE id=?1)"

const char *const store_statements[ST_COUNT] = {
    [ST_INSERT] = "INSERT INTO sandboxes (" COLUMNS ") VALUES (" MARKS_37 ")",
    [ST_UPDATE] = "UPDATE sandboxes SET status=?2, error=?6, cpus=?7, memory_mib=?8, disk_mib=?9, "
		  "ended_ms=?16, vmm_pid=?17, base_image=?18, layers=?19, "
		  "pending=?20, pending_checkpoint=?21, hibernation=?22, hibernation_bytes=?23, "
		  "from_checkpoint=?24, current_checkpoint=?25, patch_sequence=?26, "
		  "patch_error=?27, scaled_mib=?32 "
		  "WHERE id=?1 AND deleted=0",
    [ST_SETTINGS] = "UPDATE sandboxes SET timeout_s=?10, network=?12, tags=?28, tagged_ms=?29, "
		    "preview_hash=?30, cpu_percent=?33, auto_min_mib=?34, auto_max_mib=?35, "
		    "scale_locked=?36, mounts=?37 WHERE id=?1 AND deleted=0",
    [ST_PATCHED] = "UPDATE sandboxes SET patch_sequence=?2, patch_error=?3 WHERE id=?1",
    [ST_ENDED] = "UPDATE sandboxes SET status=?2, error=?3, ended_ms=?4 WHERE id=?1 AND deleted=0",
    [ST_DELETED] = "UPDATE sandboxes SET status='stopped', deleted=1, "
		   "ended_ms=CASE ended_ms WHEN 0 THEN ?2 ELSE ended_ms END WHERE id=?1",
    [ST_GET] = "SELECT " COLUMNS " FROM sandboxes WHERE id=?1",
    [ST_EACH] =
	"SELECT " COLUMNS " FROM sandboxes WHERE deleted=?1 ORDER BY created_ms DESC LIMIT ?2",
    [ST_PRUNE] = "DELETE FROM sandboxes WHERE deleted=1 AND (ended_ms < ?1 OR id NOT IN "
		 "(SELECT id FROM sandboxes WHERE deleted=1 ORDER BY ended_ms DESC LIMIT ?2))",

    [ST_CP_INSERT] = "INSERT INTO checkpoints (" CP_COLUMNS ") VALUES (" MARKS_30 ")",
    [ST_CP_UPDATE] = "UPDATE checkpoints SET is_full=?2, promote=?3, cold=?4, status=?5, "
		     "error=?6, ram_bytes=?7, state_bytes=?8, disk_bytes=?9, done_ms=?10 "
		     "WHERE id=?1",
    [ST_CP_PUBLIC] = "UPDATE checkpoints SET is_public=?2 WHERE id=?1",
    [ST_CP_LAYERS] = "UPDATE checkpoints SET layers=?2 WHERE id=?1",
    [ST_CP_GET] = "SELECT " CP_COLUMNS " FROM checkpoints WHERE id=?1",
    [ST_CP_GET_TEMPLATE] =
	"SELECT " CP_COLUMNS " FROM checkpoints WHERE sandbox_id='' AND name=?1 AND is_template=1",
    [ST_CP_EACH] = "SELECT " CP_COLUMNS " FROM checkpoints WHERE ?1 IS NULL OR sandbox_id=?1 "
		   "ORDER BY created_ms, rowid",
    [ST_CP_FAIL] = "UPDATE checkpoints SET status='failed', error=?1, done_ms=?2 "
		   "WHERE status='processing'",
    [ST_CP_IN_USE] = "SELECT EXISTS (SELECT 1 FROM patches WHERE checkpoint_id=?1) OR EXISTS "
		     "(SELECT 1 FROM sandboxes WHERE from_checkpoint=?1 AND deleted=0)",
    [ST_CP_ADOPT_CHILDREN] = "UPDATE checkpoints SET parent=" PARENT_OF_1 " WHERE parent=?1",
    [ST_CP_ADOPT_SANDBOXES] = "UPDATE sandboxes SET current_checkpoint=" PARENT_OF_1
			      " WHERE current_checkpoint=?1 AND deleted=0",
    [ST_CP_DELETE_PATCHES] = "DELETE FROM patches WHERE checkpoint_id=?1",
    [ST_CP_DELETE] = "DELETE FROM checkpoints WHERE id=?1",

    [ST_PATCH_INSERT] =
	"INSERT INTO patches SELECT ?1, id, "
	"(SELECT COALESCE(MAX(sequence), 0) + 1 FROM patches WHERE checkpoint_id=?2), ?3, ?4, ?5 "
	"FROM checkpoints WHERE id=?2 RETURNING sequence",
    [ST_PATCH_EACH] = "SELECT id, checkpoint_id, sequence, script, description, created_ms FROM "
		      "patches WHERE checkpoint_id=?1 AND sequence>?2 ORDER BY sequence",
    [ST_PATCH_DELETE] = "DELETE FROM patches WHERE checkpoint_id=?1 AND id=?2",

    [ST_PREVIEW_INSERT] = "INSERT INTO previews (" PREVIEW_COLUMNS ") "
			  "SELECT ?1, id, ?3, ?4, ?5, ?6 FROM sandboxes WHERE id=?2 AND deleted=0",
    [ST_PREVIEW_GET] = "SELECT " PREVIEW_COLUMNS " FROM previews WHERE sandbox_id=?1 AND port=?2",
    [ST_PREVIEW_EACH] =
	"SELECT " PREVIEW_COLUMNS " FROM previews WHERE sandbox_id=?1 ORDER BY port",
    [ST_PREVIEW_DELETE] = "DELETE FROM previews WHERE sandbox_id=?1 AND port=?2",

    [ST_IMAGE_INSERT] = "INSERT INTO images (" IMAGE_COLUMNS ") VALUES (?,?,?,?,?,?,?)",
    [ST_IMAGE_GET] = "SELECT " IMAGE_COLUMNS " FROM images WHERE key=?1",
    [ST_IMAGE_EACH] = "SELECT " IMAGE_COLUMNS " FROM images ORDER BY used_ms DESC, steps DESC",
    [ST_IMAGE_USED] =
	"UPDATE images SET used_ms=?2, hash=CASE ?3 WHEN '' THEN hash ELSE ?3 END WHERE key=?1",

    [ST_SNAP_REPLACE] = "DELETE FROM snapshots WHERE name=?1 AND status='failed'",
    [ST_SNAP_INSERT] = "INSERT INTO snapshots (" SNAP_COLUMNS ") VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
    [ST_SNAP_END] = "UPDATE snapshots SET status=?2, checkpoint_id=?3, base_version=?4, error=?5 "
		    "WHERE id=?1 AND status='building'",
    [ST_SNAP_GET] = "SELECT " SNAP_COLUMNS " FROM snapshots WHERE name=?1",
    [ST_SNAP_EACH] = "SELECT " SNAP_COLUMNS " FROM snapshots ORDER BY created_ms DESC, rowid DESC",
    [ST_SNAP_DELETE] = "DELETE FROM snapshots WHERE name=?1 RETURNING checkpoint_id",
    [ST_SNAP_PUBLIC] = "UPDATE snapshots SET is_public=?2 WHERE name=?1",
    [ST_SNAP_USED] = "UPDATE snapshots SET used_ms=?2 WHERE name=?1",
    [ST_SNAP_FAIL] = "UPDATE snapshots SET status='failed', error=?1 WHERE status='building'",
};
