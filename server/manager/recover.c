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

#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/internal.h"

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
	int fd = fcntl(m->sandboxes_fd, F_DUPFD_CLOEXEC, 0);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (!d)
		return;
	rewinddir(d);
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

static void recover_running(struct manager *m, struct sandbox *s)
{
	struct err e;
	int rc = vm_adopt(s, &e);

	if (!rc) {
		pthread_mutex_lock(&s->lock);
		s->announced = true;
		pthread_mutex_unlock(&s->lock);
		rc = vm_watch(s);
		if (rc)
			err_sys(&e, rc, "watching the VMM process");
		__atomic_add_fetch(&m->running, 1, __ATOMIC_RELAXED);
		log_info("sandbox %s: taken over, VMM process %d", s->row.id, (int)s->vm.pid);
	}
	if (!rc)
		return;
	vm_kill(s);
	agent_pool_abort(s->pool);
	s->row.status = SANDBOX_ERROR;
	s->row.ended_ms = wall_ms();
	if (asprintf(&s->row.error, "its VM had ended when the server started: %s", e.msg) < 0)
		s->row.error = NULL;
	log_warn("sandbox %s: %s", s->row.id, s->row.error ? s->row.error : "gone");
	if (store_sandbox_set_ended(m->store, s->row.id, SANDBOX_ERROR, s->row.error,
				    s->row.ended_ms, &e))
		log_error("sandbox %s: %s", s->row.id, e.msg);
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
	int rc = store_sandbox_prune(m->store, wall_ms() - KEEP_DELETED_MS, KEEP_DELETED, e);

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
			recover_running(m, s);
		table_insert(m, s);
	}
	if (rc)
		return rc;
	kill_stray_vmms(m);
	remove_leftover_dirs(m);
	return 0;
}
