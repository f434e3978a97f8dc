/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse-bench fork, wake, depth: machines made of images. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/clock.h"
#include "tools/bench/bench.h"

/* How far a process is when the request comes. */
enum start { FROM_NOTHING, FROM_PROCESS, FROM_SHELL };

static double us_since(uint64_t from_ns)
{
	return (double)(clock_mono_ns() - from_ns) / 1000;
}

struct one {
	enum start start;
	bool hibernated;   /* the scene is a hibernation, with its writable layer */
	double in_vmm_us;  /* request to first exit, by the VMM's clock */
	double restore_us; /* request to the answer, by the VMM's clock */
	double wall_us;	   /* all that was not ready before, to the first exit, by ours */
};

/* Start, get as far as @o->start says, restore, wait for the first exit. */
static int run_timed(struct bench *b, const struct scene *s, struct vmm *v, struct one *o,
		     struct err *e)
{
	uint64_t begun_ns = clock_mono_ns();
	double sent_us, answered_us;
	json_t *answer = NULL;
	int rc = vmm_start(v, &b->spawn, v->dir, e);

	if (rc == 0)
		rc = vmm_connect(v, e);
	if (rc == 0 && o->start == FROM_PROCESS)
		rc = vmm_op(v, "info", NULL, e);
	if (rc == 0 && o->start == FROM_SHELL)
		rc = vmm_call(v, scene_prepare_request(b, v), NULL, e);
	if (o->start != FROM_NOTHING)
		begun_ns = clock_mono_ns();
	if (rc == 0)
		rc = vmm_call(v, scene_restore_request(b, s, v), &answer, e);
	if (rc < 0)
		return rc;
	answered_us = us_since(begun_ns);
	sent_us = (double)(v->sent_ns - begun_ns) / 1000;
	rc = vmm_number(answer, "restore_us", &o->restore_us, e);
	json_decref(answer);
	if (rc == 0)
		rc = machine_first_exit(v, &o->in_vmm_us, e);
	/* The first exit was no later than its time after the request was sent, plus the way to
	 * the VMM, which is in the time of the answer. */
	o->wall_us = answered_us > sent_us + o->in_vmm_us ? answered_us : sent_us + o->in_vmm_us;
	return rc;
}

static int run_one(struct bench *b, const struct scene *s, struct one *o, struct err *e)
{
	struct vmm v = {.fd = -1, .pidfd = -1};
	char dir[160];
	int rc = bench_make_dir(b, dir, sizeof(dir), e);

	snprintf(v.dir, sizeof(v.dir), "%s", dir);
	if (rc == 0 && o->hibernated)
		rc = scene_bring_overlay(s, &v, e);
	if (rc == 0)
		rc = run_timed(b, s, &v, o, e);
	vmm_stop(&v);
	bench_remove_dir(dir);
	return rc;
}

/* --- one at a time -------------------------------------------------------------------------- */

struct plan {
	struct one how;
	bool wall; /* which of its times is the promise */
	const char *name, *what;
};

static int measure(struct bench *b, const struct scene *s, const struct plan *p, struct err *e)
{
	struct series t = {.name = p->name, .unit = "us", .what = p->what};
	int rc = 0;

	/* The first one warms up caches: the binary's, the image's. */
	for (int i = -1; i < b->samples && rc == 0; i++) {
		struct one o = p->how;

		rc = run_one(b, s, &o, e);
		if (rc == 0 && i >= 0 && series_add(&t, p->wall ? o.wall_us : o.in_vmm_us) < 0)
			rc = err_set(e, -ENOMEM, "out of memory");
	}
	return rc ? err_wrap(e, rc, "%s", p->name) : bench_add(b, &t, e);
}

static const struct plan forks[] = {
    {{.start = FROM_PROCESS},
     false,
     "fork_process_us",
     "a VMM process that holds no VM: request to the guest's first exit, VMM's clock"},
    {{.start = FROM_SHELL},
     false,
     "fork_shell_us",
     "a prepared shell: request to the guest's first exit, VMM's clock"},
    {{.start = FROM_SHELL},
     true,
     "fork_shell_wall_us",
     "the same, from before the request is written, by the controller's clock"},
    {{.start = FROM_NOTHING},
     true,
     "fork_cold_us",
     "nothing prepared: process spawned, VM made, to the guest's first exit, controller's clock"},
};

