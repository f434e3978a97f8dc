/* SPDX-License-Identifier: Apache-2.0 */
/* The one route table. Routes of the API that are not built yet say so: 501. */
#include "server/api/images.h"

#define SB	"/sandboxes/:id"
#define CP	"/sandboxes/checkpoints/:cp"
#define MAKES	(ROUTE_SLOW | ROUTE_CREATES)
#define BUILDS	(MAKES | ROUTE_EVENTS | ROUTE_LARGE)
#define IMPORTS (MAKES | ROUTE_EVENTS)
#define LATER	.handler = api_not_implemented, .feature

const struct route api_routes[] = {
    {"GET", "/health", api_health, ROUTE_OPEN, NULL, NULL},
    {"GET", "/healthz", api_healthz, ROUTE_OPEN, NULL, NULL},
    {"GET", "/readyz", api_readyz, ROUTE_OPEN, NULL, NULL},
    {"GET", "/metrics", api_metrics, 0, NULL, NULL},
    {"GET", "/top", api_top, 0, NULL, NULL},
    {"GET", "/workers", api_workers, 0, NULL, NULL},
    {"GET", "/sessions", api_sandbox_list, 0, NULL, NULL},

    /* These win over /sandboxes/:id/... */
    {"POST", "/sandboxes/from-checkpoint/:cp", api_checkpoint_fork, MAKES, NULL, NULL},
    {"POST", CP "/patches", api_patch_create, 0, NULL, NULL},
    {"GET", CP "/patches", api_patch_list, 0, NULL, NULL},
    {"DELETE", CP "/patches/:pid", api_patch_delete, 0, NULL, NULL},

    {"POST", "/sandboxes", api_sandbox_create, BUILDS, NULL, NULL},
    {"GET", "/sandboxes", api_sandbox_list, 0, NULL, NULL},
    {"GET", SB, api_sandbox_get, 0, NULL, NULL},
    {"DELETE", SB, api_sandbox_delete, 0, NULL, NULL},
    {"POST", SB "/token/refresh", api_token_refresh, 0, NULL, NULL},
    {"GET", SB "/console", api_sandbox_console, 0, NULL, NULL},
    {"GET", SB "/tags", api_tags_get, 0, NULL, NULL},
    {"PUT", SB "/tags", api_tags_set, 0, NULL, NULL},
    {"GET", "/tags", api_tags_list, 0, NULL, NULL},
    {"POST", SB "/hibernate", api_sandbox_hibernate, ROUTE_SLOW, NULL, NULL},
    {"POST", SB "/wake", api_sandbox_wake, ROUTE_SLOW, NULL, NULL},
    {"POST", SB "/timeout", api_sandbox_timeout, 0, NULL, NULL},
    {"PUT", SB "/network", api_sandbox_network, 0, NULL, NULL},
    {"POST", SB "/reboot", api_sandbox_reboot, 0, NULL, NULL},
    {"POST", SB "/power-cycle", api_sandbox_power_cycle, 0, NULL, NULL},

    {"POST", SB "/scale", api_scale, 0, NULL, NULL},
    {"PUT", SB "/limits", api_limits_set, 0, NULL, NULL},
    {"GET", SB "/limits", api_limits_get, 0, NULL, NULL},
    {"GET", SB "/autoscale", api_autoscale_get, 0, NULL, NULL},
    {"PUT", SB "/autoscale", api_autoscale_set, 0, NULL, NULL},
    {"GET", SB "/scaling-lock", api_scaling_lock_get, 0, NULL, NULL},
    {"PUT", SB "/scaling-lock", api_scaling_lock_set, 0, NULL, NULL},

    {"POST", SB "/checkpoints", api_checkpoint_create, MAKES, NULL, NULL},
    {"GET", SB "/checkpoints", api_checkpoint_list, 0, NULL, NULL},
    {"DELETE", SB "/checkpoints/:cp", api_checkpoint_delete, 0, NULL, NULL},
    {"POST", SB "/checkpoints/:cp/restore", api_checkpoint_restore, ROUTE_SLOW, NULL, NULL},
    {"POST", SB "/checkpoints/:cp/publish", api_checkpoint_publish, 0, NULL, NULL},
    {"POST", SB "/checkpoints/:cp/unpublish", api_checkpoint_unpublish, 0, NULL, NULL},
    {"POST", SB "/fork", api_sandbox_fork, ROUTE_NO_TOKEN | MAKES, NULL, NULL},
    {"GET", SB "/tree", api_sandbox_tree, 0, NULL, NULL},
    {"GET", "/store", api_store_get, 0, NULL, NULL},
    {"POST", "/store/gc", api_store_gc, ROUTE_SLOW, NULL, NULL},
    {"POST", "/store/verify", api_store_verify, ROUTE_SLOW, NULL, NULL},

    {"POST", SB "/exec/run", api_exec_run, 0, NULL, NULL},
    {"POST", SB "/exec/run-async", api_exec_run_async, 0, NULL, NULL},
    {"POST", SB "/exec", api_exec_start, 0, NULL, NULL},
    {"GET", SB "/exec", api_exec_list, 0, NULL, NULL},
    {"GET", SB "/exec/:sid", api_exec_attach, 0, NULL, NULL},
    {"GET", SB "/exec/:sid/result", api_exec_result, 0, NULL, NULL},
    {"POST", SB "/exec/:sid/kill", api_exec_kill, 0, NULL, NULL},

    {"POST", SB "/agent", api_agent_start, 0, NULL, NULL},
    {"GET", SB "/agent", api_agent_list, 0, NULL, NULL},
    {"POST", SB "/agent/:sid/kill", api_agent_kill, 0, NULL, NULL},
    {"POST", SB "/agent/:sid/prompt", api_agent_prompt, 0, NULL, NULL},
    {"POST", SB "/agent/:sid/interrupt", api_agent_interrupt, 0, NULL, NULL},

    {"GET", SB "/files", api_file_read, 0, NULL, NULL},
    {"PUT", SB "/files", NULL, 0, &api_file_write, NULL},
    {"DELETE", SB "/files", api_file_remove, 0, NULL, NULL},
    {"GET", SB "/files/list", api_file_list, 0, NULL, NULL},
    {"POST", SB "/files/mkdir", api_file_mkdir, 0, NULL, NULL},
    {"POST", SB "/files/download-url", api_file_download_url, 0, NULL, NULL},
    {"POST", SB "/files/upload-url", api_file_upload_url, 0, NULL, NULL},
    {"GET", SB "/files/download", api_file_download, ROUTE_OPEN, NULL, NULL},
    {"PUT", SB "/files/upload", NULL, ROUTE_OPEN, &api_file_upload, NULL},

    {"POST", SB "/pty", api_pty_create, 0, NULL, NULL},
    {"GET", SB "/pty", api_pty_list, 0, NULL, NULL},
    {"GET", SB "/pty/:sid", api_pty_attach, 0, NULL, NULL},
    {"POST", SB "/pty/:sid/resize", api_pty_resize, 0, NULL, NULL},
    {"DELETE", SB "/pty/:sid", api_pty_delete, 0, NULL, NULL},

    {"POST", SB "/mounts", api_mount_add, 0, NULL, NULL},
    {"GET", SB "/mounts", api_mount_list, 0, NULL, NULL},
    {"DELETE", SB "/mounts", api_mount_remove, 0, NULL, NULL},

    {"POST", SB "/preview", api_preview_create, 0, NULL, NULL},
    {"GET", SB "/preview", api_preview_list, 0, NULL, NULL},
    {"DELETE", SB "/preview/:port", api_preview_delete, 0, NULL, NULL},
    {"POST", SB "/preview/rotate", api_preview_rotate, 0, NULL, NULL},
    {"GET", SB "/tcp/:port", api_tcp, 0, NULL, NULL},

    {"POST", "/images", api_image_build, BUILDS, NULL, NULL},
    {"POST", "/images/import", api_image_import, IMPORTS, &api_image_upload, NULL},
    {"GET", "/images", api_image_list, 0, NULL, NULL},
    {"DELETE", "/images/:hash", api_image_delete, 0, NULL, NULL},
    {"POST", "/images/:name/patches", api_image_patch_create, 0, NULL, NULL},
    {"GET", "/images/:name/patches", api_image_patch_list, 0, NULL, NULL},
    {"DELETE", "/images/:name/patches/:pid", api_image_patch_delete, 0, NULL, NULL},
    {"POST", "/snapshots", api_snapshot_create, BUILDS, NULL, NULL},
    {"GET", "/snapshots", api_snapshot_list, 0, NULL, NULL},
    {"GET", "/snapshots/:name", api_snapshot_get, 0, NULL, NULL},
    {"DELETE", "/snapshots/:name", api_snapshot_delete, 0, NULL, NULL},
    {"POST", "/snapshots/:name/publish", api_snapshot_publish, 0, NULL, NULL},
    {"POST", "/snapshots/:name/unpublish", api_snapshot_unpublish, 0, NULL, NULL},
    {"POST", "/snapshots/:name/patches", api_snapshot_patch_create, 0, NULL, NULL},
    {"GET", "/snapshots/:name/patches", api_snapshot_patch_list, 0, NULL, NULL},
    {"DELETE", "/snapshots/:name/patches/:pid", api_snapshot_patch_delete, 0, NULL, NULL},
    {"POST", "/templates", api_template_build, MAKES, NULL, NULL},
    {"GET", "/templates", api_template_list, 0, NULL, NULL},
    {"GET", "/templates/:name", api_template_get, 0, NULL, NULL},
    {"DELETE", "/templates/:name", api_template_delete, 0, NULL, NULL},

    /* Not built yet. */
    {"POST", SB "/migrate", LATER = "migration"},
    {"GET", SB "/logs", LATER = "log search"},
    {"GET", SB "/allowed-hosts", LATER = "secret stores"},
    {"POST", "/secret-stores", LATER = "secret stores"},
    {"GET", "/secret-stores", LATER = "secret stores"},
    {"GET", "/secret-stores/:store", LATER = "secret stores"},
    {"PUT", "/secret-stores/:store", LATER = "secret stores"},
    {"DELETE", "/secret-stores/:store", LATER = "secret stores"},
    {"GET", "/secret-stores/:store/secrets", LATER = "secret stores"},
    {"PUT", "/secret-stores/:store/secrets/:name", LATER = "secret stores"},
    {"DELETE", "/secret-stores/:store/secrets/:name", LATER = "secret stores"},
    {"GET", "/usage", LATER = "usage"},
    {"GET", SB "/usage", LATER = "usage"},
    {"POST", "/webhooks", LATER = "webhooks"},
    {"GET", "/webhooks", LATER = "webhooks"},
    {"GET", "/webhooks/:wh", LATER = "webhooks"},
    {"PATCH", "/webhooks/:wh", LATER = "webhooks"},
    {"DELETE", "/webhooks/:wh", LATER = "webhooks"},
    {"GET", "/webhooks/:wh/secret", LATER = "webhooks"},
    {"POST", "/webhooks/:wh/test", LATER = "webhooks"},
    {"GET", "/webhooks/:wh/deliveries", LATER = "webhooks"},
    {"GET", "/webhooks/:wh/deliveries/:msg", LATER = "webhooks"},
    {"POST", "/webhooks/:wh/deliveries/:msg/redeliver", LATER = "webhooks"},
};

const size_t api_routes_count = sizeof(api_routes) / sizeof(api_routes[0]);

void api_not_implemented(struct request *r)
{
	reply_error(r, 501, "%s: not implemented yet", r->route->feature);
}

bool api_row(struct request *r, struct sandbox_row *row)
{
	struct err e;
	int rc = sandbox_get_row(api_manager(r), r->param[0], row, &e);

	if (rc)
		reply_errno(r, rc, &e);
	return !rc;
}

bool api_known(struct request *r)
{
	struct sandbox_row row;

	if (!api_row(r, &row))
		return false;
	sandbox_row_fini(&row);
	return true;
}

void api_reply_row(struct request *r, void (*write)(struct request *r, struct sandbox_row *row))
{
	struct sandbox_row row;

	if (api_row(r, &row))
		write(r, &row);
}

struct sandbox *api_sandbox(struct request *r)
{
	struct sandbox *s;
	struct err e;
	int rc = sandbox_find(api_manager(r), r->param[0], &s, &e);

	if (!rc)
		return s;
	reply_errno(r, rc, &e);
	return NULL;
}
