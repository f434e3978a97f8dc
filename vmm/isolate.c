/* SPDX-License-Identifier: Apache-2.0 */
/* Giving up what the process does not need; see isolate.h. */
#include "vmm/isolate.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/landlock.h"
#include "lib/log.h"
#include "lib/seccomp.h"
#include "snapshot/rings.h"

/* --- clean ------------------------------------------------------------------------------- */

/* 0, 1 and 2 must be something, or the first files opened would become them. */
static int fill_standard_fds(void)
{
	for (;;) {
		int fd = open("/dev/null", O_RDWR);

		if (fd < 0)
			return -errno;
		if (fd > 2) {
			close(fd);
			return 0;
		}
	}
}

static int close_strays(int keep_fd)
{
	unsigned int from = 3;

	if (keep_fd >= 3) {
		if (keep_fd > 3 && close_range(3, (unsigned int)keep_fd - 1, 0) < 0)
			return -errno;
		from = (unsigned int)keep_fd + 1;
		if (fcntl(keep_fd, F_SETFD, FD_CLOEXEC) < 0)
			return -errno;
	}
	return close_range(from, ~0u, 0) < 0 ? -errno : 0;
}

int isolate_start(int keep_fd, struct err *e)
{
	int rc = fill_standard_fds();

	if (!rc)
		rc = close_strays(keep_fd);
	if (rc)
		return err_sys(e, rc, "closing inherited descriptors");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_sys(e, -errno, "PR_SET_NO_NEW_PRIVS");
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return err_sys(e, -errno, "PR_SET_DUMPABLE");
	umask(0077);
	return 0;
}

int isolate_with_parent(pid_t parent)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		return -errno;
	/* It may have ended before that. */
	return getppid() == parent ? 0 : -ESRCH;
}

/* --- the jail ---------------------------------------------------------------------------- */

/* What the kernel holds against this process for ever; so it is the process's. */
static struct {
	struct isolate_state state;
	int proc_fd; /* a procfs of its own, or what isolate_setup() found in place of it */
	pid_t only;  /* not 0: proc_fd is the directory of this process, not a procfs */
} jail = {.proc_fd = -1};

const struct isolate_state *isolate_get(void)
{
	return &jail.state;
}