static const struct plan wakes[] = {
    {{.start = FROM_SHELL, .hibernated = true},
     true,
     "wake_shell_us",
     "hibernated machine, image in page cache, into a shell, to the guest's first exit, "
     "controller's clock"},
    {{.start = FROM_NOTHING, .hibernated = true},
     true,
     "wake_us",
     "hibernated machine, image in page cache, process spawned, to the guest's first exit, "
     "controller's clock"},
};

/* --- many at once --------------------------------------------------------------------------- */

/* Make them all, and shells of them if @ready; what is not timed. */
static int start_all(struct bench *b, struct vmm *v, bool ready, struct err *e)
{
	int rc = 0;

	for (int i = 0; i < b->forks && rc == 0; i++) {
		rc = vmm_start(&v[i], &b->spawn, v[i].dir, e);
		if (rc == 0)
			rc = vmm_connect(&v[i], e);
		if (rc == 0 && ready)
			rc = vmm_call(&v[i], scene_prepare_request(b, &v[i]), NULL, e);
	}
	return rc;
}

static int restore_all(struct bench *b, const struct scene *s, struct vmm *v, struct err *e)
{
	int rc = 0;

	for (int i = 0; i < b->forks && rc == 0; i++)
		rc = vmm_send(&v[i], scene_restore_request(b, s, &v[i]), e);
	for (int i = 0; i < b->forks && rc == 0; i++)
		rc = vmm_finish(&v[i], NULL, e);
	return rc;
}

/* The last first exit of all, in ms from @begun_ns; not before @answered_ms. */
static int last_exit_ms(struct bench *b, struct vmm *v, const uint64_t *sent_ns, uint64_t begun_ns,
			double *ms, struct err *e)
{
	for (int i = 0; i < b->forks; i++) {
		double us, at;
		int rc = machine_first_exit(&v[i], &us, e);

		if (rc < 0)
			return rc;
		at = (double)(sent_ns[i] - begun_ns) / 1e6 + us / 1000;
		if (at > *ms)
			*ms = at;
	}
	return 0;
}

static int fork_many(struct bench *b, const struct scene *s, bool ready, double *ms, struct err *e)
{
	struct vmm *v = calloc((size_t)b->forks, sizeof(*v));
	uint64_t *sent_ns = calloc((size_t)b->forks, sizeof(*sent_ns)), begun_ns;
	int rc = v && sent_ns ? 0 : err_set(e, -ENOMEM, "out of memory");

	for (int i = 0; i < b->forks && rc == 0; i++)
		rc = bench_make_dir(b, v[i].dir, sizeof(v[i].dir), e);
	begun_ns = clock_mono_ns();
	if (rc == 0)
		rc = start_all(b, v, ready, e);
	if (ready)
		begun_ns = clock_mono_ns();
	if (rc == 0)
		rc = restore_all(b, s, v, e);
	*ms = us_since(begun_ns) / 1000;
	for (int i = 0; i < b->forks && rc == 0; i++)
		sent_ns[i] = v[i].sent_ns;
	if (rc == 0)
		rc = last_exit_ms(b, v, sent_ns, begun_ns, ms, e);
	for (int i = 0; v && i < b->forks; i++)
		vmm_kill(&v[i]);
	for (int i = 0; v && i < b->forks; i++)
		machine_end(&v[i]);
	free(sent_ns);
	free(v);
	return rc;
}

static int measure_many(struct bench *b, const struct scene *s, bool ready, struct err *e)
{
	struct series t = {
	    .name = ready ? "forks_ready_ms" : "forks_cold_ms",
	    .unit = "ms",
	    .what = ready ? "all forks at once, a shell ready for each, to the last first exit"
			  : "all forks at once, nothing prepared, to the last first exit"};
	int rounds = b->samples < 10 ? b->samples : 10, rc = 0;

	for (int i = -1; i < rounds && rc == 0; i++) {
		double ms = 0;

		rc = fork_many(b, s, ready, &ms, e);
		if (rc == 0 && i >= 0 && series_add(&t, ms) < 0)
			rc = err_set(e, -ENOMEM, "out of memory");
	}
	return rc ? err_wrap(e, rc, "%s", t.name) : bench_add(b, &t, e);
}

