/* SPDX-License-Identifier: Apache-2.0 */
/* The user's terminal; see rawtty.h. */
#include "tools/cli/rawtty.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static volatile sig_atomic_t ended_by, resized, continued;

/* --- signals and size ------------------------------------------------------------------------ */

static void on_signal(int signo)
{
	if (signo == SIGWINCH)
		resized = 1;
	else if (signo == SIGCONT)
		continued = resized = 1;
	else
		ended_by = signo;
}

void rawtty_init(struct rawtty *t)
{
	static const int signals[] = {SIGWINCH, SIGCONT, SIGTERM, SIGHUP, SIGINT, SIGQUIT};
	struct sigaction sa = {.sa_handler = on_signal};
	sigset_t noted;

	memset(t, 0, sizeof(*t));
	sigemptyset(&noted);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		sigaddset(&noted, signals[i]);
		sigaction(signals[i], &sa, NULL);
	}
	sigprocmask(SIG_BLOCK, &noted, &t->waiting);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigdelset(&t->waiting, signals[i]);
	/* The settings can be changed from the background, too: at the end they must be. */
	signal(SIGTTOU, SIG_IGN);
	t->is_tty = !tcgetattr(STDIN_FILENO, &t->saved);
}

int rawtty_signal(void)
{
	return ended_by;
}

bool rawtty_resized(struct rawtty *t)
{
	bool was = resized;

	resized = 0;
	/* Who stopped us by force has given the terminal to somebody else meanwhile. */
	if (continued && t->raw)
		rawtty_enter(t);
	continued = 0;
	return was;
}

void rawtty_size(unsigned int *rows, unsigned int *cols)
{
	struct winsize size = {0};

	if ((ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || !size.ws_row || !size.ws_col) &&
	    (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) < 0 || !size.ws_row || !size.ws_col))
		size = (struct winsize){.ws_row = 24, .ws_col = 80};
	*rows = size.ws_row;
	*cols = size.ws_col;
}

void rawtty_enter(struct rawtty *t)
{
	struct termios raw = t->saved;

	if (!t->is_tty)
		return;
	cfmakeraw(&raw);
	t->raw = !tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) || t->raw;
}

void rawtty_leave(struct rawtty *t)
{
	if (t->raw)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &t->saved);
	t->raw = false;
}

/* --- modes -------------------------------------------------------------------------------------
 */

/* DEC private modes that programs switch and that spoil a prompt. */
static const struct mode {
	unsigned int number;
	bool is_set; /* how a terminal begins */
} modes[RAWTTY_MODES] = {
    {1, false},	   {25, true},	  {47, false},	 {1000, false}, {1002, false}, {1003, false},
    {1004, false}, {1006, false}, {1015, false}, {1047, false}, {1049, false}, {2004, false},
};

enum { PLAIN, ESCAPE, BRACKET, PRIVATE };

static void switch_modes(struct rawtty *t, bool on)
{
	for (unsigned int i = 0; i < t->numbers_len; i++)
		for (unsigned int m = 0; m < RAWTTY_MODES; m++)
			if (modes[m].number == t->numbers[i])
				t->changed[m] = on != modes[m].is_set;
}

static void end_number(struct rawtty *t)
{
	if (t->numbers_len < sizeof(t->numbers) / sizeof(t->numbers[0]))
		t->numbers[t->numbers_len++] = t->number;
	t->number = 0;
}

static uint8_t in_private(struct rawtty *t, uint8_t c)
{
	if (c >= '0' && c <= '9') {
		t->number = t->number < 100000 ? t->number * 10 + c - '0' : t->number;
		return PRIVATE;
	}
	end_number(t);
	if (c == ';')
		return PRIVATE;
	if (c == 'h' || c == 'l')
		switch_modes(t, c == 'h');
	return PLAIN;
}

static uint8_t after_escape(struct rawtty *t, uint8_t c)
{
	if (c == '=' || c == '>')
		t->keypad = c == '=';
	if (c == 'c') {
		memset(t->changed, 0, sizeof(t->changed));
		t->keypad = false;
	}
	return c == '[' ? BRACKET : PLAIN;
}

void rawtty_watch(struct rawtty *t, const uint8_t *data, size_t len)
{
	for (; len; data++, len--) {
		if (*data == 0x1b) {
			t->state = ESCAPE;
		} else if (t->state == ESCAPE) {
			t->state = after_escape(t, *data);
		} else if (t->state == BRACKET) {
			t->state = *data == '?' ? PRIVATE : PLAIN;
			t->number = t->numbers_len = 0;
		} else if (t->state == PRIVATE) {
			t->state = in_private(t, *data);
		}
	}
}

void rawtty_reset_text(const struct rawtty *t, char *out, size_t size)
{
	size_t at = 0;

	*out = '\0';
	for (unsigned int m = 0; m < RAWTTY_MODES; m++)
		if (t->changed[m] && at + 16 < size)
			at += (size_t)snprintf(out + at, size - at, "\033[?%u%c", modes[m].number,
					       modes[m].is_set ? 'h' : 'l');
	if ((t->keypad || at) && at + 16 < size)
		snprintf(out + at, size - at, "\033>\033[m");
}
