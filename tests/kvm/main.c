/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tiny guests on the native /dev/kvm, through dormouse-vmm and its control socket.
 * Where the CPU has no virtualisation, KVM interprets these guests, ~1 us per
 * instruction: they are a few hundred instructions long.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/fd.h"
#include "tests/kvm/harness.h"
#include "tests/kvm/net.h"

static json_int_t number(json_t *o, const char *section, const char *name)
{
	json_t *v = json_object_get(section ? json_object_get(o, section) : o, name);

	check(json_is_integer(v), "%s.%s", section ? section : "", name);
	return json_integer_value(v);
}

static const char *text(json_t *o, const char *name)
{
	const char *v = json_string_value(json_object_get(o, name));

	check(v, "%s", name);
	return v;
}

static void expect_end(struct machine *m, const char *reason, int code)
{
	json_t *e = machine_next_event(m, "exit");

	check(!strcmp(text(e, "reason"), reason), "%s", text(e, "reason"));
	check(number(e, NULL, "code") == code, "%lld", (long long)number(e, NULL, "code"));
	check(machine_wait(m) == code, "exit status");
	check(access(m->socket, F_OK) < 0, "the socket is still there");
}

static void expect_console(struct machine *m, const char *expected)
{
	char *got = machine_console(m);

	check(!strcmp(got, expected), "console: \"%s\"", got);
	free(got);
}

static void hello(void)
{
	struct machine m;

	machine_start(&m);
	machine_boot_guest(&m, "hello", NULL);
	expect_end(&m, "shutdown", 0);
	expect_console(&m, "hello from ring 0\n");
	machine_cleanup(&m);
}

static void run_in_the_foreground(void)
{
	FILE *p = popen("build/dormouse-vmm run --kernel build/guests/hello.elf --memory 64", "re");
	char got[64] = "";

	check(p && fread(got, 1, sizeof(got) - 1, p) > 0, "no output");
	check(!strcmp(got, "hello from ring 0\n"), "\"%s\"", got);
	check(pclose(p) == 0, "exit status");
}

static void guest_resets(void)
{
	struct machine m;

	machine_start(&m);
	machine_boot_guest(&m, "reset", NULL);
	for (int boots = 2; boots < 6; boots++) {
		json_t *e = machine_next_event(&m, "reset");

		check(!strcmp(text(e, "reason"), "guest"), "%s", text(e, "reason"));
		check(number(e, NULL, "boots") == boots, "boots");
	}
	check(!strncmp(machine_console(&m), "boot\nboot\nboot\nboot\n", 20), "console: %s",
	      machine_console(&m));
	machine_cleanup(&m);
}

static void controller_resets(void)
{
	struct machine m;
	json_t *e;

	machine_start(&m);
	machine_boot_guest(&m, "count", NULL);
	machine_must(&m, "reset");
	e = machine_next_event(&m, "reset");
	check(!strcmp(text(e, "reason"), "request"), "%s", text(e, "reason"));
	machine_must(&m, "pause");
	machine_must(&m, "reset");
	check(!strcmp(text(machine_must(&m, "info"), "state"), "running"), "a reset resumes");
	check(number(machine_must(&m, "info"), NULL, "boots") == 3, "boots");
	machine_must(&m, "shutdown");
	machine_next_event(&m, "reset");
	expect_end(&m, "request", 0);
	machine_cleanup(&m);
}

static void panic(void)
{
	struct machine m;

	machine_start(&m);
	machine_boot_guest(&m, "panic", NULL);
	machine_next_event(&m, "panic");
	expect_end(&m, "shutdown", 2);
	machine_cleanup(&m);
}

static void triple_fault(void)
{
	struct machine m;

	machine_start(&m);
	machine_boot_guest(&m, "triple", NULL);
	for (int i = 0; i < 2; i++)
		check(!strcmp(text(machine_next_event(&m, "reset"), "reason"), "triple-fault"),
		      "reason");
	expect_end(&m, "error", 3);
	expect_console(&m, "falling\nfalling\nfalling\n");
	machine_cleanup(&m);
}

