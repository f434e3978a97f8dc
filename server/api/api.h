/* SPDX-License-Identifier: Apache-2.0 */
/* The routes of the sandbox API, a file per resource; docs/server.md lists them. */
#ifndef SERVER_API_API_H
#define SERVER_API_API_H

#include "server/api/bridge.h"
#include "server/http/request.h"
#include "server/http/signer.h"
#include "server/manager/manager.h"
#include "server/manager/preview.h"

struct exec_session;

/* request->app */
#define API_DOMAIN_SIZE 256

struct preview_server;

struct api {
	struct manager *manager;
	struct preview_server *previews; /* borrowed */
	char domain[API_DOMAIN_SIZE];	 /* suffix of the host names of previews */
	struct signer signer;
	const char *version;
	int64_t started_s; /* since 1970 */
};

/* The one table. */
extern const struct route api_routes[];
extern const size_t api_routes_count;

static inline struct manager *api_manager(const struct request *r)
{
	return ((struct api *)r->app)->manager;
}

/**
 * api_sandbox() - The sandbox that the route's first parameter names, for work inside it
 *
 * Return: a reference, or NULL after having replied 404, 410 or 502
 */
struct sandbox *api_sandbox(struct request *r);

/**
 * api_row() - What the store has of the sandbox of the path, whatever its status
 *
 * Return: true with a row of the caller's, or false after having replied 404
 */
bool api_row(struct request *r, struct sandbox_row *row);
/* Only whether there is one: before the body is read, as unknown sandboxes win over bad bodies. */
bool api_known(struct request *r);
/* Reply with the row: @write replies, and owns it. */
void api_reply_row(struct request *r, void (*write)(struct request *r, struct sandbox_row *row));

/* For routes that exist in the API and not yet here. */
void api_not_implemented(struct request *r);

/* health.c, workers.c */
void api_health(struct request *r);
void api_healthz(struct request *r);
void api_readyz(struct request *r);
void api_workers(struct request *r);
#define API_WORKER_ID "w-local-1"
#define API_ORG_ID    "00000000-0000-4000-8000-000000000000" /* there is one owner of all */

/* sandboxes.c */
/* The members of a sandbox object (api.md 3.3), into an object that is open. */
void api_write_sandbox(struct strbuf *b, const struct request *r, const struct sandbox_row *row);
/* Members of an object, that it was booted instead of going on; none if @reason is "". */
void api_write_cold(struct strbuf *b, const char *reason);
/* A whole reply with it; releases the row. */
void api_reply_sandbox(struct request *r, unsigned int status, struct sandbox_row *row);
/* 201 with @s, whose reference is taken, or the error @rc. @preview_token: "" for none. */
void api_reply_new_sandbox(struct request *r, int rc, struct sandbox *s, const char *preview_token,
			   const struct err *e);
void api_sandbox_create(struct request *r);
void api_sandbox_list(struct request *r);
void api_sandbox_get(struct request *r);
void api_sandbox_delete(struct request *r);
void api_sandbox_console(struct request *r);

/* access.c */
/* The address that the client used, or --public-url. Return: false if there is none. */
bool api_base_url(const struct request *r, char *url, size_t size);
/* Is @token that of the sandbox which the route's first parameter names? */
bool api_token_good(const struct request *r, const char *token);
/* The members token and connectURL of an object that is open. */
void api_write_access(struct strbuf *b, const struct request *r, const struct sandbox_row *row);
void api_token_refresh(struct request *r);

/* metrics.c */
void api_metrics(struct request *r);

/* top.c */
void api_top(struct request *r);

/* tags.c */
/* Members of an object that is open. */
void api_write_tags(struct strbuf *b, const struct sandbox_row *row);
void api_tags_get(struct request *r);
void api_tags_set(struct request *r);
void api_tags_list(struct request *r);

/* power.c */
void api_sandbox_hibernate(struct request *r);
void api_sandbox_wake(struct request *r);
void api_sandbox_timeout(struct request *r);
void api_sandbox_network(struct request *r);
void api_sandbox_reboot(struct request *r);
void api_sandbox_power_cycle(struct request *r);

