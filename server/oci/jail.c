/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The jail of dormouse-oci; see jail.h.
 *
 * Memory, time, signals, the end:
 *
 * #syscalls:oci mmap[2&4==0] mprotect[2&4==0] munmap mremap madvise brk futex
 * #syscalls:oci clock_gettime gettimeofday getrandom getpid gettid sched_yield
 * #syscalls:oci rt_sigaction rt_sigprocmask rt_sigreturn restart_syscall exit exit_group
 * #syscalls:oci prlimit64[2==0] sysinfo
 *
 * Files that are open. libcrypto and libarchive look for configuration, and do without.
 *
 * fd_write_full() tries whether it writes to a socket; there is none, and none can be made.
 *
 * #syscalls:oci sendto read write readv writev pread64 pwrite64 lseek fsync fdatasync close
 * #syscalls:oci fstat fcntl ftruncate fallocate fadvise64 ioctl=EPERM
 * #syscalls:oci openat=EACCES open=EACCES newfstatat stat access=EACCES readlink=EACCES
 */
#include "server/oci/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/landlock.h"
#include "lib/log.h"
#include "lib/seccomp.h"

#define DATA_MAX (2048ul << 20) /* of as many files as there may be */

static int by_number(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

static int close_others(const int *keep, size_t n)
{
	unsigned int from = 3;
	int sorted[8];

	for (size_t i = 0; i < n; i++)
		sorted[i] = keep[i];
	qsort(sorted, n, sizeof(sorted[0]), by_number);
	for (size_t i = 0; i < n; i++) {
		unsigned int fd = (unsigned int)sorted[i];

		if (fd > from && close_range(from, fd - 1, 0) < 0)
			return -errno;
		from = fd >= from ? fd + 1 : from;
	}
	return close_range(from, ~0u, 0) < 0 ? -errno : 0;
}

int jail_start(const int *keep, size_t n, uint64_t file_bytes, struct err *e)
{
	struct rlimit none = {0, 0}, files = {32, 32}, data = {DATA_MAX, DATA_MAX};
	struct rlimit size = {file_bytes, file_bytes};
	int rc = close_others(keep, n);

	if (rc)
		return err_sys(e, rc, "inherited descriptors");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_sys(e, -errno, "prctl");
	umask(0077);
	signal(SIGPIPE, SIG_IGN);
	/* A write fails, then. */
	signal(SIGXFSZ, SIG_IGN);
	if (setrlimit(RLIMIT_CORE, &none) < 0 || setrlimit(RLIMIT_NOFILE, &files) < 0 ||
	    setrlimit(RLIMIT_DATA, &data) < 0 || setrlimit(RLIMIT_FSIZE, &size) < 0)
		return err_sys(e, -errno, "limits");
	return 0;
}

static int confine_files(struct err *e)
{
	unsigned int version;
	int ruleset = landlock_begin(false, &version, e), rc;

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
	if (!rc && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		rc = err_sys(e, -errno, "prctl");
	if (rc)
		return rc;
	seccomp_report_to(log_fd(), "dormouse-oci");
	rc = seccomp_enter(&seccomp_oci);
	if (rc == -ENOSYS || rc == -EINVAL) {
		log_warn("jail: this kernel has no seccomp filters: all system calls are allowed");
		return 0;
	}
	return rc ? err_sys(e, rc, "seccomp") : 0;
}
