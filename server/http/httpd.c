/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP listeners and the way of a request through its steps; see httpd.h and request.h. */
#include "server/http/httpd.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "server/http/auth.h"
#include "server/http/listen.h"
#include "server/http/slow.h"
#include "server/http/ws.h"

#define BODY_MAX	  (1u << 20)
#define LARGE_MAX	  (512u << 20) /* of all large bodies at once */
#define DROP_MAX	  (64u << 20)  /* of a body that nobody wants any more */
#define DROP_MAX_UNKNOWN  (64u << 10)  /* the same, from a client without credentials */
#define CONNECTION_MEMORY (128u << 10)
#define THREAD_STACK	  (512u << 10)
#define MAX_CONNECTIONS	  8192u
#define QUIET_MS	  10000u /* half of the least that clients wait for headers */
#define BLANK_MS	  15000u /* the same, between two reads */
#define IDLE_TIMEOUT_S	  360u	 /* longer than any client keeps an idle connection */

struct httpd {
	struct httpd_config config;
	struct MHD_Daemon *daemon;
	struct listener listeners[HTTPD_MAX_LISTEN];
	size_t n_listeners;
	pthread_t acceptor;
	bool accepting;
	int stop_fd;
	struct edge *edge;	    /* owned; the acceptor's */
	unsigned int active;	    /* atomic */
	unsigned int connections;   /* atomic */
	size_t large_bytes;	    /* atomic; of bodies over BODY_MAX */
	struct route_stats *routes; /* owned; config.n_routes + 1 */
	struct ws_set sockets;
};

/* --- one request ------------------------------------------------------------------- */

static void *request_create(void *cls, const char *uri, struct MHD_Connection *conn)
{
	struct httpd *h = cls;
	struct request *r = calloc(1, sizeof(*r));
	struct err e;
	int rc;

	if (!r)
		return NULL;
	__atomic_add_fetch(&h->active, 1, __ATOMIC_RELAXED);
	r->begun_ns = clock_mono_ns();
	r->httpd = h;
	r->app = h->config.app;
	r->conn = conn;
	r->method = r->version = "";
	r->sockets = &h->sockets;
	rc = url_parse(&r->url, uri, &e);
	if (rc)
		reply_errno(r, rc == -ENAMETOOLONG ? -ENOENT : rc, &e);
	return r;
}

static void request_destroy(struct request *r)
{
	/* Before what it may borrow. */
	if (r->tail_release)
		r->tail_release(r->tail);
	if (r->uploading)
		r->route->upload->abort(r);
	if (r->response)
		MHD_destroy_response(r->response);
	ws_upgrade_free(r->upgrade);
	json_decref(r->json);
	strbuf_fini(&r->body);
	url_fini(&r->url);
	free(r);
}

static void count_request(struct httpd *h, const struct request *r)
{
	size_t route = r->route ? (size_t)(r->route - h->config.routes) : h->config.n_routes;

	/* Without a status the client went away before there was one. */
	if (r->status)
		route_count(&h->routes[route], r->status, r->begun_ns);
}

static void connection_changed(void *cls, struct MHD_Connection *conn, void **socket_cls,
			       enum MHD_ConnectionNotificationCode what)
{
	struct httpd *h = cls;

	(void)conn;
	(void)socket_cls;
	__atomic_add_fetch(&h->connections, what == MHD_CONNECTION_NOTIFY_STARTED ? 1 : -1,
			   __ATOMIC_RELAXED);
}

static void request_completed(void *cls, struct MHD_Connection *conn, void **con_cls,
			      enum MHD_RequestTerminationCode why)
{
	struct httpd *h = cls;

	(void)conn;
	(void)why;
	if (!*con_cls)
		return;
	count_request(h, *con_cls);
	__atomic_sub_fetch(&h->large_bytes, ((struct request *)*con_cls)->large_bytes,
			   __ATOMIC_RELAXED);
	request_destroy(*con_cls);
	*con_cls = NULL;
	__atomic_sub_fetch(&h->active, 1, __ATOMIC_RELAXED);
}

