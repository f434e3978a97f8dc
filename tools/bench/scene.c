/* SPDX-License-Identifier: Apache-2.0 */
/* Machines to measure, and the instants they are restored to; see bench.h. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "tools/bench/bench.h"

#define DISK_BYTES (64ll << 20)
#define POLL_US	   200

/* --- requests ----------------------------------------------------------------------------- */

static json_t *path_in(const char *dir, const char *name)
{
	return json_sprintf("%s/%s", dir, name);
}

json_t *scene_disks(const struct bench *b, json_t *layers, const char *overlay)
{
	return json_pack("[{s:o, s:O, s:s, s:I}]", "path", path_in(b->dir, "disk"), "layers",
			 layers, "overlay", overlay, "size_mib", (json_int_t)(DISK_BYTES >> 20));
}

/* The fields of configure. The guest is the same in all machines, but for its command line. */
static json_t *config(const struct bench *b, const char *op, const char *dir, json_t *layers,
		      const char *cmdline)
{
	char kernel[PATH_MAX], overlay[300];

	if (snprintf(kernel, sizeof(kernel), "%s/bench.elf", b->guests) >= (int)sizeof(kernel))
		return NULL;
	snprintf(overlay, sizeof(overlay), "%s/overlay", dir);
	return json_pack("{s:s, s:s, s:i, s:i, s:s, s:o, s:{s:o}, s:o}", "op", op, "kernel", kernel,
			 "memory_mib", b->memory_mib, "cpus", 1, "cmdline", cmdline, "disks",
			 scene_disks(b, layers, overlay), "vsock", "path",
			 path_in(dir, "vsock.sock"), "console", path_in(dir, "console"));
}

json_t *scene_prepare_request(const struct bench *b, const struct vmm *v)
{
	return json_pack("{s:s, s:i, s:i, s:i, s:b, s:o, s:o}", "op", "prepare", "cpus", 1,
			 "memory_mib", b->memory_mib, "disks", 1, "vsock", 1, "vsock_path",
			 path_in(v->dir, "vsock.sock"), "console", path_in(v->dir, "console"));
}

json_t *scene_restore_request(const struct bench *b, const struct scene *s, const struct vmm *v)
{
	/* The command line is that of a reset, which never comes. */
	json_t *r = config(b, "restore", v->dir, s->layers, "0 0");

	json_object_set_new(r, "state", json_string(s->state));
	json_object_set_new(r, "ram", json_string(s->ram));
	return r;
}

/* --- machines ----------------------------------------------------------------------------- */

int machine_start(struct bench *b, struct vmm *v, struct err *e)
{
	char dir[160];
	int rc = bench_make_dir(b, dir, sizeof(dir), e);

	*v = (struct vmm){.fd = -1, .pidfd = -1};
	if (rc == 0)
		rc = vmm_start(v, &b->spawn, dir, e);
	return rc ? rc : vmm_connect(v, e);
}

void machine_end(struct vmm *v)
{
	vmm_stop(v);
	if (v->dir[0])
		bench_remove_dir(v->dir);
	v->dir[0] = '\0';
}

int machine_restore(struct bench *b, const struct scene *s, struct vmm *v, struct err *e)
{
	int rc = machine_start(b, v, e);

	if (rc == 0)
		rc = vmm_call(v, scene_restore_request(b, s, v), NULL, e);
	return rc ? rc : machine_wait_rounds(v, 2, e);
}

int machine_first_exit(struct vmm *v, double *us, struct err *e)
{
	uint64_t until_ms = clock_mono_ms() + VMM_HANG_MS;

	while (clock_mono_ms() < until_ms) {
		json_t *info, *restore;
		int rc = vmm_op(v, "info", &info, e);
		bool there;

		if (rc < 0)
			return rc;
		restore = json_object_get(info, "restore");
		there = json_is_object(restore);
		if (there)
			rc = vmm_number(restore, "to_first_exit_us", us, e);
		json_decref(info);
		if (there)
			return rc;
		usleep(POLL_US);
	}
	return err_set(e, -ETIMEDOUT, "the guest in %s does not run on", v->dir);
}

static int exits_total(struct vmm *v, double *out, struct err *e)
{
	json_t *info;
	int rc = vmm_op(v, "info", &info, e);

	if (rc < 0)
		return rc;
	rc = vmm_number(json_object_get(info, "exits"), "total", out, e);
	json_decref(info);
	return rc;
}

int machine_wait_rounds(struct vmm *v, int rounds, struct err *e)
{
	uint64_t until_ms = clock_mono_ms() + VMM_HANG_MS;
	double first = 0, now;
	int rc = exits_total(v, &first, e);

	/* An exit ends each round; the first one may end a round that had begun before. */
	for (now = first; rc == 0 && now < first + rounds + 1;) {
		if (clock_mono_ms() > until_ms)
			return err_set(e, -ETIMEDOUT, "the guest in %s stands still", v->dir);
		usleep(POLL_US);
		rc = exits_total(v, &now, e);
	}
	return rc;
}

