/* SPDX-License-Identifier: Apache-2.0 */
/* Limits of processor time; see cpu_limit.h. */
#include "server/manager/cpu_limit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"

#define PERIOD_US     100000
#define PROCESSES_MAX (1u << 20) /* bytes of a list of them */
#define ASIDE	      "dormoused"
#define ID_PREFIX     "sb-"
#define REMOVE_MS     100

/* Files of cgroups are there when the cgroup is: none is made. */
static int put(const char *folder, const char *file, const char *text)
{
	char path[PATH_MAX];
	cleanup_close int fd = -1;
	size_t len = strlen(text);

	if (snprintf(path, sizeof(path), "%s/%s", folder, file) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return write(fd, text, len) == (ssize_t)len ? 0 : -errno;
}

static int make_path(char path[PATH_MAX], const char *folder, const char *name)
{
	return snprintf(path, PATH_MAX, "%s/%s", folder, name) < PATH_MAX ? 0 : -ENAMETOOLONG;
}

/* --- where they are ---------------------------------------------------------------------- */

/* The ids of processes in a cgroup, a line for each. */
static int read_processes(const char *folder, char **text)
{
	char path[PATH_MAX];
	int rc = make_path(path, folder, "cgroup.procs");

	return rc ? rc : fd_read_file(AT_FDCWD, path, PROCESSES_MAX, text, NULL);
}

static bool has_us(const char *processes)
{
	for (const char *line = processes; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (atoi(line) == getpid())
			return true;
	}
	return false;
}

static int move(char *processes, const char *to)
{
	char *save = NULL;
	int rc = 0;

	for (char *line = strtok_r(processes, "\n", &save); line && !rc;
	     line = strtok_r(NULL, "\n", &save)) {
		rc = put(to, "cgroup.procs", line);
		/* It has ended. */
		if (rc == -ESRCH)
			rc = 0;
	}
	return rc;
}

/*
 * A cgroup that gives controllers to those below it must have no processes of its own. One that
 * was delegated to us begins with us in it: we and our processes go into one of our own, below it.
 * For the cpu controller alone the kernel would not refuse, but make it one of threads, below which
 * no processes can be.
 */
static int make_room(const char *folder)
{
	char path[PATH_MAX];
	int rc = make_path(path, folder, "cgroup.type");

	/* The root of all may have processes; what is no cgroup at all is found out later. */
	if (rc || access(path, F_OK))
		return rc;
	rc = make_path(path, folder, ASIDE);
	/* Another process may be started meanwhile. */
	for (int i = 0; !rc && i < 10; i++) {
		cleanup_free char *processes = NULL;

		rc = read_processes(folder, &processes);
		if (rc || !*processes)
			return rc;
		if (!i && !has_us(processes))
			return -EBUSY;
		if (mkdir(path, 0755) && errno != EEXIST)
			return -errno;
		rc = move(processes, path);
	}
	return rc ? rc : -EBUSY;
}

static int enable_cpu(const char *folder)
{
	int rc = make_room(folder);

	return rc ? rc : put(folder, "cgroup.subtree_control", "+cpu");
}

static int make_root(const char *root)
{
	char parent[PATH_MAX];
	bool made;
	char *slash;
	int rc, parent_rc;

	snprintf(parent, sizeof(parent), "%s", root);
	slash = strrchr(parent, '/');
	if (!slash || slash == parent)
		return -EINVAL;
	*slash = '\0';
	parent_rc = enable_cpu(parent);
	made = mkdir(root, 0755) == 0;
	/* The parent may be somebody else's, who has enabled it. */
	rc = enable_cpu(root);
	if (rc && made)
		rmdir(root);
	return rc && parent_rc ? parent_rc : rc;
}

/* --- limits --------------------------------------------------------------------------------- */

static int limit(const char *folder, int64_t pid, int64_t percent)
{
	char text[64];
	int rc = mkdir(folder, 0755) && errno != EEXIST ? -errno : 0;

	snprintf(text, sizeof(text), "%lld %d", (long long)percent * PERIOD_US / 100, PERIOD_US);
	if (!rc)
		rc = put(folder, "cpu.max", percent ? text : "max");
	snprintf(text, sizeof(text), "%lld", (long long)pid);
	if (!rc)
		rc = put(folder, "cgroup.procs", text);
	if (rc)
		rmdir(folder);
	return rc;
}

int cpu_limit_set(const char *root, const char *id, int64_t pid, int64_t percent, struct err *e)
{
	char folder[PATH_MAX];
	int rc, root_rc;

	if (make_path(folder, root, id))
		return err_set(e, -ENAMETOOLONG, "cgroup %s: its name is too long", root);
	if (!percent && access(folder, F_OK))
		return 0;
	root_rc = make_root(root);
	rc = limit(folder, pid, percent);
	if (rc && root_rc)
		rc = root_rc;
	if (rc == -EBUSY)
		return err_set(e, rc,
			       "no cgroup v2 with the cpu controller can be made at %s: there are "
			       "processes in the one above it",
			       root);
	return rc ? err_set(e, rc, "no cgroup v2 with the cpu controller can be made at %s: %s",
			    root, strerror(-rc))
		  : 0;
}

void cpu_limit_remove(const char *root, const char *id)
{
	char folder[PATH_MAX];

	if (make_path(folder, root, id) || access(folder, F_OK))
		return;
	/* A process that writes a checkpoint ends a moment after the one that it was made by. */
	put(folder, "cgroup.kill", "1");
	for (int i = 0; rmdir(folder) && errno == EBUSY && i < REMOVE_MS; i++)
		poll(NULL, 0, 1);
}

void cpu_limit_sweep(const char *root)
{
	DIR *d = opendir(root);
	struct dirent *entry;

	/* Those of processes that live are busy. */
	while (d && (entry = readdir(d)))
		if (!strncmp(entry->d_name, ID_PREFIX, strlen(ID_PREFIX)))
			unlinkat(dirfd(d), entry->d_name, AT_REMOVEDIR);
	if (d)
		closedir(d);
}
