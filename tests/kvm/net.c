/* SPDX-License-Identifier: Apache-2.0 */
/* The network device through dormouse-vmm: descriptors that are handed over, events, checkpoints.
 */
#include "tests/kvm/net.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/fd.h"
#include "tests/kvm/harness.h"

#define FIRST 26 /* of a frame, behind its two headers */

static json_t *net_field(const char *backend)
{
	return json_pack("{s{ss}}", "net", "backend", backend);
}

static int attach(struct machine *m, const char *kind, int fd, struct err *e)
{
	json_t *r = json_pack("{ssss}", "op", "net_attach", "kind", kind);

	return vmm_client_call_fd(m->client, r, fd, WAIT_MS, NULL, e);
}

/* Return: our end. */
static int attach_user(struct machine *m)
{
	struct err e;
	int pair[2];

	check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
	check(attach(m, "user", pair[0], &e) == 0, "%s", e.msg);
	close(pair[0]);
	return pair[1];
}

static size_t receive(int fd, char *frame, size_t cap)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	ssize_t n;

	check(poll(&p, 1, WAIT_MS) == 1, "no frame came");
	n = read(fd, frame, cap);
	check(n >= 0, "%s", strerror(errno));
	return (size_t)n;
}

static void expect_frame(int fd, const char *text)
{
	char frame[2048] = {0};
	size_t n = receive(fd, frame, sizeof(frame) - 1);

	check(n == FIRST + strlen(text) && !strcmp(frame + FIRST, text), "%zu bytes: %s", n,
	      frame + FIRST);
}

static void send_frame(int fd, const char *text)
{
	char frame[2048] = {0};

	strcpy(frame + FIRST, text);
	check(write(fd, frame, FIRST + strlen(text)) > 0, "%s", strerror(errno));
}

static bool flag(struct machine *m, const char *name)
{
	json_t *answer = machine_must(m, "info");
	json_t *v = json_object_get(json_object_get(answer, "net"), name);

	check(json_is_boolean(v), "net.%s", name);
	return json_is_true(v);
}

static json_int_t limit(struct machine *m, const char *way, const char *name)
{
	json_t *net = json_object_get(machine_must(m, "info"), "net");
	json_t *l = json_object_get(json_object_get(net, "limits"), way);

	return json_integer_value(json_object_get(l, name));
}

static void set_limits(struct machine *m)
{
	json_t *r = json_pack("{sss{si}s{si}}", "op", "net_limits", "in", "frames_per_s", 1000,
			      "out", "bytes_per_s", 1000000);
	struct err e;

	check(vmm_client_call(m->client, r, WAIT_MS, NULL, &e) == 0, "%s", e.msg);
	check(limit(m, "in", "frames_per_s") == 1000 && limit(m, "out", "bytes_per_s") == 1000000,
	      "limits");
	check(limit(m, "in", "bytes_per_s") == 0, "what is not said has none");
}

static void frames(struct machine *m)
{
	int fd;

	machine_next_event(m, "net_wanted");
	check(flag(m, "wanted") && !flag(m, "attached"), "no backend is there yet");
	fd = attach_user(m);
	expect_frame(fd, "hello");
	send_frame(fd, "abc");
	expect_frame(fd, "bbc");
	set_limits(m);
	/* One takes the place of another. */
	close(fd);
	fd = attach_user(m);
	check(flag(m, "attached"), "the second one");
	send_frame(fd, "hat");
	expect_frame(fd, "iat");
	send_frame(fd, "q");
	machine_next_event(m, "exit");
	check(machine_wait(m) == 0, "exit status");
	close(fd);
}

void net_frames_go_both_ways(void)
{
	struct machine m;
	char *console;

	machine_start(&m);
	machine_boot_guest(&m, "net", net_field("user"));
	frames(&m);
	console = machine_console(&m);
	check(!strcmp(console, "ahq"), "console: %s", console);
	free(console);
	machine_cleanup(&m);
}

