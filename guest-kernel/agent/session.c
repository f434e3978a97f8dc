/* SPDX-License-Identifier: Apache-2.0 */
/* The table of sessions and their streams; see session.h. */
#include "guest-kernel/agent/session.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"

static void session_destroy(struct session *s)
{
	fd_close(&s->pidfd);
	fd_close(&s->in_fd);
	fd_close(&s->out_fd[0]);
	fd_close(&s->out_fd[1]);
	fd_close(&s->tty_fd);
	ring_fini(&s->in);
	ring_fini(&s->out[0]);
	ring_fini(&s->out[1]);
	free(s->segments);
	free(s->label);
	free(s);
}

void sessions_init(struct sessions *t)
{
	*t = (struct sessions){.orphan_ms = TUNNEL_ORPHAN_MS};
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->released, NULL);
}

void sessions_fini(struct sessions *t)
{
	while (t->first) {
		struct session *s = t->first;

		t->first = s->next;
		session_destroy(s);
	}
	pthread_cond_destroy(&t->released);
	pthread_mutex_destroy(&t->lock);
}

/* The lock is held in all of these. */

static struct session *find(struct sessions *t, uint64_t id)
{
	struct session *s = t->first;

	while (s && s->id != id)
		s = s->next;
	return s;
}

static void unlink_session(struct sessions *t, struct session *s)
{
	struct session **at = &t->first;

	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	t->len--;
	t->ended_len -= s->ended_ms != 0;
}

static size_t held_bytes(const struct session *s)
{
	return s->out[0].cap + s->out[1].cap;
}

static bool is_idle_end(const struct session *s)
{
	return s->ended_ms && !s->driven && !s->wanted;
}

/* Drop ended sessions that are too old or too many; the list has the newest first. */
static void evict(struct sessions *t)
{
	uint64_t now = clock_mono_ms();
	size_t bytes = 0, count = 0;
	struct session *next;

	for (struct session *s = t->first; s; s = next) {
		next = s->next;
		if (!is_idle_end(s))
			continue;
		bytes += held_bytes(s);
		count++;
		if (count > SESSIONS_ENDED_MAX || bytes > SESSIONS_ENDED_BYTES ||
		    now - s->ended_ms > SESSIONS_ENDED_MS) {
			bytes -= held_bytes(s);
			count--;
			unlink_session(t, s);
			session_destroy(s);
		}
	}
}

int sessions_add(struct sessions *t, uint64_t id, struct peer *p, struct session **out,
		 struct err *e)
{
	struct session *s = calloc(1, sizeof(*s));
	int rc = 0;

	if (!s)
		return err_set(e, -ENOMEM, "out of memory");
	s->id = id;
	s->pidfd = s->in_fd = s->out_fd[0] = s->out_fd[1] = s->tty_fd = -1;
	s->in_eof = s->deadline_ms = UINT64_MAX;
	s->driver = p;
	s->driven = true;
	pthread_mutex_lock(&t->lock);
	if (t->ended_len)
		evict(t);
	if (find(t, id))
		rc = err_set(e, -EEXIST, "session %016llx exists", (unsigned long long)id);
	else if (t->len >= SESSIONS_MAX)
		rc = err_set(e, -EBUSY, "%u sessions are in use", t->len);
	if (!rc) {
		s->next = t->first;
		t->first = s;
		t->len++;
	}
	pthread_mutex_unlock(&t->lock);
	if (rc)
		free(s);
	else
		*out = s;
	return rc;
}

int sessions_take(struct sessions *t, uint64_t id, struct peer *p, struct session **out,
		  struct err *e)
{
	struct session *s;

	pthread_mutex_lock(&t->lock);
	/* While this one waits another may take it, or it may be removed: look it up anew. */
	while ((s = find(t, id)) && s->driven) {
		uint64_t one = 1;

		s->wanted = true;
		if (write(s->driver->wake_fd, &one, sizeof(one)) < 0)
			break;
		pthread_cond_wait(&t->released, &t->lock);
	}
	if (s) {
		s->driven = true;
		s->driver = p;
		s->wanted = false;
	}
	pthread_mutex_unlock(&t->lock);
	*out = s;
	return s ? 0 : err_set(e, -ESRCH, "no session %016llx", (unsigned long long)id);
}

int session_set_label(struct sessions *t, struct session *s, const void *label, size_t len)
{
	uint8_t *copy = malloc(len + 1);

	if (!copy)
		return -ENOMEM;
	memcpy(copy, label, len);
	s->out[0].keep = s->out[1].keep = SESSION_KEEP;
	pthread_mutex_lock(&t->lock);
	s->label = copy;
	s->label_len = len;
	pthread_mutex_unlock(&t->lock);
	return 0;
}

void sessions_unlabel(struct sessions *t, struct session *s)
{
	pthread_mutex_lock(&t->lock);
	free(s->label);
	s->label = NULL;
	s->label_len = 0;
	pthread_mutex_unlock(&t->lock);
}

bool sessions_next(struct sessions *t, uint64_t after, struct session_info *info)
{
	struct session *best = NULL;

	pthread_mutex_lock(&t->lock);
	for (struct session *s = t->first; s; s = s->next)
		if (s->label && s->id > after && (!best || s->id < best->id))
			best = s;
	if (best) {
		info->id = best->id;
		info->running = !best->ended_ms;
		memcpy(info->label, best->label, best->label_len);
		info->label_len = best->label_len;
	}
	pthread_mutex_unlock(&t->lock);
	return best;
}

