/* SPDX-License-Identifier: Apache-2.0 */
/* Readers of sessions; see session.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/session_int.h"

#define RESYNC_WAIT_MS 20000
#define ORDER_MAX      65536u /* segments; beyond, the order of the oldest bytes is forgotten */

/* --- the order of two streams -------------------------------------------------------------------
 */

static void order_drop(struct order *o, size_t n)
{
	if (!n || !o->segments)
		return;
	o->n -= n;
	o->base += n;
	memmove(o->segments, o->segments + n, o->n * sizeof(*o->segments));
}

static bool order_grow(struct order *o)
{
	size_t cap = o->cap ? o->cap * 2 : 16;
	struct order_segment *grown;

	if (cap > ORDER_MAX)
		return false;
	grown = reallocarray(o->segments, cap, sizeof(*grown));
	if (!grown)
		return false;
	o->segments = grown;
	o->cap = cap;
	return true;
}

void order_note(struct order *o, unsigned int stream, uint64_t end)
{
	struct order_segment *last = o->n ? &o->segments[o->n - 1] : NULL;

	if (last && last->stream == stream) {
		last->end = end;
		return;
	}
	if (o->n == o->cap && !order_grow(o))
		order_drop(o, o->n - o->n / 2);
	if (!o->segments)
		return; /* read as if all of stdout had come first */
	o->segments[o->n++] = (struct order_segment){stream, end};
}

void order_trim(struct order *o, const struct outbuf out[2])
{
	size_t n = 0;

	while (n < o->n && o->segments[n].end <= out[o->segments[n].stream].start)
		n++;
	/* Moving the rest is worth it for many only. */
	if (n > o->n / 2 || n >= 4096)
		order_drop(o, n);
}

void order_fini(struct order *o)
{
	free(o->segments);
	memset(o, 0, sizeof(*o));
}

/* --- attaching
 * ------------------------------------------------------------------------------------ */

/* Go back from the end, through both streams as they came, until there are enough bytes: for who
 * comes first, and may just have started it, all. */
static void find_replay(const struct exec_session *x, uint64_t at[2])
{
	const struct order *o = &x->order;
	uint64_t left = x->followed ? EXEC_REPLAY_BYTES : UINT64_MAX;

	at[0] = outbuf_end(&x->out[0]);
	at[1] = outbuf_end(&x->out[1]);
	for (size_t i = o->n; i && left; i--) {
		unsigned int stream = o->segments[i - 1].stream;
		/* Streams take turns: the one before the last is the same. */
		uint64_t begin = i >= 3 ? o->segments[i - 3].end : 0;

		if (begin < x->out[stream].start)
			begin = x->out[stream].start;
		if (at[stream] - begin > left)
			begin = at[stream] - left;
		left -= at[stream] - begin;
		at[stream] = begin;
	}
	/* What came before the order was kept. */
	for (int i = 0; i < 2 && left; i++) {
		uint64_t more = at[i] - x->out[i].start < left ? at[i] - x->out[i].start : left;

		at[i] -= more;
		left -= more;
	}
}

/* Under x->lock; what is kept is about to be replaced. */
static int await_resync(struct exec_session *x, struct err *e)
{
	uint64_t deadline = clock_mono_ms() + RESYNC_WAIT_MS;
	struct timespec t = {.tv_sec = (time_t)(deadline / 1000),
			     .tv_nsec = (long)(deadline % 1000) * 1000000};

	while (x->state == EXEC_RUNNING && (x->resync || x->rewinds != sandbox_rewinds(x->sandbox)))
		if (pthread_cond_timedwait(&x->changed, &x->lock, &t))
			return err_set(e, -EAGAIN, "the session cannot be reached yet; try again");
	return 0;
}

static int place_reader(struct exec_reader *r, const uint64_t from[2], struct err *e)
{
	struct exec_session *x = r->x;

	for (int i = 0; i < 2; i++) {
		r->live_at[i] = outbuf_end(&x->out[i]);
		if (from && (from[i] < x->out[i].start || from[i] > r->live_at[i]))
			return err_set(e, -ERANGE, "the session has bytes %llu to %llu of %s",
				       (unsigned long long)x->out[i].start,
				       (unsigned long long)r->live_at[i], i ? "stderr" : "stdout");
	}
	if (from)
		memcpy(r->at, from, sizeof(r->at));
	else
		find_replay(x, r->at);
	x->followed = true;
	r->segment = x->order.base;
	return 0;
}