static void memory_sizes(void)
{
	static const int sizes_mib[] = {64, 3070, 3072, 3074, 8192, 65536};

	for (size_t i = 0; i < sizeof(sizes_mib) / sizeof(sizes_mib[0]); i++) {
		struct machine m;

		machine_start(&m);
		machine_boot_guest(&m, "memory", json_pack("{si}", "memory_mib", sizes_mib[i]));
		expect_end(&m, "shutdown", 0);
		expect_console(&m, "memory ok\n");
		machine_cleanup(&m);
	}
}

static void virtio_registers(void)
{
	struct machine m;
	char *disk;

	machine_start(&m);
	disk = machine_file(&m, "disk", "disk", 4096);
	machine_boot_guest(
	    &m, "virtio",
	    json_pack("{s[{ss}] s{ss+}}", "disks", "path", disk, "vsock", "path", m.dir, "/vsock"));
	expect_end(&m, "shutdown", 0);
	expect_console(&m, "5 devices\n");
	machine_cleanup(&m);
}

static void malformed_chain(const char *guest)
{
	struct machine m;
	char *disk;

	machine_start(&m);
	disk = machine_file(&m, "disk", "disk", 4096);
	machine_boot_guest(&m, guest, json_pack("{s[{ss}]}", "disks", "path", disk));
	expect_end(&m, "shutdown", 0);
	expect_console(&m, "needs reset\nentropy\ndisk again\n");
	machine_cleanup(&m);
}

static void descriptor_outside_memory(void)
{
	malformed_chain("badaddr");
}

static void descriptor_loop(void)
{
	malformed_chain("badloop");
}

static void descriptor_behind_the_table(void)
{
	malformed_chain("badnext");
}

static json_int_t exits(struct machine *m)
{
	return number(machine_must(m, "metrics"), "metrics", "exits_total");
}

/* The guest resets all the time, so the two requests meet. */
static void shutdown_of_a_guest_that_resets(void)
{
	for (int i = 0; i < 10; i++) {
		struct machine m;
		json_t *e;

		machine_start(&m);
		machine_boot_guest(&m, "reset", NULL);
		machine_must(&m, "shutdown");
		do
			e = machine_any_event(&m);
		while (!strcmp(text(e, "event"), "reset"));
		check(!strcmp(text(e, "event"), "exit"), "%s", text(e, "event"));
		check(machine_wait(&m) == 0, "exit status");
		machine_cleanup(&m);
	}
}

static void pause_and_resume(void)
{
	json_int_t before, after;
	struct machine m;

	machine_start(&m);
	machine_boot_guest(&m, "count", json_pack("{si}", "cpus", 4));
	machine_must(&m, "pause");
	before = exits(&m);
	for (int i = 0; i < 50; i++)
		check(exits(&m) == before, "a paused guest runs");
	machine_must(&m, "pause");
	machine_must(&m, "resume");
	while ((after = exits(&m)) == before)
		;
	check(after > before, "exits");
	machine_must(&m, "resume");
	machine_must(&m, "pause");
	machine_must(&m, "shutdown");
	expect_end(&m, "request", 0);
	machine_cleanup(&m);
}

static void expect_refusal(struct machine *m, json_t *more, int code, const char *named)
{
	struct err e;
	int rc = machine_configure_guest(m, "hello", more, &e);

	check(rc == code, "%s: %d", named, rc);
	check(strstr(e.msg, named), "\"%s\" does not say \"%s\"", e.msg, named);
	check(!strcmp(text(machine_must(m, "info"), "state"), "new"), "state");
}

/* Files of the host that the process was not given, though root could open them. */
static void the_jail(void)
{
	struct machine m;
	json_t *jail;

	machine_start(&m);
	jail = json_object_get(machine_must(&m, "info"), "jail");
	check(number(jail, NULL, "landlock") > 0, "a kernel without Landlock");
	expect_refusal(&m, json_pack("{ss}", "kernel", "/etc/passwd"), -EACCES, "/etc/passwd");
	expect_refusal(&m, json_pack("{ss}", "kernel", "/proc/self/maps"), -EACCES, "maps");
	expect_refusal(&m, json_pack("{s[{ss}]}", "disks", "path", "/etc/passwd"), -EACCES,
		       "/etc/passwd");
	/* What may be read may not be written, and nothing may be made beside it. */
	expect_refusal(&m, json_pack("{ss}", "console", "build/guests/hello.elf"), -EACCES,
		       "hello.elf");
	expect_refusal(&m, json_pack("{ss}", "console", "build/guests/made"), -EACCES, "made");
	expect_refusal(&m, json_pack("{ss}", "console", "/tmp/dormouse-kvm-made"), -EACCES,
		       "dormouse-kvm-made");
	expect_refusal(&m, json_pack("{s{ss}}", "vsock", "path", "/tmp/dormouse-kvm-sock"), -EACCES,
		       "dormouse-kvm-sock");
	machine_cleanup(&m);
}

