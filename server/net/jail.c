/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The jail of dormouse-net; see jail.h. The filter of system calls is made of these lines by
 * tools/seccomp.
 *
 * Memory, time, signals, the end; glib has locks:
 *
 * #syscalls:net mmap[2&4==0] mprotect[2&4==0] munmap mremap madvise brk futex
 * #syscalls:net clock_gettime gettimeofday getrandom getpid gettid sched_yield
 * #syscalls:net rt_sigaction rt_sigprocmask rt_sigreturn restart_syscall exit exit_group
 *
 * Sockets: of the internet, and streams to the metadata service, which is this process.
 *
 * #syscalls:net socket[0==1][1&0xf==1] socket[0==2] socket[0==10]
 * #syscalls:net connect bind=EACCES accept4 shutdown getsockname getpeername
 * #syscalls:net getsockopt setsockopt sendto sendmsg recvfrom recvmsg recvmmsg
 * #syscalls:net poll ppoll read write writev close fcntl ioctl[1==0x5421] ioctl[1==0x541b]
 *
 * Files: none. glibc looks at time zones when a line of the log is written, and does without.
 *
 * #syscalls:net openat=EACCES open=EACCES newfstatat=EACCES stat=EACCES fstat lseek
 */
#include "server/net/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/landlock.h"
#include "lib/log.h"
#include "lib/seccomp.h"
#include "server/net/stack.h"

/* Of a guest that makes libslirp keep as much as it can; mostly not touched. */
#define DATA_MAX (1024ul << 20)

static int close_others(const int *keep, unsigned int n)
{
	unsigned int from = 3;

	for (;;) {
		int next = -1;

		for (unsigned int i = 0; i < n; i++)
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

int jail_start(const int *keep, unsigned int n, struct err *e)
{
	int rc = close_others(keep, n);

	if (rc)
		return err_sys(e, rc, "inherited descriptors");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return err_sys(e, -errno, "prctl");
	umask(0077);
	signal(SIGPIPE, SIG_IGN);
	return 0;
}

int jail_limits(struct err *e)
{
	struct rlimit none = {0, 0}, files = {STACK_FD_LIMIT, STACK_FD_LIMIT};
	struct rlimit data = {DATA_MAX, DATA_MAX}, had;

	if (getrlimit(RLIMIT_NOFILE, &had) < 0)
		return err_sys(e, -errno, "limits");
	if (had.rlim_max < files.rlim_max)
		files.rlim_cur = files.rlim_max = had.rlim_max;
	if (setrlimit(RLIMIT_CORE, &none) < 0 || setrlimit(RLIMIT_NOFILE, &files) < 0 ||
	    setrlimit(RLIMIT_DATA, &data) < 0)
		return err_sys(e, -errno, "limits");
	return 0;
}

static int confine_files(struct err *e)
{
	unsigned int version;
	int ruleset = landlock_begin(true, &version, e), rc;

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

int jail_enter(struct err *e)
{
	int rc = confine_files(e);

	if (!rc)
		rc = drop_capabilities(e);
	if (rc)
		return rc;
	seccomp_report_to(log_fd(), "dormouse-net");
	rc = seccomp_enter(&seccomp_net);
	if (rc == -ENOSYS || rc == -EINVAL) {
		log_warn("jail: this kernel has no seccomp filters: all system calls are allowed");
		return 0;
	}
	return rc ? err_sys(e, rc, "seccomp") : 0;
}
