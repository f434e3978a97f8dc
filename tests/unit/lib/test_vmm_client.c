/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/vmm_client.h"

#define LIMIT_MS 20000

/* A VMM that answers what the test says: one connection, on a thread. */
struct fake {
	char dir[32], path[64];
	int listen_fd;
	pthread_t thread;
	/* Returns what to send for one request; NULL ends the connection. To be freed. */
	char *(*answer)(json_t *request);
};

struct seen {
	atomic_int events, closed;
	char last[32];
	pthread_mutex_t lock;
	pthread_cond_t changed;
};

static void *serve(void *arg)
{
	struct fake *f = arg;
	struct pollfd p = {.fd = f->listen_fd, .events = POLLIN};
	int fd = poll(&p, 1, LIMIT_MS) == 1 ? accept(f->listen_fd, NULL, NULL) : -1;
	FILE *in = fdopen(fd, "r");
	char line[4096];

	while (in && fgets(line, sizeof(line), in)) {
		json_t *request = json_loads(line, 0, NULL);
		char *text = f->answer(request);

		json_decref(request);
		if (!text)
			break;
		fd_write_full(fd, text, strlen(text));
		free(text);
	}
	if (in)
		fclose(in);
	return NULL;
}

static void fake_start(struct fake *f, char *(*answer)(json_t *))
{
	struct err e;

	strcpy(f->dir, "/tmp/vmm-client-XXXXXX");
	cr_assert(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/sock", f->dir);
	f->answer = answer;
	f->listen_fd = fd_unix_listen(f->path, 0600, &e);
	cr_assert(f->listen_fd >= 0, "%s", e.msg);
	cr_assert_eq(pthread_create(&f->thread, NULL, serve, f), 0);
}

static void fake_end(struct fake *f)
{
	pthread_join(f->thread, NULL);
	close(f->listen_fd);
	unlink(f->path);
	rmdir(f->dir);
}

static void on_event(void *arg, const char *name, json_t *event)
{
	struct seen *s = arg;

	cr_assert_str_eq(json_string_value(json_object_get(event, "event")), name);
	snprintf(s->last, sizeof(s->last), "%s", name);
	s->events++;
}

static void on_close(void *arg)
{
	struct seen *s = arg;

	pthread_mutex_lock(&s->lock);
	s->closed++;
	pthread_cond_signal(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

static void wait_closed(struct seen *s)
{
	pthread_mutex_lock(&s->lock);
	while (!s->closed)
		pthread_cond_wait(&s->changed, &s->lock);
	pthread_mutex_unlock(&s->lock);
}

static const struct vmm_client_ops seen_ops = {.on_event = on_event, .on_close = on_close};

static struct seen seen_new(void)
{
	return (struct seen){.lock = PTHREAD_MUTEX_INITIALIZER,
			     .changed = PTHREAD_COND_INITIALIZER};
}

static struct vmm_client *connect_to(struct fake *f, struct seen *s)
{
	struct vmm_client *c;
	struct err e;

	cr_assert_eq(vmm_client_connect(f->path, &seen_ops, s, &c, &e), 0, "%s", e.msg);
	return c;
}

static json_int_t id_of(json_t *request)
{
	return json_integer_value(json_object_get(request, "id"));
}

/* Two events come before each answer. */
static char *echo(json_t *request)
{
	char *text;

	cr_assert(asprintf(&text,
			   "{\"event\":\"reset\"}\n{\"event\":\"ready\"}\n"
			   "{\"id\":%lld,\"ok\":true,\"op\":\"%s\"}\n",
			   (long long)id_of(request),
			   json_string_value(json_object_get(request, "op"))) > 0);
	return text;
}

Test(vmm_client, an_answer_reaches_its_call_and_events_the_callback)
{
	struct seen s = seen_new();
	struct vmm_client *c;
	struct fake f;
	struct err e;
	json_t *answer;

	fake_start(&f, echo);
	c = connect_to(&f, &s);
	cr_assert_eq(vmm_client_op(c, "info", LIMIT_MS, &answer, &e), 0, "%s", e.msg);
	cr_assert_str_eq(json_string_value(json_object_get(answer, "op")), "info");
	json_decref(answer);
	cr_assert_eq(s.events, 2);
	cr_assert_str_eq(s.last, "ready");
	vmm_client_destroy(c);
	cr_assert_eq(s.closed, 1);
	fake_end(&f);
}

/* Answers the second request first, so that they arrive in the wrong order. */
static char *swapped(json_t *request)
{
	static json_int_t first;
	char *text;

	if (!first) {
		first = id_of(request);
		return strdup("");
	}
	cr_assert(
	    asprintf(&text,
		     "{\"id\":%lld,\"ok\":true,\"n\":%lld}\n{\"id\":%lld,\"ok\":true,\"n\":%lld}\n",
		     (long long)id_of(request), (long long)id_of(request), (long long)first,
		     (long long)first) > 0);
	return text;
}

static void *call_once(void *arg)
{
	json_t *answer;

	cr_assert_eq(vmm_client_op(arg, "info", LIMIT_MS, &answer, NULL), 0);
	cr_assert_eq(json_integer_value(json_object_get(answer, "n")), id_of(answer));
	json_decref(answer);
	return NULL;
}

Test(vmm_client, calls_of_several_threads_each_get_their_own_answer)
{
	struct seen s = seen_new();
	struct vmm_client *c;
	pthread_t a, b;
	struct fake f;

	fake_start(&f, swapped);
	c = connect_to(&f, &s);
	cr_assert_eq(pthread_create(&a, NULL, call_once, c), 0);
	cr_assert_eq(pthread_create(&b, NULL, call_once, c), 0);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	vmm_client_destroy(c);
	fake_end(&f);
}

static char *refuse(json_t *request)
{
	char *text;

	cr_assert(asprintf(&text,
			   "{\"id\":%lld,\"ok\":false,\"error\":{\"code\":\"EBUSY\",\"message\":"
			   "\"a machine is running\"}}\n",
			   (long long)id_of(request)) > 0);
	return text;
}

Test(vmm_client, a_refusal_is_its_errno_and_its_message)
{
	struct seen s = seen_new();
	struct vmm_client *c;
	struct fake f;
	struct err e;
	json_t *answer;

	fake_start(&f, refuse);
	c = connect_to(&f, &s);
	cr_assert_eq(vmm_client_op(c, "boot", LIMIT_MS, &answer, &e), -EBUSY);
	cr_assert_null(answer);
	cr_assert_str_eq(e.msg, "a machine is running");
	vmm_client_destroy(c);
	fake_end(&f);
}

static char *hang_up(json_t *request)
{
	(void)request;
	return NULL;
}

Test(vmm_client, the_end_of_the_connection_ends_waiting_and_later_calls)
{
	struct seen s = seen_new();
	struct vmm_client *c;
	struct fake f;

	fake_start(&f, hang_up);
	c = connect_to(&f, &s);
	cr_assert_eq(vmm_client_op(c, "info", LIMIT_MS, NULL, NULL), -EPIPE);
	wait_closed(&s);
	cr_assert_eq(vmm_client_op(c, "info", LIMIT_MS, NULL, NULL), -EPIPE);
	vmm_client_destroy(c);
	cr_assert_eq(s.closed, 1);
	fake_end(&f);
}

static char *garbage(json_t *request)
{
	(void)request;
	return strdup("five\n");
}

Test(vmm_client, a_line_that_is_no_object_ends_the_connection)
{
	struct seen s = seen_new();
	struct vmm_client *c;
	struct fake f;

	fake_start(&f, garbage);
	c = connect_to(&f, &s);
	cr_assert_eq(vmm_client_op(c, "info", LIMIT_MS, NULL, NULL), -EPIPE);
	vmm_client_destroy(c);
	fake_end(&f);
}

static char *late(json_t *request)
{
	static char held[256];
	char *text;

	if (!held[0]) {
		snprintf(held, sizeof(held), "{\"id\":%lld,\"ok\":true}\n",
			 (long long)id_of(request));
		return strdup("");
	}
	cr_assert(asprintf(&text, "%s{\"id\":%lld,\"ok\":true,\"op\":\"second\"}\n", held,
			   (long long)id_of(request)) > 0);
	return text;
}

Test(vmm_client, an_answer_that_comes_too_late_disturbs_nobody)
{
	struct seen s = seen_new();
	struct vmm_client *c;
	struct fake f;
	json_t *answer;

	fake_start(&f, late);
	c = connect_to(&f, &s);
	cr_assert_eq(vmm_client_op(c, "info", 1, NULL, NULL), -ETIMEDOUT);
	cr_assert_eq(vmm_client_op(c, "info", LIMIT_MS, &answer, NULL), 0);
	cr_assert_str_eq(json_string_value(json_object_get(answer, "op")), "second");
	json_decref(answer);
	vmm_client_destroy(c);
	fake_end(&f);
}

Test(vmm_client, a_request_that_could_not_be_made_is_an_error)
{
	struct seen s = seen_new();
	struct vmm_client *c;
	struct fake f;

	fake_start(&f, echo);
	c = connect_to(&f, &s);
	cr_assert_eq(vmm_client_call(c, NULL, LIMIT_MS, NULL, NULL), -ENOMEM);
	vmm_client_destroy(c);
	fake_end(&f);
}

Test(vmm_client, a_descriptor_goes_along_with_the_first_byte)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(2 * sizeof(int))];
	} control;
	char dir[] = "/tmp/vmm-client-XXXXXX", path[64], first,
	     answer[] = "{\"id\":1,\"ok\":true}\n";
	struct iovec iov = {&first, 1};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = control.bytes,
			   .msg_controllen = sizeof(control)};
	struct vmm_client *c;
	int listener, fd, passed, pipe_fds[2];
	struct err e;

	cr_assert(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/sock", dir);
	listener = fd_unix_listen(path, 0600, &e);
	cr_assert_eq(vmm_client_connect(path, NULL, NULL, &c, &e), 0, "%s", e.msg);
	fd = accept(listener, NULL, NULL);
	cr_assert_eq(pipe(pipe_fds), 0);
	/* It is there before anybody asks. */
	cr_assert_eq(fd_write_full(pipe_fds[1], "x", 1), 0);
	cr_assert_eq(
	    vmm_client_call_fd(c, json_pack("{ss}", "op", "late"), pipe_fds[0], 0, NULL, &e),
	    -ETIMEDOUT);
	cr_assert_eq(recvmsg(fd, &m, 0), 1);
	cr_expect_eq(first, '{');
	cr_assert_eq(CMSG_FIRSTHDR(&m)->cmsg_len, CMSG_LEN(sizeof(int)));
	memcpy(&passed, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(passed));
	cr_expect_eq(read(passed, &first, 1), 1);
	cr_expect_eq(first, 'x');
	cr_expect_eq(fd_write_full(fd, answer, sizeof(answer) - 1), 0);
	close(passed);
	close(fd);
	close(listener);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	vmm_client_destroy(c);
	unlink(path);
	rmdir(dir);
}

