/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What small programs give up before they look at hostile bytes: dormouse-net, dormouse-oci. (A VMM
 * needs more, see vmm/isolate.h.)
 */
#ifndef LIB_CONFINE_H
#define LIB_CONFINE_H

#include <linux/filter.h>
#include <stdbool.h>
#include <stddef.h>

#include "lib/err.h"

/**
 * confine_begin() - First of all: other descriptors are closed, no privileges come by execution
 * @keep:	Descriptors that stay, beside 0, 1 and 2; not passed on to other programs
 *
 * What is made from now on is only its owner's. Return: 0 or -errno
 */
int confine_begin(const int *keep, size_t n, struct err *e);

/**
 * confine_end() - When all is open: no files, no capabilities, few system calls, for ever
 * @name:	Of the program, for messages; borrowed for good
 * @tcp_client:	TCP connections to others are left
 *
 * What the kernel cannot deny is said in the log. Return: 0 or -errno
 */
int confine_end(const struct sock_fprog *filter, const char *name, bool tcp_client, struct err *e);

#endif
