/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checkpoint, fork, rollback, hibernate and wake of a tiny guest, through dormouse-vmm and its
 * control socket. The guest (tests/guests/dirty.S) ends with "torn" as soon as its memory and its
 * registers are not of one instant. Prints TAP.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/fd.h"
#include "snapshot/ram_image.h"
#include "tests/kvm/dirty/dirty.h"

#define FORKS 20

/* --- machines ---------------------------------------------------------------------------- */

static json_t *files(const char *state, const char *ram)
{
	return json_pack("{ssss}", "state", at(state), "ram", at(ram));
}

static void begin(void)
{
	machine_start(&source);
	machine_boot_guest(&source, "dirty", NULL);
	run_on(&source, STEPS);
}

/* Each in the file of a name; a process of its own. */
static json_t *saved(struct machine *m, const char *name)
{
	char state[64], ram[64];
	json_t *o;

	snprintf(state, sizeof(state), "%s.state", name);
	snprintf(ram, sizeof(ram), "%s.ram", name);
	o = json_pack("{ss si ss}", "kernel", "build/guests/dirty.elf", "memory_mib", 64, "console",
		      m->console);
	check(o && !json_object_update_new(o, files(state, ram)), "request");
	return o;
}

static json_t *checkpoint_body(const char *name)
{
	char state[64], ram[64];
	json_t *o = json_pack("{ss}", "name", name);

	snprintf(state, sizeof(state), "%s.state", name);
	snprintf(ram, sizeof(ram), "%s.ram", name);
	check(o && !json_object_update_new(o, files(state, ram)), "request");
	return o;
}

static json_t *expect_event(struct machine *m, const char *name, bool ok)
{
	json_t *e = machine_next_event(m, "checkpoint");

	check(!strcmp(text(e, "name"), name), "%s", text(e, "name"));
	check(json_is_true(json_object_get(e, "ok")) == ok, "%s", json_dumps(e, 0));
	return e;
}

static void checkpoint(struct machine *m, const char *name)
{
	json_t *answer = must(m, "checkpoint", checkpoint_body(name)), *e;

	check(number(answer, "pause_us") > 0, "pause");
	e = expect_event(m, name, true);
	check(number(e, "ram_bytes") > RING_PAGES * 4096 && number(e, "state_bytes") > 0, "sizes");
}

static json_t *rollback_body(const char *name)
{
	char state[64], ram[64];

	snprintf(state, sizeof(state), "%s.state", name);
	snprintf(ram, sizeof(ram), "%s.ram", name);
	return files(state, ram);
}

/* --- tests ------------------------------------------------------------------------------- */

static void checkpoints_of_a_running_guest(void)
{
	uint64_t last = 0, count;
	char name[16];

	begin();
	for (int i = 0; i < 5; i++) {
		snprintf(name, sizeof(name), "c%d", i);
		checkpoint(&source, name);
		count = count_in(name);
		check(count > last, "it counts");
		last = count;
		run_on(&source, STEPS / 2);
	}
	check(!printed(&source, "torn") && !printed(&source, "another"), "it notices nothing");
	end(&source);
	machine_cleanup(&source);
}

static void forks(void)
{
	struct machine shell, nothing;
	json_t *info;

	begin();
	checkpoint(&source, "c");
	machine_start(&shell);
	must(&shell, "prepare", json_pack("{sisi}", "cpus", 1, "memory_mib", 64));
	check(!strcmp(state_of(&shell), "shell"), "%s", state_of(&shell));
	check(number(must(&shell, "restore", saved(&shell, "c")), "restore_us") > 0, "time");
	expect_life(&shell);
	info = machine_must(&shell, "info");
	check(json_is_true(json_object_get(info, "restored")), "restored");
	check(strlen(text(info, "generation")) == 32, "generation");
	machine_start(&nothing);
	must(&nothing, "restore", saved(&nothing, "c"));
	expect_life(&nothing);
	check(strcmp(text(info, "generation"), text(machine_must(&nothing, "info"), "generation")),
	      "generations differ");
	/* The source lives on, and its end changes nothing for them. */
	run_on(&source, STEPS);
	end(&source);
	expect_life(&shell);
	/* Forks of forks share what their parent has. */
	checkpoint(&shell, "d");
	check(count_in("d") > count_in("c"), "it counted on");
	end(&shell);
	end(&nothing);
	machine_cleanup(&shell);
	machine_cleanup(&nothing);
	machine_cleanup(&source);
}

