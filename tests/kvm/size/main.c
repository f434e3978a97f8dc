/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Machines whose memory grows and shrinks while they run, are saved, and go on: with the guest
 * tests/guests/grow.S, which ends with "lost" if a block of what it was given is not as it left it.
 * Prints TAP.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "snapshot/ram_image.h"
#include "tests/kvm/dirty/dirty.h"

#define BASE_MIB 64

static json_t *size_of(struct machine *m)
{
	return json_object_get(machine_must(m, "info"), "memory");
}

static json_int_t given_back(struct machine *m)
{
	struct err e;
	json_t *answer, *r = json_pack("{sssb}", "op", "info", "memory", true);
	json_int_t kib;

	check(!vmm_client_call(m->client, r, WAIT_MS, &answer, &e), "%s", e.msg);
	kib = number(json_object_get(answer, "guest_memory"), "free_kib");
	json_decref(answer);
	return kib;
}

static void resize(struct machine *m, int mib)
{
	must(m, "memory", json_pack("{si}", "target_mib", mib));
}

/* Until the guest has as much; it makes exits while it waits. */
static void wait_for(struct machine *m, json_int_t mib)
{
	while (number(size_of(m), "now_mib") != mib)
		check(!printed(m, "lost") && !printed(m, "refused"), "of %d MiB", (int)mib);
	/* It marks what it has been given. */
	run_on(m, 8);
}

static void boot(void)
{
	machine_start(&source);
	machine_boot_guest(&source, "grow", NULL);
	/* It has its driver. */
	while (!json_is_true(json_object_get(size_of(&source), "can_grow")))
		;
}

static json_t *named(const char *name)
{
	char state[64], ram[64];

	snprintf(state, sizeof(state), "%s.state", name);
	snprintf(ram, sizeof(ram), "%s.ram", name);
	return json_pack("{ssss}", "state", at(state), "ram", at(ram));
}

static void checkpoint(struct machine *m, const char *name, bool resume)
{
	json_t *body = named(name), *e;

	json_object_set_new(body, "name", json_string(name));
	json_object_set_new(body, "resume", json_boolean(resume));
	must(m, "checkpoint", body);
	e = machine_next_event(m, "checkpoint");
	check(json_is_true(json_object_get(e, "ok")), "%s", json_dumps(e, 0));
}

static void restore(struct machine *m, const char *name, bool resume)
{
	json_t *body = named(name);

	machine_start(m);
	json_object_update_new(body, json_pack("{ss si ss sb}", "kernel", "build/guests/grow.elf",
					       "memory_mib", BASE_MIB, "console", m->console,
					       "resume", resume));
	must(m, "restore", body);
}

static json_int_t image_mib(const char *name)
{
	struct ram_image img;
	json_int_t mib;
	char file[64];
	struct err e;

	snprintf(file, sizeof(file), "%s.ram", name);
	check(!ram_image_open(&img, at(file), 0, &e), "%s", e.msg);
	check(!ram_image_verify(&img, &e), "%s", e.msg);
	mib = (json_int_t)(img.ram_bytes >> 20);
	ram_image_close(&img);
	return mib;
}

static void finish(struct machine *m)
{
	check(!printed(m, "lost") && !printed(m, "refused"), "it notices nothing");
	end(m);
	machine_cleanup(m);
}

static void up_and_down(void)
{
	boot();
	check(number(size_of(&source), "now_mib") == BASE_MIB, "as booted");
	resize(&source, BASE_MIB + 30);
	wait_for(&source, BASE_MIB + 30);
	/* Over more than one memory slot. */
	resize(&source, BASE_MIB + 900);
	wait_for(&source, BASE_MIB + 900);
	resize(&source, BASE_MIB + 200);
	wait_for(&source, BASE_MIB + 200);
	resize(&source, BASE_MIB + 1000);
	wait_for(&source, BASE_MIB + 1000);
	resize(&source, BASE_MIB);
	wait_for(&source, BASE_MIB);
	check(number(size_of(&source), "plugged_mib") == 0, "plugged");
	check(printed(&source, "unplugged"), "it says so");
	check(given_back(&source) == 0, "what it has no more is not free memory of it");
	finish(&source);
}

static void saved_and_restored(void)
{
	struct machine m, again;

	boot();
	resize(&source, BASE_MIB + 200);
	wait_for(&source, BASE_MIB + 200);
	checkpoint(&source, "a", true);
	/* Whole blocks of 128 MiB are usable. */
	check(image_mib("a") == BASE_MIB + 256, "%d MiB", (int)image_mib("a"));
	restore(&m, "a", true);
	check(number(size_of(&m), "target_mib") == BASE_MIB + 200, "target");
	/* It looks at its marks when something changes. */
	resize(&m, BASE_MIB + 700);
	wait_for(&m, BASE_MIB + 700);
	checkpoint(&m, "b", false);
	restore(&again, "b", false);
	check(number(size_of(&again), "plugged_mib") == 700, "plugged");
	/* What was restored and did not run is the same. */
	checkpoint(&again, "c", false);
	check(image_mib("c") == image_mib("b"), "size");
	machine_must(&again, "resume");
	resize(&again, BASE_MIB + 100);
	wait_for(&again, BASE_MIB + 100);
	finish(&again);
	finish(&m);
	/* The one that it all began with has gone on. */
	resize(&source, BASE_MIB);
	wait_for(&source, BASE_MIB);
	finish(&source);
}

