/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System call filters; see seccomp.h.
 *
 * A call that is not allowed is not made: SIGSYS comes in its place. Its handler only tells of it.
 *
 * Of everything: memory, threads, time, signals, and the end.
 *
 * #syscalls mmap[2&4==0] mprotect[2&4==0] munmap mremap madvise brk
 * #syscalls futex rseq set_robust_list clone3=ENOSYS clone[0&0x7e020000==0] gettid exit exit_group
 * #syscalls sched_yield sched_getaffinity setpriority prlimit64[2==0]
 * #syscalls rt_sigaction rt_sigprocmask rt_sigreturn restart_syscall
 * #syscalls sigaltstack getpid getrandom
 * #syscalls clock_gettime clock_getres gettimeofday clock_nanosleep nanosleep
 * #syscalls prctl[0==15] prctl[0==1] seccomp[0==1]
 *
 * Files: which ones is Landlock's affair. Nothing that is made gets a set-user-id bit.
 *
 * #syscalls openat[3&0xfffffe00==0] close close_range read write readv writev pread64
 * #syscalls pwrite64 lseek
 * #syscalls fstat newfstatat statx fcntl ftruncate fsync fdatasync unlink rename renameat
 *
 * Memory that is written and run, other programs, new namespaces, other families of sockets
 * than AF_UNIX, and to connect to anything: not there.
 */
#include "lib/seccomp.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int report_fd = 2;
static const char *report_name = "";

static char *put_number(char *end, unsigned int v)
{
	do {
		*--end = (char)('0' + v % 10);
	} while ((v /= 10));
	return end;
}

/* Async-signal-safe: the thread may have been stopped in the log itself. */
static void denied(int sig, siginfo_t *info, void *context)
{
	static const char text[] = ": jail: denied system call number ";
	char line[128] = "error ", digits[16], *at;
	size_t len = strlen(line), n;

	(void)sig;
	(void)context;
	n = strnlen(report_name, 32);
	memcpy(line + len, report_name, n);
	len += n;
	memcpy(line + len, text, sizeof(text) - 1);
	len += sizeof(text) - 1;
	at = put_number(digits + sizeof(digits), (unsigned int)info->si_syscall);
	n = (size_t)(digits + sizeof(digits) - at);
	memcpy(line + len, at, n);
	line[len + n] = '\n';
	syscall(SYS_write, report_fd, line, len + n + 1);
	for (;;)
		syscall(SYS_exit_group, SECCOMP_EXIT);
}

void seccomp_report_to(int log_fd, const char *name)
{
	struct sigaction sa = {.sa_sigaction = denied, .sa_flags = SA_SIGINFO};

	report_fd = log_fd;
	report_name = name;
	sigaction(SIGSYS, &sa, NULL);
}

int seccomp_enter(const struct sock_fprog *filter)
{
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, filter) < 0 ? -errno : 0;
}
