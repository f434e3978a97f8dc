/* SPDX-License-Identifier: Apache-2.0 */
/* dormoused: serves the sandbox API. Options, start order, stop. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "lib/clock.h"
#include "lib/log.h"
#include "server/api/api.h"
#include "server/config.h"
#include "server/http/auth.h"
#include "server/http/httpd.h"
#include "server/manager/manager.h"
#include "server/preview/preview.h"

#ifndef DORMOUSE_VERSION
#define DORMOUSE_VERSION "0.1.0"
#endif

static enum log_level level_of(const char *name)
{
	static const char *const names[] = {"debug", "info", "warn", "error"};

	for (int i = 0; i < 4; i++)
		if (!strcmp(name, names[i]))
			return (enum log_level)i;
	return LOG_INFO;
}

/* A connection, a VM and a running command each cost a few descriptors. */
static void raise_limits(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) || files.rlim_cur == files.rlim_max)
		return;
	files.rlim_cur = files.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &files))
		log_warn("raising the limit of open files: %s", strerror(errno));
}

/* Blocked before any thread exists, so that only sigwait() sees them. */
static void block_signals(sigset_t *set)
{
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, set, NULL);
}

/* Requests in progress get some time; then those that wait for guests are told to give up. */
static void let_requests_end(struct httpd *httpd, struct manager *manager, int64_t grace_s)
{
	uint64_t deadline = clock_mono_ms() + (uint64_t)grace_s * 1000;

	while (httpd_active(httpd) && clock_mono_ms() < deadline)
		poll(NULL, 0, 10);
	if (httpd_active(httpd))
		log_info("%u requests are cut short", httpd_active(httpd));
	manager_interrupt(manager);
}

/* With --listen tcp:...:0 only the bound socket knows the port. */
static void set_domain(void *app, unsigned int tcp_port)
{
	struct api *api = app;

	api_set_domain(api, manager_config(api->manager)->sandbox_domain, tcp_port);
}

static int serve(const struct config *c, const sigset_t *signals, struct err *e)
{
	struct auth_keys *keys = NULL;
	struct manager *manager = NULL;
	struct preview_server *previews = NULL;
	struct httpd *httpd = NULL;
	struct api api = {0};
	int rc = 0, signo;

	if (c->api_key_file)
		rc = auth_keys_load(c->api_key_file, &keys, e);
	if (!rc)
		rc = manager_start(c, &manager, e);
	if (!rc)
		rc = signer_open(&api.signer, c->state, e);
	if (!rc && !(previews = preview_server_create(manager)))
		rc = err_set(e, -ENOMEM, "out of memory");
	if (!rc) {
		struct httpd_config h = {
		    .listen = (const char *const *)c->listen.items,
		    .n_listen = c->listen.n,
		    .keys = keys,
		    .token_good = api_token_good,
		    .routes = api_routes,
		    .n_routes = api_routes_count,
		    .app = &api,
		    .bound = set_domain,
		    .claims = preview_claims,
		    .take = preview_take,
		    .taker = previews,
		};

		api.manager = manager;
		api.previews = previews;
		api.version = DORMOUSE_VERSION;
		api.started_s = (int64_t)time(NULL);
		rc = httpd_start(&h, &httpd, e);
	}
	if (!rc) {
		log_info("ready, %u sandboxes", manager_running_count(manager));
		while (!sigwait(signals, &signo) && signo == SIGHUP)
			;
		log_info("stopping");
		httpd_stop_accepting(httpd);
		let_requests_end(httpd, manager, c->exit_grace_s);
	}
	if (manager)
		manager_interrupt(manager);
	preview_server_destroy(previews);
	httpd_destroy(httpd);
	manager_stop(manager);
	auth_keys_free(keys);
	return rc;
}

int main(int argc, char **argv)
{
	struct config c;
	sigset_t signals;
	struct err e = {0};
	int rc = config_parse(&c, argc, argv, &e);

	if (rc) {
		fprintf(stderr, "dormoused: %s\n", e.msg);
		config_fini(&c);
		return 2;
	}
	if (c.help || c.version) {
		if (c.help)
			config_print_help();
		else
			puts("dormoused " DORMOUSE_VERSION);
		config_fini(&c);
		return 0;
	}
	log_init("dormoused", level_of(c.log_level), 2);
	if (!strcmp(c.log_format, "json"))
		log_use_json();
	block_signals(&signals);
	raise_limits();
	rc = serve(&c, &signals, &e);
	if (rc)
		fprintf(stderr, "dormoused: %s\n", e.msg);
	config_fini(&c);
	return rc ? 1 : 0;
}
