/* SPDX-License-Identifier: Apache-2.0 */
/* Driving a real dormouse-vmm; see harness.h. */
#include "tests/kvm/harness.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lib/fd.h"

#define MAX_EVENTS 256

/* Events in the order they came; the end of the connection is one without an object. */
struct events {
	pthread_mutex_t lock;
	pthread_cond_t more;
	json_t *list[MAX_EVENTS];
	int added, taken;
	bool closed;
};

static void on_event(void *arg, const char *name, json_t *event)
{
	struct events *ev = arg;

	(void)name;
	pthread_mutex_lock(&ev->lock);
	if (ev->added < MAX_EVENTS)
		ev->list[ev->added++] = json_incref(event);
	pthread_cond_signal(&ev->more);
	pthread_mutex_unlock(&ev->lock);
}

static void on_close(void *arg)
{
	struct events *ev = arg;

	pthread_mutex_lock(&ev->lock);
	ev->closed = true;
	pthread_cond_signal(&ev->more);
	pthread_mutex_unlock(&ev->lock);
}

void machine_connect(struct machine *m)
{
	static const struct vmm_client_ops ops = {.on_event = on_event, .on_close = on_close};
	struct err e;

	m->events = calloc(1, sizeof(*m->events));
	pthread_mutex_init(&m->events->lock, NULL);
	pthread_cond_init(&m->events->more, NULL);
	check(vmm_client_connect(m->socket, &ops, m->events, &m->client, &e) == 0, "%s", e.msg);
}

/* Of the oldest machine that is left: where a test has the files that its machines share. */
static char shared_dir[sizeof(((struct machine *)0)->dir)];

/* Always in a jail: so what it must be able to do is tested by every test. */
void machine_start(struct machine *m)
{
	const char *const readable[] = {"build/guests", NULL};
	const char *const writable[] = {m->dir, shared_dir, NULL};
	struct vmm_spawn s = {.program = "build/dormouse-vmm",
			      .socket_path = m->socket,
			      .with_parent = true,
			      .readable = readable,
			      .writable = writable};
	char log[96];
	struct err e;

	memset(m, 0, sizeof(*m));
	strcpy(m->dir, "/tmp/dormouse-kvm-XXXXXX");
	check(mkdtemp(m->dir), "%s", strerror(errno));
	if (access(shared_dir, F_OK))
		strcpy(shared_dir, m->dir);
	snprintf(m->socket, sizeof(m->socket), "%s/vmm.sock", m->dir);
	snprintf(m->console, sizeof(m->console), "%s/console", m->dir);
	snprintf(log, sizeof(log), "%s/log", m->dir);
	s.log_path = log;
	check(vmm_client_spawn(&s, &m->pid, &m->pidfd, &e) == 0, "%s", e.msg);
	machine_connect(m);
}

void machine_cleanup(struct machine *m)
{
	char command[128];

	vmm_client_destroy(m->client);
	if (m->pid) {
		kill(m->pid, SIGKILL);
		waitpid(m->pid, NULL, 0);
	}
	snprintf(command, sizeof(command), "rm -rf '%s'", m->dir);
	check(system(command) == 0, "%s", command);
}

int machine_configure_guest(struct machine *m, const char *name, json_t *more, struct err *e)
{
	char kernel[128];
	json_t *r;

	snprintf(kernel, sizeof(kernel), "build/guests/%s.elf", name);
	r = json_pack("{ss ss si ss}", "op", "configure", "kernel", kernel, "memory_mib", 64,
		      "console", m->console);
	check(r, "request");
	if (more)
		check(json_object_update(r, more) == 0, "request");
	json_decref(more);
	return vmm_client_call(m->client, r, WAIT_MS, NULL, e);
}

void machine_boot_guest(struct machine *m, const char *name, json_t *more)
{
	struct err e;

	check(machine_configure_guest(m, name, more, &e) == 0, "%s", e.msg);
	machine_must(m, "boot");
}

json_t *machine_must(struct machine *m, const char *op)
{
	json_t *answer;
	struct err e;

	check(vmm_client_op(m->client, op, WAIT_MS, &answer, &e) == 0, "%s: %s", op, e.msg);
	return answer;
}

json_t *machine_send_line(struct machine *m, const char *line)
{
	int fd = fd_unix_connect(m->socket, NULL);
	static char answer[1 << 17];
	size_t used = 0;
	json_t *o;

	check(fd >= 0, "connect");
	check(fd_write_full(fd, line, strlen(line)) == 0, "send");
	while (!memchr(answer, '\n', used)) {
		ssize_t n = read(fd, answer + used, sizeof(answer) - used);

		check(n > 0, "the connection ended before an answer");
		used += (size_t)n;
	}
	close(fd);
	o = json_loadb(answer, used, 0, NULL);
	check(o, "an answer that is no JSON");
	return o;
}

json_t *machine_any_event(struct machine *m)
{
	struct events *ev = m->events;
	struct timespec until;
	json_t *e = NULL;
	int rc = 0;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += WAIT_MS / 1000;
	pthread_mutex_lock(&ev->lock);
	while (ev->taken == ev->added && !ev->closed && !rc)
		rc = pthread_cond_timedwait(&ev->more, &ev->lock, &until);
	if (ev->taken < ev->added)
		e = ev->list[ev->taken++];
	pthread_mutex_unlock(&ev->lock);
	check(e, "no event came");
	return e;
}

json_t *machine_next_event(struct machine *m, const char *name)
{
	json_t *e = machine_any_event(m);

	check(!strcmp(json_string_value(json_object_get(e, "event")), name), "%s came, not %s",
	      json_dumps(e, 0), name);
	return e;
}

int machine_wait(struct machine *m)
{
	struct pollfd p = {.fd = m->pidfd, .events = POLLIN};
	siginfo_t info;

	check(poll(&p, 1, WAIT_MS) == 1, "the process does not end");
	check(waitid(P_PIDFD, (id_t)m->pidfd, &info, WEXITED) == 0, "waitid");
	m->pid = 0;
	return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}

char *machine_console(const struct machine *m)
{
	char *text;

	check(fd_read_file(AT_FDCWD, m->console, 1 << 20, &text, NULL) == 0, "%s", m->console);
	return text;
}

char *machine_file(const struct machine *m, const char *name, const char *head, size_t len)
{
	char *path = malloc(128);
	FILE *f;

	snprintf(path, 128, "%s/%s", m->dir, name);
	f = fopen(path, "we");
	check(f && fputs(head, f) >= 0 && fclose(f) == 0, "%s", path);
	check(truncate(path, (off_t)len) == 0, "%s", path);
	return path;
}

int run_tests(const struct test *tests, int n, const char *skip)
{
	int failed = 0;

	printf("1..%d\n", n);
	for (int i = 0; i < n; i++) {
		int status;
		pid_t pid;

		fflush(stdout);
		if (skip) {
			printf("ok %d - %s # SKIP %s\n", i + 1, tests[i].name, skip);
			continue;
		}
		pid = fork();
		if (pid == 0) {
			/* Nor does a test outlive the run, or a VMM its test. */
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			tests[i].run();
			exit(0);
		}
		if (pid < 0 || waitpid(pid, &status, 0) < 0)
			return 1;
		printf("%sok %d - %s\n", status ? "not " : "", i + 1, tests[i].name);
		failed += status != 0;
	}
	return failed ? 1 : 0;
}
