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
#include <sys/prctl.h>
#include <sys/resource.h>

#include "lib/confine.h"
#include "lib/seccomp.h"
#include "server/net/stack.h"

/* Of a guest that makes libslirp keep as much as it can; mostly not touched. */
#define DATA_MAX (1024ul << 20)

int jail_start(const int *keep, size_t n, struct err *e)
{
	int rc = confine_begin(keep, n, e);

	if (!rc && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		rc = err_sys(e, -errno, "prctl");
	return rc;
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

int jail_enter(struct err *e)
{
	return confine_end(&seccomp_net, "dormouse-net", true, e);
}