static void many_forks(void)
{
	static struct machine m[FORKS];

	begin();
	checkpoint(&source, "c");
	for (int i = 0; i < FORKS; i++) {
		machine_start(&m[i]);
		if (i % 2)
			must(&m[i], "prepare", json_pack("{sisi}", "cpus", 1, "memory_mib", 64));
	}
	for (int i = 0; i < FORKS; i++)
		must(&m[i], "restore", saved(&m[i], "c"));
	for (int i = 0; i < FORKS; i++)
		expect_life(&m[i]);
	check(count_in("c") > 0, "the image is as it was");
	for (int i = 0; i < FORKS; i++) {
		end(&m[i]);
		machine_cleanup(&m[i]);
	}
	machine_cleanup(&source);
}

static void rollbacks(void)
{
	static const char *const way[] = {"c0", "c2", "c1", "c1", "c0", "c2", "c2", "c0", "c1"};
	struct machine m;
	uint64_t count[3], now;
	char name[16];

	begin();
	for (int i = 0; i < 3; i++) {
		snprintf(name, sizeof(name), "c%d", i);
		/* A tree: c1 and c2 are both children of c0. */
		if (i == 2)
			must(&source, "rollback", rollback_body("c0"));
		run_on(&source, (json_int_t)STEPS * i);
		checkpoint(&source, name);
		count[i] = count_in(name);
	}
	machine_start(&m);
	must(&m, "restore", saved(&m, "c1"));
	for (size_t i = 0; i < sizeof(way) / sizeof(way[0]); i++) {
		struct machine *which = i % 3 ? &m : &source;
		json_int_t before, after;

		run_on(which, STEPS);
		machine_must(which, "pause");
		before = exits(which);
		check(number(must(which, "rollback", rollback_body(way[i])), "rollback_us") > 0,
		      "time");
		snprintf(name, sizeof(name), "r%zu", i);
		checkpoint(which, name);
		machine_must(which, "pause");
		after = exits(which);
		now = count_in(name);
		check(now >= count[way[i][1] - '0'], "it went further back");
		check(now <= count[way[i][1] - '0'] + (uint64_t)(after - before) + 1,
		      "it did not go back");
		machine_must(which, "resume");
	}
	expect_life(&m);
	expect_life(&source);
	end(&m);
	machine_cleanup(&m);
	machine_cleanup(&source);
}

static void hibernate_and_wake(void)
{
	json_t *body;
	struct machine m;

	begin();
	for (int i = 0; i < 3; i++) {
		char name[16];
		uint64_t count;

		snprintf(name, sizeof(name), "h%d", i);
		body = checkpoint_body(name);
		json_object_set_new(body, "resume", json_false());
		must(i ? &m : &source, "checkpoint", body);
		check(!strcmp(state_of(i ? &m : &source), "paused"), "state");
		expect_event(i ? &m : &source, name, true);
		count = count_in(name);
		end(i ? &m : &source);
		machine_start(&m);
		body = saved(&m, name);
		json_object_set_new(body, "resume", json_false());
		must(&m, "restore", body);
		check(!strcmp(state_of(&m), "paused"), "state");
		/* What was woken and did not run is the same. */
		must(&m, "checkpoint",
		     json_pack("{ss ss ss sb}", "name", "same", "state", at("same.state"), "ram",
			       at("same.ram"), "resume", 0));
		expect_event(&m, "same", true);
		check(count_in("same") == count, "it ran");
		check(!unlink(at("same.state")) && !unlink(at("same.ram")), "unlink");
		machine_must(&m, "resume");
		expect_life(&m);
	}
	end(&m);
	machine_cleanup(&m);
	machine_cleanup(&source);
}

