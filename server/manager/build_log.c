/* SPDX-License-Identifier: Apache-2.0 */
/* The log of a build, and those who read it; see build.h. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/clock.h"
#include "server/manager/build_int.h"

#define LOG_BYTES (1u << 20)
#define LOOK_MS	  500 /* how often what waits looks whether the server stops */

int builds_init(struct manager *m, struct err *e)
{
	pthread_condattr_t attr;

	m->builds = calloc(1, sizeof(*m->builds));
	if (!m->builds)
		return err_set(e, -ENOMEM, "out of memory");
	pthread_mutex_init(&m->builds->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&m->builds->changed, &attr);
	pthread_condattr_destroy(&attr);
	return 0;
}

void builds_fini(struct manager *m)
{
	if (!m->builds)
		return;
	pthread_mutex_destroy(&m->builds->lock);
	pthread_cond_destroy(&m->builds->changed);
	free(m->builds);
	m->builds = NULL;
}

void builds_wait_change(struct builds *bs, unsigned int ms)
{
	uint64_t until = clock_mono_ms() + ms;
	struct timespec t = {.tv_sec = (time_t)(until / 1000),
			     .tv_nsec = (long)(until % 1000) * 1000000};

	pthread_cond_timedwait(&bs->changed, &bs->lock, &t);
}

/* --- one build --------------------------------------------------------------------------------
 */

void build_free(struct build *b)
{
	for (size_t i = 0; i < b->n_lines; i++)
		free(b->lines[i].message);
	free(b->lines);
	free(b->keys);
	free(b->base_version);
	manifest_fini(&b->manifest);
	free(b);
}

struct build *build_get(struct build *b)
{
	pthread_mutex_lock(&b->m->builds->lock);
	b->refs++;
	pthread_mutex_unlock(&b->m->builds->lock);
	return b;
}

void build_put(struct build *b)
{
	bool last;

	if (!b)
		return;
	pthread_mutex_lock(&b->m->builds->lock);
	last = !--b->refs;
	pthread_mutex_unlock(&b->m->builds->lock);
	if (last)
		build_free(b);
}

/* --- its log --------------------------------------------------------------------------------- */

static void drop_oldest(struct build *b)
{
	size_t n = 0;

	while (n < b->n_lines && b->log_bytes > LOG_BYTES) {
		b->log_bytes -= strlen(b->lines[n].message);
		free(b->lines[n++].message);
	}
	b->n_lines -= n;
	b->first_line += n;
	memmove(b->lines, b->lines + n, b->n_lines * sizeof(*b->lines));
}

/* Takes @message over. A line for which there is no memory is left out. */
static void add_line(struct build *b, int step, const char *type, char *message)
{
	struct builds *bs = b->m->builds;

	pthread_mutex_lock(&bs->lock);
	if (b->n_lines == b->cap_lines) {
		size_t cap = b->cap_lines ? b->cap_lines * 2 : 32;
		struct log_line *grown = realloc(b->lines, cap * sizeof(*grown));

		if (!grown) {
			pthread_mutex_unlock(&bs->lock);
			free(message);
			return;
		}
		b->lines = grown;
		b->cap_lines = cap;
	}
	b->lines[b->n_lines++] = (struct log_line){step, type, message};
	b->log_bytes += strlen(message);
	/* By a quarter at once: not all is moved for every line. */
	if (b->log_bytes > LOG_BYTES + LOG_BYTES / 4)
		drop_oldest(b);
	pthread_cond_broadcast(&bs->changed);
	pthread_mutex_unlock(&bs->lock);
}

void build_log(struct build *b, int step, const char *type, const char *fmt, ...)
{
	char *message;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&message, fmt, ap);
	va_end(ap);
	if (n >= 0)
		add_line(b, step, type, message);
}

void build_log_bytes(struct build *b, int step, const char *type, const char *bytes, size_t len)
{
	char *message = malloc(len + 1);

	if (!message)
		return;
	for (size_t i = 0; i < len; i++)
		message[i] = bytes[i] ? bytes[i] : ' ';
	message[len] = '\0';
	add_line(b, step, type, message);
}

/* Under the lock. */
static int take_line(const struct build *b, uint64_t *cursor, struct build_line *line)
{
	const struct log_line *l;

	if (*cursor < b->first_line) {
		line->step = 0;
		line->type = "build";
		if (asprintf(&line->message, "... %llu lines are left out",
			     (unsigned long long)(b->first_line - *cursor)) < 0)
			return -EAGAIN;
		*cursor = b->first_line;
		return 1;
	}
	if (*cursor == b->first_line + b->n_lines)
		return b->done ? 0 : -EAGAIN;
	l = &b->lines[*cursor - b->first_line];
	line->step = l->step;
	line->type = l->type;
	line->message = strdup(l->message);
	if (!line->message)
		return -EAGAIN;
	++*cursor;
	return 1;
}

int build_next(struct build *b, uint64_t *cursor, int timeout_ms, struct build_line *line)
{
	uint64_t deadline = clock_mono_ms() + (uint64_t)timeout_ms, now;
	struct builds *bs = b->m->builds;
	int rc;

	pthread_mutex_lock(&bs->lock);
	while ((rc = take_line(b, cursor, line)) == -EAGAIN && !manager_interrupted(b->m) &&
	       (now = clock_mono_ms()) < deadline)
		builds_wait_change(bs, deadline - now < LOOK_MS ? (unsigned int)(deadline - now)
								: LOOK_MS);
	pthread_mutex_unlock(&bs->lock);
	return rc;
}

int build_wait(struct build *b, struct build_result *r)
{
	struct builds *bs = b->m->builds;
	bool done;

	pthread_mutex_lock(&bs->lock);
	while (!b->done && !manager_interrupted(b->m))
		builds_wait_change(bs, LOOK_MS);
	done = b->done;
	pthread_mutex_unlock(&bs->lock);
	if (!done)
		return -ECANCELED;
	*r = (struct build_result){
	    .error = b->error[0] ? b->error : NULL,
	    .passes = b->passes,
	    .checkpoint_id = b->checkpoint_id,
	    .hash = b->manifest.hash,
	    .base_version = b->base_version,
	    .cached = b->cached,
	};
	return 0;
}
