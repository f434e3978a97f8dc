/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process log: one line per event on stderr or on a given descriptor,
 * "2026-01-02T03:04:05.678Z warn vmm: text". Thread-safe; never fails the caller.
 */
#ifndef LIB_LOG_H
#define LIB_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

/**
 * log_init() - Set who speaks, from which level on, and where to
 * @name:	Program name; borrowed, must live as long as the process
 * @level:	Lines below it are dropped
 * @fd:		Borrowed; 2 for stderr
 */
void log_init(const char *name, enum log_level level, int fd);
/* Where the log goes. */
int log_fd(void);
/*
 * From now on each line is a JSON object: time, level, name, message, and sandbox, if the message
 * names one (sb-01234567). Bytes beyond ASCII become '?'.
 */
void log_use_json(void);

void log_at(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_debug(...) log_at(LOG_DEBUG, __VA_ARGS__)
#define log_info(...)  log_at(LOG_INFO, __VA_ARGS__)
#define log_warn(...)  log_at(LOG_WARN, __VA_ARGS__)
#define log_error(...) log_at(LOG_ERROR, __VA_ARGS__)

/*
 * For messages that a guest or a tenant can cause: at most @burst lines per
 * second from one place, then one line with the number that was dropped. Any thread.
 */
struct log_limit {
	uint64_t window_ns;	    /* atomic, as the others */
	unsigned int used, dropped; /* a reader may see a window that has just begun half */
};
bool log_allowed(struct log_limit *l, unsigned int burst);

#define log_guest(...)                                                                             \
	do {                                                                                       \
		static struct log_limit limit_;                                                    \
		if (log_allowed(&limit_, 5))                                                       \
			log_warn(__VA_ARGS__);                                                     \
	} while (0)

#endif