/* Whatever is wrong, the process lives and the machine can be configured again. */
static void bad_configurations(void)
{
	struct machine m;
	char *torn, *odd, *disk;

	machine_start(&m);
	torn = machine_file(&m, "torn", "\177ELF\2\1\1", 4096);
	odd = machine_file(&m, "odd", "", 1000);
	disk = machine_file(&m, "disk", "", 4096);
	expect_refusal(&m, json_pack("{ss}", "kernel", "/nonexistent"), -ENOENT, "/nonexistent");
	expect_refusal(&m, json_pack("{ss}", "kernel", m.dir), -ENOEXEC, m.dir);
	expect_refusal(&m, json_pack("{ss}", "kernel", torn), -ENOEXEC, "torn");
	expect_refusal(&m, json_pack("{ss}", "kernel", disk), -ENOEXEC, "not an ELF");
	expect_refusal(&m, json_pack("{si}", "memory_mib", 32), -EINVAL, "memory_mib");
	expect_refusal(&m, json_pack("{si}", "cpus", 5), -EINVAL, "cpus");
	expect_refusal(&m, json_pack("{sb}", "fast", 1), -EINVAL, "\"fast\"");
	expect_refusal(&m, json_pack("{s[{ss}]}", "disks", "path", "/nonexistent"), -ENOENT,
		       "configure: disk /nonexistent: No such file or directory");
	expect_refusal(&m, json_pack("{s[{ss}]}", "disks", "path", odd), -EINVAL, "odd");
	expect_refusal(&m, json_pack("{s[{ssss}]}", "disks", "path", disk, "overlay", torn),
		       -EINVAL, "torn");
	expect_refusal(&m, json_pack("{ss}", "console", "/nonexistent/console"), -ENOENT,
		       "/nonexistent/console");
	expect_refusal(&m, json_pack("{s{ss}}", "vsock", "path", "/nonexistent/vsock"), -ENOENT,
		       "/nonexistent/vsock");
	machine_boot_guest(&m, "hello", NULL);
	expect_end(&m, "shutdown", 0);
	machine_cleanup(&m);
}

static void a_disk_has_one_machine(void)
{
	struct machine a, b;
	char *disk, overlay[96];
	struct err e;
	json_t *disks;

	machine_start(&a);
	machine_start(&b);
	disk = machine_file(&a, "disk", "disk", 4096);
	snprintf(overlay, sizeof(overlay), "%s/overlay", a.dir);
	disks = json_pack("{s[{ssss}]}", "disks", "path", disk, "overlay", overlay);
	machine_boot_guest(&a, "count", json_incref(disks));
	check(machine_configure_guest(&b, "hello", json_incref(disks), &e) == -EBUSY, "%s", e.msg);
	machine_must(&a, "shutdown");
	expect_end(&a, "request", 0);
	machine_boot_guest(&b, "hello", disks);
	expect_end(&b, "shutdown", 0);
	machine_cleanup(&a);
	machine_cleanup(&b);
}

static void expect_code(struct machine *m, const char *line, const char *named)
{
	json_t *answer = machine_send_line(m, line), *error = json_object_get(answer, "error");

	check(json_is_false(json_object_get(answer, "ok")), "%.60s was taken", line);
	check(!strcmp(text(error, "code"), "EINVAL"), "%s", text(error, "code"));
	check(strstr(text(error, "message"), named), "\"%s\" does not say \"%s\"",
	      text(error, "message"), named);
	json_decref(answer);
}