Test(vmm_client, a_program_that_does_not_exist_leaves_no_socket)
{
	struct vmm_spawn s = {.program = "/nonexistent/vmm", .socket_path = "/tmp/vmm-client-none"};
	struct err e;
	int pidfd;
	pid_t pid;

	cr_assert_eq(vmm_client_spawn(&s, &pid, &pidfd, &e), -ENOENT);
	cr_assert(strstr(e.msg, "/nonexistent/vmm"), "%s", e.msg);
	cr_assert(access(s.socket_path, F_OK) < 0);
}

Test(vmm_client, the_child_alone_holds_the_listening_socket)
{
	struct vmm_spawn s = {.program = "/bin/true", .socket_path = "/tmp/vmm-client-true"};
	struct err e;
	siginfo_t info;
	int pidfd;
	pid_t pid;

	cr_assert_eq(vmm_client_spawn(&s, &pid, &pidfd, &e), 0, "%s", e.msg);
	cr_assert_eq(waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED), 0);
	cr_assert_eq(info.si_status, 0);
	cr_assert_eq(info.si_pid, pid);
	/* It has ended, and with it the only listener. */
	cr_assert_eq(fd_unix_connect(s.socket_path, NULL), -ECONNREFUSED);
	close(pidfd);
	unlink(s.socket_path);
}