static int wait_exits(struct vmm *v, double count, struct err *e)
{
	uint64_t until_ms = clock_mono_ms() + VMM_HANG_MS;
	double now = 0;
	int rc = exits_total(v, &now, e);

	while (rc == 0 && now < count) {
		if (clock_mono_ms() > until_ms)
			return err_set(e, -ETIMEDOUT, "the guest in %s did not start", v->dir);
		usleep(POLL_US);
		rc = exits_total(v, &now, e);
	}
	return rc;
}

static int wait_durable(struct vmm *v, struct err *e)
{
	json_t *event;
	const char *text;
	int rc = vmm_event(v, "checkpoint", &event, e);

	if (rc < 0)
		return rc;
	text = json_string_value(json_object_get(event, "error"));
	if (!json_is_true(json_object_get(event, "ok")))
		rc = err_set(e, -EIO, "checkpoint: %.200s", text ? text : "failed without reason");
	json_decref(event);
	return rc;
}

int machine_checkpoint(struct bench *b, struct vmm *v, struct scene *s, unsigned int n,
		       double *pause_us, struct err *e)
{
	char layer[200];
	json_t *r, *answer = NULL;
	int rc;

	(void)b;
	snprintf(s->state, sizeof(s->state), "%.150s/state-%u", s->dir, n);
	snprintf(s->ram, sizeof(s->ram), "%.150s/ram-%u", s->dir, n);
	snprintf(layer, sizeof(layer), "%.150s/layer-%u", s->dir, n);
	r = json_pack("{s:s, s:s, s:s, s:s, s:[{s:s}]}", "op", "checkpoint", "name", "bench",
		      "state", s->state, "ram", s->ram, "disks", "overlay", layer);
	rc = vmm_call(v, r, &answer, e);
	if (rc < 0)
		return rc;
	rc = vmm_number(answer, "pause_us", pause_us, e);
	json_decref(answer);
	return rc ? rc : wait_durable(v, e);
}

/* --- scenes ------------------------------------------------------------------------------- */

static int make_disk(const struct bench *b, struct err *e)
{
	char path[160];
	cleanup_close int fd = -1;

	snprintf(path, sizeof(path), "%.120s/disk", b->dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, DISK_BYTES) < 0)
		return err_sys(e, -errno, "%s", path);
	return 0;
}

static int boot(struct bench *b, struct scene *s, struct vmm *v, int dirty_mib, struct err *e)
{
	char cmdline[40];
	json_t *none = json_array();
	int rc;

	snprintf(cmdline, sizeof(cmdline), "%d %d", b->fill_mib, dirty_mib);
	rc = vmm_start(v, &b->spawn, s->dir, e);
	if (rc == 0)
		rc = vmm_connect(v, e);
	if (rc == 0)
		rc = vmm_call(v, config(b, "configure", s->dir, none, cmdline), NULL, e);
	if (rc == 0)
		rc = vmm_op(v, "boot", NULL, e);
	json_decref(none);
	/* One exit when the guest has filled its memory; with rounds, a whole one after that. */
	return rc ? rc : wait_exits(v, dirty_mib ? 2 : 1, e);
}

int scene_save(struct scene *s, struct vmm *v, bool hibernate, struct err *e)
{
	char layer[200];
	json_t *r;
	int rc;

	snprintf(s->state, sizeof(s->state), "%.150s/state", s->dir);
	snprintf(s->ram, sizeof(s->ram), "%.150s/ram", s->dir);
	snprintf(layer, sizeof(layer), "%.150s/overlay.2", s->dir);
	r = json_pack("{s:s, s:s, s:s, s:s, s:b}", "op", "checkpoint", "name", "scene", "state",
		      s->state, "ram", s->ram, "resume", 0);
	if (!hibernate)
		json_object_set_new(r, "disks", json_pack("[{s:s}]", "overlay", layer));
	rc = vmm_call(v, r, NULL, e);
	if (rc == 0)
		rc = wait_durable(v, e);
	if (!hibernate)
		json_array_append_new(s->layers, path_in(s->dir, "overlay"));
	return rc;
}

int scene_make(struct bench *b, int dirty_mib, bool hibernate, struct scene *s, struct err *e)
{
	struct vmm v = {0};
	int rc;

	*s = (struct scene){.layers = json_array()};
	rc = make_disk(b, e);
	if (rc == 0)
		rc = bench_make_dir(b, s->dir, sizeof(s->dir), e);
	if (rc == 0)
		rc = boot(b, s, &v, dirty_mib, e);
	if (rc == 0)
		rc = scene_save(s, &v, hibernate, e);
	vmm_stop(&v);
	return rc ? err_wrap(e, rc, "preparing a guest") : 0;
}

int scene_bring_overlay(const struct scene *s, const struct vmm *v, struct err *e)
{
	char command[600];

	snprintf(command, sizeof(command), "cp --sparse=always '%s/overlay' '%s/overlay'", s->dir,
		 v->dir);
	return system(command) == 0 ? 0 : err_set(e, -EIO, "failed: %.200s", command);
}

void scene_fini(struct scene *s)
{
	if (s->dir[0])
		bench_remove_dir(s->dir);
	json_decref(s->layers);
	*s = (struct scene){0};
}