static void a_reset_after_a_restore(void)
{
	struct machine m;

	begin();
	checkpoint(&source, "c");
	machine_start(&m);
	must(&m, "restore", saved(&m, "c"));
	expect_life(&m);
	check(!printed(&m, "counting"), "that was long ago");
	machine_must(&m, "reset");
	machine_next_event(&m, "reset");
	run_on(&m, STEPS);
	check(printed(&m, "counting") && !printed(&m, "torn"), "a boot in fresh memory");
	check(json_is_false(json_object_get(machine_must(&m, "info"), "restored")), "restored");
	checkpoint(&m, "d");
	must(&m, "rollback", rollback_body("c"));
	run_on(&m, STEPS);
	must(&m, "rollback", rollback_body("d"));
	run_on(&m, STEPS);
	check(!printed(&m, "torn"), "torn");
	end(&m);
	machine_cleanup(&m);
	machine_cleanup(&source);
}

static void shells(void)
{
	struct machine m;

	begin();
	checkpoint(&source, "c");
	machine_start(&m);
	must(&m, "prepare", json_pack("{sisi}", "cpus", 2, "memory_mib", 64));
	refused(&m, "prepare", json_pack("{si}", "cpus", 1), -EINVAL, "shell");
	refused(&m, "boot", json_object(), -EINVAL, "shell");
	refused(&m, "pause", json_object(), -EINVAL, "shell");
	refused(&m, "restore", saved(&m, "c"), -EINVAL,
		"the shell has 2 CPUs, 64 MiB, 0 disks and no vsock; the machine has 1");
	check(!strcmp(state_of(&m), "new"), "%s", state_of(&m));
	refused(&m, "prepare", json_pack("{si}", "memory_mib", 65), -EINVAL, "memory_mib");
	must(&m, "prepare", json_pack("{sisi}", "cpus", 1, "memory_mib", 64));
	/* A shell can be given up for a boot. */
	machine_boot_guest(&m, "dirty", NULL);
	run_on(&m, STEPS);
	refused(&m, "prepare", json_object(), -EBUSY, "running");
	refused(&m, "restore", saved(&m, "c"), -EBUSY, "running");
	end(&m);
	machine_cleanup(&m);
	machine_cleanup(&source);
}

/* A console that was opened for the shell is the machine's. */
static void shells_with_a_console(void)
{
	struct machine m;

	begin();
	checkpoint(&source, "c");
	machine_start(&m);
	for (int fits = 0; fits < 2; fits++) {
		json_t *body = saved(&m, "c");

		must(&m, "prepare",
		     json_pack("{si ss}", "memory_mib", 64, "console", fits ? m.console : at("x")));
		if (fits)
			must(&m, "restore", body);
		else
			refused(&m, "restore", body, -EINVAL, "console: that of the shell is ");
	}
	expect_life(&m);
	end(&m);
	machine_cleanup(&m);
	machine_cleanup(&source);
}

/* --- what does not fit ------------------------------------------------------------------- */

static void change(const char *name, off_t offset, const char *with)
{
	int fd = open(at(name), O_RDWR | O_CLOEXEC);
	struct stat st;

	check(fd >= 0 && !fstat(fd, &st), "%s", name);
	if (with)
		check(pwrite(fd, with, strlen(with), offset < 0 ? st.st_size + offset : offset) > 0,
		      "%s", name);
	else
		check(!ftruncate(fd, offset < 0 ? st.st_size + offset : offset), "%s", name);
	close(fd);
}

static void copy_of(const char *from, const char *to)
{
	char command[300];

	snprintf(command, sizeof(command), "cp --sparse=always '%s' '%s'", at(from), at(to));
	check(!system(command), "%s", command);
}

/* Both ways in: a process without a machine, and a machine that runs on. */
static void both_refuse(struct machine *m, int code, const char *reason)
{
	json_int_t before;

	refused(m, "restore", saved(m, "bad"), code, reason);
	check(!strcmp(state_of(m), "new"), "%s", state_of(m));
	before = exits(&source);
	refused(&source, "rollback", rollback_body("bad"), code, reason);
	check(!strcmp(state_of(&source), "running"), "%s", state_of(&source));
	while (exits(&source) <= before)
		;
	copy_of("c.state", "bad.state");
	copy_of("c.ram", "bad.ram");
}