int isolate_open_proc(const char *name)
{
	char path[64] = "/proc/self/";
	int fd;

	if (strlen(name) >= sizeof(path) - strlen(path))
		return -ENAMETOOLONG;
	strcat(path, name);
	/* Of a process that was cloned, it would tell of the other one. */
	if (jail.only && jail.only != getpid())
		return -EACCES;
	if (!jail.state.jailed)
		fd = open(path, O_RDONLY | O_CLOEXEC);
	else
		fd = openat(jail.proc_fd, jail.only ? name : path + strlen("/proc/"),
			    O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/*
 * A procfs that shows processes only, and of these only what may be traced: none outside of the
 * Landlock domain. It is mounted nowhere but at this descriptor.
 */
static int mount_proc(void)
{
	int fs = fsopen("proc", FSOPEN_CLOEXEC), fd = -1;

	if (fs < 0)
		return -errno;
	if (!fsconfig(fs, FSCONFIG_SET_STRING, "subset", "pid", 0) &&
	    !fsconfig(fs, FSCONFIG_SET_STRING, "hidepid", "ptraceable", 0) &&
	    !fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		fd = fsmount(fs, FSMOUNT_CLOEXEC,
			     MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC |
				 MOUNT_ATTR_RDONLY);
	close(fs);
	return fd;
}

/* Who may not mount sees this process alone: the descriptor holds what Landlock's rule is about. */
static void open_proc(void)
{
	jail.proc_fd = mount_proc();
	if (jail.proc_fd >= 0)
		return;
	jail.proc_fd = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
	jail.only = getpid();
}

static int allow_path(int ruleset, const char *path, enum landlock_use use, struct err *e)
{
	int fd = open(path, O_PATH | O_CLOEXEC), rc;

	if (fd < 0) {
		log_debug("jail: %s: %s", path, strerror(errno));
		return 0;
	}
	rc = landlock_allow(ruleset, jail.state.landlock, fd, use);
	close(fd);
	return rc ? err_sys(e, rc, "jail: %s", path) : 0;
}

static int allow_all(int ruleset, const struct isolate_path *paths, unsigned int n, struct err *e)
{
	int rc = 0;

	for (unsigned int i = 0; i < n && !rc; i++)
		rc = allow_path(ruleset, paths[i].path,
				paths[i].writable ? LANDLOCK_WRITE : LANDLOCK_READ, e);
	if (!rc)
		rc = allow_path(ruleset, "/dev/kvm", LANDLOCK_DEVICE, e);
	if (!rc)
		rc = allow_path(ruleset, "/dev/userfaultfd", LANDLOCK_DEVICE, e);
	if (!rc && jail.proc_fd >= 0) {
		rc = landlock_allow(ruleset, jail.state.landlock, jail.proc_fd, LANDLOCK_READ);
		if (rc)
			err_sys(e, rc, "jail: /proc");
	}
	return rc;
}

static int confine_files(const struct isolate_path *paths, unsigned int n, struct err *e)
{
	int ruleset = landlock_begin(false, &jail.state.landlock, e), rc;

	if (ruleset == -ENOSYS || ruleset == -EOPNOTSUPP) {
		log_warn("jail: this kernel has no Landlock: files are not restricted");
		return 0;
	}
	if (ruleset < 0)
		return ruleset;
	rc = allow_all(ruleset, paths, n, e);
	if (!rc) {
		rc = landlock_enforce(ruleset);
		if (rc)
			err_sys(e, rc, "jail: Landlock");
	}
	close(ruleset);
	return rc;
}

/*
 * Root without capabilities is a user like others. Images may be in a directory of somebody else:
 * that they can be found there is left, and Landlock says which ones.
 */
static int drop_capabilities(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};
	uint32_t keep;

	if (syscall(SYS_capget, &head, data) < 0)
		return -errno;
	keep = data[0].permitted & (1u << CAP_DAC_READ_SEARCH);
	memset(data, 0, sizeof(data));
	data[0].permitted = data[0].effective = keep;
	return syscall(SYS_capset, &head, data) < 0 ? -errno : 0;
}

static int set_limits(void)
{
	struct rlimit none = {0, 0}, files;

	if (setrlimit(RLIMIT_CORE, &none) < 0 || setrlimit(RLIMIT_MSGQUEUE, &none) < 0 ||
	    getrlimit(RLIMIT_NOFILE, &files) < 0)
		return -errno;
	files.rlim_max = files.rlim_cur;
	return setrlimit(RLIMIT_NOFILE, &files) < 0 ? -errno : 0;
}

int isolate_setup(const struct isolate_path *paths, unsigned int n, struct err *e)
{
	int rc = set_limits();

	if (rc)
		return err_sys(e, rc, "jail: limits");
	open_proc();
	jail.state.jailed = true;
	rc = confine_files(paths, n, e);
	if (rc)
		return rc;
	rc = drop_capabilities();
	return rc ? err_sys(e, rc, "jail: capabilities") : 0;
}

/* --- system calls ------------------------------------------------------------------------ */

/* One for a disk, one for the disk that takes its place, or for memory that is loaded. */
#define RINGS 2

int isolate_run(struct err *e)
{
	int rc;

	/* If there are fewer, or a machine has more disks, these do without. */
	rings_reserve(RINGS);
	seccomp_report_to(log_fd(), "vmm");
	rc = seccomp_enter(&seccomp_process);
	if (rc == -ENOSYS || rc == -EINVAL) {
		log_warn("jail: this kernel has no seccomp filters: all system calls are allowed");
		return 0;
	}
	jail.state.seccomp = !rc;
	return rc ? err_sys(e, rc, "jail: seccomp") : 0;
}

void isolate_child(void)
{
	/* What it may do without is what this process may do at most. */
	if (jail.state.seccomp && seccomp_enter(&seccomp_child))
		log_warn("jail: the writer of a checkpoint could not give up system calls");
}
