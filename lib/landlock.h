/* SPDX-License-Identifier: Apache-2.0 */
/* Landlock: a process confines itself to some files. Linux 5.13 and newer. */
#ifndef LIB_LANDLOCK_H
#define LIB_LANDLOCK_H

#include <stdbool.h>

#include "lib/err.h"

enum landlock_use {
	LANDLOCK_READ,	 /* files can be read, directories not even listed */
	LANDLOCK_WRITE,	 /* files can be made, read, written and removed, directories listed */
	LANDLOCK_DEVICE, /* read and written, with ioctl() */
};

/**
 * landlock_begin() - Begin a rule set that denies everything this kernel can deny
 * @tcp_client:	TCP connections to others are left; to be connected to is denied
 * @version:	Set to the version of the kernel's interface, 0 if it has none
 *
 * Return: a descriptor, -ENOSYS or -EOPNOTSUPP if there is no Landlock, or another -errno
 */
int landlock_begin(bool tcp_client, unsigned int *version, struct err *e);

/* Allow the use of all below @path_fd (O_PATH), as the kernel of @version can. Return: 0 or -errno.
 */
int landlock_allow(int ruleset_fd, unsigned int version, int path_fd, enum landlock_use use);

/**
 * landlock_enforce() - For this thread, and threads and processes that it makes, for ever
 *
 * no_new_privs must be set.
 *
 * Return: 0 or -errno
 */
int landlock_enforce(int ruleset_fd);

#endif