static void refusals(void)
{
	struct machine m;
	json_t *body;

	begin();
	checkpoint(&source, "c");
	checkpoint(&source, "other");
	machine_start(&m);
	both_refuse(&m, -ENOENT, "bad.state");
	check(!unlink(at("bad.ram")), "unlink");
	both_refuse(&m, -ENOENT, "bad.ram");
	change("bad.state", -1, NULL);
	both_refuse(&m, -EINVAL, "truncated");
	change("bad.state", 0, NULL);
	both_refuse(&m, -EINVAL, "no saved machine state");
	change("bad.state", 0, "foreign");
	both_refuse(&m, -EINVAL, "no saved machine state");
	change("bad.state", 8, "\2");
	both_refuse(&m, -ENOTSUP, "saved in format 2; this program knows format 1 only");
	change("bad.state", 500, "flipped");
	both_refuse(&m, -EINVAL, "damaged: checksum of section");
	change("bad.ram", -1, NULL);
	both_refuse(&m, -EINVAL, "truncated");
	change("bad.ram", 32 << 20, NULL);
	both_refuse(&m, -EINVAL, "truncated");
	change("bad.ram", 64 << 20, "foreign");
	both_refuse(&m, -EINVAL, "no memory image");
	change("bad.ram", (64 << 20) + 8, "\2");
	both_refuse(&m, -ENOTSUP, "format 2; this program knows format 1 only");
	change("bad.ram", (64 << 20) + 20, "flipped");
	both_refuse(&m, -EINVAL, "damaged: checksum of the trailer");
	copy_of("other.ram", "bad.ram");
	refused(&m, "restore", saved(&m, "bad"), -EINVAL, "another memory image");
	copy_of("c.ram", "bad.ram");
	body = saved(&m, "c");
	json_object_set_new(body, "memory_mib", json_integer(128));
	refused(&m, "restore", body, -EINVAL, "of 64 MiB of RAM; here are 128");
	body = saved(&m, "c");
	json_object_set_new(body, "cpus", json_integer(2));
	refused(&m, "restore", body, -EINVAL, "CPUs: 1 in the saved state, 2 here");
	body = saved(&m, "c");
	json_object_set_new(body, "vsock", json_pack("{ss}", "path", at("vsock")));
	refused(&m, "restore", body, -EINVAL, "kind of the device: 4 in the saved state, 19 here");
	refused(&m, "rollback", rollback_body("c"), -EINVAL, "new");
	refused(&m, "checkpoint", checkpoint_body("x"), -EINVAL, "new");
	/* After all that it can be restored. */
	must(&m, "restore", saved(&m, "c"));
	expect_life(&m);
	end(&m);
	/* In place there is a point of no return: what fails behind it ends the machine. */
	copy_of("other.ram", "bad.ram");
	refused(&source, "rollback", rollback_body("bad"), -EINVAL, "another memory image");
	check(!strcmp(text(machine_next_event(&source, "exit"), "reason"), "error"), "reason");
	check(machine_wait(&source) == 3, "exit status");
	machine_cleanup(&m);
	machine_cleanup(&source);
}

static void bad_requests(void)
{
	begin();
	refused(&source, "checkpoint", json_pack("{ss}", "name", "x"), -EINVAL, "neither RAM");
	refused(&source, "checkpoint", json_pack("{ssss}", "name", "x", "ram", at("x")), -EINVAL,
		"belong together");
	refused(&source, "checkpoint",
		json_pack("{ss s[{ss}]}", "name", "x", "disks", "overlay", at("x")), -EINVAL,
		"the machine has 0");
	refused(&source, "rollback", json_pack("{ss}", "state", at("x")), -EINVAL, "ram");
	refused(&source, "checkpoint",
		json_pack("{ssssss}", "name", "x", "state", "/nonexistent/s", "ram", at("x")),
		-ENOENT, "/nonexistent/s");
	check(access(at("x"), F_OK) < 0, "nothing is left behind");
	checkpoint(&source, "c");
	refused(&source, "checkpoint", checkpoint_body("c"), -EEXIST, "c.state");
	check(count_in("c") > 0, "the old one is kept");
	must(&source, "rollback", rollback_body("c"));
	run_on(&source, STEPS);
	end(&source);
	machine_cleanup(&source);
}

/* --- disks --------------------------------------------------------------------------------- */