void net_bad_requests(void)
{
	struct machine m;
	struct err e;
	int fd;

	machine_start(&m);
	check(attach(&m, "user", 0, &e) == -ENODEV, "%s", e.msg);
	machine_boot_guest(&m, "net", net_field("user"));
	machine_next_event(&m, "net_wanted");
	check(attach(&m, "user", -1, &e) == -EBADF && strstr(e.msg, "no descriptor"), "%s", e.msg);
	check(attach(&m, "both", 0, &e) == -EINVAL && strstr(e.msg, "kind"), "%s", e.msg);
	check(attach(&m, "tap", 0, &e) == -EINVAL && strstr(e.msg, "\"user\""), "%s", e.msg);
	fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	check(attach(&m, "user", fd, &e) == -EINVAL && strstr(e.msg, "SEQPACKET"), "%s", e.msg);
	check(vmm_client_call_fd(m.client, json_pack("{ss}", "op", "info"), fd, WAIT_MS, NULL,
				 &e) == 0,
	      "%s", e.msg);
	check(attach(&m, "user", -1, &e) == -EBADF, "the descriptor of another request is gone");
	check(vmm_client_call(m.client,
			      json_pack("{sss{si}}", "op", "net_limits", "in", "frames_per_s", -1),
			      WAIT_MS, NULL, &e) == -EINVAL &&
		  strstr(e.msg, "frames_per_s"),
	      "%s", e.msg);
	close(fd);
	machine_must(&m, "shutdown");
	machine_wait(&m);
	machine_cleanup(&m);
}

/* --- over checkpoints ------------------------------------------------------------------------ */

static json_t *saved_files(const struct machine *m, const char *op)
{
	char state[96], ram[96];

	snprintf(state, sizeof(state), "%s/state", m->dir);
	snprintf(ram, sizeof(ram), "%s/ram", m->dir);
	return json_pack("{ssssss}", "op", op, "state", state, "ram", ram);
}

static int restore(struct machine *m, const struct machine *from, json_t *net, struct err *e)
{
	json_t *r = saved_files(from, "restore");
	char kernel[] = "build/guests/net.elf";

	json_object_update_new(r, json_pack("{sssi}", "kernel", kernel, "memory_mib", 64));
	if (net)
		json_object_update_new(r, net);
	return vmm_client_call(m->client, r, WAIT_MS, NULL, e);
}

void net_over_a_checkpoint(void)
{
	struct machine m, copy;
	struct err e;
	json_t *r;
	char byte;
	int fd, fd2;

	machine_start(&m);
	machine_boot_guest(&m, "net", net_field("user"));
	machine_next_event(&m, "net_wanted");
	fd = attach_user(&m);
	expect_frame(fd, "hello");
	r = saved_files(&m, "checkpoint");
	json_object_set_new(r, "name", json_string("c"));
	check(vmm_client_call(m.client, r, WAIT_MS, NULL, &e) == 0, "%s", e.msg);
	machine_next_event(&m, "checkpoint");
	/* Who is saved keeps its backend. */
	send_frame(fd, "abc");
	expect_frame(fd, "bbc");
	/* A machine without, or of another kind, is not this one. */
	machine_start(&copy);
	check(restore(&copy, &m, NULL, &e) == -EINVAL && strstr(e.msg, "devices"), "%s", e.msg);
	check(restore(&copy, &m, net_field("tap"), &e) == -EINVAL && strstr(e.msg, "MTU"), "%s",
	      e.msg);
	/* A copy has none, and gets one. */
	check(restore(&copy, &m, net_field("user"), &e) == 0, "%s", e.msg);
	check(!flag(&copy, "attached") && !flag(&copy, "wanted"), "a copy");
	fd2 = attach_user(&copy);
	send_frame(fd2, "xyz");
	expect_frame(fd2, "yyz");
	/* Back in place: the old backend is gone at once. */
	check(vmm_client_call(m.client, saved_files(&m, "rollback"), WAIT_MS, NULL, &e) == 0, "%s",
	      e.msg);
	check(receive(fd, &byte, 1) == 0, "the end of the backend");
	close(fd);
	fd = attach_user(&m);
	send_frame(fd, "m");
	expect_frame(fd, "n");
	close(fd);
	close(fd2);
	machine_cleanup(&copy);
	machine_cleanup(&m);
}
