/* SPDX-License-Identifier: Apache-2.0 */
/* The host's side of a VMM's control socket; see vmm_client.h. */
#include "lib/vmm_client.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"

#define LINE_MAX_BYTES (256u << 10) /* of an answer: more than any VMM sends */
#define READER_STACK   (256u << 10) /* only what is touched is used; one per sandbox */

extern char **environ;

struct call {
	struct call *next;
	json_int_t id;
	json_t *answer; /* owned by the caller once done */
	bool done;
	pthread_cond_t cond;
};

struct vmm_client {
	int fd;
	struct vmm_client_ops ops;
	void *arg; /* borrowed */
	pthread_t reader;
	pthread_mutex_t lock; /* calls, next_id, closed */
	pthread_mutex_t send_lock;
	struct call *calls; /* on the stacks of their callers */
	json_int_t next_id;
	bool closed;
};

/* --- starting a process ------------------------------------------------------ */

#define CHILD_LISTEN_FD 3

static int spawn_actions(posix_spawn_file_actions_t *fa, const struct vmm_spawn *s, int listen_fd)
{
	int rc = posix_spawn_file_actions_addopen(fa, 0, "/dev/null", O_RDONLY, 0);

	if (!rc && s->log_path) {
		rc = posix_spawn_file_actions_addopen(fa, 2, s->log_path,
						      O_WRONLY | O_CREAT | O_APPEND, 0600);
		if (!rc)
			rc = posix_spawn_file_actions_adddup2(fa, 2, 1);
	}
	if (!rc)
		rc = posix_spawn_file_actions_adddup2(fa, listen_fd, CHILD_LISTEN_FD);
	if (!rc)
		rc = posix_spawn_file_actions_addclosefrom_np(fa, CHILD_LISTEN_FD + 1);
	return rc;
}

static int spawn_attributes(posix_spawnattr_t *attr)
{
	sigset_t none, all;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_setsigmask(attr, &none);
	posix_spawnattr_setsigdefault(attr, &all);
	return posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK |
						  POSIX_SPAWN_SETSIGDEF);
}

static size_t count(const char *const *list)
{
	size_t n = 0;

	while (list && list[n])
		n++;
	return n;
}

static size_t add_paths(char **argv, size_t n, const char *option, const char *const *paths)
{
	for (size_t i = 0; paths && paths[i]; i++) {
		argv[n++] = (char *)option;
		argv[n++] = (char *)paths[i];
	}
	return n;
}

/* Return: an array to be freed; its strings are borrowed. */
static char **make_argv(const struct vmm_spawn *s, const char *parent)
{
	const char *const fixed[] = {s->program, "--socket-fd", "3", "--socket", s->socket_path};
	size_t n = sizeof(fixed) / sizeof(fixed[0]);
	char **argv = calloc(n + 4 + 2 * (count(s->readable) + count(s->writable)), sizeof(*argv));

	if (!argv)
		return NULL;
	memcpy(argv, fixed, sizeof(fixed));
	if (s->with_parent) {
		argv[n++] = "--parent";
		argv[n++] = (char *)parent;
	}
	if (s->readable || s->writable)
		argv[n++] = "--jail";
	n = add_paths(argv, n, "--read", s->readable);
	add_paths(argv, n, "--write", s->writable);
	return argv;
}

static int spawn_child(const struct vmm_spawn *s, int listen_fd, pid_t *pid)
{
	cleanup_free char **argv = NULL;
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t attr;
	char parent[16];
	int rc;

	snprintf(parent, sizeof(parent), "%d", (int)getpid());
	argv = make_argv(s, parent);
	if (!argv)
		return -ENOMEM;
	rc = posix_spawn_file_actions_init(&fa);
	if (rc)
		return -rc;
	rc = posix_spawnattr_init(&attr);
	if (!rc) {
		rc = spawn_actions(&fa, s, listen_fd);
		if (!rc)
			rc = spawn_attributes(&attr);
		if (!rc)
			rc = posix_spawn(pid, s->program, &fa, &attr, argv, environ);
		posix_spawnattr_destroy(&attr);
	}
	posix_spawn_file_actions_destroy(&fa);
	return -rc;
}

int vmm_client_spawn(const struct vmm_spawn *s, pid_t *pid, int *pidfd, struct err *e)
{
	cleanup_close int listen_fd = fd_unix_listen(s->socket_path, 0600, e);
	int rc;

	if (listen_fd < 0)
		return listen_fd;
	if (listen_fd == CHILD_LISTEN_FD) {
		/* dup2 onto itself would keep close-on-exec set. */
		int moved = fcntl(listen_fd, F_DUPFD_CLOEXEC, CHILD_LISTEN_FD + 1);

		if (moved < 0)
			return err_sys(e, -errno, "starting %s", s->program);
		close(listen_fd);
		listen_fd = moved;
	}
	rc = spawn_child(s, listen_fd, pid);
	if (rc) {
		unlink(s->socket_path);
		return err_sys(e, rc, "starting %s", s->program);
	}
	/* The child is ours and unreaped, so the id cannot have been taken by another. */
	*pidfd = (int)syscall(SYS_pidfd_open, *pid, 0);
	if (*pidfd < 0) {
		rc = -errno;
		kill(*pid, SIGKILL);
		waitpid(*pid, NULL, 0);
		unlink(s->socket_path);
		return err_sys(e, rc, "pidfd_open of %s", s->program);
	}
	return 0;
}

