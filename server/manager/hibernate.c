/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hibernate and wake.
 *
 * Theory of operation
 * -------------------
 *   hibernate  processes frozen, disk synced -> machine paused, written out -> row: hibernated
 *              -> VMM process ended
 *   wake       VMM process -> machine restored, paused -> row: running, hibernation consumed
 *              -> machine runs, its identity is renewed, processes thawed
 *
 * The image lies in a directory of its own within the sandbox's, and the row names it: so at any
 * point either the row names a whole image and no guest has run since, or it names none. The disk's
 * top layer stays what it is: image and layer are of one instant, and whoever lets the guest run on
 * that layer has taken the image's name out of the row before. If the image cannot be used the
 * guest boots from its disk; the freeze has synced it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/checkpoint.h"
#include "server/manager/internal.h"

/* --- the image's directory ------------------------------------------------------------------ */

static char *image_path(const struct sandbox *s, const char *id, const char *file)
{
	char *path;

	return asprintf(&path, "%s/%s%s%s", s->dir, id, *file ? "/" : "", file) < 0 ? NULL : path;
}

void hibernation_remove(struct sandbox *s, const char *id)
{
	static const char *const files[] = {"ram", "state", ""};

	for (int i = 0; *id && i < 3; i++) {
		cleanup_free char *path = image_path(s, id, files[i]);

		if (path && remove(path) && errno != ENOENT)
			log_warn("sandbox %s: removing %s: %s", s->id, path, strerror(errno));
	}
}

/* Its name is durable once it is in there: the row must not speak of a directory that is lost. */
static int make_image_dir(struct sandbox *s, const char *id, struct err *e)
{
	cleanup_free char *path = image_path(s, id, "");
	cleanup_close int dir_fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (!path)
		return err_set(e, -ENOMEM, "out of memory");
	if (dir_fd < 0 || mkdir(path, 0700) || fsync(dir_fd))
		return err_sys(e, -errno, "making %s", path);
	return 0;
}

/* --- hibernate ----------------------------------------------------------------------------------
 */

static int write_image(struct sandbox *s, const char *id, int64_t *bytes, struct err *e)
{
	cleanup_free char *state = image_path(s, id, "state"), *ram = image_path(s, id, "ram");
	struct vm_checkpoint c = {.name = id, .state = state, .ram = ram};
	uint64_t ram_bytes, disk_bytes;
	int rc;

	if (!state || !ram)
		return err_set(e, -ENOMEM, "out of memory");
	rc = vm_checkpoint_begin(s, &c, e);
	if (!rc)
		rc = vm_checkpoint_wait(s, id, &ram_bytes, &disk_bytes, e);
	if (!rc)
		*bytes = (int64_t)(ram_bytes + disk_bytes);
	return rc;
}

static void set_hibernated(struct sandbox_row *row, const void *arg)
{
	const struct sandbox_row *h = arg;

	row->status = SANDBOX_HIBERNATED;
	memcpy(row->hibernation, h->hibernation, sizeof(row->hibernation));
	row->hibernation_bytes = h->hibernation_bytes;
	row->vmm_pid = 0;
}

static int commit_hibernated(struct sandbox *s, const char *id, int64_t bytes, struct err *e)
{
	struct sandbox_row h = {.hibernation_bytes = bytes};

	snprintf(h.hibernation, sizeof(h.hibernation), "%s", id);
	return sandbox_update_row(s, set_hibernated, &h, e);
}

/* As if nothing had been: the guest goes on. */
static void undo(struct sandbox *s, const char *id)
{
	struct err e;
	int rc = 0;

	if (vm_unexpect_end(s))
		rc = vm_resume(s, &e);
	if (!rc)
		rc = guest_thaw(s, &e);
	if (rc)
		log_warn("sandbox %s: going on after a failed hibernation: %s", s->id, e.msg);
	hibernation_remove(s, id);
}

static int hibernate(struct sandbox *s, struct err *e)
{
	char id[UUID_SIZE];
	int64_t bytes = 0;
	int rc = sandbox_wait_guest(s, e);

	if (!rc)
		rc = uuid_make(id, e);
	if (rc)
		return rc;
	rc = make_image_dir(s, id, e);
	if (!rc)
		rc = guest_freeze(s, true, e);
	if (rc) {
		hibernation_remove(s, id);
		return rc;
	}
	/* From here on the machine stands still: its end would be our affair. */
	vm_expect_end(s);
	rc = write_image(s, id, &bytes, e);
	if (!rc)
		rc = commit_hibernated(s, id, bytes, e);
	if (rc) {
		undo(s, id);
		return rc;
	}
	manager_unreserve(s->m);
	sessions_cut(s);
	vm_end(s);
	log_info("sandbox %s: hibernated, %lld bytes", s->id, (long long)bytes);
	return 0;
}

