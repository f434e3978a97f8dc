/* SPDX-License-Identifier: Apache-2.0 */
/* Connections and their requests; see server.h. */
#include "guest-kernel/agent/server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest-kernel/agent/exec.h"
#include "guest-kernel/agent/files.h"
#include "guest-kernel/agent/guest.h"
#include "guest-kernel/agent/renew.h"
#include "guest-kernel/agent/tunnel.h"
#include "lib/fd.h"
#include "lib/log.h"

#define THREAD_STACK_LEN (256u << 10)

/* ---- the agent as a whole ---- */

/*
 * Commands inherit what is ignored here, and whoever started this process may
 * have left something. Past libc, which does not let its own two signals be asked for.
 */
static void stop_ignoring_signals(void)
{
	struct {
		void (*handler)(int);
		unsigned long flags;
		void (*restorer)(void);
		uint64_t mask;
	} sa;

	for (int signo = 1; signo <= 64; signo++) {
		if (syscall(SYS_rt_sigaction, signo, NULL, &sa, sizeof(sa.mask)) ||
		    sa.handler != SIG_IGN)
			continue;
		sa.handler = SIG_DFL;
		syscall(SYS_rt_sigaction, signo, &sa, NULL, sizeof(sa.mask));
	}
}

int agent_init(struct agent *a, bool test)
{
	/* In a guest nobody was there before who could have ignored any. */
	if (test)
		stop_ignoring_signals();
	*a = (struct agent){.test = test, .etc = "/etc", .cgroup_fd = -1};
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->ready_cond, NULL);
	userdb_init(&a->users);
	sessions_init(&a->sessions);
	freezer_init(&a->freezer, test ? NULL : CGROUP_ROOT);
	a->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	return a->null_fd < 0 ? -errno : 0;
}

void agent_fini(struct agent *a)
{
	freezer_fini(&a->freezer);
	sessions_fini(&a->sessions);
	userdb_fini(&a->users);
	fd_close(&a->null_fd);
	pthread_cond_destroy(&a->ready_cond);
	pthread_mutex_destroy(&a->lock);
}

int agent_default_user(struct agent *a, struct user *u, bool *is_sandbox)
{
	char self[16], said[128];
	const char *name = a->user;
	int rc = -EINVAL;

	if (!name && userdb_setting(&a->users, a->etc, "user", said, sizeof(said)))
		name = said;

	snprintf(self, sizeof(self), "%u", (unsigned int)geteuid());
	if (name || !a->test)
		rc = userdb_find(&a->users, a->etc, name ? name : "sandbox", u, NULL);
	if (is_sandbox)
		*is_sandbox = !rc;
	if (rc)
		rc = userdb_find(&a->users, a->etc, self, u, NULL);
	if (!rc && a->home)
		snprintf(u->home, sizeof(u->home), "%s", a->home);
	return rc;
}

int agent_wait_ready(struct agent *a)
{
	int fd;

	pthread_mutex_lock(&a->lock);
	while (!a->ready)
		pthread_cond_wait(&a->ready_cond, &a->lock);
	fd = a->cgroup_fd;
	pthread_mutex_unlock(&a->lock);
	return fd;
}

void agent_set_ready(struct agent *a, int cgroup_fd)
{
	pthread_mutex_lock(&a->lock);
	a->ready = true;
	a->cgroup_fd = cgroup_fd;
	pthread_cond_broadcast(&a->ready_cond);
	pthread_mutex_unlock(&a->lock);
}

/* ---- requests ---- */

/* "xxxxxxxx-xxxx-...", as the kernel prints it, to 16 bytes. */
static void read_boot_id(uint8_t id[16])
{
	cleanup_free char *text = NULL;
	size_t digits = 0;

	memset(id, 0, 16);
	if (fd_read_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 64, &text, NULL))
		return;
	for (const char *c = text; *c && digits < 32; c++) {
		unsigned int v;

		if (sscanf((char[2]){*c, 0}, "%1x", &v) != 1)
			continue;
		id[digits / 2] = (uint8_t)(id[digits / 2] << 4 | v);
		digits++;
	}
}

static int serve_hello(struct agent *a, struct peer *p, uint64_t id, const struct request *r,
		       struct err *e)
{
	bool is_sandbox = false;
	uint8_t boot_id[16];
	struct user u;

	if (r->version_min > PROTO_VERSION || r->version_max < PROTO_VERSION)
		return err_set(e, -EPROTONOSUPPORT, "this agent speaks protocol version %u only",
			       PROTO_VERSION);
	read_boot_id(boot_id);
	agent_default_user(a, &u, &is_sandbox);
	proto_begin(&p->out, PROTO_HELLO, id);
	proto_put_tlv_u32(&p->out, PROTO_TAG_VERSION, 0, PROTO_VERSION);
	proto_put_tlv_str(&p->out, PROTO_TAG_AGENT, 0, AGENT_VERSION);
	proto_put_tlv(&p->out, PROTO_TAG_BOOT_ID, 0, boot_id, sizeof(boot_id));
	proto_put_tlv_u32(&p->out, PROTO_TAG_HELLO_FLAGS, 0,
			  PROTO_HELLO_RENEW | PROTO_HELLO_SESSIONS | PROTO_HELLO_PTY |
			      PROTO_HELLO_CONNECT | (a->test ? PROTO_HELLO_TEST : 0) |
			      (is_sandbox || a->test ? 0 : PROTO_HELLO_NO_SANDBOX_USER));
	return proto_end(&p->out);
}

