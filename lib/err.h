/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors a user sees: what was tried and why it failed.
 *
 * Functions return 0 or -errno. Those whose failure reaches a user also take a
 * `struct err *e` as their last argument; it may be NULL. It lives on the
 * caller's stack, needs no release, and is only meaningful after a failure.
 */
#ifndef LIB_ERR_H
#define LIB_ERR_H

struct err {
	int code; /* the -errno that the function returned */
	char msg[256];
};

/**
 * err_set() - Describe a failure
 * @e:		May be NULL
 * @code:	Negative errno
 * @fmt:	What was tried, and on what; the errno's text is not added
 *
 * Return: @code, so that `return err_set(e, -EINVAL, ...)` is one line.
 */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/**
 * err_sys() - As err_set(), with ": <text of the errno>" appended
 */
int err_sys(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/**
 * err_wrap() - Put "context: " before the message of a failure on its way up
 *
 * Return: @code
 */
int err_wrap(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/*
 * The analyzer sees one file at a time. Without knowing that these return their
 * @code it assumes that failures may come back as 0.
 */
#ifdef __clang_analyzer__
#define err_set(e, code, ...)  ((void)(err_set)(e, code, __VA_ARGS__), (code))
#define err_sys(e, code, ...)  ((void)(err_sys)(e, code, __VA_ARGS__), (code))
#define err_wrap(e, code, ...) ((void)(err_wrap)(e, code, __VA_ARGS__), (code))
#endif

#endif
