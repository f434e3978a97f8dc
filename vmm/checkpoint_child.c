/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process that writes a checkpoint out: a copy-on-write holder of guest RAM, cloned from the
 * VMM while its vCPUs stood still.
 *
 * It is one thread of a process that had several, whose locks may be held for ever: so it makes
 * system calls, and no calls of the C library that allocate or lock. It never touches KVM; it
 * closes every descriptor that it does not need, so that nothing of the machine outlives the VMM
 * because of it, and dies with the VMM.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "lib/log.h"
#include "vmm/checkpoint_int.h"
#include "vmm/fault.h"
#include "vmm/isolate.h"

#define PM_PRESENT (1ull << 63)
#define PM_SWAPPED (1ull << 62)
#define PM_FILE	   (1ull << 61) /* of a file, or shared: not changed since it was mapped */

/* --- which pages there are --------------------------------------------------------------- */

static int read_pagemap(struct checkpoint *c, uint64_t first, unsigned int n)
{
	uint64_t page = (uintptr_t)c->vm->ram / RAM_IMAGE_PAGE + first;
	size_t want = n * sizeof(c->pagemap[0]);
	ssize_t got = pread(c->pagemap_fd, c->pagemap, want, (off_t)(page * sizeof(uint64_t)));

	return got == (ssize_t)want ? 0 : got < 0 ? -errno : -EIO;
}

static bool is_dropped(const struct vm *vm, uint64_t page)
{
	return vm->dropped[page / 8] >> page % 8 & 1;
}

/*
 * RAM is a private mapping of the parent: pages that the guest wrote are anonymous. What it has
 * given back and not written since is nobody's, whatever the parent has there.
 */
static int changed_pages(void *opaque, uint64_t first, unsigned int n, uint8_t *kinds)
{
	struct checkpoint *c = opaque;
	int rc = read_pagemap(c, first, n);

	for (unsigned int i = 0; i < n && !rc; i++) {
		uint64_t p = c->pagemap[i];
		bool own = (p & PM_SWAPPED) || ((p & PM_PRESENT) && !(p & PM_FILE));

		kinds[i] = own				  ? RAM_PAGE_OWN
			   : is_dropped(c->vm, first + i) ? RAM_PAGE_ZERO
							  : RAM_PAGE_SAME;
	}
	return rc;
}

/* RAM is anonymous: pages that nobody touched are zero, and touching them here would make them. */
static int present_pages(void *opaque, uint64_t first, unsigned int n, uint8_t *kinds)
{
	struct checkpoint *c = opaque;
	int rc = read_pagemap(c, first, n);

	for (unsigned int i = 0; i < n && !rc; i++)
		kinds[i] = c->pagemap[i] & (PM_PRESENT | PM_SWAPPED) ? RAM_PAGE_OWN : RAM_PAGE_ZERO;
	return rc;
}

/*
 * Without the page map (which a process that may not be traced and is not root cannot open) every
 * page is looked at: slower, and as right.
 */
static void choose_pages(struct checkpoint *c)
{
	bool mapped = c->vm->image.fd >= 0;

	c->ram.opaque = c;
	c->ram.compare_own = c->ram.parent && !c->knows_parent;
	c->ram.classify = NULL;
	if (c->pagemap_fd < 0)
		c->ram.compare_own = c->ram.parent;
	else if (c->knows_parent)
		c->ram.classify = changed_pages;
	else if (!mapped)
		c->ram.classify = present_pages;
}

/* --- the process ------------------------------------------------------------------------- */

static void close_others(const struct checkpoint *c)
{
	int keep[] = {c->ram.fd,       c->ram.dir_fd, c->state_fd,
		      c->state_dir_fd, c->pagemap_fd, c->ram.parent ? c->ram.parent->fd : -1,
		      log_fd()};
	unsigned int from = 0;

	for (;;) {
		int next = -1;

		for (size_t i = 0; i < sizeof(keep) / sizeof(keep[0]); i++)
			if (keep[i] >= (int)from && (next < 0 || keep[i] < next))
				next = keep[i];
		if (next < 0)
			break;
		if (next > (int)from)
			close_range(from, (unsigned int)next - 1, 0);
		from = (unsigned int)next + 1;
	}
	close_range(from, ~0u, 0);
}

static int ram_fault(void *opaque, const char *point)
{
	(void)opaque;
	return fault_point("ram-", point);
}

static int write_state(struct checkpoint *c, const char **what)
{
	size_t done = 0;
	int rc = fault_point("state-", "write");

	*what = "writing the state";
	while (!rc && done < c->state.len) {
		ssize_t n = write(c->state_fd, c->state.data + done, c->state.len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		done += (size_t)n;
	}
	*what = "making the state durable";
	if (!rc)
		rc = fault_point("state-", "sync");
	if (!rc && fsync(c->state_fd) < 0)
		rc = -errno;
	if (!rc)
		rc = fault_point("state-", "dir");
	if (!rc && fsync(c->state_dir_fd) < 0)
		rc = -errno;
	return rc;
}

/*
 * After isolate_child(). What is read is RAM and files that are open.
 *
 * #syscalls:child pread64 write fsync clock_gettime
 * #syscalls:child exit_group kill pause getpid getppid restart_syscall rt_sigreturn
 */
void checkpoint_child(struct checkpoint *c, pid_t parent)
{
	struct checkpoint_result *r = c->result;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	prctl(PR_SET_NAME, "checkpoint");
	c->pagemap_fd = isolate_open_proc("pagemap");
	close_others(c);
	choose_pages(c);
	isolate_child();
	c->ram.fault = ram_fault;
	r->rc = ram_image_write(&c->ram, c->vm->ram);
	r->what = c->ram.failed;
	r->stored_bytes = c->ram.stored_bytes;
	/* The state last: without it, what else is there is nothing yet. */
	if (!r->rc)
		r->rc = write_state(c, &r->what);
	__atomic_store_n(&r->done, true, __ATOMIC_RELEASE);
	_exit(0);
}
