/* SPDX-License-Identifier: Apache-2.0 */
/* Limits of processor time; see cpu_limit.h. */
#include "server/manager/cpu_limit.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"

#define PERIOD_US 100000

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

/* What fails here shows when the limit is set. */
static void make_root(const char *root)
{
	char parent[PATH_MAX];
	char *slash;

	snprintf(parent, sizeof(parent), "%s", root);
	slash = strrchr(parent, '/');
	if (!slash || slash == parent)
		return;
	*slash = '\0';
	put(parent, "cgroup.subtree_control", "+cpu");
	if (mkdir(root, 0755) == 0 && put(root, "cgroup.subtree_control", "+cpu"))
		rmdir(root);
}

int cpu_limit_set(const char *root, const char *id, int64_t pid, int64_t percent, struct err *e)
{
	char folder[PATH_MAX], text[64];
	int rc;

	if (snprintf(folder, sizeof(folder), "%s/%s", root, id) >= (int)sizeof(folder))
		return err_set(e, -ENAMETOOLONG, "cgroup %s: its name is too long", root);
	if (!percent && access(folder, F_OK))
		return 0;
	make_root(root);
	rc = mkdir(folder, 0755) && errno != EEXIST ? -errno : 0;
	snprintf(text, sizeof(text), "%lld %d", (long long)percent * PERIOD_US / 100, PERIOD_US);
	if (!rc)
		rc = put(folder, "cpu.max", percent ? text : "max");
	snprintf(text, sizeof(text), "%lld", (long long)pid);
	if (!rc)
		rc = put(folder, "cgroup.procs", text);
	if (!rc)
		return 0;
	rmdir(folder);
	return err_set(e, rc, "no cgroup v2 with the cpu controller can be made at %s: %s", root,
		       strerror(-rc));
}

void cpu_limit_remove(const char *root, const char *id)
{
	char folder[PATH_MAX];

	if (snprintf(folder, sizeof(folder), "%s/%s", root, id) < (int)sizeof(folder))
		rmdir(folder);
}