static json_t *disk(const char *base, json_t *layers, const char *top)
{
	return json_pack("[{ss so ss}]", "path", base, "layers", layers, "overlay", at(top));
}

/* With a size, files of disks are opened when the guest runs already: nothing of it is left. */
static void disks_opened_late(const char *base)
{
	struct machine m;

	machine_start(&m);
	for (int fits = 0; fits < 2; fits++) {
		json_t *body = saved(&m, "c"), *disks;

		disks = disk(base, json_pack("[ss]", at("top0"), at(fits ? "top1" : "x")), "late");
		json_object_set_new(json_array_get(disks, 0), "size_mib", json_integer(1));
		json_object_set_new(body, "disks", disks);
		if (fits)
			must(&m, "restore", body);
		else
			refused(&m, "restore", body, -ENOENT, "/x");
		check(!strcmp(state_of(&m), fits ? "running" : "new"), "%s", state_of(&m));
	}
	expect_life(&m);
	end(&m);
	machine_cleanup(&m);
}

static void disks_go_on_in_new_layers(void)
{
	json_t *body, *e, *info;
	struct machine m;
	char *base;

	machine_start(&source);
	base = machine_file(&source, "base", "disk", 1 << 20);
	machine_boot_guest(&source, "dirty",
			   json_pack("{so}", "disks", disk(base, json_array(), "top0")));
	run_on(&source, STEPS);
	must(&source, "checkpoint",
	     json_pack("{ss s[{ss}]}", "name", "only", "disks", "overlay", at("top1")));
	e = expect_event(&source, "only", true);
	check(number(e, "ram_bytes") == 0 && number(e, "disk_bytes") > 0, "sizes");
	body = checkpoint_body("c");
	json_object_set_new(body, "disks", json_pack("[{ss}]", "overlay", at("top2")));
	must(&source, "checkpoint", body);
	expect_event(&source, "c", true);
	info = json_array_get(json_object_get(machine_must(&source, "info"), "disks"), 0);
	check(number(info, "layers") == 3 && number(info, "size_bytes") == 1 << 20, "layers");
	machine_start(&m);
	body = saved(&m, "c");
	json_object_set_new(body, "disks",
			    disk(base, json_pack("[ss]", at("top0"), at("top1")), "fork"));
	must(&m, "restore", body);
	expect_life(&m);
	body = rollback_body("c");
	json_object_set_new(body, "disks",
			    disk(base, json_pack("[ss]", at("top0"), at("top1")), "back"));
	must(&source, "rollback", body);
	expect_life(&source);
	disks_opened_late(base);
	/* Its disks are opened first: a failure there leaves it alone. */
	body = rollback_body("c");
	json_object_set_new(body, "disks", disk(base, json_pack("[s]", at("none")), "back2"));
	refused(&source, "rollback", body, -ENOENT, "none");
	refused(&source, "rollback", rollback_body("c"), -EINVAL, "disks: the machine has 1");
	run_on(&source, STEPS);
	end(&m);
	end(&source);
	machine_cleanup(&m);
	machine_cleanup(&source);
}

/* --- faults ---------------------------------------------------------------------------------- */

static const char *const steps[] = {"ram-write:1",  "ram-write:3", "ram-sync:1", "ram-trailer:1",
				    "ram-write:5",  "ram-sync:2",  "ram-dir:1",	 "state-write:1",
				    "state-sync:1", "state-dir:1"};

static void fault(const char *step, const char *action)
{
	char value[64];

	snprintf(value, sizeof(value), "%s:%s", step, action);
	setenv("DORMOUSE_VMM_FAULT", value, 1);
}

static void a_full_disk(void)
{
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		json_t *e;

		fault(steps[i], "ENOSPC");
		begin();
		must(&source, "checkpoint", checkpoint_body("c"));
		e = expect_event(&source, "c", false);
		check(strstr(text(e, "error"), "No space left on device"), "%s: %s", steps[i],
		      text(e, "error"));
		check(!strcmp(text(e, "code"), "ENOSPC"), "%s: %s", steps[i], text(e, "code"));
		check(access(at("c.ram"), F_OK) && access(at("c.state"), F_OK), "%s", steps[i]);
		run_on(&source, STEPS);
		unsetenv("DORMOUSE_VMM_FAULT");
		check(!strcmp(state_of(&source), "running") && !printed(&source, "torn"),
		      "it runs");
		end(&source);
		machine_cleanup(&source);
	}
}