/* Those of a sandbox, so that they can be cut. Under s->lock. */
static void link_reader(struct sandbox *s, struct exec_reader *r)
{
	r->sandbox_next = s->readers;
	if (s->readers)
		s->readers->sandbox_prev = r;
	s->readers = r;
}

static void unlink_reader(struct sandbox *s, struct exec_reader *r)
{
	if (r->sandbox_prev)
		r->sandbox_prev->sandbox_next = r->sandbox_next;
	else
		s->readers = r->sandbox_next;
	if (r->sandbox_next)
		r->sandbox_next->sandbox_prev = r->sandbox_prev;
}

int exec_attach(struct exec_session *x, const uint64_t from[2], struct exec_reader **out,
		struct err *e)
{
	struct exec_reader *r = calloc(1, sizeof(*r));
	int rc;

	if (!r)
		return err_set(e, -ENOMEM, "out of memory");
	r->fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r->fd < 0) {
		rc = -errno;
		free(r);
		return err_sys(e, rc, "eventfd");
	}
	r->signalled = true;
	r->x = exec_get(x);
	pthread_mutex_lock(&x->lock);
	rc = await_resync(x, e);
	pthread_mutex_unlock(&x->lock);
	if (rc)
		goto failed;
	r->sandbox = session_sandbox(x);
	if (r->sandbox)
		pthread_mutex_lock(&r->sandbox->lock);
	pthread_mutex_lock(&x->lock);
	rc = place_reader(r, from, e);
	if (!rc) {
		r->next = x->readers;
		x->readers = r;
		x->alone_since_ms = 0;
		if (r->sandbox)
			link_reader(r->sandbox, r);
	}
	pthread_mutex_unlock(&x->lock);
	if (r->sandbox)
		pthread_mutex_unlock(&r->sandbox->lock);
	if (!rc) {
		*out = r;
		return 0;
	}
failed:
	sandbox_put(r->sandbox);
	exec_put(r->x);
	fd_close(&r->fd);
	free(r);
	return rc;
}

/* A reader has read, or left: the driver may go on. Not under x->lock. */
static void unhold(struct exec_session *x)
{
	struct sandbox *s = session_sandbox(x);

	if (!s)
		return;
	pthread_mutex_lock(&s->m->loop_lock);
	session_unpause(s->m, x);
	pthread_mutex_unlock(&s->m->loop_lock);
	sandbox_put(s);
}

void exec_detach(struct exec_reader *r)
{
	struct exec_session *x = r->x;
	struct exec_reader **at = &x->readers;
	bool held;

	if (r->sandbox) {
		pthread_mutex_lock(&r->sandbox->lock);
		unlink_reader(r->sandbox, r);
		pthread_mutex_unlock(&r->sandbox->lock);
	}
	pthread_mutex_lock(&x->lock);
	while (*at != r)
		at = &(*at)->next;
	*at = r->next;
	if (!x->readers)
		x->alone_since_ms = clock_mono_ms();
	held = x->held;
	x->held = false;
	pthread_mutex_unlock(&x->lock);
	if (held)
		unhold(x);
	sandbox_put(r->sandbox);
	exec_put(x);
	fd_close(&r->fd);
	free(r);
}

/* --- reading
 * -------------------------------------------------------------------------------------- */

int exec_reader_fd(const struct exec_reader *r)
{
	return r->fd;
}

unsigned int exec_readers(struct exec_session *x)
{
	unsigned int n = 0;

	pthread_mutex_lock(&x->lock);
	for (const struct exec_reader *r = x->readers; r; r = r->next)
		n++;
	pthread_mutex_unlock(&x->lock);
	return n;
}

void exec_reader_at(struct exec_reader *r, uint64_t at[2])
{
	pthread_mutex_lock(&r->x->lock);
	memcpy(at, r->at, sizeof(r->at));
	pthread_mutex_unlock(&r->x->lock);
}

/* Up to where this reader may read on in a stream, and in which; false: there is nothing. */
static bool next_bytes(struct exec_reader *r, unsigned int *stream, uint64_t *end)
{
	const struct exec_session *x = r->x;
	const struct order *o = &x->order;

	if (r->segment < o->base)
		r->segment = o->base;
	for (; r->segment < o->base + o->n; r->segment++) {
		const struct order_segment *seg = &o->segments[r->segment - o->base];

		*stream = seg->stream;
		*end = seg->end;
		if (seg->end > r->at[seg->stream])
			return true;
		if (r->segment + 1 == o->base + o->n)
			break; /* it may grow */
	}
	for (*stream = 0; *stream < 2; (*stream)++) {
		*end = outbuf_end(&x->out[*stream]);
		if (*end > r->at[*stream])
			return true;
	}
	return false;
}

