/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dormouse-bench --linux: the same with a Linux guest, up to the answer of a first command in it.
 *
 * Four ways to a guest that works, by turns, so that whatever else the machine does meets all: a
 * cold boot; a fork of the booted template in a process that is made for it; one in a shell;
 * a wake of a hibernated guest. After a restore the guest is renewed (generation, clock, entropy,
 * names) before its processes run, as the server does.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "lib/agent_client.h"
#include "lib/clock.h"
#include "tools/bench/bench.h"

/* --- the guest ---------------------------------------------------------------------------- */

static int connect_agent(const struct vmm *v, struct agent_conn **c, struct err *e)
{
	char path[200];
	const struct agent_addr addr = {
	    .path = path, .vsock_port = PROTO_AGENT_PORT, .timeout_ms = VMM_HANG_MS};

	snprintf(path, sizeof(path), "%.160s/vsock.sock", v->dir);
	return agent_connect(&addr, c, e);
}

/* Run /bin/true and wait for its end. */
static int run_true(struct agent_conn *c, struct err *e)
{
	static const char *const argv[] = {"/bin/true", NULL};
	struct agent_exec_spec spec = {
	    .argv = argv, .user = "root", .cwd = "/", .flags = PROTO_EXEC_DIE_WITH_CONN};
	struct agent_event ev;
	int rc;

	if (getrandom(&spec.session, sizeof(spec.session), 0) != sizeof(spec.session))
		return err_sys(e, -errno, "getrandom");
	spec.session |= 1;
	rc = agent_exec_start(c, &spec, e);
	while (!rc) {
		rc = agent_exec_next(c, VMM_HANG_MS, &ev, e);
		if (!rc && ev.type == AGENT_EXIT)
			return ev.exit.code == 0 ? 0 : err_set(e, -EIO, "/bin/true failed");
	}
	return rc;
}

static int renew(struct agent_conn *c, struct err *e)
{
	struct agent_identity id = {.hostname = "sandbox"};
	uint8_t machine[PROTO_MACHINE_ID_LEN / 2];

	if (getrandom(id.generation, sizeof(id.generation), 0) != sizeof(id.generation) ||
	    getrandom(id.entropy, sizeof(id.entropy), 0) != sizeof(id.entropy) ||
	    getrandom(machine, sizeof(machine), 0) != sizeof(machine))
		return err_sys(e, -errno, "getrandom");
	for (size_t i = 0; i < sizeof(machine); i++)
		snprintf(id.machine_id + 2 * i, 3, "%02x", machine[i]);
	return agent_renew(c, &id, e);
}

/* The first command: answered means that the sandbox could be handed out. */
static int first_exec(const struct vmm *v, bool restored, struct err *e)
{
	struct agent_conn *c;
	int rc = connect_agent(v, &c, e);

	if (rc < 0)
		return rc;
	rc = restored ? renew(c, e) : 0;
	if (rc == 0)
		rc = run_true(c, e);
	agent_close(c);
	return rc;
}

/* Stop its processes, with all that they wrote on the disk. */
static int freeze(const struct vmm *v, struct err *e)
{
	struct agent_conn *c;
	int rc = connect_agent(v, &c, e);

	if (rc < 0)
		return rc;
	rc = agent_freeze(c, true, e);
	agent_close(c);
	return rc;
}

/* --- machines --------------------------------------------------------------------------------- */

static json_t *config(const struct bench *b, const char *op, const char *dir, json_t *layers)
{
	return json_pack(
	    "{s:s, s:s, s:i, s:i, s:[{s:s, s:O, s:o}], s:{s:o}, s:o}", "op", op, "kernel",
	    b->kernel, "memory_mib", b->memory_mib, "cpus", 1, "disks", "path", b->image, "layers",
	    layers, "overlay", json_sprintf("%s/overlay", dir), "vsock", "path",
	    json_sprintf("%s/vsock.sock", dir), "console", json_sprintf("%s/console", dir));
}

static int boot(struct bench *b, struct vmm *v, json_t *layers, struct err *e)
{
	int rc = vmm_start(v, &b->spawn, v->dir, e);

	if (rc == 0)
		rc = vmm_connect(v, e);
	if (rc == 0)
		rc = vmm_call(v, config(b, "configure", v->dir, layers), NULL, e);
	if (rc == 0)
		rc = vmm_op(v, "boot", NULL, e);
	if (rc == 0)
		rc = vmm_event(v, "ready", NULL, e);
	return rc ? rc : first_exec(v, false, e);
}

static int make_scene(struct bench *b, bool hibernate, struct scene *s, struct err *e)
{
	struct vmm v = {.fd = -1, .pidfd = -1};
	int rc;

	*s = (struct scene){.layers = json_array()};
	rc = bench_make_dir(b, s->dir, sizeof(s->dir), e);
	memcpy(v.dir, s->dir, sizeof(v.dir));
	if (rc == 0)
		rc = boot(b, &v, s->layers, e);
	if (rc == 0)
		rc = freeze(&v, e);
	if (rc == 0)
		rc = scene_save(s, &v, hibernate, e);
	vmm_stop(&v);
	return rc ? err_wrap(e, rc, "preparing a guest") : 0;
}