/* scale.c */
void api_scale(struct request *r);
void api_limits_set(struct request *r);
void api_limits_get(struct request *r);
void api_autoscale_get(struct request *r);
void api_autoscale_set(struct request *r);
void api_scaling_lock_get(struct request *r);
void api_scaling_lock_set(struct request *r);

/* checkpoints.c */
void api_checkpoint_create(struct request *r);
void api_checkpoint_list(struct request *r);
void api_checkpoint_delete(struct request *r);
void api_checkpoint_publish(struct request *r);
void api_checkpoint_unpublish(struct request *r);
void api_checkpoint_restore(struct request *r);
void api_checkpoint_fork(struct request *r);
void api_sandbox_fork(struct request *r);
void api_sandbox_tree(struct request *r);

/* patches.c */
void api_patch_create(struct request *r);
void api_patch_list(struct request *r);
void api_patch_delete(struct request *r);

/* preview.c */
/* Tell the API, before it serves, which TCP port it has (0: none). */
void api_set_domain(struct api *a, const char *configured, unsigned int tcp_port);
/* What a body says in previewAuth. False after having replied; @token "" without it. */
struct preview_auth {
	char token[PREVIEW_TOKEN_MAX + 1], hash[HASH_SIZE];
};
bool api_read_preview_auth(struct request *r, struct preview_auth *auth);
void api_preview_create(struct request *r);
void api_preview_list(struct request *r);
void api_preview_delete(struct request *r);
void api_preview_rotate(struct request *r);

/* tcp.c */
void api_tcp(struct request *r);

/* storage.c */
void api_store_get(struct request *r);
void api_store_gc(struct request *r);
void api_store_verify(struct request *r);

/* exec.c */
void api_exec_run(struct request *r);
void api_exec_run_async(struct request *r);
void api_exec_start(struct request *r);
void api_exec_list(struct request *r);
void api_exec_result(struct request *r);
void api_exec_kill(struct request *r);
/* Send the signal that the body names (default 9), and reply. */
void api_kill_session(struct request *r, struct exec_session *x);

/* agent.c */
void api_agent_start(struct request *r);
void api_agent_list(struct request *r);
void api_agent_kill(struct request *r);
void api_agent_prompt(struct request *r);
void api_agent_interrupt(struct request *r);

/* A command or a terminal, as an element of a list or alone. */
void api_session_write(struct strbuf *b, const char *sandbox, struct exec_session *x);
/* Reply with a list of all sessions of EXEC_KIND()s, each written by @write. */
void api_session_list(struct request *r, unsigned int kinds,
		      void (*write)(struct strbuf *b, const char *sandbox, struct exec_session *x));
/* The session of EXEC_KIND()s that the second parameter names; NULL after having replied, with
 * @missing if there is none. */
struct exec_session *api_session_find(struct request *r, unsigned int kinds, const char *missing);
/* The same, of a command or an agent. */
struct exec_session *api_exec_find(struct request *r);
/* ?stdoutFrom, ?stderrFrom; *@given: one is there. Return: true; false after having replied 400 */
bool api_exec_offsets(struct request *r, uint64_t from[2], bool *given);

/* exec_attach.c */
/* Reply with a WebSocket; see bridge_reply(). Takes the reference; NULL: there is a reply. */
void api_session_attach(struct request *r, struct exec_session *x, enum bridge_format format,
			const char *ended);
void api_exec_attach(struct request *r);

/* pty.c */
void api_pty_create(struct request *r);
void api_pty_list(struct request *r);
void api_pty_attach(struct request *r);
void api_pty_resize(struct request *r);
void api_pty_delete(struct request *r);

/* files.c */
extern const struct upload_ops api_file_write;
void api_file_read(struct request *r);
void api_file_remove(struct request *r);
void api_file_list(struct request *r);
void api_file_mkdir(struct request *r);

/* mounts.c */
void api_mount_add(struct request *r);
void api_mount_list(struct request *r);
void api_mount_remove(struct request *r);

/* signed.c */
extern const struct upload_ops api_file_upload;
void api_file_download_url(struct request *r);
void api_file_upload_url(struct request *r);
void api_file_download(struct request *r);

#endif