static bool came_over_socket(struct MHD_Connection *conn)
{
	const union MHD_ConnectionInfo *info =
	    MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
	struct sockaddr_storage sa = {0};
	socklen_t len = sizeof(sa);

	return info && !getsockname(info->connect_fd, (struct sockaddr *)&sa, &len) &&
	       sa.ss_family == AF_UNIX;
}

static void reply_options(struct request *r)
{
	reply_empty(r, 204);
	reply_header(r, "Access-Control-Allow-Methods",
		     "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
	reply_header(r, "Access-Control-Allow-Headers",
		     "*, Authorization, Content-Type, X-API-Key");
	reply_header(r, "Access-Control-Max-Age", "86400");
}

/* The connection began with another Host, so it came here; the next one will not. */
static bool is_misdirected(const struct httpd *h, const struct request *r)
{
	const char *host = h->config.claims ? request_header(r, "Host") : NULL;

	return host && h->config.claims(host, strlen(host));
}

/* Route, credentials, and the first look of an upload. */
static void request_begin(struct httpd *h, struct request *r)
{
	const struct httpd_config *c = &h->config;
	char allow[64];

	r->over_socket = came_over_socket(r->conn);
	if (r->response)
		return;
	if (is_misdirected(h, r)) {
		reply_error(r, 421, "this Host needs a connection of its own");
		reply_header(r, "Connection", "close");
		return;
	}
	if (!strcmp(r->method, "OPTIONS")) {
		reply_options(r);
		return;
	}
	r->route = route_find(c->routes, c->n_routes, r->method, &r->url, r->param, allow);
	if (!(r->route && (r->route->flags & ROUTE_OPEN)) && c->keys && !r->over_socket &&
	    !auth_check(r, c->keys, c->token_good))
		return;
	if (!r->route && *allow) {
		reply_error(r, 405, "%s is not possible here, but %s", r->method, allow);
		reply_header(r, "Allow", allow);
	} else if (!r->route) {
		reply_error(r, 404, "no such route");
	} else if (r->route->upload) {
		r->route->upload->begin(r);
		r->uploading = !r->response;
	}
}

static size_t body_limit(const struct request *r)
{
	return r->route->flags & ROUTE_LARGE ? BODY_LARGE_MAX : BODY_MAX;
}

/* Is there room for more of a body, in all that the server holds? */
static bool count_large(struct httpd *h, struct request *r, size_t len)
{
	if (r->body.len + len <= BODY_MAX)
		return true;
	r->large_bytes += len;
	return __atomic_add_fetch(&h->large_bytes, len, __ATOMIC_RELAXED) <= LARGE_MAX;
}

static void request_take_body(struct httpd *h, struct request *r, const char *data, size_t len)
{
	if (r->response) {
		r->dropped_bytes += len;
	} else if (r->uploading) {
		r->route->upload->data(r, data, len);
		r->uploading = !r->response;
	} else if (r->body.len + len > body_limit(r)) {
		reply_error(r, 413, "the body is larger than %zu bytes", body_limit(r));
		strbuf_fini(&r->body);
	} else if (!count_large(h, r, len)) {
		reply_error_code(r, 503, NULL, true, "too many large requests at once");
		strbuf_fini(&r->body);
	} else {
		strbuf_add(&r->body, data, len);
	}
}

static void request_run(struct request *r)
{
	bool ends = r->uploading && !r->route->handler;

	r->uploading = false;
	if (ends) {
		r->route->upload->end(r);
	} else if (!r->response && r->body.failed) {
		reply_error(r, 503, "out of memory");
	} else if (!r->response && r->route->flags & ROUTE_SLOW) {
		const struct httpd_config *c = &r->httpd->config;

		slow_run(r, c->quiet_ms ? c->quiet_ms : QUIET_MS,
			 c->blank_ms ? c->blank_ms : BLANK_MS);
	} else if (!r->response) {
		r->route->handler(r);
	}
	if (!r->response)
		reply_error(r, 500, "the handler made no reply");
}

static enum MHD_Result request_send(struct request *r)
{
	enum MHD_Result rc;

	if (!r->response)
		return MHD_NO; /* no memory for a reply: only closing is left */
	reply_header(r, "Access-Control-Allow-Origin", "*");
	rc = MHD_queue_response(r->conn, r->status, r->response);
	MHD_destroy_response(r->response);
	r->response = NULL;
	return rc;
}

static uint64_t drop_limit(const struct request *r)
{
	return r->status == 401 || r->status == 403 ? DROP_MAX_UNKNOWN : DROP_MAX;
}

/* After an early error: is the body too long to read and drop it, or not sent yet at all? */
static bool body_is_hopeless(const struct request *r)
{
	const char *length = request_header(r, "Content-Length");

	if (request_header(r, "Expect"))
		return true;
	return length && strtoull(length, NULL, 10) > drop_limit(r);
}

static enum MHD_Result request_step(void *cls, struct MHD_Connection *conn, const char *url,
				    const char *method, const char *version, const char *data,
				    size_t *data_len, void **con_cls)
{
	struct httpd *h = cls;
	struct request *r = *con_cls;

	(void)conn;
	(void)url;
	if (!r)
		return MHD_NO;
	if (!r->started) {
		r->started = true;
		r->method = method;
		r->version = version;
		request_begin(h, r);
		if (r->response && body_is_hopeless(r))
			return request_send(r);
		return MHD_YES;
	}
	if (*data_len) {
		request_take_body(h, r, data, *data_len);
		*data_len = 0;
		return r->dropped_bytes > drop_limit(r) ? MHD_NO : MHD_YES;
	}
	request_run(r);
	return request_send(r);
}

/* --- connections --------------------------------------------------------------------- */

static void serve_here(void *arg, int fd, const struct sockaddr_storage *sa, socklen_t len)
{
	struct httpd *h = arg;

	/* It closes fd if it fails. */
	if (MHD_add_connection(h->daemon, fd, (const struct sockaddr *)sa, len) != MHD_YES)
		log_guest("a connection was refused: %s", strerror(errno));
}

static void serve_elsewhere(void *arg, int fd, const struct sockaddr_storage *sa, socklen_t len)
{
	struct httpd *h = arg;

	(void)len;
	h->config.take(h->config.taker, fd, sa);
}

static bool claims_nothing(const char *host, size_t len)
{
	(void)host;
	(void)len;
	return false;
}

static int make_edge(struct httpd *h, struct err *e)
{
	const struct edge_ops ops = {
	    .claims = h->config.claims ? h->config.claims : claims_nothing,
	    .ours = serve_here,
	    .claimed = serve_elsewhere,
	    .arg = h,
	};

	h->edge = edge_create(&ops);
	return h->edge ? 0 : err_set(e, -ENOMEM, "no memory for connections");
}

static void accept_one(struct httpd *h, const struct listener *l)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	int fd = accept4(l->fd, (struct sockaddr *)&sa, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
	int on = 1;

	if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM)) {
		log_guest("accepting a connection: %s", strerror(errno));
		poll(NULL, 0, 50); /* the connection stays in the backlog */
	}
	if (fd < 0)
		return;
	if (!l->unix_path)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	edge_accept(h->edge, fd, &sa, len);
}