/* --- the reader --------------------------------------------------------------- */

static void handle_answer(struct vmm_client *c, json_t *line)
{
	json_int_t id = json_integer_value(json_object_get(line, "id"));

	pthread_mutex_lock(&c->lock);
	for (struct call **p = &c->calls; *p; p = &(*p)->next) {
		struct call *call = *p;

		if (call->id != id)
			continue;
		*p = call->next;
		call->answer = json_incref(line);
		call->done = true;
		pthread_cond_signal(&call->cond);
		break;
	}
	pthread_mutex_unlock(&c->lock);
}

static bool handle_line(struct vmm_client *c, const char *text, size_t len)
{
	json_t *line = json_loadb(text, len, 0, NULL);
	const char *event;

	if (!json_is_object(line)) {
		json_decref(line);
		log_warn("a VMM sent a line that is not a JSON object");
		return false;
	}
	event = json_string_value(json_object_get(line, "event"));
	if (!event)
		handle_answer(c, line);
	else if (c->ops.on_event)
		c->ops.on_event(c->arg, event, line);
	json_decref(line);
	return true;
}

/* Return: the number of bytes that were whole lines, or -1. */
static ssize_t handle_lines(struct vmm_client *c, const char *buf, size_t len)
{
	size_t start = 0;
	const char *nl;

	while ((nl = memchr(buf + start, '\n', len - start))) {
		if (!handle_line(c, buf + start, (size_t)(nl - buf) - start))
			return -1;
		start = (size_t)(nl - buf) + 1;
	}
	return (ssize_t)start;
}

static void read_until_closed(struct vmm_client *c)
{
	cleanup_free char *buf = NULL;
	size_t cap = 0, used = 0;

	for (;;) {
		ssize_t n, whole;

		if (used == cap) {
			char *grown;

			if (cap >= LINE_MAX_BYTES)
				return;
			grown = realloc(buf, cap = cap ? cap * 2 : 4096);
			if (!grown)
				return;
			buf = grown;
		}
		n = recv(c->fd, buf + used, cap - used, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		used += (size_t)n;
		whole = handle_lines(c, buf, used);
		if (whole < 0)
			return;
		used -= (size_t)whole;
		memmove(buf, buf + whole, used);
	}
}

static void *reader_main(void *arg)
{
	struct vmm_client *c = arg;

	read_until_closed(c);
	shutdown(c->fd, SHUT_RDWR);
	pthread_mutex_lock(&c->lock);
	c->closed = true;
	for (struct call *call = c->calls; call; call = call->next) {
		call->done = true;
		pthread_cond_signal(&call->cond);
	}
	c->calls = NULL;
	pthread_mutex_unlock(&c->lock);
	if (c->ops.on_close)
		c->ops.on_close(c->arg);
	return NULL;
}

/* --- calls ---------------------------------------------------------------------- */

int vmm_errno(const char *name)
{
	for (int i = 1; name && i < 134; i++) {
		const char *n = strerrorname_np(i);

		if (n && !strcmp(n, name))
			return i;
	}
	return EIO;
}

static int answer_status(json_t *answer, struct err *e)
{
	json_t *error;
	const char *message;

	if (json_is_true(json_object_get(answer, "ok")))
		return 0;
	error = json_object_get(answer, "error");
	message = json_string_value(json_object_get(error, "message"));
	return err_set(e, -vmm_errno(json_string_value(json_object_get(error, "code"))), "%s",
		       message ? message : "the VMM refused without a reason");
}

static void calls_remove(struct vmm_client *c, struct call *call)
{
	for (struct call **p = &c->calls; *p; p = &(*p)->next)
		if (*p == call) {
			*p = call->next;
			return;
		}
}

/* The descriptor goes with the first byte. Return: bytes that were sent, or -errno */
static ssize_t send_fd(int sock, const char *text, size_t len, int fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {(char *)text, len};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = control.bytes,
			   .msg_controllen = sizeof(control.bytes)};
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	ssize_t n;

	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(h), &fd, sizeof(int));
	do
		n = sendmsg(sock, &m, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

/* @fd: goes along; -1: none */
static int call_send(struct vmm_client *c, json_t *request, int fd, struct err *e)
{
	ssize_t sent = 0;
	cleanup_free char *text = json_dumps(request, JSON_COMPACT);
	size_t len;
	int rc;

	if (!text)
		return err_set(e, -ENOMEM, "out of memory");
	len = strlen(text);
	text[len] = '\n'; /* in place of the NUL */
	pthread_mutex_lock(&c->send_lock);
	if (fd >= 0)
		sent = send_fd(c->fd, text, len + 1, fd);
	rc = sent < 0 ? (int)sent : fd_write_full(c->fd, text + sent, len + 1 - (size_t)sent);
	pthread_mutex_unlock(&c->send_lock);
	return rc ? err_set(e, -EPIPE, "the VMM's control connection has ended") : 0;
}

static int call_wait(struct vmm_client *c, struct call *call, const struct timespec *deadline,
		     struct err *e)
{
	int rc = 0;

	pthread_mutex_lock(&c->lock);
	while (!call->done && rc != ETIMEDOUT)
		rc = pthread_cond_timedwait(&call->cond, &c->lock, deadline);
	if (!call->done)
		calls_remove(c, call);
	pthread_mutex_unlock(&c->lock);
	if (!call->done)
		return err_set(e, -ETIMEDOUT, "the VMM did not answer in time");
	if (!call->answer)
		return err_set(e, -EPIPE, "the VMM's control connection has ended");
	return 0;
}

static int call_begin(struct vmm_client *c, struct call *call)
{
	int rc = 0;

	pthread_mutex_lock(&c->lock);
	if (c->closed) {
		rc = -EPIPE;
	} else {
		call->id = ++c->next_id;
		call->next = c->calls;
		c->calls = call;
	}
	pthread_mutex_unlock(&c->lock);
	return rc;
}

static void call_init(struct call *call)
{
	pthread_condattr_t attr;

	memset(call, 0, sizeof(*call));
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&call->cond, &attr);
	pthread_condattr_destroy(&attr);
}

