/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The VMM process behind a sandbox: start, adopt, watch, kill.
 *
 * Theory of operation
 * -------------------
 * A sandbox has one VMM process at a time, and in its life as many as it is hibernated or
 * power-cycled. Operations on the machine are in machine.c.
 *
 * Two things tell of the end of a VM. The control connection ends first: its reader thread
 * (lib/vmm_client.h) then records why and makes every waiting request fail. The pidfd tells that
 * the process is gone: only then it is reaped and its descriptors are closed, on the loop's thread.
 * `vm.pidfd` and `vm.client` are given up under both loop_lock and the sandbox's lock, so whoever
 * finds them there owns the clean-up. Calls are counted: a client is freed when none is in
 * progress.
 */
#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/cpu_limit.h"
#include "server/manager/jail.h"
#include "server/manager/net.h"
#include "server/manager/scale.h"

#define ADOPT_TIMEOUT_MS 5000
#define END_GRACE_MS	 10000 /* between the end of the connection and that of the process */

/* Of a guest that panics, so much of its console is looked at and goes to the log. */
#define PANIC_CONSOLE 4096 /* bytes */
#define PANIC_LINES   100  /* a second, of all guests */

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

static int send_signal(int pidfd, int signo)
{
	return (int)syscall(SYS_pidfd_send_signal, pidfd, signo, NULL, 0);
}

/* --- the end, as the control connection tells it ------------------------------------------ */

static void note_reason(struct sandbox *s, bool orderly, const char *reason)
{
	pthread_mutex_lock(&s->lock);
	if (!s->exit_reason[0]) {
		snprintf(s->exit_reason, sizeof(s->exit_reason), "%s", reason);
		s->exit_orderly = orderly;
	}
	pthread_mutex_unlock(&s->lock);
}

static void on_exit_event(struct sandbox *s, json_t *event)
{
	const char *reason = json_string_value(json_object_get(event, "reason"));
	const char *message = json_string_value(json_object_get(event, "message"));
	char text[160];

	if (reason && !strcmp(reason, "shutdown")) {
		note_reason(s, true, "the guest powered off");
		return;
	}
	snprintf(text, sizeof(text), "its VM ended: %.40s%s%.100s", reason ? reason : "no reason",
		 message && *message ? ": " : "", message ? message : "");
	note_reason(s, false, text);
}

