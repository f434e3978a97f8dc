/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tiny guest that is woken from a cold memory image, through dormouse-vmm and its control
 * socket. The guest (tests/guests/dirty.S) ends with "torn" as soon as its memory and its
 * registers are not of one instant. Prints TAP.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "snapshot/cold_image.h"
#include "snapshot/ram_image.h"
#include "tests/kvm/dirty/dirty.h"

static void checkpoint(struct machine *m, const char *name, bool resume)
{
	char state[64], ram[64];
	json_t *e;

	snprintf(state, sizeof(state), "%s.state", name);
	snprintf(ram, sizeof(ram), "%s.ram", name);
	must(m, "checkpoint",
	     json_pack("{sssssssb}", "name", name, "state", at(state), "ram", at(ram), "resume",
		       resume));
	e = machine_next_event(m, "checkpoint");
	check(json_is_true(json_object_get(e, "ok")), "%s", json_dumps(e, 0));
}

static void pack(const char *from, const char *to)
{
	pid_t pid = fork();
	int status;

	check(pid >= 0, "fork");
	if (pid == 0) {
		dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), 1);
		execl("build/dormouse-ram", "dormouse-ram", "pack", at(from), at(to), NULL);
		_exit(127);
	}
	check(waitpid(pid, &status, 0) == pid && status == 0, "dormouse-ram: status %d", status);
}

/* source runs; its checkpoint "c" is packed as c.cold. */
static void begin(void)
{
	machine_start(&source);
	machine_boot_guest(&source, "dirty", NULL);
	run_on(&source, STEPS);
	checkpoint(&source, "c", true);
	pack("c.ram", "c.cold");
}

static json_t *cold(struct machine *m, const char *state, const char *ram, bool resume)
{
	return json_pack("{ss si ss ss ss ss sb}", "kernel", "build/guests/dirty.elf", "memory_mib",
			 64, "console", m->console, "state", at(state), "ram", at(ram),
			 "ram_format", "cold", "resume", resume);
}

static json_t *loading(struct machine *m)
{
	json_t *o = json_object_get(machine_must(m, "info"), "loading");

	check(json_is_object(o), "loading");
	return o;
}

static void wait_loaded(struct machine *m)
{
	while (strcmp(json_string_value(json_object_get(loading(m), "state")), "done"))
		usleep(1000);
}

/* --- tests ------------------------------------------------------------------------------- */

static void woken_from_cold(void)
{
	struct machine m;
	uint64_t count;
	json_t *o;

	machine_start(&source);
	machine_boot_guest(&source, "dirty", NULL);
	run_on(&source, STEPS);
	checkpoint(&source, "c", false);
	end(&source);
	count = count_in("c");
	pack("c.ram", "c.cold");
	check(!unlink(at("c.ram")), "c.ram");
	for (int wake = 0; wake < 2; wake++) {
		machine_start(&m);
		if (wake)
			must(&m, "prepare", json_pack("{sisi}", "cpus", 1, "memory_mib", 64));
		must(&m, "restore", cold(&m, "c.state", "c.cold", true));
		expect_life(&m);
		wait_loaded(&m);
		o = loading(&m);
		check(json_is_true(json_object_get(o, "on_fault")), "on fault");
		check(number(o, "loaded") == number(o, "chunks"), "all of it");
		check(number(o, "loaded_bytes") >= RING_PAGES * 4096, "bytes");
		/* The first wake left a record of what it wanted, and the second one used it. */
		check((number(o, "recorded") > 0) == wake, "record");
		check(number(o, "faults") > 0 || wake, "faults");
		run_on(&m, STEPS);
		checkpoint(&m, wake ? "second" : "first", true);
		check(count_in(wake ? "second" : "first") > count, "it has counted on");
		end(&m);
		machine_cleanup(&m);
	}
	machine_cleanup(&source);
}

/* What is not loaded yet when the process is cloned must not be missing. */
static void checkpoint_at_once(void)
{
	struct machine m;
	uint64_t before, after;

	begin();
	before = count_in("c");
	machine_start(&m);
	must(&m, "restore", cold(&m, "c.state", "c.cold", false));
	checkpoint(&m, "d", false);
	after = count_in("d");
	check(after == before, "%llu and %llu", (unsigned long long)before,
	      (unsigned long long)after);
	machine_must(&m, "resume");
	expect_life(&m);
	end(&m);
	machine_cleanup(&m);
	end(&source);
	machine_cleanup(&source);
}