static void *acceptor_main(void *arg)
{
	struct httpd *h = arg;
	struct pollfd fds[HTTPD_MAX_LISTEN + 2];
	size_t stop = h->n_listeners, edge = stop + 1;

	for (size_t i = 0; i < h->n_listeners; i++)
		fds[i] = (struct pollfd){.fd = h->listeners[i].fd, .events = POLLIN};
	fds[stop] = (struct pollfd){.fd = h->stop_fd, .events = POLLIN};
	fds[edge] = (struct pollfd){.fd = edge_fd(h->edge), .events = POLLIN};
	for (;;) {
		int n = poll(fds, edge + 1, edge_next_ms(h->edge, clock_mono_ms()));

		edge_tick(h->edge, clock_mono_ms());
		if (n <= 0)
			continue;
		if (fds[stop].revents)
			return NULL;
		if (fds[edge].revents)
			edge_run(h->edge);
		for (size_t i = 0; i < h->n_listeners; i++)
			if (fds[i].revents)
				accept_one(h, &h->listeners[i]);
	}
}

static int start_daemon(struct httpd *h, struct err *e)
{
	h->daemon = MHD_start_daemon(
	    MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL |
		MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ITC | MHD_ALLOW_UPGRADE,
	    0, NULL, NULL, request_step, h, MHD_OPTION_URI_LOG_CALLBACK, request_create, h,
	    MHD_OPTION_NOTIFY_COMPLETED, request_completed, h, MHD_OPTION_NOTIFY_CONNECTION,
	    connection_changed, h, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
	    MHD_OPTION_THREAD_STACK_SIZE, (size_t)THREAD_STACK, MHD_OPTION_CONNECTION_LIMIT,
	    MAX_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_TIMEOUT_S, MHD_OPTION_END);
	if (!h->daemon)
		return err_set(e, -EIO, "libmicrohttpd does not start");
	return 0;
}