static size_t copy_bytes(struct exec_reader *r, unsigned int stream, uint64_t end, void *buf,
			 size_t max)
{
	const struct outbuf *b = &r->x->out[stream];
	size_t n;

	if (r->at[stream] < b->start)
		r->at[stream] = b->start; /* only ever where memory was short */
	/* The end of the replay must be seen where it is. */
	if (!r->live_said && r->at[stream] < r->live_at[stream] && end > r->live_at[stream])
		end = r->live_at[stream];
	n = end - r->at[stream] < max ? (size_t)(end - r->at[stream]) : max;
	memcpy(buf, b->data + (r->at[stream] - b->start), n);
	r->at[stream] += n;
	return n;
}

static enum exec_news nothing(struct exec_reader *r)
{
	uint64_t count;

	if (r->signalled && read(r->fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		log_error("an event of a reader: %s", strerror(errno));
	r->signalled = false;
	return EXEC_NOTHING;
}

static enum exec_news read_locked(struct exec_reader *r, void *buf, size_t max, size_t *len)
{
	struct exec_session *x = r->x;
	unsigned int stream;
	uint64_t end;

	*len = 0;
	if (r->cut)
		return EXEC_CUT;
	if (r->room) {
		r->room = false;
		return EXEC_ROOM;
	}
	if (!max)
		return nothing(r);
	if (!r->live_said && r->at[0] >= r->live_at[0] && r->at[1] >= r->live_at[1]) {
		r->live_said = true;
		return EXEC_LIVE;
	}
	if (next_bytes(r, &stream, &end)) {
		*len = copy_bytes(r, stream, end, buf, max);
		if (x->sandbox)
			sandbox_touch(x->sandbox);
		return stream ? EXEC_STDERR : EXEC_STDOUT;
	}
	if (x->state != EXEC_RUNNING)
		return EXEC_END;
	return nothing(r);
}

enum exec_news exec_read(struct exec_reader *r, void *buf, size_t max, size_t *len)
{
	struct exec_session *x = r->x;
	enum exec_news news;
	bool held;

	pthread_mutex_lock(&x->lock);
	news = read_locked(r, buf, max, len);
	held = x->held && !session_must_wait(x);
	if (held)
		x->held = false;
	pthread_mutex_unlock(&x->lock);
	if (held)
		unhold(x);
	return news;
}

/* --- news
 * ------------------------------------------------------------------------------------------- */

static void signal_reader(struct exec_reader *r)
{
	uint64_t one = 1;

	if (r->signalled)
		return;
	r->signalled = true;
	if (write(r->fd, &one, sizeof(one)) < 0)
		log_error("waking a reader: %s", strerror(errno));
}

void session_notify(struct exec_session *x)
{
	pthread_cond_broadcast(&x->changed);
	for (struct exec_reader *r = x->readers; r; r = r->next)
		signal_reader(r);
}

bool session_must_wait(struct exec_session *x)
{
	/* No further behind than the agent keeps: it is all there is after a crash of ours. */
	uint64_t behind = x->keep < EXEC_BEHIND_BYTES ? x->keep : EXEC_BEHIND_BYTES;
	bool wait = false;

	for (int i = 0; i < 2; i++) {
		uint64_t end = outbuf_end(&x->out[i]) + PROTO_DATA_MAX;

		if (x->hold_until_ms)
			wait |= end > x->read_offsets[i] + x->keep &&
				x->hold_until_ms > clock_mono_ms();
		for (const struct exec_reader *r = x->readers; r && !wait; r = r->next)
			wait = !r->cut && end > r->at[i] + behind;
	}
	return wait;
}

void session_cut(struct exec_session *x)
{
	for (struct exec_reader *r = x->readers; r; r = r->next) {
		r->cut = true;
		signal_reader(r);
	}
}

void sessions_cut(struct sandbox *s)
{
	pthread_mutex_lock(&s->lock);
	for (struct exec_reader *r = s->readers; r; r = r->sandbox_next) {
		pthread_mutex_lock(&r->x->lock);
		r->cut = true;
		signal_reader(r);
		pthread_mutex_unlock(&r->x->lock);
	}
	pthread_mutex_unlock(&s->lock);
}