int sandbox_hibernate_now(struct sandbox *s, struct err *e)
{
	uint64_t begun_ns = clock_mono_ns();
	int rc = hibernate(s, e);

	operation_done(&s->m->ops[OP_HIBERNATE], begun_ns, rc != 0);
	return rc;
}

int sandbox_hibernate(struct manager *m, const char *id, struct sandbox_row *row, bool *already,
		      struct err *e)
{
	struct sandbox *s;
	int rc = sandbox_find_known(m, id, &s, e);

	if (rc)
		return rc;
	pthread_mutex_lock(&s->lifecycle);
	*already = sandbox_hibernated(s);
	rc = *already ? 0 : sandbox_check_running(s, e);
	if (!rc && !*already)
		rc = sandbox_change_begin(s, CHANGE_PATIENCE_MS, e);
	if (!rc && !*already) {
		rc = sandbox_hibernate_now(s, e);
		sandbox_change_end(s);
		if (rc)
			rc = err_wrap(e, lifecycle_errno(rc), "hibernating sandbox %s", id);
	}
	if (!rc && sandbox_copy_row(s, row))
		rc = err_set(e, -ENOMEM, "out of memory");
	pthread_mutex_unlock(&s->lifecycle);
	sandbox_put(s);
	return rc;
}

/* --- wake ----------------------------------------------------------------------------------------
 */

static int restore_image(struct sandbox *s, const struct vm_disk *disk, struct err *e)
{
	cleanup_free char *state = image_path(s, s->row.hibernation, "state");
	cleanup_free char *ram = image_path(s, s->row.hibernation, "ram");
	struct vm_image image = {.state = state, .ram = ram};

	if (!state || !ram)
		return err_set(e, -ENOMEM, "out of memory");
	return vm_restore(s, disk, &image, false, e);
}

static void set_consumed(struct sandbox_row *row, const void *arg)
{
	(void)arg;
	row->status = SANDBOX_RUNNING;
	row->hibernation[0] = '\0';
	row->hibernation_bytes = 0;
	row->ended_ms = 0;
	free(row->error);
	row->error = NULL;
}

/* Boot from the disk, in the process that is there if it can be used. */
static int boot_cold(struct sandbox *s, const struct vm_disk *disk, struct err *e)
{
	int rc = vm_boot(s, disk, e);

	if (rc == -EPIPE) {
		vm_end(s);
		rc = vm_spawn(s, s->row.base_image, e);
		if (!rc)
			rc = vm_boot(s, disk, e);
	}
	return rc ? rc : sandbox_finish_boot(s, e);
}

static int resume_restored(struct sandbox *s, struct err *e)
{
	int rc = vm_resume(s, e);

	if (!rc)
		rc = guest_renew(s, e);
	if (!rc)
		sandbox_set_ready(s);
	return rc;
}

/* With a process, which knows nothing yet. *@cold: set if the memory is lost. */
static int wake_in_process(struct sandbox *s, struct wake_result *w, struct err *e)
{
	char old[UUID_SIZE];
	struct vm_disk disk;
	int rc = vm_disk_of_row(&disk, s, e);
	bool cold = !s->row.hibernation[0];

	if (rc)
		return rc;
	snprintf(old, sizeof(old), "%s", s->row.hibernation);
	if (cold)
		snprintf(w->reason, sizeof(w->reason), "its VM had ended without hibernating");
	else
		rc = restore_image(s, &disk, e);
	if (rc && !lifecycle_passes(rc)) {
		cold = true;
		snprintf(w->reason, sizeof(w->reason), "its memory cannot be used: %.160s", e->msg);
		rc = 0;
	}
	if (!rc)
		rc = sandbox_update_row(s, set_consumed, NULL, e);
	if (!rc && !cold) {
		rc = resume_restored(s, e);
		if (rc && rc != -ESHUTDOWN) {
			cold = true;
			snprintf(w->reason, sizeof(w->reason), "it did not come back: %.160s",
				 e->msg);
			vm_end(s);
			rc = vm_spawn(s, s->row.base_image, e);
		}
	}
	if (!rc && cold)
		rc = boot_cold(s, &disk, e);
	vm_disk_fini(&disk);
	w->cold = cold;
	if (!s->row.hibernation[0])
		hibernation_remove(s, old);
	return rc;
}