static void on_ready_event(struct sandbox *s, bool ready)
{
	if (!ready)
		agent_pool_flush(s->pool);
	pthread_mutex_lock(&s->lock);
	s->ready = ready;
	/* The machine boots again: no process of before is left. */
	if (!ready)
		__atomic_add_fetch(&s->boots, 1, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	if (ready)
		sessions_kick(s);
}

/* The last lines of a guest's console. It can write there what it likes: only text is returned. */
static size_t read_console(struct sandbox *s, char *tail, size_t size)
{
	cleanup_close int fd = sandbox_open_console(s);
	off_t end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
	off_t from = end < (off_t)size ? 0 : end - (off_t)size + 1;
	ssize_t got = end < 0 ? -1 : pread(fd, tail, size - 1, from);
	size_t n = got < 0 ? 0 : (size_t)got;

	for (size_t i = 0; i < n; i++)
		if (!isprint((unsigned char)tail[i]))
			tail[i] = '\n';
	tail[n] = '\0';
	return n;
}

/* What the kernel says of its panic, the last one; what led to it goes to the log. */
static void read_panic(struct sandbox *s, char *text, size_t size)
{
	static const char says[] = "Kernel panic - not syncing: ";
	static struct log_limit limit;
	char console[PANIC_CONSOLE], *at = console, *last = NULL, *line, *rest;

	text[0] = '\0';
	if (!read_console(s, console, sizeof(console)))
		return;
	while ((at = strstr(at, says)))
		last = at += sizeof(says) - 1;
	if (last)
		snprintf(text, size, "%.*s", (int)strcspn(last, "\n"), last);
	for (line = strtok_r(console, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		if (log_allowed(&limit, PANIC_LINES))
			log_warn("sandbox %s: console: %.200s", s->id, line);
}

static void on_panic_event(struct sandbox *s)
{
	char why[100], text[160];

	read_panic(s, why, sizeof(why));
	snprintf(text, sizeof(text), "the guest kernel panicked%s%s", *why ? ": " : "", why);
	/* What the guest held in memory is lost: no reboot makes that good in silence. */
	note_reason(s, false, text);
	pthread_mutex_lock(&s->lock);
	if (s->vm.pidfd >= 0)
		send_signal(s->vm.pidfd, SIGKILL);
	pthread_mutex_unlock(&s->lock);
}

static void on_event(void *arg, const char *name, json_t *event)
{
	struct sandbox *s = arg;

	log_debug("sandbox %s: VMM event %s", s->id, name);
	if (!strcmp(name, "exit")) {
		on_exit_event(s, event);
	} else if (!strcmp(name, "panic")) {
		on_panic_event(s);
	} else if (!strcmp(name, "reset") || !strcmp(name, "ready")) {
		on_ready_event(s, !strcmp(name, "ready"));
	} else if (!strcmp(name, "checkpoint")) {
		vm_on_checkpoint(s, event);
	} else if (!strcmp(name, "net_wanted")) {
		net_on_wanted(s);
	}
}

/* A process that ends without a word was killed, most often: by whom is worth knowing. */
static void note_death(struct sandbox *s, int pidfd)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	siginfo_t info = {0};
	char text[160];

	if (pidfd < 0 || poll(&p, 1, 200) <= 0 ||
	    waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG | WNOWAIT) || !info.si_pid)
		snprintf(text, sizeof(text), "its VMM process ended without giving a reason");
	else if (info.si_code == CLD_EXITED)
		snprintf(text, sizeof(text), "its VMM process ended with status %d",
			 info.si_status);
	else
		snprintf(text, sizeof(text), "its VMM process was killed by signal %d (%s)",
			 info.si_status, strsignal(info.si_status));
	note_reason(s, false, text);
}

/* It was running, and its VM has ended without our doing. Under s->lock. */
static bool record_end(struct sandbox *s)
{
	struct err e;

	if (!s->announced || s->vm.expected || s->row.status != SANDBOX_RUNNING)
		return false;
	s->row.status = s->exit_orderly ? SANDBOX_STOPPED : SANDBOX_ERROR;
	s->row.ended_ms = clock_wall_ms();
	free(s->row.error);
	s->row.error = s->exit_orderly ? NULL : strdup(s->exit_reason);
	log_at(s->exit_orderly ? LOG_INFO : LOG_WARN, "sandbox %s: %s", s->id, s->exit_reason);
	if (store_sandbox_set_ended(s->m->store, s->id, s->row.status, s->row.error,
				    s->row.ended_ms, &e))
		log_error("sandbox %s: %s", s->id, e.msg);
	return true;
}

static void after_end(struct sandbox *s)
{
	manager_unreserve(s->m);
	sessions_kick(s);
}

static void on_close(void *arg)
{
	struct sandbox *s = arg;
	bool recorded, said;
	int pidfd;

	pthread_mutex_lock(&s->lock);
	pidfd = s->vm.pidfd;
	said = s->exit_reason[0];
	pthread_mutex_unlock(&s->lock);
	/* Nobody closes pidfd before this thread has ended: see clean_up(). */
	if (!said)
		note_death(s, pidfd);
	pthread_mutex_lock(&s->lock);
	s->vm.closed_ms = clock_mono_ms();
	s->ready = false;
	vm_checkpoints_fail(s);
	recorded = record_end(s);
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	agent_pool_reset(s->pool);
	if (recorded)
		after_end(s);
}

void vm_expect_end(struct sandbox *s)
{
	pthread_mutex_lock(&s->lock);
	s->vm.expected = true;
	pthread_mutex_unlock(&s->lock);
}

bool vm_unexpect_end(struct sandbox *s)
{
	bool recorded, alive;

	pthread_mutex_lock(&s->lock);
	s->vm.expected = false;
	alive = !s->vm.closed_ms;
	recorded = !alive && record_end(s);
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	if (recorded)
		after_end(s);
	return alive;
}

static const struct vmm_client_ops ops = {.on_event = on_event, .on_close = on_close};

/* --- starting --------------------------------------------------------------------------------- */

static int spawn_in_jail(struct sandbox *s, const char *socket_path, const char *image, pid_t *pid,
			 int *pidfd, struct err *e)
{
	cleanup_free char *log_path = sandbox_path(s, "vmm.log");
	cleanup_free char *vsock_path = sandbox_path(s, "vsock.sock");
	struct jail jail;
	int rc = jail_init(&jail, s, image);

	if (rc || !log_path || !vsock_path) {
		rc = err_set(e, -ENOMEM, "out of memory");
	} else {
		struct vmm_spawn spawn = {.program = s->m->config->vmm,
					  .socket_path = socket_path,
					  .log_path = log_path,
					  .readable = jail.readable,
					  .writable = jail.writable};

		/* Of a process that was killed. */
		unlink(vsock_path);
		rc = vmm_client_spawn(&spawn, pid, pidfd, e);
	}
	if (!rc)
		jail_record(s, &jail);
	jail_fini(&jail);
	return rc;
}

/**
 * vm_spawn() - Start a VMM process, in its jail, for a sandbox that has none
 * @image:	The only image that it will need, or NULL: any template's
 *
 * It waits to be told what to be (machine.c). vm_kill() is due, also after a failure. Its end
 * is its maker's affair alone until sandbox_go_live().
 *
 * Return: 0 or -errno
 */
int vm_spawn(struct sandbox *s, const char *image, struct err *e)
{
	cleanup_free char *socket_path = sandbox_path(s, "vmm.sock");
	struct vmm_client *client;
	int rc, pidfd;
	pid_t pid;

	if (!socket_path)
		return err_set(e, -ENOMEM, "out of memory");
	rc = spawn_in_jail(s, socket_path, image, &pid, &pidfd, e);
	if (rc)
		return rc;
	pthread_mutex_lock(&s->lock);
	s->vm.pid = pid;
	s->vm.pidfd = pidfd;
	s->vm.ours = true;
	s->vm.expected = true;
	s->vm.closed_ms = 0;
	s->exit_reason[0] = '\0';
	s->exit_orderly = s->ready = false;
	s->row.vmm_pid = pid;
	__atomic_add_fetch(&s->epoch, 1, __ATOMIC_RELEASE);
	if (s->doomed)
		rc = err_set(e, -ESHUTDOWN, "sandbox %s is being deleted", s->id);
	pthread_mutex_unlock(&s->lock);
	if (!rc)
		rc = vmm_client_connect(socket_path, &ops, s, &client, e);
	if (rc)
		return rc;
	pthread_mutex_lock(&s->lock);
	s->vm.client = client;
	pthread_mutex_unlock(&s->lock);
	scale_cpu(s);
	return 0;
}

int vm_call_fd(struct sandbox *s, json_t *request, int fd, int timeout_ms, json_t **answer,
	       struct err *e)
{
	struct vmm_client *client;
	int rc;

	pthread_mutex_lock(&s->lock);
	client = s->vm.client;
	if (client)
		s->vm.calls++;
	pthread_mutex_unlock(&s->lock);
	if (!client) {
		json_decref(request);
		if (answer)
			*answer = NULL;
		return err_set(e, -EPIPE, "its VM has ended");
	}
	rc = vmm_client_call_fd(client, request, fd, timeout_ms, answer, e);
	pthread_mutex_lock(&s->lock);
	s->vm.calls--;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

int vm_call(struct sandbox *s, json_t *request, int timeout_ms, json_t **answer, struct err *e)
{
	return vm_call_fd(s, request, -1, timeout_ms, answer, e);
}

static int open_adopted(struct sandbox *s, json_t *info, struct err *e)
{
	const char *state = json_string_value(json_object_get(info, "state"));

	if (!state || (strcmp(state, "running") && strcmp(state, "paused")))
		return err_set(e, -ESRCH, "its VM is not running but %.40s",
			       state ? state : "silent");
	s->vm.pid = (pid_t)json_integer_value(json_object_get(info, "pid"));
	s->vm.pidfd = s->vm.pid > 1 ? (int)syscall(SYS_pidfd_open, s->vm.pid, 0) : -1;
	if (s->vm.pidfd < 0)
		return err_sys(e, -errno, "its VMM process %d", (int)s->vm.pid);
	return 0;
}

/**
 * vm_adopt() - Take over the running VMM process of a sandbox
 * @paused:	Set if its vCPUs stand still
 * @restored:	Set if its guest comes from an image
 *
 * Return: 0; -errno if there is none, or it does not answer. vm_kill() is due in each case.
 */
int vm_adopt(struct sandbox *s, bool *paused, bool *restored, struct err *e)
{
	cleanup_free char *socket_path = sandbox_path(s, "vmm.sock");
	const char *state;
	json_t *info = NULL;
	int rc;

	if (!socket_path)
		return err_set(e, -ENOMEM, "out of memory");
	rc = vmm_client_connect(socket_path, &ops, s, &s->vm.client, e);
	if (!rc)
		rc = vmm_client_op(s->vm.client, "info", ADOPT_TIMEOUT_MS, &info, e);
	if (rc)
		return rc;
	state = json_string_value(json_object_get(info, "state"));
	*paused = state && !strcmp(state, "paused");
	*restored = json_is_true(json_object_get(info, "restored"));
	pthread_mutex_lock(&s->lock);
	s->ready = s->ready || json_is_true(json_object_get(info, "ready"));
	rc = open_adopted(s, info, e);
	pthread_mutex_unlock(&s->lock);
	if (!rc)
		net_adopt(s, json_is_true(json_object_get(json_object_get(info, "net"), "wanted")));
	json_decref(info);
	return rc;
}

/* --- the end of the process --------------------------------------------------------------------
 */

/* Give up pidfd and client, under both locks. Return: true if there is something to clean up. */
static bool take_vm(struct sandbox *s, struct vm *vm)
{
	pthread_mutex_lock(&s->lock);
	*vm = s->vm;
	s->vm.client = NULL;
	pthread_mutex_unlock(&s->lock);
	return vm->client || vm->pidfd >= 0;
}

/* The connection ends, so calls in progress do, and there are no new ones: see take_vm(). */
static void free_client(struct sandbox *s, struct vmm_client *client)
{
	if (!client)
		return;
	vmm_client_abort(client);
	pthread_mutex_lock(&s->lock);
	while (s->vm.calls)
		pthread_cond_wait(&s->changed, &s->lock);
	pthread_mutex_unlock(&s->lock);
	vmm_client_destroy(client);
}

/* Wait for the process, join the reader, then close. The order is explained at on_close(). */
static void clean_up(struct sandbox *s, struct vm *vm)
{
	struct pollfd p = {.fd = vm->pidfd, .events = POLLIN};

	while (vm->pidfd >= 0 && poll(&p, 1, -1) < 0 && errno == EINTR)
		;
	free_client(s, vm->client);
	net_leave(s);
	if (vm->pidfd >= 0 && vm->ours)
		waitid(P_PIDFD, (id_t)vm->pidfd, NULL, WEXITED);
	cpu_limit_remove(s->m->config->cgroup, s->id);
	pthread_mutex_lock(&s->lock);
	fd_close(&s->vm.pidfd);
	pthread_mutex_unlock(&s->lock);
}

static void on_process_end(struct loop_source *source, uint32_t events)
{
	struct sandbox *s = container_of(source, struct sandbox, vm.source);
	struct vm vm;

	(void)events;
	loop_remove(&s->m->loop, source);
	if (take_vm(s, &vm))
		clean_up(s, &vm);
	sandbox_put(s);
}

/**
 * vm_watch() - Have the loop clean up when the process ends
 *
 * Return: 0 or -errno
 */
int vm_watch(struct sandbox *s)
{
	int rc;

	pthread_mutex_lock(&s->m->loop_lock);
	rc = loop_add(&s->m->loop, &s->vm.source, s->vm.pidfd, EPOLLIN, on_process_end);
	if (!rc)
		__atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&s->m->loop_lock);
	return rc;
}

/**
 * vm_kill() - End the process at once and wait until it is gone
 *
 * Any thread but the loop's, without locks but `lifecycle`. Idempotent.
 */
void vm_kill(struct sandbox *s)
{
	bool watched, taken;
	struct vm vm;

	pthread_mutex_lock(&s->m->loop_lock);
	watched = s->vm.source.handler;
	if (watched)
		loop_remove(&s->m->loop, &s->vm.source);
	taken = take_vm(s, &vm);
	pthread_mutex_unlock(&s->m->loop_lock);
	if (taken) {
		if (vm.pidfd >= 0)
			send_signal(vm.pidfd, SIGKILL);
		clean_up(s, &vm);
	}
	if (watched)
		sandbox_put(s);
}

/**
 * vm_end() - As vm_kill(); the end is no news of the sandbox, which may get another VM
 */
void vm_end(struct sandbox *s)
{
	pthread_mutex_lock(&s->lock);
	s->vm.expected = true;
	s->ready = false;
	pthread_mutex_unlock(&s->lock);
	vm_kill(s);
	agent_pool_reset(s->pool);
}

void vm_stop(struct sandbox *s, const char *why)
{
	note_reason(s, true, why);
	vm_kill(s);
}

/**
 * vm_interrupt() - End the process, without waiting: what is being done with it fails
 */
void vm_interrupt(struct sandbox *s)
{
	pthread_mutex_lock(&s->lock);
	if (s->vm.pidfd >= 0)
		send_signal(s->vm.pidfd, SIGKILL);
	pthread_mutex_unlock(&s->lock);
}

/**
 * vm_leave() - Let the process run on and forget it: the daemon stops
 */
void vm_leave(struct sandbox *s)
{
	bool watched, taken;
	struct vm vm;

	/* The end of the connection is no news now. */
	note_reason(s, false, "the daemon stopped");
	pthread_mutex_lock(&s->lock);
	s->announced = false;
	pthread_mutex_unlock(&s->lock);
	pthread_mutex_lock(&s->m->loop_lock);
	watched = s->vm.source.handler;
	if (watched)
		loop_remove(&s->m->loop, &s->vm.source);
	taken = take_vm(s, &vm);
	pthread_mutex_unlock(&s->m->loop_lock);
	net_leave(s);
	if (taken) {
		free_client(s, vm.client);
		pthread_mutex_lock(&s->lock);
		fd_close(&s->vm.pidfd);
		pthread_mutex_unlock(&s->lock);
	}
	if (watched)
		sandbox_put(s);
}

/**
 * vm_check_overdue() - Kill a process whose connection ended long ago
 */
void vm_check_overdue(struct sandbox *s)
{
	pthread_mutex_lock(&s->lock);
	if (s->vm.closed_ms && s->vm.pidfd >= 0 &&
	    clock_mono_ms() - s->vm.closed_ms > END_GRACE_MS) {
		log_warn("sandbox %s: its VMM process hangs, killing it", s->id);
		send_signal(s->vm.pidfd, SIGKILL);
	}
	pthread_mutex_unlock(&s->lock);
}
