/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Timers of a guest that is saved while they are armed: tests/guests/timer.S. Prints TAP.
 */
#include <string.h>
#include <unistd.h>

#include "tests/kvm/harness.h"

#define ATTEMPTS 20

static struct machine source;

static void must(struct machine *m, json_t *body)
{
	struct err e;

	check(body, "request");
	check(!vmm_client_call(m->client, body, WAIT_MS, NULL, &e), "%s", e.msg);
}

static bool printed(struct machine *m, const char *what)
{
	char *got = machine_console(m);
	bool there = strstr(got, what);

	free(got);
	return there;
}

static const char *at(char path[128], const char *name)
{
	snprintf(path, 128, "%s/%s", source.dir, name);
	return path;
}

static void expect_saved(void)
{
	json_t *e = machine_next_event(&source, "checkpoint");

	check(json_is_true(json_object_get(e, "ok")), "%s", json_dumps(e, 0));
}

/* Save a guest that waits for its timer; one that was too slow for that is thrown away. */
static void save_armed(void)
{
	char state[128], ram[128];

	for (int i = 0; i < ATTEMPTS; i++) {
		machine_start(&source);
		machine_boot_guest(&source, "timer", NULL);
		while (!printed(&source, "armed\n"))
			;
		must(&source,
		     json_pack("{ss ss ss ss sb}", "op", "checkpoint", "name", "armed", "state",
			       at(state, "state"), "ram", at(ram, "ram"), "resume", 0));
		expect_saved();
		if (!printed(&source, "fired\n"))
			return;
		machine_cleanup(&source);
	}
	check(0, "the timer has always fired before it could be saved");
}

static void expect_timer(struct machine *m)
{
	machine_next_event(m, "exit");
	check(printed(m, "fired\n"), "no timer");
	check(machine_wait(m) == 0, "exit status");
}

static void restored(bool shell)
{
	char state[128], ram[128];
	struct machine m;

	save_armed();
	machine_start(&m);
	if (shell)
		must(&m, json_pack("{ss si}", "op", "prepare", "memory_mib", 64));
	must(&m, json_pack("{ss ss si ss ss ss}", "op", "restore", "kernel",
			   "build/guests/timer.elf", "memory_mib", 64, "console", m.console,
			   "state", at(state, "state"), "ram", at(ram, "ram")));
	expect_timer(&m);
	machine_cleanup(&m);
	machine_cleanup(&source);
}

static void in_a_new_process(void)
{
	restored(false);
}

static void in_a_shell(void)
{
	restored(true);
}

static void after_a_rollback(void)
{
	char state[128], ram[128];

	save_armed();
	must(&source, json_pack("{ss}", "op", "resume"));
	must(&source, json_pack("{ss ss ss}", "op", "rollback", "state", at(state, "state"), "ram",
				at(ram, "ram")));
	expect_timer(&source);
	machine_cleanup(&source);
}

int main(void)
{
	static const struct test tests[] = {
	    {"an armed timer fires in a restored machine", in_a_new_process},
	    {"an armed timer fires in what was a shell", in_a_shell},
	    {"an armed timer fires after a rollback", after_a_rollback},
	};
	const char *skip = access("/dev/kvm", R_OK | W_OK) ? "no usable /dev/kvm" : NULL;

	return run_tests(tests, sizeof(tests) / sizeof(tests[0]), skip);
}