/* No guest. If the row still names an image, it sleeps on; else there is a disk to boot from. */
static void wake_failed(struct sandbox *s, const struct err *why)
{
	vm_end(s);
	if (s->row.hibernation[0])
		sandbox_set_status(s, SANDBOX_HIBERNATED);
	else
		sandbox_set_failed(s, why->msg);
}

static int wake(struct sandbox *s, struct wake_result *w, struct err *e)
{
	uint64_t start_ms = clock_mono_ms();
	int rc = manager_reserve(s->m, e);

	if (rc)
		return rc;
	vm_end(s); /* what is left of one that died */
	/* For others it sleeps until it answers. */
	sandbox_set_status(s, SANDBOX_HIBERNATED);
	rc = vm_spawn(s, s->row.base_image, e);
	if (!rc)
		rc = wake_in_process(s, w, e);
	if (!rc)
		patches_apply(s);
	if (!rc)
		rc = sandbox_go_live(s, e);
	if (rc) {
		manager_unreserve(s->m);
		wake_failed(s, e);
		log_warn("sandbox %s: not woken: %s", s->id, e->msg);
		return rc;
	}
	log_info("sandbox %s: woken after %llu ms%s%s", s->id,
		 (unsigned long long)(clock_mono_ms() - start_ms), w->cold ? ", booted: " : "",
		 w->reason);
	return 0;
}

/* @s->lifecycle is held. @seen: s->wakes when the caller began to wait for it. */
static int wake_locked(struct sandbox *s, unsigned int seen, bool explicitly, struct wake_result *w,
		       struct err *e)
{
	enum sandbox_status status;
	uint64_t begun_ns;
	int rc;

	pthread_mutex_lock(&s->lock);
	status = s->row.status;
	rc = sandbox_status_error(s, e);
	if (rc == -EHOSTDOWN && explicitly && s->row.layers.n)
		rc = 0;
	if (!rc && status != SANDBOX_RUNNING && s->wakes != seen) {
		/* An attempt that this one would have been part of has failed. */
		*e = s->wake_err;
		rc = e->code;
	}
	if (!rc && status != SANDBOX_RUNNING)
		s->changing = true;
	pthread_mutex_unlock(&s->lock);
	if (rc || status == SANDBOX_RUNNING)
		return rc;
	begun_ns = clock_mono_ns();
	rc = wake(s, w, e);
	operation_done(&s->m->ops[OP_WAKE], begun_ns, rc != 0);
	sandbox_touch(s);
	if (rc)
		rc = lifecycle_errno(rc);
	pthread_mutex_lock(&s->lock);
	s->wakes++;
	if (rc) {
		s->wake_err = *e;
		s->wake_err.code = rc;
	}
	pthread_mutex_unlock(&s->lock);
	sandbox_change_end(s);
	return rc;
}

static int wake_one(struct sandbox *s, bool explicitly, const int64_t *timeout_s,
		    struct wake_result *w, struct err *e)
{
	unsigned int seen;
	int rc;

	memset(w, 0, sizeof(*w));
	pthread_mutex_lock(&s->lock);
	seen = s->wakes;
	pthread_mutex_unlock(&s->lock);
	pthread_mutex_lock(&s->lifecycle);
	rc = wake_locked(s, seen, explicitly, w, e);
	if (!rc && timeout_s)
		rc = idle_set_timeout(s, *timeout_s, e);
	pthread_mutex_unlock(&s->lifecycle);
	return rc;
}

int sandbox_wake_implicitly(struct sandbox *s, struct err *e)
{
	struct wake_result w;

	return wake_one(s, false, NULL, &w, e);
}

int sandbox_wake(struct manager *m, const char *id, const int64_t *timeout_s,
		 struct sandbox_row *row, struct wake_result *w, struct err *e)
{
	struct sandbox *s;
	int rc;

	if (timeout_s) {
		rc = sandbox_check_timeout(*timeout_s, e);
		if (rc)
			return rc;
	}
	rc = sandbox_find_known(m, id, &s, e);
	if (rc == -ESHUTDOWN)
		return err_set(e, -ENOENT, "no active hibernation found for sandbox %s", id);
	if (rc)
		return rc;
	rc = wake_one(s, true, timeout_s, w, e);
	if (rc == -ESHUTDOWN)
		rc = err_set(e, -ENOENT, "no active hibernation found for sandbox %s", id);
	if (!rc && sandbox_copy_row(s, row))
		rc = err_set(e, -ENOMEM, "out of memory");
	sandbox_put(s);
	return rc;
}
