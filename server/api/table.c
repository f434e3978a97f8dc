/* SPDX-License-Identifier: Apache-2.0 */
/* The one route table. Routes of the API that are not built yet say so: 501. */
#include "server/api/api.h"

#define SB "/sandboxes/:id"
#define LATER(m, p, what)                                                                          \
	{                                                                                          \
		.method = m, .pattern = p, .handler = api_not_implemented, .feature = what         \
	}

const struct route api_routes[] = {
    {"GET", "/health", api_health, ROUTE_OPEN, NULL, NULL},
    {"GET", "/healthz", api_healthz, ROUTE_OPEN, NULL, NULL},
    {"GET", "/readyz", api_readyz, ROUTE_OPEN, NULL, NULL},
    {"GET", "/workers", api_workers, 0, NULL, NULL},
    {"GET", "/sessions", api_sandbox_list, 0, NULL, NULL},

    {"POST", "/sandboxes", api_sandbox_create, 0, NULL, NULL},
    {"GET", "/sandboxes", api_sandbox_list, 0, NULL, NULL},
    {"GET", SB, api_sandbox_get, 0, NULL, NULL},
    {"DELETE", SB, api_sandbox_delete, 0, NULL, NULL},
    {"GET", SB "/console", api_sandbox_console, 0, NULL, NULL},

    {"POST", SB "/exec/run", api_exec_run, 0, NULL, NULL},
    {"POST", SB "/exec/run-async", api_exec_run_async, 0, NULL, NULL},
    {"POST", SB "/exec", api_exec_start, 0, NULL, NULL},
    {"GET", SB "/exec", api_exec_list, 0, NULL, NULL},
    {"GET", SB "/exec/:sid/result", api_exec_result, 0, NULL, NULL},
    {"POST", SB "/exec/:sid/kill", api_exec_kill, 0, NULL, NULL},

    {"GET", SB "/files", api_file_read, 0, NULL, NULL},
    {"PUT", SB "/files", NULL, 0, &api_file_write, NULL},
    {"DELETE", SB "/files", api_file_remove, 0, NULL, NULL},
    {"GET", SB "/files/list", api_file_list, 0, NULL, NULL},
    {"POST", SB "/files/mkdir", api_file_mkdir, 0, NULL, NULL},

    /* Not built yet. */
    LATER("GET", SB "/exec/:sid", "attaching to a command"),
    LATER("POST", SB "/files/download-url", "signed URLs"),
    LATER("POST", SB "/files/upload-url", "signed URLs"),
    LATER("GET", SB "/files/download", "signed URLs"),
    LATER("PUT", SB "/files/upload", "signed URLs"),
    LATER("POST", SB "/hibernate", "hibernation"),
    LATER("POST", SB "/wake", "hibernation"),
    LATER("POST", SB "/timeout", "idle timeouts"),
    LATER("POST", SB "/reboot", "reboot"),
    LATER("POST", SB "/power-cycle", "power cycle"),
    LATER("POST", SB "/migrate", "migration"),
    LATER("POST", SB "/token/refresh", "sandbox tokens"),
    LATER("GET", SB "/logs", "log search"),
    LATER("GET", SB "/allowed-hosts", "secret stores"),
    LATER("POST", SB "/pty", "terminals"),
    LATER("GET", SB "/pty/:sid", "terminals"),
    LATER("POST", SB "/pty/:sid/resize", "terminals"),
    LATER("DELETE", SB "/pty/:sid", "terminals"),
    LATER("POST", SB "/agent", "agent sessions"),
    LATER("GET", SB "/agent", "agent sessions"),
    LATER("POST", SB "/agent/:sid/kill", "agent sessions"),
    LATER("POST", SB "/agent/:sid/prompt", "agent sessions"),
    LATER("POST", SB "/agent/:sid/interrupt", "agent sessions"),
    LATER("POST", "/sandboxes/from-checkpoint/:cp", "checkpoints"),
    LATER("POST", SB "/checkpoints", "checkpoints"),
    LATER("GET", SB "/checkpoints", "checkpoints"),
    LATER("DELETE", SB "/checkpoints/:cp", "checkpoints"),
    LATER("POST", SB "/checkpoints/:cp/restore", "checkpoints"),
    LATER("POST", SB "/checkpoints/:cp/publish", "checkpoints"),
    LATER("POST", SB "/checkpoints/:cp/unpublish", "checkpoints"),
    LATER("POST", "/sandboxes/checkpoints/:cp/patches", "patches"),
    LATER("GET", "/sandboxes/checkpoints/:cp/patches", "patches"),
    LATER("DELETE", "/sandboxes/checkpoints/:cp/patches/:pid", "patches"),
    LATER("POST", "/snapshots", "snapshots"),
    LATER("GET", "/snapshots", "snapshots"),
    LATER("GET", "/snapshots/:name", "snapshots"),
    LATER("DELETE", "/snapshots/:name", "snapshots"),
    LATER("POST", "/snapshots/:name/publish", "snapshots"),
    LATER("POST", "/snapshots/:name/unpublish", "snapshots"),
    LATER("POST", "/snapshots/:name/patches", "patches"),
    LATER("GET", "/snapshots/:name/patches", "patches"),
    LATER("DELETE", "/snapshots/:name/patches/:pid", "patches"),
    LATER("GET", "/images", "images"),
    LATER("POST", "/images/:name/patches", "patches"),
    LATER("GET", "/images/:name/patches", "patches"),
    LATER("DELETE", "/images/:name/patches/:pid", "patches"),
    LATER("POST", "/templates", "templates"),
    LATER("GET", "/templates", "templates"),
    LATER("GET", "/templates/:name", "templates"),
    LATER("DELETE", "/templates/:name", "templates"),
    LATER("POST", "/secret-stores", "secret stores"),
    LATER("GET", "/secret-stores", "secret stores"),
    LATER("GET", "/secret-stores/:store", "secret stores"),
    LATER("PUT", "/secret-stores/:store", "secret stores"),
    LATER("DELETE", "/secret-stores/:store", "secret stores"),
    LATER("GET", "/secret-stores/:store/secrets", "secret stores"),
    LATER("PUT", "/secret-stores/:store/secrets/:name", "secret stores"),
    LATER("DELETE", "/secret-stores/:store/secrets/:name", "secret stores"),
    LATER("POST", SB "/preview", "preview URLs"),
    LATER("GET", SB "/preview", "preview URLs"),
    LATER("DELETE", SB "/preview/:port", "preview URLs"),
    LATER("POST", SB "/preview/rotate", "preview URLs"),
    LATER("POST", SB "/scale", "scaling"),
    LATER("PUT", SB "/limits", "scaling"),
    LATER("GET", SB "/autoscale", "scaling"),
    LATER("PUT", SB "/autoscale", "scaling"),
    LATER("GET", SB "/scaling-lock", "scaling"),
    LATER("PUT", SB "/scaling-lock", "scaling"),
    LATER("POST", SB "/mounts", "mounts"),
    LATER("GET", SB "/mounts", "mounts"),
    LATER("DELETE", SB "/mounts", "mounts"),
    LATER("GET", SB "/tags", "tags"),
    LATER("PUT", SB "/tags", "tags"),
    LATER("GET", "/tags", "tags"),
    LATER("GET", "/usage", "usage"),
    LATER("GET", SB "/usage", "usage"),
    LATER("POST", "/webhooks", "webhooks"),
    LATER("GET", "/webhooks", "webhooks"),
    LATER("GET", "/webhooks/:wh", "webhooks"),
    LATER("PATCH", "/webhooks/:wh", "webhooks"),
    LATER("DELETE", "/webhooks/:wh", "webhooks"),
    LATER("GET", "/webhooks/:wh/secret", "webhooks"),
    LATER("POST", "/webhooks/:wh/test", "webhooks"),
    LATER("GET", "/webhooks/:wh/deliveries", "webhooks"),
    LATER("GET", "/webhooks/:wh/deliveries/:msg", "webhooks"),
    LATER("POST", "/webhooks/:wh/deliveries/:msg/redeliver", "webhooks"),
};

const size_t api_routes_count = sizeof(api_routes) / sizeof(api_routes[0]);

void api_not_implemented(struct request *r)
{
	reply_error(r, 501, "%s: not implemented yet", r->route->feature);
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
