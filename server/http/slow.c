/* SPDX-License-Identifier: Apache-2.0 */
/* Handlers that may take long; see slow.h. */
#include "server/http/slow.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/log.h"
#include "server/http/request.h"

#define STACK (512u << 10) /* as connections have */

struct slow {
	struct request inner; /* borrows from the request; its reply is `late` */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t ended;
	bool done; /* under the lock */
	bool begun;
	size_t sent;
	unsigned int blank_ms;
};

static void *run_handler(void *arg)
{
	struct slow *s = arg;

	s->inner.route->handler(&s->inner);
	pthread_mutex_lock(&s->lock);
	s->done = true;
	pthread_cond_broadcast(&s->ended);
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static bool wait_done(struct slow *s, unsigned int timeout_ms)
{
	uint64_t until = clock_mono_ms() + timeout_ms;
	struct timespec t = {.tv_sec = (time_t)(until / 1000),
			     .tv_nsec = (long)(until % 1000) * 1000000};
	bool done;

	pthread_mutex_lock(&s->lock);
	while (!s->done)
		if (pthread_cond_timedwait(&s->ended, &s->lock, &t))
			break;
	done = s->done;
	pthread_mutex_unlock(&s->lock);
	return done;
}

/* Waits for the handler, which borrows from the request. */
static void slow_free(void *tail)
{
	struct slow *s = tail;

	pthread_join(s->thread, NULL);
	json_decref(s->inner.json);
	strbuf_fini(&s->inner.late);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->ended);
	free(s);
}

static struct slow *slow_new(struct request *r)
{
	struct slow *s = calloc(1, sizeof(*s));
	pthread_condattr_t attr;

	if (!s)
		return NULL;
	s->inner = *r;
	s->inner.keeps_reply = true;
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->ended, &attr);
	pthread_condattr_destroy(&attr);
	return s;
}

static int start_thread(struct slow *s)
{
	pthread_attr_t attr;
	int rc;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	rc = pthread_create(&s->thread, &attr, run_handler, s);
	pthread_attr_destroy(&attr);
	return rc;
}

static unsigned int success_of(const struct route *route)
{
	return route->flags & ROUTE_CREATES ? 201 : 200;
}

static ssize_t read_late(void *cls, uint64_t pos, char *buf, size_t max)
{
	struct slow *s = cls;
	const struct strbuf *late = &s->inner.late;
	size_t n;

	(void)pos;
	/* The first blank at once: it is what makes the headers go out. */
	if (!wait_done(s, s->begun ? s->blank_ms : 0)) {
		s->begun = true;
		buf[0] = ' ';
		return 1;
	}
	if (s->inner.status != success_of(s->inner.route)) {
		log_guest("%s %s: failed with %u after its headers were sent: %.*s",
			  s->inner.method, s->inner.route->pattern, s->inner.status, (int)late->len,
			  late->data ? late->data : "");
		return MHD_CONTENT_READER_END_WITH_ERROR;
	}
	n = late->len - s->sent < max ? late->len - s->sent : max;
	if (!n)
		return MHD_CONTENT_READER_END_OF_STREAM;
	memcpy(buf, late->data + s->sent, n);
	s->sent += n;
	return (ssize_t)n;
}

static void reply_now(struct request *r, struct slow *s)
{
	bool retryable = s->inner.retryable;

	if (s->inner.late.len)
		reply_json(r, s->inner.status, &s->inner.late);
	else
		reply_empty(r, s->inner.status);
	if (retryable)
		reply_header(r, "Retry-After", "2");
	slow_free(s);
}

void slow_run(struct request *r, unsigned int quiet_ms, unsigned int blank_ms)
{
	struct slow *s = slow_new(r);

	if (!s || start_thread(s)) {
		/* Better without blanks than not at all. */
		if (s) {
			pthread_mutex_destroy(&s->lock);
			pthread_cond_destroy(&s->ended);
			free(s);
		}
		r->route->handler(r);
	} else if (wait_done(s, quiet_ms)) {
		reply_now(r, s);
	} else {
		s->blank_ms = blank_ms;
		reply_stream(r, success_of(r->route), "application/json", MHD_SIZE_UNKNOWN,
			     read_late, s, NULL);
		/* Not with the response: where the client has gone, that goes after the request. */
		r->tail = s;
		r->tail_release = slow_free;
	}
}
