/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The start of the daemon on a state directory that may have any past: take over what runs,
 * report what died, remove what was never announced. See manager.h.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/checkpoint_int.h"
#include "server/manager/cpu_limit.h"
#include "server/manager/gc.h"
#include "server/manager/scale.h"
#include "server/manager/snapshot.h"

#define KEEP_DELETED	10000
#define KEEP_DELETED_MS (24LL * 3600 * 1000)
#define CMDLINE_MAX	(64u << 10)

/* --- directories ------------------------------------------------------------------------- */

/* A sandbox's directory has files only, but a leftover may hold anything. Closes @dir_fd. */
static int remove_contents(int dir_fd, int depth)
{
	DIR *d = fdopendir(dir_fd);
	struct dirent *entry;
	int rc = 0;

	if (!d) {
		rc = -errno;
		close(dir_fd);
		return rc;
	}
	while (!rc && (entry = readdir(d))) {
		const char *name = entry->d_name;
		int child;

		if (!strcmp(name, ".") || !strcmp(name, ".."))
			continue;
		if (!unlinkat(dirfd(d), name, 0))
			continue;
		if ((errno != EISDIR && errno != EPERM) || depth == 0) {
			rc = -errno;
			break;
		}
		child = openat(dirfd(d), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		rc = child < 0 ? -errno : remove_contents(child, depth - 1);
		if (!rc && unlinkat(dirfd(d), name, AT_REMOVEDIR))
			rc = -errno;
	}
	closedir(d);
	return rc;
}

int remove_dir(struct manager *m, const char *id)
{
	int fd = openat(m->sandboxes_fd, id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int rc;

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	rc = remove_contents(fd, 8);
	if (!rc && unlinkat(m->sandboxes_fd, id, AT_REMOVEDIR))
		rc = -errno;
	if (rc)
		log_error("sandbox %s: removing its files: %s", id, strerror(-rc));
	return rc;
}

static void remove_leftover_dirs(struct manager *m)
{
	DIR *d = fd_opendir(m->sandboxes_fd, ".");
	struct dirent *entry;

	if (!d)
		return;
	while ((entry = readdir(d))) {
		struct sandbox *s;

		if (entry->d_name[0] == '.')
			continue;
		s = sandbox_find_any(m, entry->d_name);
		if (!s) {
			log_info("removing %s, which was left half made", entry->d_name);
			remove_dir(m, entry->d_name);
		}
		sandbox_put(s);
	}
	closedir(d);
}

/* --- processes ----------------------------------------------------------------------------- */

/*
 * The sandbox whose VMM a process is: one argument is "--socket", the next is
 * <state>/sandboxes/<id>/vmm.sock. No other process is ever taken for one.
 */
static bool vmm_of(struct manager *m, const char *cmdline, size_t len, char id[SANDBOX_ID_SIZE])
{
	cleanup_free char *prefix = NULL;
	const char *end = cmdline + len;
	bool next = false;

	if (asprintf(&prefix, "%s/sandboxes/", m->state_dir) < 0) {
		prefix = NULL;
		return false;
	}
	for (const char *arg = cmdline; arg < end; arg += strlen(arg) + 1) {
		size_t n = strlen(prefix);
		const char *slash;

		if (next && !strncmp(arg, prefix, n) && (slash = strchr(arg + n, '/')) &&
		    !strcmp(slash, "/vmm.sock") && slash - arg - n < SANDBOX_ID_SIZE) {
			snprintf(id, SANDBOX_ID_SIZE, "%.*s", (int)(slash - arg - n), arg + n);
			return true;
		}
		next = !strcmp(arg, "--socket");
	}
	return false;
}

static void kill_stray(pid_t pid, const char *id)
{
	cleanup_close int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	if (pidfd < 0)
		return;
	log_info("ending VMM process %d of sandbox %s: nobody can use it any more", (int)pid, id);
	syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	poll(&p, 1, 5000);
}

static void kill_stray_vmms(struct manager *m)
{
	DIR *d = opendir("/proc");
	struct dirent *entry;

	if (!d)
		return;
	while ((entry = readdir(d))) {
		pid_t pid = (pid_t)atoi(entry->d_name);
		cleanup_free char *cmdline = NULL;
		char path[64], id[SANDBOX_ID_SIZE];
		struct sandbox *s;
		size_t len;

		if (pid <= 1)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
		if (fd_read_file(AT_FDCWD, path, CMDLINE_MAX, &cmdline, &len) ||
		    !vmm_of(m, cmdline, len, id))
			continue;
		s = sandbox_find_any(m, id);
		if (!s || s->vm.pidfd < 0 || s->vm.pid != pid)
			kill_stray(pid, id);
		sandbox_put(s);
	}
	closedir(d);
}

/* --- sandboxes ------------------------------------------------------------------------------- */

/* The guest may have been between two steps of ours: frozen, or not told yet who it is. */
static void finish_adoption(void *arg)
{
	struct sandbox *s = arg;
	struct err e;

	pthread_mutex_lock(&s->lifecycle);
	if (!sandbox_check_running(s, &e) && guest_renew(s, &e))
		log_warn("sandbox %s: %s", s->id, e.msg);
	pthread_mutex_unlock(&s->lifecycle);
	sandbox_change_end(s);
	sandbox_put(s);
}

/* Data operations wait for it; the start of the daemon does not. */
static void finish_adoption_later(struct sandbox *s)
{
	s->changing = true;
	__atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
	if (jobs_run(&s->m->jobs, finish_adoption, s))
		finish_adoption(s);
}

/* The file of a top layer may be one that a VMM made and did not go to: it knows better. */
static void settle_with_vm(struct sandbox *s)
{
	struct err e;

	if (s->row.pending.n && commit_switch(s, vm_has_switched(s), &e))
		log_error("sandbox %s: %s", s->id, e.msg);
}

static int adopt(struct sandbox *s, struct err *e)
{
	bool paused, restored;
	int rc = vm_adopt(s, &paused, &restored, e);

	if (!rc)
		settle_with_vm(s);
	if (!rc && paused)
		rc = vm_resume(s, e);
	if (rc)
		return rc;
	__atomic_add_fetch(&s->m->running, 1, __ATOMIC_RELAXED);
	rc = sandbox_go_live(s, e);
	if (rc) {
		manager_unreserve(s->m);
		return rc;
	}
	scale_adopted(s);
	scale_cpu(s);
	if (paused || restored)
		finish_adoption_later(s);
	return 0;
}

static void settle_disk(struct sandbox *s)
{
	struct err e;

	if (layers_settle(s->m, &s->row) && store_sandbox_update(s->m->store, &s->row, &e))
		log_error("sandbox %s: %s", s->id, e.msg);
}

static void recover_running(struct sandbox *s)
{
	char why[200];
	struct err e;
	int rc;

	idle_load(s);
	rc = adopt(s, &e);
	if (!rc) {
		log_info("sandbox %s: taken over, VMM process %d", s->id, (int)s->vm.pid);
		return;
	}
	vm_end(s);
	settle_disk(s);
	snprintf(why, sizeof(why), "its VM had ended when the server started: %.140s", e.msg);
	sandbox_set_failed(s, why);
}

/* Images of hibernations that did not come to be, or that were used. */
static void remove_old_images(struct sandbox *s)
{
	DIR *d = opendir(s->dir);
	struct dirent *entry;

	if (!d)
		return;
	while ((entry = readdir(d)))
		if (uuid_valid(entry->d_name) && strcmp(entry->d_name, s->row.hibernation))
			hibernation_remove(s, entry->d_name);
	closedir(d);
}

struct found {
	struct manager *m;
	struct sandbox *list;
	struct err e;
	int rc;
};

/* With the store locked: only collect. */
static void collect(void *arg, struct sandbox_row *row)
{
	struct found *f = arg;
	struct sandbox *s = sandbox_new(f->m, row, &f->e);

	if (!s) {
		f->rc = -ENOMEM;
		return;
	}
	s->settled = false;
	s->next = f->list;
	f->list = s;
}

/**
 * recover() - Bring memory, store, directories and processes into agreement
 *
 * Return: 0, or -errno if the store cannot be read
 */
int recover(struct manager *m, struct err *e)
{
	struct found f = {.m = m};
	int rc = store_sandbox_prune(m->store, clock_wall_ms() - KEEP_DELETED_MS, KEEP_DELETED, e);

	if (rc && rc != -ENOSPC)
		return rc;
	rc = checkpoints_recover(m, e);
	if (rc && rc != -ENOSPC)
		return rc;
	rc = snapshots_recover(m, e);
	if (rc && rc != -ENOSPC)
		return rc;
	rc = store_sandbox_each(m->store, false, -1, collect, &f, e);
	if (!rc && f.rc)
		rc = err_set(e, f.rc, "%s", f.e.msg);
	while (f.list) {
		struct sandbox *s = f.list;

		f.list = s->next;
		if (rc) {
			sandbox_put(s);
			continue;
		}
		if (s->row.status == SANDBOX_RUNNING)
			recover_running(s);
		else
			settle_disk(s);
		remove_old_images(s);
		idle_save(s);
		table_insert(m, s);
	}
	if (rc)
		return rc;
	kill_stray_vmms(m);
	cpu_limit_sweep(m->config->cgroup);
	remove_leftover_dirs(m);
	gc_kick(m);
	return 0;
}