static void bad_lines(void)
{
	static char endless[(64 << 10) + 1];
	struct machine m;
	json_t *answer;

	machine_start(&m);
	expect_code(&m, "boot\n", "JSON");
	expect_code(&m, "[1]\n", "object");
	expect_code(&m, "{}\n", "op");
	expect_code(&m, "{\"op\":5}\n", "op");
	expect_code(&m, "{\"op\":\"fly\"}\n", "\"fly\"");
	expect_code(&m, "{\"op\":\"boot\",\"id\":\"x\"}\n", "id");
	expect_code(&m, "{\"op\":\"info\",\"depth\":1}\n", "\"depth\"");
	expect_code(&m, "{\"op\":\"info\",\"memory\":1}\n", "memory");
	expect_code(&m, "{\"op\":\"info\",\"op\":\"info\"}\n", "JSON");
	expect_code(&m, "{\"op\":\"boot\"}\n", "new");
	expect_code(&m, "{\"op\":\"pause\"}\n", "new");
	expect_code(&m, "{\"op\":\"resume\"}\n", "new");
	expect_code(&m, "{\"op\":\"reset\"}\n", "new");
	memset(endless, 'a', sizeof(endless) - 1);
	expect_code(&m, endless, "65536");
	answer = machine_send_line(&m, "{\"op\":\"info\",\"id\":7}\n");
	check(number(answer, NULL, "id") == 7, "id");
	machine_boot_guest(&m, "count", NULL);
	expect_code(&m, "{\"op\":\"boot\"}\n", "running");
	answer = machine_send_line(&m, "{\"op\":\"configure\",\"kernel\":\"k\"}\n");
	check(!strcmp(text(json_object_get(answer, "error"), "code"), "EBUSY"), "code");
	machine_cleanup(&m);
}

static void controllers_come_and_go(void)
{
	struct machine m, other;
	struct vmm_client *first;
	struct events *first_events;

	machine_start(&m);
	machine_boot_guest(&m, "count", NULL);
	first = m.client;
	first_events = m.events;
	other = m;
	machine_connect(&other);
	vmm_client_destroy(first);
	machine_connect(&m);
	check(m.events != first_events, "a new list");
	check(!strcmp(text(machine_must(&m, "info"), "state"), "running"), "it lives on");
	machine_must(&m, "reset");
	machine_next_event(&m, "reset");
	machine_next_event(&other, "reset");
	machine_must(&other, "shutdown");
	machine_next_event(&other, "exit");
	expect_end(&m, "request", 0);
	vmm_client_destroy(other.client);
	machine_cleanup(&m);
}

static void the_process_is_small(void)
{
	struct machine m;
	json_t *info;
	char *disk;

	machine_start(&m);
	disk = machine_file(&m, "disk", "disk", 4096);
	machine_boot_guest(&m, "count",
			   json_pack("{si si s[{ss}] s{ss+}}", "cpus", 4, "memory_mib", 8192,
				     "disks", "path", disk, "vsock", "path", m.dir, "/vsock"));
	info = machine_must(&m, "info");
	check(number(info, "process", "private_kib") > 0, "a figure");
	check(number(info, "process", "private_kib") <= 2048, "%lld KiB",
	      (long long)number(info, "process", "private_kib"));
	check(number(info, "guest_memory", "resident_kib") > 0, "a figure");
	check(json_array_size(json_object_get(info, "devices")) == 5, "devices");
	check(number(info, NULL, "pid") == m.pid, "pid");
	info = machine_send_line(&m, "{\"op\":\"info\",\"memory\":false}\n");
	check(number(info, NULL, "pid") == m.pid, "pid");
	check(!json_object_get(info, "process") && !json_object_get(info, "guest_memory"),
	      "not measured");
	machine_cleanup(&m);
}