int vmm_client_call(struct vmm_client *c, json_t *request, int timeout_ms, json_t **answer,
		    struct err *e)
{
	return vmm_client_call_fd(c, request, -1, timeout_ms, answer, e);
}

int vmm_client_call_fd(struct vmm_client *c, json_t *request, int fd, int timeout_ms,
		       json_t **answer, struct err *e)
{
	struct timespec deadline;
	struct call call;
	int rc;

	if (answer)
		*answer = NULL;
	if (!request)
		return err_set(e, -ENOMEM, "out of memory");
	clock_gettime(CLOCK_MONOTONIC, &deadline);
	deadline.tv_sec += timeout_ms / 1000;
	deadline.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
	if (deadline.tv_nsec >= 1000000000) {
		deadline.tv_nsec -= 1000000000;
		deadline.tv_sec++;
	}
	call_init(&call);
	rc = call_begin(c, &call);
	if (rc) {
		err_set(e, rc, "the VMM's control connection has ended");
	} else if (json_object_set_new(request, "id", json_integer(call.id))) {
		rc = err_set(e, -ENOMEM, "out of memory");
	} else {
		rc = call_send(c, request, fd, e);
	}
	json_decref(request);
	if (!rc)
		rc = call_wait(c, &call, &deadline, e);
	if (rc) {
		pthread_mutex_lock(&c->lock);
		calls_remove(c, &call);
		pthread_mutex_unlock(&c->lock);
	} else {
		rc = answer_status(call.answer, e);
	}
	if (!rc && answer)
		*answer = call.answer;
	else
		json_decref(call.answer);
	pthread_cond_destroy(&call.cond);
	return rc;
}

int vmm_client_op(struct vmm_client *c, const char *op, int timeout_ms, json_t **answer,
		  struct err *e)
{
	return vmm_client_call(c, json_pack("{ss}", "op", op), timeout_ms, answer, e);
}

/* --- life -------------------------------------------------------------------------- */

int vmm_client_connect(const char *socket_path, const struct vmm_client_ops *ops, void *arg,
		       struct vmm_client **out, struct err *e)
{
	struct vmm_client *c = calloc(1, sizeof(*c));
	pthread_attr_t attr;
	int rc;

	if (!c)
		return err_set(e, -ENOMEM, "out of memory");
	c->fd = fd_unix_connect(socket_path, e);
	if (c->fd < 0) {
		rc = c->fd;
		free(c);
		return rc;
	}
	if (ops)
		c->ops = *ops;
	c->arg = arg;
	pthread_mutex_init(&c->lock, NULL);
	pthread_mutex_init(&c->send_lock, NULL);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, READER_STACK);
	rc = -pthread_create(&c->reader, &attr, reader_main, c);
	pthread_attr_destroy(&attr);
	if (rc) {
		pthread_mutex_destroy(&c->lock);
		pthread_mutex_destroy(&c->send_lock);
		close(c->fd);
		free(c);
		return err_sys(e, rc, "starting the reader of %s", socket_path);
	}
	*out = c;
	return 0;
}

void vmm_client_abort(struct vmm_client *c)
{
	shutdown(c->fd, SHUT_RDWR);
}

void vmm_client_destroy(struct vmm_client *c)
{
	if (!c)
		return;
	shutdown(c->fd, SHUT_RDWR);
	pthread_join(c->reader, NULL);
	close(c->fd);
	pthread_mutex_destroy(&c->lock);
	pthread_mutex_destroy(&c->send_lock);
	free(c);
}
