/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse-bench checkpoint, rollback: what a running machine notices. */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "tools/bench/bench.h"

static int checkpoints(struct bench *b, struct vmm *v, struct scene *out, struct series *t,
		       struct err *e)
{
	int rc = 0;

	/* The first one is special: the holder's page tables are made for the first time. It
	 * counts. */
	for (int i = 0; i < b->samples && rc == 0; i++) {
		double pause_us;

		rc = machine_checkpoint(b, v, out, (unsigned int)i, &pause_us, e);
		if (rc == 0 && series_add(t, pause_us) < 0)
			rc = err_set(e, -ENOMEM, "out of memory");
		unlink(out->ram);
		/* All that it dirties is dirty again before the next. */
		if (rc == 0)
			rc = machine_wait_rounds(v, 2, e);
	}
	return rc;
}

static int measure_checkpoint(struct bench *b, int dirty_mib, struct series *t, struct err *e)
{
	struct scene s, out = {0};
	struct vmm v = {.fd = -1, .pidfd = -1};
	int rc = scene_make(b, dirty_mib, false, &s, e);

	if (rc == 0)
		rc = bench_make_dir(b, out.dir, sizeof(out.dir), e);
	if (rc == 0)
		rc = machine_restore(b, &s, &v, e);
	if (rc == 0)
		rc = checkpoints(b, &v, &out, t, e);
	machine_end(&v);
	scene_fini(&out);
	scene_fini(&s);
	return rc ? err_wrap(e, rc, "%s", t->name) : bench_add(b, t, e);
}

int bench_checkpoint(struct bench *b, struct err *e)
{
	struct series small = {.name = "checkpoint_pause_8_us",
			       .unit = "us",
			       .what =
				   "live checkpoint, 8 MiB dirty: last guest instruction before "
				   "to first after, VMM's clock"};
	struct series large = {
	    .name = "checkpoint_pause_64_us", .unit = "us", .what = "the same, 64 MiB dirty"};
	int rc = measure_checkpoint(b, DIRTY_SMALL_MIB, &small, e);

	return rc ? rc : measure_checkpoint(b, DIRTY_LARGE_MIB, &large, e);
}

static json_t *rollback_request(const struct bench *b, const struct scene *s, const struct vmm *v,
				int n)
{
	char overlay[200];

	snprintf(overlay, sizeof(overlay), "%.150s/overlay-%d", v->dir, n);
	return json_pack("{s:s, s:s, s:s, s:o}", "op", "rollback", "state", s->state, "ram", s->ram,
			 "disks", scene_disks(b, s->layers, overlay));
}

static int rollbacks(struct bench *b, const struct scene *s, struct vmm *v, struct series *t,
		     struct err *e)
{
	int rc = 0;

	for (int i = 0; i < b->samples && rc == 0; i++) {
		double us;
		json_t *answer = NULL;

		rc = vmm_call(v, rollback_request(b, s, v, i), &answer, e);
		if (rc < 0)
			break;
		rc = vmm_number(answer, "rollback_us", &us, e);
		json_decref(answer);
		if (rc == 0 && series_add(t, us) < 0)
			rc = err_set(e, -ENOMEM, "out of memory");
		if (rc == 0)
			rc = machine_wait_rounds(v, 2, e);
	}
	return rc;
}

static int measure_rollback(struct bench *b, int dirty_mib, struct series *t, struct err *e)
{
	struct scene s;
	struct vmm v = {.fd = -1, .pidfd = -1};
	int rc = scene_make(b, dirty_mib, false, &s, e);

	if (rc == 0)
		rc = machine_restore(b, &s, &v, e);
	if (rc == 0)
		rc = rollbacks(b, &s, &v, t, e);
	machine_end(&v);
	scene_fini(&s);
	return rc ? err_wrap(e, rc, "%s", t->name) : bench_add(b, t, e);
}

int bench_rollback(struct bench *b, struct err *e)
{
	struct series small = {.name = "rollback_8_us",
			       .unit = "us",
			       .what = "rollback in place, 8 MiB dirty: request to the machine's "
				       "running, VMM's clock"};
	struct series large = {
	    .name = "rollback_64_us", .unit = "us", .what = "the same, 64 MiB dirty"};
	int rc = measure_rollback(b, DIRTY_SMALL_MIB, &small, e);

	return rc ? rc : measure_rollback(b, DIRTY_LARGE_MIB, &large, e);
}
