/* SPDX-License-Identifier: Apache-2.0 */
/* Checks of what confines a VMM process, and of the tap device. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/fd.h"
#include "tools/doctor/doctor.h"

#define LESS_DEPTH "one layer less between a hostile guest and the host"

/* Since Linux 5.13, the same number on all architectures. */
#define SYS_LANDLOCK_CREATE 444

void check_landlock(const struct doctor_options *o, struct check_result *r)
{
	long abi = syscall(SYS_LANDLOCK_CREATE, NULL, 0, 1u /* the version query */);

	(void)o;
	if (abi > 0)
		check_ok(r, "ABI version %ld", abi);
	else
		check_not_ok(r, CHECK_DEGRADED, LESS_DEPTH,
			     errno == EOPNOTSUPP
				 ? "add landlock to the lsm= list on the kernel command line"
				 : "use a kernel with CONFIG_SECURITY_LANDLOCK (5.13 or newer)",
			     "%s", strerror(errno));
}

void check_seccomp(const struct doctor_options *o, struct check_result *r)
{
	uint32_t action = SECCOMP_RET_KILL_PROCESS;

	(void)o;
	if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0)
		check_ok(r, "filters, with kill-process");
	else
		check_not_ok(r, CHECK_DEGRADED, LESS_DEPTH,
			     "use a kernel with CONFIG_SECCOMP_FILTER", "%s", strerror(errno));
}

void check_namespaces(const struct doctor_options *o, struct check_result *r)
{
	int wanted = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
	bool root = geteuid() == 0;

	(void)o;
	if (unshare(root ? wanted : wanted | CLONE_NEWUSER) == 0)
		check_ok(r, root ? "mount, pid, net, ipc, uts" : "user, mount, pid, net, ipc, uts");
	else
		check_not_ok(r, CHECK_DEGRADED, LESS_DEPTH,
			     root
				 ? "run with CAP_SYS_ADMIN"
				 : "sysctl kernel.unprivileged_userns_clone=1 and, on Ubuntu, "
				   "kernel.apparmor_restrict_unprivileged_userns=0; or run as root",
			     "unshare: %s", strerror(errno));
}

/* Where cgroup v2 is mounted; @out holds at least 200 bytes. */
static bool find_cgroup_mount(char *out, size_t len)
{
	cleanup_free char *text = NULL;
	char *save = NULL;

	if (fd_read_file(AT_FDCWD, "/proc/self/mountinfo", 1 << 20, &text, NULL) < 0)
		return false;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char where[200];

		if (!strstr(line, " - cgroup2 ") ||
		    sscanf(line, "%*s %*s %*s %*s %199s", where) != 1)
			continue;
		snprintf(out, len, "%s", where);
		return true;
	}
	return false;
}

/* The directory of our own group. */
static bool find_own_cgroup(const char *mount, char *out, size_t len)
{
	cleanup_free char *text = NULL;
	char *line;

	if (fd_read_file(AT_FDCWD, "/proc/self/cgroup", 1 << 16, &text, NULL) < 0)
		return false;
	line = strncmp(text, "0::", 3) ? strstr(text, "\n0::") : text;
	if (!line)
		return false;
	line = strstr(line, "0::") + 3;
	line[strcspn(line, "\n")] = '\0';
	return (size_t)snprintf(out, len, "%s%s", mount, line) < len;
}

#define NO_LIMITS "sandboxes have no CPU, memory and process limits enforced by the host"

void check_cgroup(const struct doctor_options *o, struct check_result *r)
{
	char mount[200], own[600], path[700];
	cleanup_free char *controllers = NULL;

	(void)o;
	if (!find_cgroup_mount(mount, sizeof(mount)) || !find_own_cgroup(mount, own, sizeof(own))) {
		check_not_ok(r, CHECK_DEGRADED, NO_LIMITS,
			     "mount -t cgroup2 none /sys/fs/cgroup (or boot with "
			     "systemd.unified_cgroup_hierarchy=1)",
			     "cgroup v2 is not mounted");
		return;
	}
	snprintf(path, sizeof(path), "%s/dormouse-doctor.%d", own, (int)getpid());
	if (mkdir(path, 0755) < 0) {
		check_not_ok(r, CHECK_DEGRADED, NO_LIMITS,
			     "run dormoused as a systemd service with Delegate=yes, or as root",
			     "no group can be made in %.100s: %s", own, strerror(errno));
		return;
	}
	rmdir(path);
	snprintf(path, sizeof(path), "%s/cgroup.controllers", own);
	if (fd_read_file(AT_FDCWD, path, 4096, &controllers, NULL) == 0)
		controllers[strcspn(controllers, "\n")] = '\0';
	if (!controllers || !strstr(controllers, "memory") || !strstr(controllers, "cpu") ||
	    !strstr(controllers, "pids"))
		check_not_ok(r, CHECK_DEGRADED, NO_LIMITS,
			     "hand the controllers down: echo '+cpu +memory +pids' > "
			     "cgroup.subtree_control of the parent group",
			     "at %.60s, controllers: %.80s", mount,
			     controllers ? controllers : "none");
	else
		check_ok(r, "at %.60s, groups can be made; cpu, memory, pids", mount);
}

void check_tun(const struct doctor_options *o, struct check_result *r)
{
	struct ifreq ifr = {.ifr_name = "dmdoctor%d", .ifr_flags = IFF_TAP | IFF_NO_PI};
	cleanup_close int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	(void)o;
	/* A tap device without an owner ends with its descriptor. */
	if (fd >= 0 && ioctl(fd, TUNSETIFF, &ifr) == 0)
		check_ok(r, "a tap device can be made");
	else
		check_not_ok(r, CHECK_DEGRADED, "no tap networking; user-mode networking works",
			     fd >= 0 ? "run with CAP_NET_ADMIN, or make the tap device beforehand"
				     : "modprobe tun; in a container: --device /dev/net/tun",
			     "/dev/net/tun: %s", strerror(errno));
}