bool sessions_wanted(struct sessions *t, struct session *s)
{
	bool wanted;

	pthread_mutex_lock(&t->lock);
	wanted = s->wanted;
	pthread_mutex_unlock(&t->lock);
	return wanted;
}

void sessions_release(struct sessions *t, struct session *s)
{
	pthread_mutex_lock(&t->lock);
	s->driven = false;
	s->driver = NULL;
	if (s->finished && !s->ended_ms) {
		s->ended_ms = clock_mono_ms();
		t->ended_len++;
	}
	pthread_cond_broadcast(&t->released);
	if (t->ended_len > SESSIONS_ENDED_MAX)
		evict(t);
	pthread_mutex_unlock(&t->lock);
}

void sessions_remove(struct sessions *t, struct session *s)
{
	pthread_mutex_lock(&t->lock);
	unlink_session(t, s);
	pthread_cond_broadcast(&t->released);
	pthread_mutex_unlock(&t->lock);
	session_destroy(s);
}

void sessions_forget(struct sessions *t, uint64_t id)
{
	struct session *s;

	pthread_mutex_lock(&t->lock);
	s = find(t, id);
	if (s && is_idle_end(s))
		unlink_session(t, s);
	else
		s = NULL;
	pthread_mutex_unlock(&t->lock);
	if (s)
		session_destroy(s);
}

/* ---- streams; the driver's alone ---- */

static void drop_segments(struct session *s, size_t n)
{
	if (!s->segments)
		return;
	s->segments_len -= n;
	s->segments_base += n;
	memmove(s->segments, s->segments + n, s->segments_len * sizeof(s->segments[0]));
}

static bool more_segments(struct session *s)
{
	size_t cap = s->segments_cap ? s->segments_cap * 2 : 8;
	struct segment *grown;

	if (cap > SESSION_SEGMENTS_MAX)
		return false;
	grown = reallocarray(s->segments, cap, sizeof(*grown));
	if (!grown)
		return false;
	s->segments = grown;
	s->segments_cap = cap;
	return true;
}

static void add_segment(struct session *s, unsigned int stream)
{
	struct segment *last = s->segments_len ? &s->segments[s->segments_len - 1] : NULL;

	if (last && last->stream == stream) {
		last->end = s->out[stream].end;
		return;
	}
	/* Of many the order of the oldest is lost: not the bytes. */
	if (s->segments_len == s->segments_cap && !more_segments(s))
		drop_segments(s, s->segments_len - s->segments_len / 2);
	if (!s->segments)
		return;
	s->segments[s->segments_len++] = (struct segment){stream, s->out[stream].end};
}

void session_read(struct session *s, unsigned int stream)
{
	ssize_t n = ring_read_from(&s->out[stream], s->out_fd[stream]);

	if (n > 0)
		add_segment(s, stream);
	else if (n < 0 && (n == -EAGAIN || n == -EINTR || n == -ENOBUFS || n == -ENOMEM))
		return;
	else if (n < 0 && s->tunnel)
		session_reset_tunnel(s);
	else
		fd_close(&s->out_fd[stream]);
}

void session_reset_tunnel(struct session *s)
{
	const struct linger at_once = {.l_onoff = 1};
	int fd = s->out_fd[0] >= 0 ? s->out_fd[0] : s->in_fd;

	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	fd_close(&s->in_fd);
	fd_close(&s->out_fd[0]);
	s->reset = true;
}

void session_drain_terminal(struct session *s)
{
	while (s->out_fd[0] >= 0 && ring_room(&s->out[0])) {
		uint64_t before = s->out[0].end;

		/* Each read first pushes on what waits in the kernel's own buffers. */
		session_read(s, 0);
		if (s->out[0].end == before || s->out[0].end >= s->must_read[0])
			fd_close(&s->out_fd[0]);
	}
}

void session_hang_up(struct session *s)
{
	fd_close(&s->in_fd);
	fd_close(&s->out_fd[0]);
	fd_close(&s->tty_fd);
}

int session_say(struct session *s, unsigned int stream, const char *text, size_t len)
{
	int rc = ring_put(&s->out[stream], text, len);

	if (!rc)
		add_segment(s, stream);
	return rc;
}

bool session_ack(struct session *s, const uint64_t to[2])
{
	size_t done = 0;

	if (to[0] > s->out[0].end || to[1] > s->out[1].end)
		return false;
	ring_trim(&s->out[0], to[0]);
	ring_trim(&s->out[1], to[1]);
	while (done < s->segments_len &&
	       s->segments[done].end <= s->out[s->segments[done].stream].start)
		done++;
	if (done)
		drop_segments(s, done);
	return true;
}

size_t session_next_output(const struct session *s, const uint64_t sent[2], uint64_t *segment,
			   unsigned int *stream)
{
	bool all_sent = true;

	if (*segment < s->segments_base)
		*segment = s->segments_base;
	for (uint64_t i = *segment - s->segments_base; i < s->segments_len; i++) {
		*stream = s->segments[i].stream;
		if (s->segments[i].end > sent[*stream])
			return (size_t)(s->segments[i].end - sent[*stream]);
		/* The last one may grow. */
		all_sent &= i + 1 < s->segments_len;
		*segment += all_sent;
	}
	for (*stream = 0; *stream < 2; (*stream)++)
		if (s->out[*stream].end > sent[*stream])
			return (size_t)(s->out[*stream].end - sent[*stream]);
	return 0;
}
