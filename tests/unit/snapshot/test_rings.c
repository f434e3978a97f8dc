/* SPDX-License-Identifier: Apache-2.0 */
#include "snapshot/rings.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "snapshot/aio.h"

/* Return: the result of the one request that @sqe, of @ring, is. */
static int result(struct io_uring *ring)
{
	struct io_uring_cqe *cqe;
	int res;

	cr_assert_eq(io_uring_submit(ring), 1);
	cr_assert_eq(io_uring_wait_cqe(ring, &cqe), 0);
	res = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return res;
}

static int temporary(void)
{
	char path[] = "/tmp/dormouse-rings-XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC);

	cr_assert(fd >= 0 && !unlink(path) && write(fd, "0123456789", 10) == 10);
	return fd;
}

Test(rings, a_reserved_one_reads_and_writes_and_opens_no_sockets)
{
	struct io_uring ring;
	int event_fd, fd = temporary();
	char buf[10];

	cr_assert_eq(rings_reserve(1), 1u);
	cr_assert_eq(rings_get(&ring, 8, &event_fd), 0);
	io_uring_prep_read(io_uring_get_sqe(&ring), fd, buf, sizeof(buf), 0);
	cr_assert_eq(result(&ring), 10);
	io_uring_prep_fsync(io_uring_get_sqe(&ring), fd, IORING_FSYNC_DATASYNC);
	cr_assert_eq(result(&ring), 0);
	io_uring_prep_socket(io_uring_get_sqe(&ring), AF_INET, SOCK_STREAM, 0, 0);
	cr_assert_eq(result(&ring), -EACCES);
	io_uring_prep_openat(io_uring_get_sqe(&ring), AT_FDCWD, "/etc/passwd", O_RDONLY, 0);
	cr_assert_eq(result(&ring), -EACCES);
	/* What it may do cannot be changed any more. */
	cr_assert_lt(io_uring_unregister_eventfd(&ring), 0);
	rings_put(&ring, event_fd, false);
	close(fd);
}

Test(rings, those_that_are_given_back_are_handed_out_again)
{
	struct io_uring a, b;
	int fd_a, fd_b, first;

	cr_assert_eq(rings_reserve(1), 1u);
	cr_assert_eq(rings_get(&a, 64, &fd_a), 0);
	first = a.ring_fd;
	cr_assert_eq(rings_get(&b, 64, &fd_b), 0);
	cr_assert_neq(b.ring_fd, first);
	/* One that was made later is not kept. */
	rings_put(&b, fd_b, false);
	rings_put(&a, fd_a, false);
	cr_assert_eq(rings_get(&a, 64, &fd_a), 0);
	cr_assert_eq(a.ring_fd, first);
	rings_put(&a, fd_a, true);
	cr_assert_eq(fcntl(first, F_GETFD), -1);
}

/* --- without a ring ------------------------------------------------------------------------ */

struct done {
	int n, result;
};

static void op_done(struct aio_op *op, int result)
{
	struct done *d = op->owner;

	d->n++;
	d->result = result;
}

static void batch(void *opaque)
{
	(void)opaque;
}

static int run_one(struct aio *a, enum aio_kind kind, int fd, char *buf, size_t len,
		   uint64_t offset)
{
	struct done d = {0};
	struct iovec iov = {buf, len};
	struct aio_op op = {.kind = kind,
			    .fd = fd,
			    .iov = &iov,
			    .iov_n = 1,
			    .offset = offset,
			    .len_bytes = len,
			    .done = op_done,
			    .owner = &d};

	aio_submit(a, &op);
	aio_kick(a);
	cr_assert_eq(d.n, 1);
	return d.result;
}

Test(rings, disks_do_without)
{
	int fd = temporary();
	struct rlimit none;
	char buf[4096] = "";
	struct aio a;

	aio_init(&a, NULL, batch, NULL);
	/* No descriptor is left for a ring. */
	cr_assert(!getrlimit(RLIMIT_NOFILE, &none));
	none.rlim_cur = (rlim_t)fd + 1;
	cr_assert(!setrlimit(RLIMIT_NOFILE, &none));
	cr_assert_eq(run_one(&a, AIO_WRITE, fd, "abc", 3, 10), 0);
	cr_assert_eq(run_one(&a, AIO_SYNC, fd, NULL, 0, 0), 0);
	cr_assert_eq(run_one(&a, AIO_READ, fd, buf, 13, 0), 0);
	cr_assert_str_eq(buf, "0123456789abc");
	cr_assert_eq(run_one(&a, AIO_READ, fd, buf, 10, 10), -EIO);
	cr_assert_eq(run_one(&a, AIO_WRITE, -1, buf, 10, 10), -EBADF);
	aio_drain(&a);
	aio_fini(&a);
	close(fd);
}
