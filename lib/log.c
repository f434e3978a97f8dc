/* SPDX-License-Identifier: Apache-2.0 */
/* The process log; see log.h. */
#include "lib/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/clock.h"

#define LINE_MAX_TEXT 1024

static struct {
	const char *name;
	enum log_level level;
	int fd;
	bool json;
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

void log_use_json(void)
{
	log_to.json = true;
}

/* The first "sb-" and 8 hexadecimal digits in a text; NULL if there are none. */
static const char *find_sandbox(const char *text)
{
	for (; (text = strstr(text, "sb-")); text++)
		if (strspn(text + 3, "0123456789abcdef") == 8)
			return text;
	return NULL;
}

/* Control characters are gone already: see clean(). */
static size_t add_escaped(char *line, size_t at, size_t max, const char *text)
{
	for (; *text && at + 2 < max; text++) {
		if (*text == '"' || *text == '\\')
			line[at++] = '\\';
		line[at++] = *text & 0x80 ? '?' : *text;
	}
	return at;
}

/* Text of a guest or a tenant may be in it, and may not write lines of its own. */
static void clean(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == 0x7f)
			*text = '?';
}

/* Return: the length without a newline, for which there is room. */
static size_t format_json(char *line, size_t size, const char *head[3], const char *text)
{
	const char *sandbox = find_sandbox(text);
	int len = snprintf(line, size, "{\"time\":\"%s\",\"level\":\"%s\",\"name\":\"%s\"", head[0],
			   head[1], head[2]);
	size_t at = len < 0 ? 0 : (size_t)len;

	if (sandbox)
		at += (size_t)snprintf(line + at, size - at, ",\"sandbox\":\"%.11s\"", sandbox);
	at += (size_t)snprintf(line + at, size - at, ",\"message\":\"");
	at = add_escaped(line, at, size - 4, text);
	line[at++] = '"';
	line[at++] = '}';
	return at;
}

static size_t format_text(char *line, size_t size, const char *head[3], const char *text)
{
	int len = snprintf(line, size - 1, "%s %s %s: %s", head[0], head[1], head[2], text);

	return len < 0 ? 0 : (size_t)len < size - 1 ? (size_t)len : size - 2;
}

void log_at(enum log_level level, const char *fmt, ...)
{
	static const char *const names[] = {"debug", "info", "warn", "error"};
	char text[1024], line[1200], when[80];
	const char *head[3] = {when, names[level], log_to.name};
	struct timespec now;
	struct tm tm;
	size_t len;
	va_list ap;

	if (level < log_to.level)
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	snprintf(when, sizeof(when), "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ", tm.tm_year + 1900,
		 tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
		 now.tv_nsec / 1000000);
	va_start(ap, fmt);
	if (vsnprintf(text, sizeof(text), fmt, ap) < 0)
		text[0] = '\0';
	va_end(ap);
	clean(text);
	len = log_to.json ? format_json(line, sizeof(line), head, text)
			  : format_text(line, LINE_MAX_TEXT, head, text);
	line[len++] = '\n';
	/* One write(2): lines of several threads and processes do not mix. */
	if (write(log_to.fd, line, len) < 0)
		return;
}

/* Without a lock: the process that writes a checkpoint was copied while other threads ran. */
bool log_allowed(struct log_limit *l, unsigned int burst)
{
	uint64_t now = clock_mono_ns(), window = __atomic_load_n(&l->window_ns, __ATOMIC_RELAXED);

	/* One thread begins the new window. */
	if (now - window > 1000000000ULL &&
	    __atomic_compare_exchange_n(&l->window_ns, &window, now, false, __ATOMIC_RELAXED,
					__ATOMIC_RELAXED)) {
		unsigned int dropped = __atomic_exchange_n(&l->dropped, 0, __ATOMIC_RELAXED);

		__atomic_store_n(&l->used, 0, __ATOMIC_RELAXED);
		if (dropped)
			log_warn("%u similar messages dropped", dropped);
	}
	if (__atomic_fetch_add(&l->used, 1, __ATOMIC_RELAXED) < burst)
		return true;
	__atomic_add_fetch(&l->dropped, 1, __ATOMIC_RELAXED);
	return false;
}
