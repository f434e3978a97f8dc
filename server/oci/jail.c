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
#include <signal.h>
#include <sys/resource.h>

#include "lib/confine.h"
#include "lib/seccomp.h"

#define DATA_MAX (2048ul << 20) /* of as many files as there may be */

int jail_start(const int *keep, size_t n, uint64_t file_bytes, struct err *e)
{
	struct rlimit none = {0, 0}, files = {32, 32}, data = {DATA_MAX, DATA_MAX};
	struct rlimit size = {file_bytes, file_bytes};
	int rc = confine_begin(keep, n, e);

	if (rc)
		return rc;
	/* A write fails, then. */
	signal(SIGXFSZ, SIG_IGN);
	if (setrlimit(RLIMIT_CORE, &none) < 0 || setrlimit(RLIMIT_NOFILE, &files) < 0 ||
	    setrlimit(RLIMIT_DATA, &data) < 0 || setrlimit(RLIMIT_FSIZE, &size) < 0)
		return err_sys(e, -errno, "limits");
	return 0;
}

int jail_enter(struct err *e)
{
	return confine_end(&seccomp_oci, "dormouse-oci", false, e);
}
