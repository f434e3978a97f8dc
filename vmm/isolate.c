/* SPDX-License-Identifier: Apache-2.0 */
/* Giving up what the process does not need; see isolate.h. */
#include "vmm/isolate.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

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
