/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The user's terminal while another one is shown in it: raw mode, its size, and what the other
 * side has switched on in it, so that it can be given back as it was. One at a time.
 */
#ifndef TOOLS_CLI_RAWTTY_H
#define TOOLS_CLI_RAWTTY_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <termios.h>

#define RAWTTY_MODES 12

struct rawtty {
	struct termios saved;
	bool is_tty; /* standard input is one */
	bool raw;
	sigset_t waiting; /* for ppoll(): the signals below can only come there */

	/* What has been switched in the terminal by what was shown; see rawtty_watch(). */
	bool changed[RAWTTY_MODES];
	bool keypad;
	uint8_t state; /* of the reading of what is shown */
	unsigned int number, numbers[8], numbers_len;
};

/* From now on SIGWINCH, SIGTERM, SIGHUP, SIGINT, SIGQUIT and SIGCONT are noted, and end nothing. */
void rawtty_init(struct rawtty *t);
/* Return: the signal that asks for the end, or 0. */
int rawtty_signal(void);
/* Once after each SIGWINCH, and after SIGCONT, which may find another size. */
bool rawtty_resized(struct rawtty *t);
/* Rows and columns; 24 and 80 if nobody knows. */
void rawtty_size(unsigned int *rows, unsigned int *cols);

/* Raw mode, if standard input is a terminal. */
void rawtty_enter(struct rawtty *t);
/* Back to what it was before rawtty_enter(). */
void rawtty_leave(struct rawtty *t);

/* Look at bytes that are shown: which modes do they switch? */
void rawtty_watch(struct rawtty *t, const uint8_t *data, size_t len);
/**
 * rawtty_reset_text() - What switches all modes back that were changed, for the end
 * @out:	At least 256 bytes; a string, empty if nothing was changed
 */
void rawtty_reset_text(const struct rawtty *t, char *out, size_t size);

#endif