static void rollback_to_cold(void)
{
	uint64_t count;

	begin();
	count = count_in("c");
	for (int i = 0; i < 3; i++) {
		json_int_t from, to;
		char name[16];

		run_on(&source, STEPS);
		machine_must(&source, "pause");
		from = exits(&source);
		must(&source, "rollback",
		     json_pack("{ssssss}", "state", at("c.state"), "ram", at("c.cold"),
			       "ram_format", "cold"));
		snprintf(name, sizeof(name), "r%d", i);
		checkpoint(&source, name, false);
		to = exits(&source);
		check(count_in(name) >= count, "it went further back");
		check(count_in(name) <= count + (uint64_t)(to - from) + 1, "it did not go back");
		machine_must(&source, "resume");
		expect_life(&source);
	}
	/* And from there to the raw one again, while it is being loaded. */
	must(&source, "rollback",
	     json_pack("{ssssss}", "state", at("c.state"), "ram", at("c.cold"), "ram_format",
		       "cold"));
	must(&source, "rollback", json_pack("{ssss}", "state", at("c.state"), "ram", at("c.ram")));
	expect_life(&source);
	end(&source);
	machine_cleanup(&source);
}

/* Overwrite what is stored of the chunk of a page. */
static void damage(const char *name, uint64_t gpa)
{
	int fd = open(at(name), O_WRONLY | O_CLOEXEC);
	struct cold_image c;
	struct err e;
	const struct cold_entry *n;

	check(!cold_open(&c, at(name), &e), "%s", e.msg);
	n = &c.index[gpa / c.chunk_bytes];
	check(n->stored_bytes > 32, "%u bytes", n->stored_bytes);
	check(pwrite(fd, "this is not what was written", 28, (off_t)n->offset + 4) == 28, "write");
	close(fd);
	cold_close(&c);
}

static void damage_ends_the_machine(void)
{
	struct machine m;
	const char *message;
	json_t *e;

	begin();
	damage("c.cold", RING_GPA + (RING_PAGES / 2) * 4096);
	machine_start(&m);
	must(&m, "restore", cold(&m, "c.state", "c.cold", true));
	e = machine_next_event(&m, "exit");
	check(!strcmp(json_string_value(json_object_get(e, "reason")), "error"), "reason");
	message = json_string_value(json_object_get(e, "message"));
	check(strstr(message, "c.cold: chunk ") && strstr(message, "is damaged (checksum)"), "%s",
	      message);
	check(machine_wait(&m) == 3, "exit status");
	check(!printed(&m, "torn"), "the guest has seen it");
	machine_cleanup(&m);
	/* The same for a machine that nobody lets run: the background finds it. */
	machine_start(&m);
	must(&m, "restore", cold(&m, "c.state", "c.cold", false));
	machine_next_event(&m, "exit");
	check(machine_wait(&m) == 3, "exit status");
	machine_cleanup(&m);
	end(&source);
	machine_cleanup(&source);
}

static void wrong_files(void)
{
	struct machine m;

	begin();
	checkpoint(&source, "d", true);
	pack("d.ram", "d.cold");
	machine_start(&m);
	refused(&m, "restore", cold(&m, "c.state", "d.cold", true), -EINVAL, "memory image");
	refused(&m, "restore", cold(&m, "c.state", "c.ram", true), -EINVAL, "not a cold image");
	refused(&m, "restore", cold(&m, "c.state", "none", true), -ENOENT, "No such file");
	check(!truncate(at("d.cold"), 5000), "truncate");
	refused(&m, "restore", cold(&m, "d.state", "d.cold", true), -EINVAL, "truncated");
	must(&m, "restore", cold(&m, "c.state", "c.cold", true));
	expect_life(&m);
	end(&m);
	machine_cleanup(&m);
	end(&source);
	machine_cleanup(&source);
}

static void ended_and_reset_while_loading(void)
{
	struct machine m;

	begin();
	for (int i = 0; i < 10; i++) {
		machine_start(&m);
		must(&m, "restore", cold(&m, "c.state", "c.cold", i % 2));
		if (i >= 6) {
			machine_must(&m, "reset");
			machine_next_event(&m, "reset");
			run_on(&m, 10);
		}
		end(&m);
		machine_cleanup(&m);
	}
	end(&source);
	machine_cleanup(&source);
}

int main(void)
{
	static const struct test tests[] = {
	    {"hibernated, packed, woken from cold; twice, with the record of the first time",
	     woken_from_cold},
	    {"a checkpoint of a machine that is being loaded is whole", checkpoint_at_once},
	    {"rollback to a cold image, and away from one that is being loaded", rollback_to_cold},
	    {"a damaged chunk ends the machine, with the reason", damage_ends_the_machine},
	    {"files that are not the machine's are refused", wrong_files},
	    {"machines are ended and reset while they are being loaded",
	     ended_and_reset_while_loading},
	};

	return run_tests(tests, sizeof(tests) / sizeof(tests[0]),
			 access("/dev/kvm", R_OK | W_OK) ? "no usable /dev/kvm" : NULL);
}