static int open_listeners(struct httpd *h, struct err *e)
{
	unsigned int port = 0;
	char name[256];

	for (size_t i = 0; i < h->config.n_listen; i++) {
		int rc = listen_open(&h->listeners[i], h->config.listen[i], e);

		if (rc)
			return rc;
		h->n_listeners++;
		log_info("listening on %s", listen_name(&h->listeners[i], name, sizeof(name)));
		if (!port)
			port = listen_port(&h->listeners[i]);
	}
	if (h->config.bound)
		h->config.bound(h->config.app, port);
	return 0;
}

int httpd_start(const struct httpd_config *c, struct httpd **out, struct err *e)
{
	struct httpd *h = calloc(1, sizeof(*h));
	int rc;

	if (!h)
		return err_set(e, -ENOMEM, "out of memory");
	h->config = *c;
	ws_set_init(&h->sockets, &h->active);
	h->stop_fd = eventfd(0, EFD_CLOEXEC);
	h->routes = calloc(c->n_routes + 1, sizeof(*h->routes));
	if (h->stop_fd < 0)
		rc = err_sys(e, -errno, "eventfd");
	else if (!h->routes)
		rc = err_set(e, -ENOMEM, "out of memory");
	else if (c->n_listen > HTTPD_MAX_LISTEN)
		rc = err_set(e, -EINVAL, "more than %d listeners", HTTPD_MAX_LISTEN);
	else
		rc = open_listeners(h, e);
	if (!rc)
		rc = start_daemon(h, e);
	if (!rc)
		rc = make_edge(h, e);
	if (!rc) {
		rc = -pthread_create(&h->acceptor, NULL, acceptor_main, h);
		h->accepting = !rc;
		if (rc)
			err_sys(e, rc, "starting a thread");
	}
	if (rc) {
		httpd_destroy(h);
		return rc;
	}
	*out = h;
	return 0;
}

int httpd_check_listen(const char *text, struct err *e)
{
	return listen_check(text, e);
}

void httpd_stop_accepting(struct httpd *h)
{
	uint64_t one = 1;

	if (h->accepting && write(h->stop_fd, &one, sizeof(one)) == sizeof(one)) {
		pthread_join(h->acceptor, NULL);
		h->accepting = false;
	}
	for (size_t i = 0; i < h->n_listeners; i++)
		listen_close(&h->listeners[i]);
	ws_set_stop(&h->sockets);
}

unsigned int httpd_connections(const struct httpd *h)
{
	return __atomic_load_n(&h->connections, __ATOMIC_RELAXED);
}

const struct route_stats *httpd_route_stats(const struct httpd *h)
{
	return h->routes;
}

unsigned int httpd_active(const struct httpd *h)
{
	return __atomic_load_n(&h->active, __ATOMIC_RELAXED);
}

void httpd_destroy(struct httpd *h)
{
	if (!h)
		return;
	httpd_stop_accepting(h);
	ws_set_wait(&h->sockets);
	if (h->daemon)
		MHD_stop_daemon(h->daemon);
	edge_destroy(h->edge);
	fd_close(&h->stop_fd);
	free(h->routes);
	free(h);
}