/* Orphans become ours: then all processes of the machine have ended when there is no child. */
static void reap_all(void)
{
	while (waitpid(-1, NULL, 0) > 0)
		;
	check(errno == ECHILD, "%s", strerror(errno));
}

static bool is_sound(void)
{
	struct machine m;
	struct err e;
	bool ok;

	machine_start(&m);
	ok = !vmm_client_call(m.client, request("restore", saved(&m, "c")), WAIT_MS, NULL, &e);
	if (ok)
		expect_life(&m);
	machine_cleanup(&m);
	return ok;
}

static void killed_while_writing(void)
{
	check(!prctl(PR_SET_CHILD_SUBREAPER, 1), "subreaper");
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		struct err e;

		fault(steps[i], "kill-vmm");
		begin();
		unsetenv("DORMOUSE_VMM_FAULT");
		/* Its end may come before the answer. */
		vmm_client_call(source.client, request("checkpoint", checkpoint_body("c")), WAIT_MS,
				NULL, &e);
		reap_all();
		source.pid = 0;
		/* It is whole when the state is written, the last step but for fsync. */
		check(is_sound() == !strncmp(steps[i], "state-sync", 10) ||
			  !strncmp(steps[i], "state-dir", 9),
		      "%s", steps[i]);
		machine_cleanup(&source);
	}
}

static void the_writer_is_killed(void)
{
	json_t *e;

	fault("ram-sync:1", "kill");
	begin();
	must(&source, "checkpoint", checkpoint_body("c"));
	e = expect_event(&source, "c", false);
	check(strstr(text(e, "error"), "killed"), "%s", text(e, "error"));
	check(access(at("c.ram"), F_OK) && access(at("c.state"), F_OK), "files");
	run_on(&source, STEPS);
	end(&source);
	machine_cleanup(&source);
}

static void one_at_a_time(void)
{
	check(!prctl(PR_SET_CHILD_SUBREAPER, 1), "subreaper");
	fault("ram-trailer:1", "stop");
	begin();
	must(&source, "checkpoint", checkpoint_body("c"));
	run_on(&source, STEPS);
	refused(&source, "checkpoint", checkpoint_body("d"), -EBUSY, "checkpoint c is being");
	refused(&source, "rollback", rollback_body("c"), -EBUSY, "being written");
	/* The machine's end is the writer's, too. */
	machine_must(&source, "shutdown");
	check(strstr(text(expect_event(&source, "c", false), "error"), "ended"), "error");
	machine_next_event(&source, "exit");
	machine_wait(&source);
	reap_all();
	check(access(at("c.ram"), F_OK) && access(at("c.state"), F_OK), "files");
	machine_cleanup(&source);
}

int main(void)
{
	static const struct test tests[] = {
	    {"checkpoints of a running guest are of one instant", checkpoints_of_a_running_guest},
	    {"a shell and a process without a machine become forks", forks},
	    {"20 forks at once", many_forks},
	    {"rollback, up and down a tree", rollbacks},
	    {"hibernate and wake, three times", hibernate_and_wake},
	    {"a restored machine can be reset", a_reset_after_a_restore},
	    {"shells take machines of their shape alone", shells},
	    {"a shell may have its console already", shells_with_a_console},
	    {"what is damaged, foreign or of another machine is refused", refusals},
	    {"bad requests cost nothing", bad_requests},
	    {"disks go on in new layers", disks_go_on_in_new_layers},
	    {"a full disk at any step costs the checkpoint alone", a_full_disk},
	    {"a VMM that is killed while writing leaves no image", killed_while_writing},
	    {"a writer that is killed costs the checkpoint alone", the_writer_is_killed},
	    {"one checkpoint at a time", one_at_a_time},
	};
	const char *skip = access("/dev/kvm", R_OK | W_OK) ? "no usable /dev/kvm" : NULL;

	return run_tests(tests, sizeof(tests) / sizeof(tests[0]), skip);
}