/* --- the four ways ---------------------------------------------------------------------------- */

enum way { BOOT, CREATE, CREATE_SHELL, WAKE, WAYS };

static int restore(struct bench *b, const struct scene *s, struct vmm *v, struct err *e)
{
	json_t *r = config(b, "restore", v->dir, s->layers);
	int rc;

	json_object_set_new(r, "state", json_string(s->state));
	json_object_set_new(r, "ram", json_string(s->ram));
	rc = vmm_call(v, r, NULL, e);
	return rc ? rc : first_exec(v, true, e);
}

static int start_and_restore(struct bench *b, const struct scene *s, struct vmm *v, bool shell,
			     uint64_t *begun_ns, struct err *e)
{
	int rc = vmm_start(v, &b->spawn, v->dir, e);

	if (rc == 0)
		rc = vmm_connect(v, e);
	if (rc == 0 && shell) {
		rc = vmm_call(v, scene_prepare_request(b, v), NULL, e);
		*begun_ns = clock_mono_ns();
	}
	return rc ? rc : restore(b, s, v, e);
}

static int go(struct bench *b, enum way way, const struct scene scenes[WAYS], double *ms,
	      struct err *e)
{
	struct vmm v = {.fd = -1, .pidfd = -1};
	json_t *none = json_array();
	uint64_t begun_ns;
	int rc = bench_make_dir(b, v.dir, sizeof(v.dir), e);

	if (rc == 0 && way == WAKE)
		rc = scene_bring_overlay(&scenes[WAKE], &v, e);
	begun_ns = clock_mono_ns();
	if (rc == 0 && way == BOOT)
		rc = boot(b, &v, none, e);
	else if (rc == 0)
		rc = start_and_restore(b, &scenes[way], &v, way == CREATE_SHELL, &begun_ns, e);
	*ms = (double)(clock_mono_ns() - begun_ns) / 1e6;
	json_decref(none);
	machine_end(&v);
	return rc;
}

static int measure(struct bench *b, const struct scene scenes[WAYS], struct series t[WAYS],
		   struct err *e)
{
	int rc = 0;

	/* The first round warms up caches. */
	for (int i = -1; i < b->samples && rc == 0; i++) {
		for (int way = 0; way < WAYS && rc == 0; way++) {
			double ms = 0;

			rc = go(b, way, scenes, &ms, e);
			if (rc == 0 && i >= 0 && series_add(&t[way], ms) < 0)
				rc = err_set(e, -ENOMEM, "out of memory");
		}
	}
	return rc;
}

static int add_ratios(struct bench *b, const double p50[WAYS], struct err *e)
{
	static const struct {
		enum way way;
		const char *name, *what;
	} ratios[] = {
	    {CREATE, "linux_create_ratio", "medians: create, process spawned, to cold boot"},
	    {CREATE_SHELL, "linux_create_shell_ratio", "medians: create in a shell to cold boot"},
	    {WAKE, "linux_wake_ratio", "medians: wake, process spawned, to cold boot"},
	};
	int rc = 0;

	for (size_t i = 0; i < sizeof(ratios) / sizeof(ratios[0]) && rc == 0; i++) {
		struct series s = {.name = ratios[i].name, .unit = "ratio", .what = ratios[i].what};

		rc = series_add(&s, p50[ratios[i].way] / p50[BOOT]);
		if (rc == 0)
			rc = bench_add(b, &s, e);
	}
	return rc;
}

int bench_linux(struct bench *b, struct err *e)
{
	struct series t[WAYS] = {
	    {.name = "linux_boot_ms",
	     .unit = "ms",
	     .what = "process spawned to first exec answered"},
	    {.name = "linux_create_ms",
	     .unit = "ms",
	     .what = "fork of the booted template: process spawned to first exec answered"},
	    {.name = "linux_create_shell_ms",
	     .unit = "ms",
	     .what = "fork of the booted template into a shell: request to first exec answered"},
	    {.name = "linux_wake_ms",
	     .unit = "ms",
	     .what = "wake of a hibernated guest: process spawned to first exec answered"}};
	struct scene scenes[WAYS] = {0};
	double p50[WAYS];
	int rc = make_scene(b, false, &scenes[CREATE], e);

	scenes[CREATE_SHELL] = scenes[CREATE];
	if (rc == 0)
		rc = make_scene(b, true, &scenes[WAKE], e);
	if (rc == 0)
		rc = measure(b, scenes, t, e);
	for (int way = 0; way < WAYS && rc == 0; way++) {
		p50[way] = series_percentile(&t[way], 50);
		rc = bench_add(b, &t[way], e);
	}
	if (rc == 0)
		rc = add_ratios(b, p50, e);
	scene_fini(&scenes[CREATE]);
	scene_fini(&scenes[WAKE]);
	return rc;
}