static void rolled_back(void)
{
	boot();
	resize(&source, BASE_MIB + 40);
	wait_for(&source, BASE_MIB + 40);
	checkpoint(&source, "small", true);
	resize(&source, BASE_MIB + 600);
	wait_for(&source, BASE_MIB + 600);
	checkpoint(&source, "large", true);
	for (int i = 0; i < 2; i++) {
		must(&source, "rollback", named("small"));
		check(number(size_of(&source), "now_mib") == BASE_MIB + 40, "as it was");
		resize(&source, BASE_MIB + 300);
		wait_for(&source, BASE_MIB + 300);
		must(&source, "rollback", named("large"));
		check(number(size_of(&source), "now_mib") == BASE_MIB + 600, "as it was");
		resize(&source, BASE_MIB + 20);
		wait_for(&source, BASE_MIB + 20);
	}
	finish(&source);
}

static void reset(void)
{
	struct machine m;

	boot();
	resize(&source, BASE_MIB + 100);
	wait_for(&source, BASE_MIB + 100);
	checkpoint(&source, "a", true);
	machine_must(&source, "reset");
	machine_next_event(&source, "reset");
	/* A kernel that boots is given as much as the one before. */
	wait_for(&source, BASE_MIB + 100);
	finish(&source);
	boot();
	checkpoint(&source, "plain", true);
	restore(&m, "plain", true);
	resize(&m, BASE_MIB + 100);
	wait_for(&m, BASE_MIB + 100);
	machine_must(&m, "reset");
	machine_next_event(&m, "reset");
	wait_for(&m, BASE_MIB + 100);
	finish(&m);
	finish(&source);
}

static void pack(const char *from, const char *to)
{
	char command[400];

	snprintf(command, sizeof(command), "build/dormouse-ram pack %s %s >/dev/null", at(from),
		 at(to));
	check(system(command) == 0, "%s", command); // NOLINT(cert-env33-c)
}

/* While it is still being loaded, too. */
static void packed(void)
{
	struct machine m;
	json_t *body;

	boot();
	resize(&source, BASE_MIB + 200);
	wait_for(&source, BASE_MIB + 200);
	checkpoint(&source, "a", true);
	pack("a.ram", "a.cold");
	machine_start(&m);
	body = json_pack("{ss si ss ss ss ss}", "kernel", "build/guests/grow.elf", "memory_mib",
			 BASE_MIB, "console", m.console, "state", at("a.state"), "ram",
			 at("a.cold"), "ram_format", "cold");
	must(&m, "restore", body);
	resize(&m, BASE_MIB + 700);
	wait_for(&m, BASE_MIB + 700);
	checkpoint(&m, "b", true);
	check(image_mib("b") == BASE_MIB + 768, "%d MiB", (int)image_mib("b"));
	resize(&m, BASE_MIB);
	wait_for(&m, BASE_MIB);
	finish(&m);
	finish(&source);
}

static void refusals(void)
{
	machine_start(&source);
	refused(&source, "memory", json_pack("{si}", "target_mib", 128), -EINVAL, "new");
	machine_boot_guest(&source, "grow", NULL);
	refused(&source, "memory", json_pack("{si}", "target_mib", 63), -EINVAL, "target_mib");
	refused(&source, "memory", json_pack("{si}", "target_mib", 129), -EINVAL, "multiple of 2");
	refused(&source, "memory", json_pack("{si}", "target_mib", 65538), -EINVAL, "target_mib");
	refused(&source, "memory", json_pack("{si}", "mib", 128), -EINVAL, "mib");
	/* 64 GiB in all, but for what is no whole block. */
	refused(&source, "memory", json_pack("{si}", "target_mib", 65536), -EINVAL, "at most");
	resize(&source, BASE_MIB + 2);
	wait_for(&source, BASE_MIB + 2);
	finish(&source);
}

int main(void)
{
	static const struct test tests[] = {
	    {"memory grows and shrinks", up_and_down},
	    {"grown memory is saved and restored", saved_and_restored},
	    {"rollbacks between sizes", rolled_back},
	    {"a reset keeps the size", reset},
	    {"a cold image of grown memory", packed},
	    {"what cannot be is refused", refusals},
	};
	const char *skip = access("/dev/kvm", R_OK | W_OK) ? "no usable /dev/kvm" : NULL;

	return run_tests(tests, sizeof(tests) / sizeof(tests[0]), skip);
}
