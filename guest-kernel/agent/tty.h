/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Terminals of sessions: pairs of /dev/ptmx.
 *
 * The agent keeps the slave's side open as long as the program runs. Without it a program that
 * has closed the terminal and opens it again (by /dev/tty) would find it gone, for the first
 * moment without an open descriptor looks like the end from the master's side.
 */
#ifndef AGENT_TTY_H
#define AGENT_TTY_H

#include <stdint.h>

#include "guest-kernel/agent/users.h"

/**
 * tty_open() - A new terminal with the usual settings, for UTF-8
 * @u:		Will own it
 * @master:	Non-blocking; @slave: as programs have it. Both the caller's, on success
 *
 * Return: 0 or -errno
 */
int tty_open(const struct user *u, uint16_t rows, uint16_t cols, int *master, int *slave);

/*
 * The program in the foreground gets SIGWINCH, also if the size is what it was: then somebody
 * new looks at the terminal, and wants it drawn.
 */
void tty_resize(int master, uint16_t rows, uint16_t cols);

#endif
