/* SPDX-License-Identifier: Apache-2.0 */
/* userfaultfd; see uffd.h. */
#include "snapshot/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/fd.h"

/* #syscalls userfaultfd ioctl[1&0xff00==0xaa00] */

#define MAX_MESSAGES 16

static int open_any(void)
{
	cleanup_close int dev = -1;
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	int saved = errno;

	if (fd >= 0)
		return fd;
	/* Who may open this device may handle faults of the kernel, whatever its capabilities. */
	dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (dev < 0)
		return -saved;
	fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

int uffd_open(struct err *e)
{
	struct uffdio_api api = {.api = UFFD_API};
	cleanup_close int fd = open_any();

	if (fd == -EPERM)
		return err_set(e, -EPERM,
			       "loading memory on fault: userfaultfd needs CAP_SYS_PTRACE, "
			       "/dev/userfaultfd or vm.unprivileged_userfaultfd=1");
	if (fd < 0)
		return err_sys(e, fd, "loading memory on fault: userfaultfd");
	if (ioctl(fd, UFFDIO_API, &api) < 0)
		return err_sys(e, -errno, "loading memory on fault: userfaultfd");
	return fd_steal(&fd);
}

int uffd_register(int fd, void *at, uint64_t len_bytes)
{
	struct uffdio_register r = {.range = {(uintptr_t)at, len_bytes},
				    .mode = UFFDIO_REGISTER_MODE_MISSING};
	uint64_t need = 1ull << _UFFDIO_COPY | 1ull << _UFFDIO_ZEROPAGE | 1ull << _UFFDIO_WAKE;

	if (ioctl(fd, UFFDIO_REGISTER, &r) < 0)
		return -errno;
	return (r.ioctls & need) == need ? 0 : -EOPNOTSUPP;
}

int uffd_unregister(int fd, void *at, uint64_t len_bytes)
{
	struct uffdio_range r = {(uintptr_t)at, len_bytes};

	return ioctl(fd, UFFDIO_UNREGISTER, &r) < 0 ? -errno : 0;
}

int uffd_copy(int fd, void *at, const void *content, uint64_t len_bytes)
{
	uint64_t done = 0;

	while (done < len_bytes) {
		struct uffdio_copy c = {.dst = (uintptr_t)at + done,
					.src = (uintptr_t)content + done,
					.len = len_bytes - done,
					.mode = UFFDIO_COPY_MODE_DONTWAKE};

		if (ioctl(fd, UFFDIO_COPY, &c) == 0)
			return 0;
		/* Somebody changes mappings of the process: what was copied by then counts. */
		if (errno != EAGAIN)
			return -errno;
		if (c.copy > 0)
			done += (uint64_t)c.copy;
	}
	return 0;
}

int uffd_zero(int fd, void *at, uint64_t len_bytes)
{
	struct uffdio_zeropage z = {.range = {(uintptr_t)at, len_bytes}};

	while (ioctl(fd, UFFDIO_ZEROPAGE, &z) < 0) {
		if (errno != EAGAIN)
			return -errno;
		if (z.zeropage > 0) {
			z.range.start += (uint64_t)z.zeropage;
			z.range.len -= (uint64_t)z.zeropage;
		}
	}
	return 0;
}

int uffd_wake(int fd, void *at, uint64_t len_bytes)
{
	struct uffdio_range r = {(uintptr_t)at, len_bytes};

	return ioctl(fd, UFFDIO_WAKE, &r) < 0 ? -errno : 0;
}

int uffd_next(int fd, void **at, int max)
{
	struct uffd_msg msgs[MAX_MESSAGES];
	size_t room = (size_t)(max < MAX_MESSAGES ? max : MAX_MESSAGES);
	ssize_t n = read(fd, msgs, room * sizeof(msgs[0]));
	int used = 0;

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	for (size_t i = 0; i < (size_t)n / sizeof(msgs[0]); i++)
		if (msgs[i].event == UFFD_EVENT_PAGEFAULT)
			at[used++] = (void *)(uintptr_t)msgs[i].arg.pagefault.address;
	return used;
}
