/* SPDX-License-Identifier: Apache-2.0 */
/* The sink of the log console; see console.h. */
#include "vmm/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "lib/fd.h"

/* #syscalls timerfd_create timerfd_settime ioctl[1==0x5401] */

#define LINE_BYTES   512
#define PARTIAL_NSEC 20000000 /* a line without an end is shown after this */

struct console {
	struct loop *loop; /* borrowed */
	struct loop_source timer_source;
	int fd; /* -1: everything is dropped */
	int timer_fd;
	bool owned, is_file;
	uint64_t file_bytes;
	size_t used;
	uint8_t line[LINE_BYTES];
};

static void file_make_room(struct console *c)
{
	static const char note[] = "[the console log was full and starts again here]\n";

	if (!c->is_file || c->file_bytes + c->used <= CONSOLE_FILE_MAX_BYTES)
		return;
	if (ftruncate(c->fd, 0) == 0 && write(c->fd, note, sizeof(note) - 1) > 0)
		c->file_bytes = sizeof(note) - 1;
}

void console_flush(struct console *c)
{
	struct pollfd p = {.fd = c->fd, .events = POLLOUT};

	if (c->fd < 0 || !c->used)
		return;
	file_make_room(c);
	/* A pipe that polls writable takes PIPE_BUF bytes at once. */
	if (c->is_file || (poll(&p, 1, 0) > 0 && (p.revents & POLLOUT))) {
		ssize_t n = write(c->fd, c->line, c->used);

		if (n > 0)
			c->file_bytes += (uint64_t)n;
	}
	c->used = 0;
}

static void timer_fired(struct loop_source *s, uint32_t events)
{
	struct console *c = container_of(s, struct console, timer_source);
	uint64_t times;

	(void)events;
	if (read(c->timer_fd, &times, sizeof(times)) > 0)
		console_flush(c);
}

void console_write(void *opaque, const uint8_t *data, size_t len_bytes)
{
	struct itimerspec soon = {.it_value.tv_nsec = PARTIAL_NSEC};
	struct console *c = opaque;

	if (c->fd < 0)
		return;
	for (size_t i = 0; i < len_bytes; i++) {
		if (c->used == 0)
			timerfd_settime(c->timer_fd, 0, &soon, NULL);
		c->line[c->used++] = data[i];
		if (data[i] == '\n' || c->used == LINE_BYTES)
			console_flush(c);
	}
}

int console_open(struct console *c, const char *path, struct err *e)
{
	struct stat st;

	if (!path)
		return 0;
	if (!strcmp(path, "-")) {
		c->fd = STDOUT_FILENO;
		return 0;
	}
	/* O_NONBLOCK: a FIFO without a reader must not stop us. */
	c->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0600);
	if (c->fd < 0)
		return err_sys(e, -errno, "console %s", path);
	c->owned = true;
	if (fstat(c->fd, &st) < 0)
		return err_sys(e, -errno, "console %s", path);
	c->is_file = S_ISREG(st.st_mode);
	c->file_bytes = (uint64_t)st.st_size;
	return 0;
}

static int start_timer(struct console *c, struct err *e)
{
	int rc = 0;

	c->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (c->timer_fd < 0)
		rc = -errno;
	if (!rc)
		rc = loop_add(c->loop, &c->timer_source, c->timer_fd, EPOLLIN, timer_fired);
	return rc ? err_sys(e, rc, "timer of the console") : 0;
}

int console_create(struct console **out, struct loop *loop, struct err *e)
{
	struct console *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return err_set(e, -ENOMEM, "out of memory");
	c->loop = loop;
	c->fd = c->timer_fd = -1;
	rc = start_timer(c, e);
	if (rc) {
		console_destroy(c);
		return rc;
	}
	*out = c;
	return 0;
}

void console_destroy(struct console *c)
{
	if (!c)
		return;
	console_flush(c);
	loop_remove(c->loop, &c->timer_source);
	fd_close(&c->timer_fd);
	if (c->owned)
		fd_close(&c->fd);
	free(c);
}
