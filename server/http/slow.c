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

#define STACK	   (512u << 10) /* as connections have */
#define EVENTS_MAX (256u << 10) /* that wait for the client */

struct slow {
	struct request inner; /* borrows from the request; its reply is `late` */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t ended;
	bool done; /* under the lock */
	bool begun;
	size_t sent;
	unsigned int blank_ms;

	/* Under the lock. */
	pthread_cond_t drained;
	bool streams;  /* the handler has begun a stream of events */
	bool answered; /* without one: it is too late for that */
	bool gone;
	bool finished; /* the last event is in `events` */
	struct strbuf events;
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

/* Under the lock: until the handler has ended, or has something for the client. */
static void wait_locked(struct slow *s, unsigned int timeout_ms)
{
	uint64_t until = clock_mono_ms() + timeout_ms;
	struct timespec t = {.tv_sec = (time_t)(until / 1000),
			     .tv_nsec = (long)(until % 1000) * 1000000};

	while (!s->done && !s->events.len && !(s->streams && !s->begun))
		if (pthread_cond_timedwait(&s->ended, &s->lock, &t))
			break;
}

static bool wait_done(struct slow *s, unsigned int timeout_ms)
{
	bool done;

	pthread_mutex_lock(&s->lock);
	wait_locked(s, timeout_ms);
	done = s->done;
	pthread_mutex_unlock(&s->lock);
	return done;
}

/* Waits for the handler, which borrows from the request. */
static void slow_free(void *tail)
{
	struct slow *s = tail;

	pthread_mutex_lock(&s->lock);
	s->gone = true;
	pthread_cond_broadcast(&s->drained);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL);
	json_decref(s->inner.json);
	strbuf_fini(&s->inner.late);
	strbuf_fini(&s->events);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->ended);
	pthread_cond_destroy(&s->drained);
	free(s);
}

static bool accepts_events(const struct request *r)
{
	const char *accept = request_header(r, "Accept");

	return accept && strstr(accept, "text/event-stream");
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
	pthread_cond_init(&s->drained, NULL);
	if (r->route->flags & ROUTE_EVENTS && accepts_events(r))
		s->inner.events = s;
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

/* --- events ------------------------------------------------------------------------------------
 */

static void add_event(struct strbuf *b, const char *event, const char *json, size_t len)
{
	strbuf_adds(b, "event: ");
	strbuf_adds(b, event);
	strbuf_adds(b, "\ndata: ");
	strbuf_add(b, json, len);
	strbuf_adds(b, "\n\n");
}

void events_begin(struct request *r)
{
	struct slow *s = r->events;

	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->streams = !s->answered;
	pthread_cond_broadcast(&s->ended);
	pthread_mutex_unlock(&s->lock);
}

void events_send(struct request *r, const char *event, const char *json, size_t len)
{
	struct slow *s = r->events;

	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	while (s->streams && !s->gone && s->events.len > EVENTS_MAX)
		pthread_cond_wait(&s->drained, &s->lock);
	if (s->streams && !s->gone)
		add_event(&s->events, event, json, len);
	pthread_cond_broadcast(&s->ended);
	pthread_mutex_unlock(&s->lock);
}

bool events_gone(const struct request *r)
{
	struct slow *s = r->events;
	bool gone;

	if (!s)
		return false;
	pthread_mutex_lock(&s->lock);
	gone = s->gone;
	pthread_mutex_unlock(&s->lock);
	return gone;
}

/* The reply is the last event. Under the lock. */
static void add_last(struct slow *s)
{
	static const char none[] = "{\"error\":\"out of memory\"}";
	const struct strbuf *late = &s->inner.late;
	bool good = s->inner.status >= 200 && s->inner.status < 300;

	if (late->len)
		add_event(&s->events, good ? "result" : "error", late->data, late->len);
	else
		add_event(&s->events, "error", none, sizeof(none) - 1);
	s->finished = true;
}

static ssize_t take_events(struct slow *s, char *buf, size_t max)
{
	struct strbuf *b = &s->events;
	size_t n = b->len - s->sent < max ? b->len - s->sent : max;

	memcpy(buf, b->data + s->sent, n);
	s->sent += n;
	if (s->sent == b->len) {
		strbuf_fini(b);
		s->sent = 0;
		pthread_cond_broadcast(&s->drained);
	}
	return (ssize_t)n;
}

static ssize_t read_events(void *cls, uint64_t pos, char *buf, size_t max)
{
	static const char keepalive[] = ": keepalive\n\n";
	struct slow *s = cls;
	ssize_t n;

	(void)pos;
	pthread_mutex_lock(&s->lock);
	/* The first record at once: it is what makes the headers go out. */
	if (s->begun)
		wait_locked(s, s->blank_ms);
	s->begun = true;
	if (s->done && !s->events.len && !s->finished)
		add_last(s);
	if (s->events.failed) {
		n = MHD_CONTENT_READER_END_WITH_ERROR;
	} else if (s->events.len) {
		n = take_events(s, buf, max);
	} else if (s->finished) {
		n = MHD_CONTENT_READER_END_OF_STREAM;
	} else {
		n = (ssize_t)(sizeof(keepalive) - 1 < max ? sizeof(keepalive) - 1 : max);
		memcpy(buf, keepalive, (size_t)n);
	}
	pthread_mutex_unlock(&s->lock);
	return n;
}

/* --- the reply --------------------------------------------------------------------------------
 */

/* From here on it is one or the other. */
static bool is_stream(struct slow *s)
{
	bool streams;

	pthread_mutex_lock(&s->lock);
	s->answered = !s->streams;
	streams = s->streams;
	pthread_mutex_unlock(&s->lock);
	return streams;
}

static void reply_events(struct request *r, struct slow *s)
{
	reply_stream(r, 200, "text/event-stream", MHD_SIZE_UNKNOWN, read_events, s, NULL);
	reply_header(r, "Cache-Control", "no-cache");
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
			pthread_cond_destroy(&s->drained);
			free(s);
		}
		r->route->handler(r);
	} else if (wait_done(s, quiet_ms) && !is_stream(s)) {
		reply_now(r, s);
	} else {
		s->blank_ms = blank_ms;
		if (is_stream(s))
			reply_events(r, s);
		else
			reply_stream(r, success_of(r->route), "application/json", MHD_SIZE_UNKNOWN,
				     read_late, s, NULL);
		/* Not with the response: where the client has gone, that goes after the request. */
		r->tail = s;
		r->tail_release = slow_free;
	}
}