/* No descriptor of who started it is open in it, and it cannot gain privileges. */
static void nothing_is_inherited(void)
{
	char path[64], line[256], status[4096] = "";
	int stray = dup2(1, 100), fd;
	struct machine m;

	check(stray == 100 && fcntl(stray, F_SETFD, 0) == 0, "dup2");
	machine_start(&m);
	machine_must(&m, "info");
	snprintf(path, sizeof(path), "/proc/%d/fd/100", (int)m.pid);
	check(readlink(path, line, sizeof(line)) < 0, "descriptor 100 was inherited");
	snprintf(path, sizeof(path), "/proc/%d/status", (int)m.pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	check(fd >= 0 && read(fd, status, sizeof(status) - 1) > 0, "%s", path);
	check(strstr(status, "NoNewPrivs:\t1"), "no_new_privs");
	close(fd);
	machine_cleanup(&m);
}

/* A test or tool that is killed leaves no VMM behind. */
static void ends_with_its_parent(void)
{
	struct pollfd p = {.events = POLLIN};
	struct machine m;
	int fds[2], pid;
	pid_t parent;

	check(pipe2(fds, O_CLOEXEC) == 0, "pipe");
	parent = fork();
	check(parent >= 0, "fork");
	if (!parent) {
		machine_start(&m);
		pid = m.pid;
		if (write(fds[1], &pid, sizeof(pid)) == sizeof(pid))
			pause();
		_exit(1);
	}
	check(read(fds[0], &pid, sizeof(pid)) == sizeof(pid), "the pid of its VMM");
	p.fd = (int)syscall(SYS_pidfd_open, pid, 0);
	check(p.fd >= 0, "pidfd");
	check(poll(&p, 1, 0) == 0, "it ended too early");
	kill(parent, SIGKILL);
	check(poll(&p, 1, WAIT_MS) == 1, "it outlives its parent");
	waitpid(parent, NULL, 0);
}

/* A shell that is told where its clients come listens there, until it ends. */
static void a_shell_listens(void)
{
	struct machine m;
	char path[96];
	json_t *r;
	struct err e;

	machine_start(&m);
	snprintf(path, sizeof(path), "%s/vsock", m.dir);
	r = json_pack("{ss sb ss}", "op", "prepare", "vsock", 1, "vsock_path", path);
	check(vmm_client_call(m.client, r, WAIT_MS, NULL, &e) == 0, "%s", e.msg);
	check(access(path, F_OK) == 0, "there is no socket");
	machine_must(&m, "shutdown");
	machine_wait(&m);
	check(access(path, F_OK) < 0, "the socket is still there");
	machine_cleanup(&m);
}

static const struct test tests[] = {
    {"a guest says hello and powers off", hello},
    {"one command runs a guest in the foreground", run_in_the_foreground},
    {"a guest that resets boots again with fresh memory", guest_resets},
    {"a controller resets a running and a paused machine", controller_resets},
    {"a shutdown wins against a reset", shutdown_of_a_guest_that_resets},
    {"a panic is an event", panic},
    {"a triple fault resets, and a loop of them ends", triple_fault},
    {"memory ends where it should, at every size", memory_sizes},
    {"all virtio devices are on the bus and no more", virtio_registers},
    {"a descriptor outside of memory breaks one device alone", descriptor_outside_memory},
    {"a loop of descriptors breaks one device alone", descriptor_loop},
    {"a descriptor behind the table breaks one device alone", descriptor_behind_the_table},
    {"a paused guest does not run, a resumed one does", pause_and_resume},
    {"a jailed process reaches the files that it was given", the_jail},
    {"bad configurations are refused by name and cost nothing", bad_configurations},
    {"one overlay has one machine", a_disk_has_one_machine},
    {"bad lines are refused by name", bad_lines},
    {"machines outlive their controllers", controllers_come_and_go},
    {"the process has at most 2 MiB of its own", the_process_is_small},
    {"nothing is inherited", nothing_is_inherited},
    {"a shell may listen for clients of vsock already", a_shell_listens},
    {"frames of a network go both ways, and the first asks for it", net_frames_go_both_ways},
    {"bad requests about a network are refused by name", net_bad_requests},
    {"a network goes on over checkpoints, restores and rollbacks", net_over_a_checkpoint},
    {"a VMM that is started for it ends with its parent", ends_with_its_parent},
};

int main(void)
{
	const char *skip = NULL;
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		skip = errno == ENOENT ? "there is no /dev/kvm" : "/dev/kvm cannot be opened";
	else
		close(fd);
	return run_tests(tests, sizeof(tests) / sizeof(tests[0]), skip);
}
