/* SPDX-License-Identifier: Apache-2.0 */
/* Errors a user sees; see err.h. */
#include "lib/err.h"

#undef err_set
#undef err_sys
#undef err_wrap

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int err_set(struct err *e, int code, const char *fmt, ...)
{
	va_list ap;

	if (!e)
		return code;
	e->code = code;
	va_start(ap, fmt);
	vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
	va_end(ap);
	return code;
}

int err_sys(struct err *e, int code, const char *fmt, ...)
{
	char what[200];
	va_list ap;

	if (!e)
		return code;
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	return err_set(e, code, "%s: %s", what, strerror(-code));
}

int err_wrap(struct err *e, int code, const char *fmt, ...)
{
	char inner[sizeof(e->msg)], what[128];
	va_list ap;
	int n;

	if (!e)
		return code;
	memcpy(inner, e->msg, sizeof(inner));
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	e->code = code;
	/* A message that is too long loses its end, never its context. */
	n = snprintf(e->msg, sizeof(e->msg), "%s: ", what);
	snprintf(e->msg + n, sizeof(e->msg) - (size_t)n, "%.*s", (int)sizeof(e->msg) - n - 1,
		 inner);
	return code;
}