static int serve_shutdown(struct agent *a, struct peer *p, uint64_t id, const struct request *r,
			  struct err *e)
{
	if (a->test)
		return err_set(e, -EPERM, "this agent is not a guest's: nothing to shut down");
	/* The answer goes first: process 1 ends this one. */
	put_result(p, id);
	peer_flush(p);
	guest_request_shutdown(r->shutdown_mode);
	return 0;
}

/* Requests with an answer that is queued, or sent on the way. Return: 0 or -errno and @e. */
static int serve_request(struct agent *a, struct peer *p, uint64_t id, const struct request *r,
			 struct err *e)
{
	switch (r->type) {
	case PROTO_HELLO:
		return serve_hello(a, p, id, r, e);
	case PROTO_FILE_READ:
		return files_read(a, p, id, r, e);
	case PROTO_FILE_WRITE:
		return files_write(a, p, id, r, e);
	case PROTO_FILE_LIST:
		return files_list(a, p, id, r, e);
	case PROTO_FILE_MKDIR:
		return files_mkdir(a, p, id, r, e);
	case PROTO_FILE_REMOVE:
		return files_remove(a, p, id, r, e);
	case PROTO_FILE_STAT:
		return files_stat(a, p, id, r, e);
	case PROTO_SHUTDOWN:
		return serve_shutdown(a, p, id, r, e);
	case PROTO_FREEZE:
		return freeze_serve(a, p, id, r, e);
	case PROTO_THAW:
		return thaw_serve(a, p, id, e);
	case PROTO_RENEW:
		return renew_serve(a, p, id, r);
	case PROTO_SYNC:
		sync();
		put_result(p, id);
		return 0;
	case PROTO_SESSIONS:
		return sessions_serve(a, p, id, e);
	case PROTO_PING:
		put_result(p, id);
		return 0;
	default:
		return err_set(e, -EOPNOTSUPP, "request not known");
	}
}

static void dispatch(struct agent *a, struct peer *p, const struct proto_header *h,
		     const uint8_t *payload)
{
	struct err e = {0};
	struct request r;
	int rc = request_parse(h->type, payload, h->len, &r, &e);

	/* Files may be in what is not mounted yet. */
	if (h->type != PROTO_HELLO && h->type != PROTO_PING)
		agent_wait_ready(a);

	if (!rc && h->type == PROTO_EXEC) {
		exec_serve(a, p, h->id, &r);
	} else if (!rc && h->type == PROTO_CONNECT) {
		connect_serve(a, p, h->id, &r);
	} else if (!rc && h->type == PROTO_ATTACH) {
		attach_serve(a, p, h->id, &r);
	} else {
		if (!rc)
			rc = serve_request(a, p, h->id, &r, &e);
		if (rc)
			peer_put_error(p, h->id, &e);
		peer_flush(p);
	}
	request_fini(&r);
}

/* Return: true if the connection is to go on. */
static bool serve_frame(struct agent *a, struct peer *p, const struct proto_header *h,
			const uint8_t *payload, bool *greeted)
{
	/* Left over from the last request: it crossed that one's end on the wire. */
	if (!proto_is_request(h->type))
		return true;
	if (!*greeted && h->type != PROTO_HELLO)
		return false;
	*greeted = true;
	if (p->last_session) {
		sessions_forget(&a->sessions, p->last_session);
		p->last_session = 0;
	}
	dispatch(a, p, h, payload);
	return !p->lost;
}

void server_serve(struct agent *a, int fd)
{
	bool greeted = false;
	const uint8_t *payload;
	struct proto_header h;
	struct err e = {0};
	struct peer p;
	int rc;

	if (peer_init(&p, fd))
		return;
	while ((rc = peer_wait_frame(&p, &h, &payload, &e)) > 0)
		if (!serve_frame(a, &p, &h, payload, &greeted))
			break;
	/* What is no frame cannot be skipped: say why, and end. */
	if (rc < 0) {
		peer_put_error(&p, h.id, &e);
		peer_flush(&p);
	}
	peer_fini(&p);
}

/* ---- connections ---- */

struct connection {
	struct agent *a;
	int fd;
};

static void *connection_main(void *arg)
{
	struct connection c = *(struct connection *)arg;

	free(arg);
	server_serve(c.a, c.fd);
	pthread_mutex_lock(&c.a->lock);
	c.a->connections--;
	pthread_mutex_unlock(&c.a->lock);
	return NULL;
}

static bool count_connection(struct agent *a)
{
	bool ok;

	pthread_mutex_lock(&a->lock);
	ok = a->connections < SERVER_CONNECTIONS_MAX;
	a->connections += ok;
	pthread_mutex_unlock(&a->lock);
	return ok;
}

static void start_connection(struct agent *a, int fd, const pthread_attr_t *attr)
{
	struct connection *c = count_connection(a) ? malloc(sizeof(*c)) : NULL;
	pthread_t thread;

	if (!c) {
		log_guest("connection refused: %u are open", SERVER_CONNECTIONS_MAX);
		close(fd);
		return;
	}
	*c = (struct connection){a, fd};
	if (pthread_create(&thread, attr, connection_main, c)) {
		log_guest("no thread for a connection");
		close(fd);
		free(c);
		pthread_mutex_lock(&a->lock);
		a->connections--;
		pthread_mutex_unlock(&a->lock);
	}
}

int server_run(struct agent *a, int listen_fd)
{
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, THREAD_STACK_LEN);
	for (;;) {
		int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);

		if (fd >= 0) {
			start_connection(a, fd, &attr);
		} else if (errno == EAGAIN) {
			struct pollfd p = {.fd = listen_fd, .events = POLLIN};

			poll(&p, 1, -1);
		} else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
			log_guest("accept: %s", strerror(errno));
			poll(NULL, 0, 50);
		} else if (errno != EINTR && errno != ECONNABORTED) {
			return -errno;
		}
	}
}
