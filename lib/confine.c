/* SPDX-License-Identifier: Apache-2.0 */
/* Giving up what is not needed; see confine.h. */
#include "lib/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/landlock.h"
#include "lib/log.h"
#include "lib/seccomp.h"

static int close_others(const int *keep, size_t n)
{
	unsigned int from = 3;

	for (;;) {
		int next = -1;

		for (size_t i = 0; i < n; i++)
			if (keep[i] >= (int)from && (next < 0 || keep[i] < next))
				next = keep[i];
		if (next < 0)
			return close_range(from, ~0u, 0) < 0 ? -errno : 0;
		if (next > (int)from && close_range(from, (unsigned int)next - 1, 0) < 0)
			return -errno;
		if (fcntl(next, F_SETFD, FD_CLOEXEC) < 0)
			return -errno;
		from = (unsigned int)next + 1;
	}
}

int confine_begin(const int *keep, size_t n, struct err *e)
{
	int rc = close_others(keep, n);

	if (rc)
		return err_sys(e, rc, "inherited descriptors");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_sys(e, -errno, "prctl");
	umask(0077);
	signal(SIGPIPE, SIG_IGN);
	return 0;
}

static int deny_files(bool tcp_client, struct err *e)
{
	unsigned int version;
	int ruleset = landlock_begin(tcp_client, &version, e), rc;

	if (ruleset == -ENOSYS || ruleset == -EOPNOTSUPP) {
		log_warn("jail: this kernel has no Landlock");
		return 0;
	}
	if (ruleset < 0)
		return ruleset;
	rc = landlock_enforce(ruleset);
	close(ruleset);
	return rc ? err_sys(e, rc, "Landlock") : 0;
}

static int drop_capabilities(struct err *e)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};

	return syscall(SYS_capset, &head, data) < 0 ? err_sys(e, -errno, "capabilities") : 0;
}

int confine_end(const struct sock_fprog *filter, const char *name, bool tcp_client, struct err *e)
{
	int rc = deny_files(tcp_client, e);

	if (!rc)
		rc = drop_capabilities(e);
	if (!rc && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		rc = err_sys(e, -errno, "prctl");
	if (rc)
		return rc;
	seccomp_report_to(log_fd(), name);
	rc = seccomp_enter(filter);
	if (rc == -ENOSYS || rc == -EINVAL) {
		log_warn("jail: this kernel has no seccomp filters: all system calls are allowed");
		return 0;
	}
	return rc ? err_sys(e, rc, "seccomp") : 0;
}