int bench_fork(struct bench *b, struct err *e)
{
	struct scene s;
	int rc = scene_make(b, 0, false, &s, e);

	for (size_t i = 0; i < sizeof(forks) / sizeof(forks[0]) && rc == 0; i++)
		rc = measure(b, &s, &forks[i], e);
	if (rc == 0)
		rc = measure_many(b, &s, true, e);
	if (rc == 0)
		rc = measure_many(b, &s, false, e);
	scene_fini(&s);
	return rc;
}

int bench_wake(struct bench *b, struct err *e)
{
	struct scene s;
	int rc = scene_make(b, 0, true, &s, e);

	for (size_t i = 0; i < sizeof(wakes) / sizeof(wakes[0]) && rc == 0; i++)
		rc = measure(b, &s, &wakes[i], e);
	scene_fini(&s);
	return rc;
}

/* --- depth ------------------------------------------------------------------------------------ */

/* Restores of two scenes by turns, so that whatever else the machine does meets both. */
static int measure_depth(struct bench *b, const struct scene *shallow, const struct scene *deep,
			 struct err *e)
{
	struct series t[2] = {{.name = "restore_depth1_us",
			       .unit = "us",
			       .what = "a shell, one disk layer: request to answer, VMM's clock"},
			      {.name = "restore_depth32_us",
			       .unit = "us",
			       .what = "a shell, 32 disk layers: request to answer, VMM's clock"}};
	struct series ratio = {.name = "restore_depth_ratio",
			       .unit = "ratio",
			       .what = "medians of the two before: 32 layers to one"};
	int rc = 0;

	for (int i = -2; i < 2 * b->samples && rc == 0; i++) {
		struct one o = {.start = FROM_SHELL};

		rc = run_one(b, i & 1 ? deep : shallow, &o, e);
		if (rc == 0 && i >= 0 && series_add(&t[i & 1], o.restore_us) < 0)
			rc = err_set(e, -ENOMEM, "out of memory");
	}
	if (rc == 0)
		rc =
		    series_add(&ratio, series_percentile(&t[1], 50) / series_percentile(&t[0], 50));
	for (int i = 0; i < 2 && rc == 0; i++)
		rc = bench_add(b, &t[i], e);
	return rc ? rc : bench_add(b, &ratio, e);
}

/* Checkpoints of a running machine, one after the other, until its disk has CHAIN_DEPTH layers. */
static int deepen(struct bench *b, struct vmm *v, struct scene *s, struct err *e)
{
	double pause_us;
	char layer[200];
	int rc = 0;

	snprintf(layer, sizeof(layer), "%.150s/overlay", v->dir);
	for (unsigned int n = 1; n < CHAIN_DEPTH && rc == 0; n++) {
		if (n > 1)
			unlink(s->ram);
		rc = machine_checkpoint(b, v, s, n, &pause_us, e);
		json_array_append_new(s->layers, json_string(layer));
		snprintf(layer, sizeof(layer), "%.150s/layer-%u", s->dir, n);
	}
	return rc;
}

int bench_depth(struct bench *b, struct err *e)
{
	struct scene shallow, deep = {0};
	struct vmm v = {.fd = -1, .pidfd = -1};
	int rc = scene_make(b, DIRTY_SMALL_MIB, false, &shallow, e);

	if (rc == 0)
		rc = bench_make_dir(b, deep.dir, sizeof(deep.dir), e);
	deep.layers = json_copy(shallow.layers);
	if (rc == 0)
		rc = machine_restore(b, &shallow, &v, e);
	if (rc == 0)
		rc = deepen(b, &v, &deep, e);
	/* Its layers stay: only the process ends. */
	vmm_stop(&v);
	if (rc == 0)
		rc = measure_depth(b, &shallow, &deep, e);
	if (v.dir[0])
		bench_remove_dir(v.dir);
	scene_fini(&deep);
	scene_fini(&shallow);
	return rc ? err_wrap(e, rc, "chain depth") : 0;
}
