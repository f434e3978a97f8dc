/* SPDX-License-Identifier: Apache-2.0 */
/* Checks of disk, memory and limits. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "lib/fd.h"
#include "tools/doctor/doctor.h"

#define MIB (1024ULL * 1024)
#define GIB (1024ULL * MIB)

/* The state directory, or the nearest parent of it that exists. */
static void existing_dir(const char *path, char *out, size_t len)
{
	snprintf(out, len, "%s", path);
	for (;;) {
		struct stat st;
		char *slash;

		if (stat(out, &st) == 0 && S_ISDIR(st.st_mode))
			return;
		slash = strrchr(out, '/');
		if (!slash) {
			snprintf(out, len, ".");
			return;
		}
		slash[slash == out] = '\0';
		if (!strcmp(out, "/"))
			return;
	}
}

void check_disk(const struct doctor_options *o, struct check_result *r)
{
	char dir[512];
	struct statvfs v;
	unsigned long long free_bytes;

	existing_dir(o->state_dir, dir, sizeof(dir));
	if (statvfs(dir, &v) < 0) {
		check_not_ok(r, CHECK_MISSING, "no place for sandboxes",
			     "name another directory with --state", "%.100s: %s", dir,
			     strerror(errno));
		return;
	}
	free_bytes = (unsigned long long)v.f_bavail * v.f_frsize;
	if (v.f_flag & ST_RDONLY)
		check_not_ok(r, CHECK_MISSING, "no place for sandboxes",
			     "name another directory with --state", "%.100s is mounted read-only",
			     dir);
	else if (free_bytes < 1 * GIB)
		check_not_ok(r, CHECK_MISSING, "sandboxes run into a full disk",
			     "free some space, or name another directory with --state",
			     "%llu MiB free at %.100s", free_bytes / MIB, dir);
	else if (free_bytes < 10 * GIB)
		check_not_ok(r, CHECK_DEGRADED, "room for a few sandboxes and checkpoints only",
			     "free some space, or name another directory with --state",
			     "%llu GiB free at %.100s", free_bytes / GIB, dir);
	else
		check_ok(r, "%llu GiB free at %.100s", free_bytes / GIB, dir);
}

/* Clone one block between two files without names. Return: 0 or -errno. */
static int try_clone(const char *dir)
{
	static const char block[4096] = "x";
	cleanup_close int from = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	cleanup_close int to = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	int rc;

	if (from < 0 || to < 0)
		return -errno;
	rc = fd_write_full(from, block, sizeof(block));
	if (rc < 0)
		return rc;
	return ioctl(to, FICLONE, from) < 0 ? -errno : 0;
}

void check_reflink(const struct doctor_options *o, struct check_result *r)
{
	char dir[512];
	int rc;

	existing_dir(o->state_dir, dir, sizeof(dir));
	rc = try_clone(dir);
	if (rc == 0)
		check_ok(r, "files share blocks at %.100s", dir);
	else
		check_not_ok(r, CHECK_DEGRADED,
			     "whole-file copies of images are real copies (sandboxes and "
			     "checkpoints share layers anyway)",
			     "put the state directory on XFS (reflink=1) or Btrfs", "%.100s: %s",
			     dir, strerror(-rc));
}

void check_memory(const struct doctor_options *o, struct check_result *r)
{
	cleanup_free char *text = NULL;
	unsigned long long kib = 0;
	const char *line = NULL;
	unsigned long long bytes;

	(void)o;
	if (fd_read_file(AT_FDCWD, "/proc/meminfo", 1 << 16, &text, NULL) == 0)
		line = strstr(text, "MemAvailable:");
	if (!line || sscanf(line, "MemAvailable: %llu", &kib) != 1) {
		check_not_ok(r, CHECK_DEGRADED, "unknown", "mount /proc",
			     "/proc/meminfo does not tell");
		return;
	}
	bytes = kib * 1024;
	if (bytes < 192 * MIB)
		check_not_ok(r, CHECK_MISSING, "not even a small sandbox fits",
			     "free some memory, or add some", "%llu MiB available", bytes / MIB);
	else if (bytes < 2 * GIB)
		check_not_ok(r, CHECK_DEGRADED, "a sandbox of the default size (1 GiB) just fits",
			     "free some memory, or add some", "%llu MiB available", bytes / MIB);
	else
		check_ok(r, "%llu GiB available", bytes / GIB);
}

void check_huge_pages(const struct doctor_options *o, struct check_result *r)
{
	cleanup_free char *text = NULL;
	int rc =
	    fd_read_file(AT_FDCWD, "/sys/kernel/mm/transparent_hugepage/enabled", 256, &text, NULL);

	(void)o;
	if (rc == 0 && (strstr(text, "[always]") || strstr(text, "[madvise]")))
		check_ok(r, "transparent huge pages: %s",
			 strstr(text, "[always]") ? "always" : "madvise");
	else
		check_not_ok(r, CHECK_DEGRADED, "guests take more page faults and TLB misses",
			     "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
			     rc == 0 ? "transparent huge pages: never"
				     : "no transparent huge pages in this kernel");
}

void check_limits(const struct doctor_options *o, struct check_result *r)
{
	struct rlimit files, procs;

	(void)o;
	getrlimit(RLIMIT_NOFILE, &files);
	getrlimit(RLIMIT_NPROC, &procs);
	if (files.rlim_max < 16384 || procs.rlim_cur < 4096)
		check_not_ok(r, CHECK_DEGRADED, "fewer sandboxes at once",
			     "raise LimitNOFILE and LimitNPROC of the service (or ulimit -Hn, -u)",
			     "at most %llu open files, %llu processes",
			     (unsigned long long)files.rlim_max,
			     (unsigned long long)procs.rlim_cur);
	else if (files.rlim_max == RLIM_INFINITY)
		check_ok(r, "open files: no limit");
	else
		check_ok(r, "open files: up to %llu", (unsigned long long)files.rlim_max);
}
