/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Timers of a guest that is saved while they are armed: tests/guests/timer.S. Prints TAP.
 */
#include <string.h>
#include <unistd.h>

#include "tests/kvm/dirty/dirty.h"

#define ATTEMPTS 20

static void expect_saved(void)
{
	json_t *e = machine_next_event(&source, "checkpoint");

	check(json_is_true(json_object_get(e, "ok")), "%s", json_dumps(e, 0));
}

/* Save a guest that waits for its timer; one that was too slow for that is thrown away. */
static void save_armed(void)
{
	for (int i = 0; i < ATTEMPTS; i++) {
		machine_start(&source);
		machine_boot_guest(&source, "timer", NULL);
		while (!printed(&source, "armed\n"))
			;
		must(&source, "checkpoint",
		     json_pack("{ss ss ss sb}", "name", "armed", "state", at("state"), "ram",
			       at("ram"), "resume", 0));
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
	struct machine m;

	save_armed();
	machine_start(&m);
	if (shell)
		must(&m, "prepare", json_pack("{si}", "memory_mib", 64));
	must(&m, "restore",
	     json_pack("{ss si ss ss ss}", "kernel", "build/guests/timer.elf", "memory_mib", 64,
		       "console", m.console, "state", at("state"), "ram", at("ram")));
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
	save_armed();
	must(&source, "resume", json_object());
	must(&source, "rollback", json_pack("{ss ss}", "state", at("state"), "ram", at("ram")));
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
