/* SPDX-License-Identifier: Apache-2.0 */
/* Terminals; see tty.h. */
#include "guest-kernel/agent/tty.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "lib/fd.h"

static int set_up(int slave, const struct user *u, uint16_t rows, uint16_t cols)
{
	struct winsize size = {.ws_row = rows, .ws_col = cols};
	struct termios t;

	if (tcgetattr(slave, &t) < 0)
		return -errno;
	t.c_iflag |= IUTF8;
	if (tcsetattr(slave, TCSANOW, &t) < 0 || ioctl(slave, TIOCSWINSZ, &size) < 0)
		return -errno;
	/* Mode and group are what the mount says. An agent that is not root has no other user. */
	if (geteuid() == 0 && fchown(slave, u->uid, (gid_t)-1) < 0)
		return -errno;
	return 0;
}

int tty_open(const struct user *u, uint16_t rows, uint16_t cols, int *master, int *slave)
{
	int locked = 0, rc = 0;

	*slave = -1;
	*master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (*master < 0)
		return -errno;
	/* By the master, not by name: whatever somebody has mounted on /dev/pts. */
	if (ioctl(*master, TIOCSPTLCK, &locked) < 0 ||
	    (*slave = ioctl(*master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0)
		rc = -errno;
	if (!rc)
		rc = set_up(*slave, u, rows, cols);
	if (rc) {
		fd_close(master);
		fd_close(slave);
	}
	return rc;
}

void tty_resize(int master, uint16_t rows, uint16_t cols)
{
	struct winsize size = {.ws_row = rows, .ws_col = cols}, now;
	pid_t group;

	if (!ioctl(master, TIOCGWINSZ, &now) && (now.ws_row != rows || now.ws_col != cols))
		ioctl(master, TIOCSWINSZ, &size);
	else if (!ioctl(master, TIOCGPGRP, &group) && group > 0)
		kill(-group, SIGWINCH);
}
