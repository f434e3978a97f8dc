/* SPDX-License-Identifier: Apache-2.0 */
/*
 * userfaultfd: this process answers the faults on its own memory.
 *
 * Only for private anonymous memory and for pages that are missing. Accesses of the kernel (of
 * KVM, or of a read into guest memory) fault as well, so the descriptor has to be one
 * that may serve them, which needs a privilege.
 */
#ifndef SNAPSHOT_UFFD_H
#define SNAPSHOT_UFFD_H

#include <stdint.h>

#include "lib/err.h"

/**
 * uffd_open() - A descriptor for the memory of this process
 *
 * By system call, else by /dev/userfaultfd. It may be opened long before it is used.
 *
 * Return: a non-blocking descriptor; -EPERM if neither is allowed, or -errno
 */
int uffd_open(struct err *e);

/* All offsets and lengths are of whole pages. Return: 0 or -errno. */
int uffd_register(int fd, void *at, uint64_t len_bytes);
/* Who waits there goes on; what is missing reads as zero from now on. */
int uffd_unregister(int fd, void *at, uint64_t len_bytes);
/* Give missing pages their content. Wakes nobody. -EEXIST if one is not missing. */
int uffd_copy(int fd, void *at, const void *content, uint64_t len_bytes);
/* Likewise, zeros; and wakes. */
int uffd_zero(int fd, void *at, uint64_t len_bytes);
int uffd_wake(int fd, void *at, uint64_t len_bytes);

/**
 * uffd_next() - Addresses of faults that nobody has answered
 * @at:	Array of @max
 *
 * Return: how many; 0 if there are none now; or -errno
 */
int uffd_next(int fd, void **at, int max);

#endif
