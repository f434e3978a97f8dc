/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Landlock; see landlock.h.
 *
 * The kernel is asked for the version of its interface, and each version's rights are used from
 * that version on. They are declared here: the kernel headers that we build with may be older than
 * the kernel.
 */
#include "lib/landlock.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Since Linux 5.13, the same numbers on all architectures. */
#define SYS_LANDLOCK_CREATE   444
#define SYS_LANDLOCK_ADD      445
#define SYS_LANDLOCK_RESTRICT 446

#define CREATE_VERSION	  1u
#define RULE_PATH_BENEATH 1

/* The kernel accepts structures that are longer than its own if what it does not know is 0. */
struct ruleset {
	uint64_t fs;	 /* rights that are denied where no rule allows them */
	uint64_t net;	 /* version 4 */
	uint64_t scoped; /* version 6 */
};

struct path_beneath {
	uint64_t allowed;
	int32_t parent_fd;
} __attribute__((packed));

#define FS_EXECUTE     (1ull << 0)
#define FS_WRITE_FILE  (1ull << 1)
#define FS_READ_FILE   (1ull << 2)
#define FS_READ_DIR    (1ull << 3)
#define FS_REMOVE_FILE (1ull << 5)
#define FS_MAKE_REG    (1ull << 8)
#define FS_MAKE_SOCK   (1ull << 9)
#define FS_VERSION_1   ((1ull << 13) - 1)
#define FS_REFER       (1ull << 13) /* version 2 */
#define FS_TRUNCATE    (1ull << 14) /* version 3 */
#define FS_IOCTL_DEV   (1ull << 15) /* version 5 */
/* What can be said of a file that is no directory. */
#define FS_OF_FILES (FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV)

#define NET_BIND_TCP	(1ull << 0)
#define NET_CONNECT_TCP (1ull << 1)

#define SCOPE_ABSTRACT_UNIX_SOCKET (1ull << 0)
#define SCOPE_SIGNAL		   (1ull << 1)

static uint64_t known_rights(unsigned int version)
{
	return FS_VERSION_1 | (version >= 2 ? FS_REFER : 0) | (version >= 3 ? FS_TRUNCATE : 0) |
	       (version >= 5 ? FS_IOCTL_DEV : 0);
}

int landlock_begin(bool tcp_client, unsigned int *version, struct err *e)
{
	long rc = syscall(SYS_LANDLOCK_CREATE, NULL, 0, CREATE_VERSION);
	uint64_t net = NET_BIND_TCP | (tcp_client ? 0 : NET_CONNECT_TCP);
	struct ruleset all;

	*version = 0;
	if (rc < 0)
		return -errno;
	*version = (unsigned int)rc;
	all = (struct ruleset){
	    .fs = known_rights(*version),
	    .net = *version >= 4 ? net : 0,
	    .scoped = *version >= 6 ? SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL : 0,
	};
	rc = syscall(SYS_LANDLOCK_CREATE, &all, sizeof(all), 0);
	return rc < 0 ? err_sys(e, -errno, "Landlock") : (int)rc;
}

int landlock_allow(int ruleset_fd, unsigned int version, int path_fd, enum landlock_use use)
{
	static const uint64_t rights[] = {
	    [LANDLOCK_READ] = FS_READ_FILE,
	    [LANDLOCK_WRITE] = FS_READ_FILE | FS_WRITE_FILE | FS_READ_DIR | FS_REMOVE_FILE |
			       FS_MAKE_REG | FS_MAKE_SOCK | FS_TRUNCATE,
	    [LANDLOCK_DEVICE] = FS_READ_FILE | FS_WRITE_FILE | FS_IOCTL_DEV,
	};
	struct path_beneath rule = {rights[use] & known_rights(version), path_fd};
	struct stat st;

	if (fstat(path_fd, &st) < 0)
		return -errno;
	if (!S_ISDIR(st.st_mode))
		rule.allowed &= FS_OF_FILES;
	return syscall(SYS_LANDLOCK_ADD, ruleset_fd, RULE_PATH_BENEATH, &rule, 0) < 0 ? -errno : 0;
}

int landlock_enforce(int ruleset_fd)
{
	return syscall(SYS_LANDLOCK_RESTRICT, ruleset_fd, 0) < 0 ? -errno : 0;
}
