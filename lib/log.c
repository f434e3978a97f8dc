/* SPDX-License-Identifier: Apache-2.0 */
/* The process log; see log.h. */
#include "lib/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/clock.h"

static struct {
	const char *name;
	enum log_level level;
	int fd;
} log_to = {.name = "dormouse", .level = LOG_INFO, .fd = 2};

void log_init(const char *name, enum log_level level, int fd)
{
	log_to.name = name;
	log_to.level = level;
	log_to.fd = fd;
}

int log_fd(void)
{
	return log_to.fd;
}

void log_at(enum log_level level, const char *fmt, ...)
{
	static const char *const names[] = {"debug", "info", "warn", "error"};
	struct timespec now;
	char line[1024];
	struct tm tm;
	int head, body;
	size_t len;
	va_list ap;

	if (level < log_to.level)
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	head = snprintf(line, sizeof(line),
			"%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ %s %s: ", tm.tm_year + 1900,
			tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
			now.tv_nsec / 1000000, names[level], log_to.name);
	va_start(ap, fmt);
	body = vsnprintf(line + head, sizeof(line) - (size_t)head - 1, fmt, ap);
	va_end(ap);
	len = (size_t)head + (size_t)(body < 0 ? 0 : body);
	if (len > sizeof(line) - 2)
		len = sizeof(line) - 2;
	/* Text of a guest or a tenant may be in it, and may not write lines of its own. */
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
			line[i] = '?';
	line[len++] = '\n';
	/* One write(2): lines of several threads and processes do not mix. */
	if (write(log_to.fd, line, len) < 0)
		return;
}

bool log_allowed(struct log_limit *l, unsigned int burst)
{
	uint64_t now = clock_mono_ns();

	if (now - l->window_ns > 1000000000ULL) {
		if (l->dropped)
			log_warn("%u similar messages dropped", l->dropped);
		l->window_ns = now;
		l->used = l->dropped = 0;
	}
	if (l->used < burst) {
		l->used++;
		return true;
	}
	l->dropped++;
	return false;
}
