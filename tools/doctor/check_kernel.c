/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks of kernel interfaces: io_uring, userfaultfd, PAGEMAP_SCAN. The build
 * headers may be older than the running kernel, so what is newer than 6.1 is
 * declared here and probed for.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/fd.h"
#include "tools/doctor/doctor.h"

/* include/uapi/linux/userfaultfd.h of Linux 6.7 */
#define UFFD_FEATURE_WP_ASYNC_BIT (1ULL << 15)
#define UFFD_DEVICE_NEW		  _IO(0xAA, 0x00)

/* include/uapi/linux/fs.h of Linux 6.7 */
struct scan_region {
	uint64_t start, end, categories;
};
struct scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define SCAN_IOCTL	   _IOWR('f', 16, struct scan_arg)
#define SCAN_IS_WRITTEN	   (1ULL << 1)
#define SCAN_WP_MATCHING   (1ULL << 0)
#define SCAN_CHECK_WPASYNC (1ULL << 1)

static int setup_ring_and_write(struct io_uring *ring)
{
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	int rc = io_uring_queue_init(4, ring, 0);

	if (rc < 0)
		return rc;
	sqe = io_uring_get_sqe(ring);
	io_uring_prep_nop(sqe);
	rc = io_uring_submit(ring);
	if (rc == 1)
		rc = io_uring_wait_cqe(ring, &cqe);
	if (rc == 0) {
		rc = cqe->res;
		io_uring_cqe_seen(ring, cqe);
	}
	io_uring_queue_exit(ring);
	return rc;
}

void check_io_uring(const struct doctor_options *o, struct check_result *r)
{
	struct io_uring ring;
	int rc = setup_ring_and_write(&ring);

	(void)o;
	if (rc == 0)
		check_ok(r, "a ring was set up and used");
	else if (rc == -EPERM)
		check_not_ok(r, CHECK_MISSING, "no disk I/O for guests, so no guests",
			     "sysctl kernel.io_uring_disabled=0; in a container: a seccomp profile "
			     "that allows io_uring_setup",
			     "not permitted");
	else
		check_not_ok(r, CHECK_MISSING, "no disk I/O for guests, so no guests",
			     rc == -ENOSYS ? "use a kernel with CONFIG_IO_URING"
					   : "raise the limit: ulimit -l unlimited",
			     "%s", strerror(-rc));
}

/* Return: a descriptor that also gets faults taken in the kernel, or -errno. */
static int open_userfaultfd(const char **how)
{
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), fd;

	*how = "/dev/userfaultfd";
	if (dev >= 0) {
		fd = ioctl(dev, UFFD_DEVICE_NEW, O_CLOEXEC | O_NONBLOCK);
		close(dev);
		if (fd >= 0)
			return fd;
	}
	*how = "the system call";
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

#define NO_LAZY "hibernated memory is not paged in on demand from compressed images"
#define BY_FORK "live checkpoints use fork(): the pause grows with the memory in use"

void check_userfaultfd(const struct doctor_options *o, struct check_result *r)
{
	struct uffdio_api api = {.api = UFFD_API};
	const char *how;
	cleanup_close int fd = open_userfaultfd(&how);

	(void)o;
	if (fd < 0) {
		check_not_ok(r, CHECK_DEGRADED, NO_LAZY,
			     fd == -EPERM ? "allow it: chmod 666 /dev/userfaultfd or sysctl "
					    "vm.unprivileged_userfaultfd=1"
					  : "use a kernel with CONFIG_USERFAULTFD",
			     "%s", strerror(-fd));
		return;
	}
	if (ioctl(fd, UFFDIO_API, &api) < 0)
		check_not_ok(r, CHECK_DEGRADED, NO_LAZY, "use Linux 5.10 or newer",
			     "UFFDIO_API: %s", strerror(errno));
	else if (!(api.features & UFFD_FEATURE_WP_ASYNC_BIT))
		check_not_ok(r, CHECK_DEGRADED, BY_FORK, "use Linux 6.7 or newer",
			     "through %s, without asynchronous write protection", how);
	else
		check_ok(r, "through %s, with asynchronous write protection", how);
}

/* Find and re-arm written pages. Return: the number of regions, or -errno. */
static int scan_written(int pagemap_fd, char *mem, size_t len, struct scan_region *out, size_t n)
{
	struct scan_arg a = {
	    .size = sizeof(a),
	    .flags = SCAN_WP_MATCHING | SCAN_CHECK_WPASYNC,
	    .start = (uintptr_t)mem,
	    .end = (uintptr_t)mem + len,
	    .vec = (uintptr_t)out,
	    .vec_len = n,
	    .category_mask = SCAN_IS_WRITTEN,
	    .return_mask = SCAN_IS_WRITTEN,
	};
	int rc = ioctl(pagemap_fd, SCAN_IOCTL, &a);

	return rc < 0 ? -errno : rc;
}

static int register_async_wp(int uffd, char *mem, size_t len)
{
	struct uffdio_api api = {.api = UFFD_API,
				 .features = UFFD_FEATURE_WP_ASYNC_BIT | (1ULL << 13)};
	struct uffdio_register reg = {.range = {.start = (uintptr_t)mem, .len = len},
				      .mode = UFFDIO_REGISTER_MODE_WP};

	if (uffd < 0)
		return uffd;
	if (ioctl(uffd, UFFDIO_API, &api) < 0 || ioctl(uffd, UFFDIO_REGISTER, &reg) < 0)
		return -errno;
	return 0;
}

/* One turn of dirty tracking: arm four pages, write to the third, ask which. */
static int track_one_page(int pagemap_fd, int uffd, char *mem, size_t page)
{
	struct scan_region region[4];
	int rc = register_async_wp(uffd, mem, 4 * page);

	if (rc < 0)
		return rc;
	memset(mem, 1, 4 * page);
	rc = scan_written(pagemap_fd, mem, 4 * page, region, 4);
	if (rc < 0)
		return rc;
	((volatile char *)mem)[2 * page] = 2;
	rc = scan_written(pagemap_fd, mem, 4 * page, region, 4);
	if (rc < 0)
		return rc;
	if (rc != 1 || region[0].start != (uintptr_t)mem + 2 * page ||
	    region[0].end != region[0].start + page)
		return -EPROTO;
	return 0;
}

void check_pagemap_scan(const struct doctor_options *o, struct check_result *r)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	cleanup_close int pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	const char *how;
	cleanup_close int uffd = open_userfaultfd(&how);
	char *mem =
	    mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int rc = mem == MAP_FAILED ? -ENOMEM : track_one_page(pagemap_fd, uffd, mem, page);

	(void)o;
	if (mem != MAP_FAILED)
		munmap(mem, 4 * page);
	if (rc == 0)
		check_ok(r, "one written page of four was found");
	else
		check_not_ok(r, CHECK_DEGRADED, BY_FORK, "use Linux 6.7 or newer", "%s",
			     rc == -EPROTO ? "the wrong pages were reported" : strerror(-rc));
}
