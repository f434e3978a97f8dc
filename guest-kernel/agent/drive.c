/* SPDX-License-Identifier: Apache-2.0 */
/* The loop that drives a session; see session.h. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "guest-kernel/agent/session.h"
#include "guest-kernel/agent/tty.h"
#include "lib/clock.h"
#include "lib/fd.h"

/*
 * A command that ends this soon is answered with one write: each write is an
 * exit of the VM and a wake-up on the host.
 */
#define HOLD_NS	  2000000ULL
#define BATCH_MAX (128u << 10) /* bytes queued for the connection at a time */
/* Less than what fills a client's socket: who waits for room there is told of it by one. */
#define STDIN_ACK_STEP (PROTO_WINDOW / 8)
/* More than the kernel keeps of what was written to a terminal and not yet read. */
#define TERMINAL_HELD_MAX (1u << 20)

struct drive {
	struct sessions *t;
	struct session *s;
	struct peer *p;
	uint64_t id;
	uint64_t sent[2];
	uint64_t segment;     /* number of the first that is not sent */
	uint64_t stdin_acked; /* last told to the client */
	uint64_t hold_until_ns;
	bool started_sent, end_sent, exit_sent;
};

enum slot { SLOT_WAKE, SLOT_CONN, SLOT_PID, SLOT_OUT, SLOT_ERR, SLOT_IN, SLOTS };

/* ---- to the client ---- */

static void put_output(struct drive *d)
{
	unsigned int stream;
	size_t n;

	while (d->p->out.len < BATCH_MAX &&
	       (n = session_next_output(d->s, d->sent, &d->segment, &stream))) {
		const struct ring *r = &d->s->out[stream];
		uint8_t piece[8192];

		n = n < PROTO_DATA_MAX ? n : PROTO_DATA_MAX;
		proto_begin(&d->p->out, stream ? PROTO_STDERR : PROTO_STDOUT, d->id);
		proto_put_u64(&d->p->out, d->sent[stream]);
		while (n) {
			size_t len = n < sizeof(piece) ? n : sizeof(piece);

			ring_copy(r, d->sent[stream], piece, len);
			proto_put_bytes(&d->p->out, piece, len);
			d->sent[stream] += len;
			n -= len;
		}
		/* Without memory for it the frame cannot be left out: the stream would have a hole.
		 */
		if (proto_end(&d->p->out))
			d->p->lost = true;
	}
}

static void put_started(struct drive *d)
{
	struct proto_buf *out = &d->p->out;

	proto_begin(out, PROTO_STARTED, d->id);
	proto_put_tlv_u32(out, PROTO_TAG_PID, 0, (uint32_t)d->s->pid);
	proto_put_tlv_u64(out, PROTO_TAG_STDIN_OFFSET, 0, d->s->in.end);
	proto_put_tlv_u32(out, PROTO_TAG_STDIN_ENDED, 0, d->s->in_eof != UINT64_MAX);
	proto_put_tlv_u64(out, PROTO_TAG_STDOUT_OFFSET, 0, d->sent[0]);
	proto_put_tlv_u64(out, PROTO_TAG_STDERR_OFFSET, 0, d->sent[1]);
	proto_put_tlv_u64(out, PROTO_TAG_STDOUT_END, 0, d->s->out[0].end);
	proto_put_tlv_u64(out, PROTO_TAG_STDERR_END, 0, d->s->out[1].end);
	proto_end(out);
	d->started_sent = true;
}

static void put_exit(struct drive *d)
{
	struct proto_buf *out = &d->p->out;
	const struct session *s = d->s;

	proto_begin(out, PROTO_EXIT, d->id);
	if (s->end_code == CLD_EXITED)
		proto_put_tlv_u32(out, PROTO_TAG_EXIT_CODE, 0, (uint32_t)s->end_status & 0xff);
	else
		proto_put_tlv_u32(out, PROTO_TAG_SIGNAL, 0, (uint32_t)s->end_status);
	proto_put_tlv_u32(out, PROTO_TAG_EXIT_FLAGS, 0,
			  (s->timed_out ? PROTO_EXIT_TIMED_OUT : 0) |
			      (s->held_open ? PROTO_EXIT_HELD_OPEN : 0));
	proto_put_tlv_u64(out, PROTO_TAG_STDOUT_OFFSET, 0, s->out[0].end);
	proto_put_tlv_u64(out, PROTO_TAG_STDERR_OFFSET, 0, s->out[1].end);
	proto_end(out);
	d->exit_sent = true;
}

/* The port has ended its direction; the other one may go on for long. */
static void put_end(struct drive *d)
{
	proto_begin(&d->p->out, PROTO_STDOUT, d->id);
	proto_put_u64(&d->p->out, d->sent[0]);
	proto_end(&d->p->out);
	d->end_sent = true;
}

/* Queue what there is to say, once all that was queued before is sent. */
static void produce(struct drive *d)
{
	struct session *s = d->s;

	if (!d->started_sent)
		put_started(d);
	if (s->in.start != d->stdin_acked &&
	    (d->stdin_acked == UINT64_MAX || s->in.start - d->stdin_acked >= STDIN_ACK_STEP)) {
		d->stdin_acked = s->in.start;
		proto_begin(&d->p->out, PROTO_STDIN_ACK, d->id);
		proto_put_u64(&d->p->out, s->in.start);
		proto_end(&d->p->out);
	}
	put_output(d);
	if (s->tunnel && !s->reset && s->out_fd[0] < 0 && !d->end_sent &&
	    d->sent[0] == s->out[0].end)
		put_end(d);
	if (s->finished && d->sent[0] == s->out[0].end && d->sent[1] == s->out[1].end &&
	    !d->exit_sent)
		put_exit(d);
}

/* Return: true if the client has all there will ever be. */
static bool talk(struct drive *d)
{
	struct session *s = d->s;
	size_t waiting =
	    (size_t)(s->out[0].end - d->sent[0]) + (size_t)(s->out[1].end - d->sent[1]);

	if (!s->finished && waiting < PROTO_DATA_MAX && d->hold_until_ns &&
	    clock_mono_ns() < d->hold_until_ns)
		return false;
	d->hold_until_ns = 0;
	/* What was queued before may hide that there is more to say: an end is only where
	 * nothing is left to be produced. */
	do {
		if (d->p->lost || peer_flush_some(d->p))
			return false;
		produce(d);
	} while (d->p->out.len);
	return d->exit_sent && !d->p->lost;
}

/* ---- from the client ---- */

static bool on_stdin(struct session *s, struct reader *r)
{
	uint64_t offset = read_u64(r);
	size_t len = reader_left(r);
	const uint8_t *data = read_bytes(r, len);
	uint64_t skip;

	if (r->failed || offset > s->in.end || offset + len > s->in_eof)
		return false;
	skip = s->in.end - offset; /* sent again after an attach */
	if (skip >= len)
		return true;
	data += skip;
	len -= (size_t)skip;
	if (s->in_fd < 0) {
		/* Nobody reads it any more. */
		s->in.end += len;
		ring_trim(&s->in, s->in.end);
		return true;
	}
	return len <= ring_room(&s->in) && ring_put(&s->in, data, len) == 0;
}

static bool on_stdin_eof(struct session *s, struct reader *r)
{
	uint64_t offset = read_u64(r);

	if (r->failed || offset != s->in.end)
		return false;
	s->in_eof = offset;
	return true;
}

static bool on_signal(struct drive *d, struct reader *r)
{
	struct session *s = d->s;
	uint32_t signo = read_u32(r);

	if (r->failed || signo < 1 || signo > 64)
		return false;
	if (s->tunnel)
		session_reset_tunnel(s);
	if (s->terminal && signo == SIGHUP) {
		session_hang_up(s);
		/* Whoever asks for its sessions later has given this one up. */
		sessions_unlabel(d->t, s);
	}
	/* Until it is waited for, the number cannot belong to another process group. */
	else if (s->pid && !s->exited)
		kill(-s->pid, (int)signo);
	return true;
}

static bool on_winsize(struct session *s, struct reader *r)
{
	uint16_t rows = read_u16(r), cols = read_u16(r);

	if (r->failed || !rows || !cols)
		return false;
	if (s->terminal && s->out_fd[0] >= 0)
		tty_resize(s->out_fd[0], rows, cols);
	return true;
}

static bool on_frame(struct drive *d, const struct proto_header *h, const uint8_t *payload)
{
	struct reader r = reader_of(payload, h->len);
	uint64_t acked[2];

	if (proto_is_request(h->type))
		return false;
	if (h->id != d->id) /* it crossed the end of its request */
		return true;
	switch (h->type) {
	case PROTO_STDIN:
		return on_stdin(d->s, &r);
	case PROTO_STDIN_EOF:
		return on_stdin_eof(d->s, &r);
	case PROTO_SIGNAL:
		return on_signal(d, &r);
	case PROTO_WINSIZE:
		return on_winsize(d->s, &r);
	case PROTO_ACK:
		acked[0] = read_u64(&r);
		acked[1] = read_u64(&r);
		return !r.failed && acked[0] <= d->sent[0] && acked[1] <= d->sent[1] &&
		       session_ack(d->s, acked);
	default:
		return false;
	}
}

static void take_frames(struct drive *d)
{
	const uint8_t *payload;
	struct proto_header h;
	int rc = 0;

	while (!d->p->lost && (rc = peer_take_frame(d->p, &h, &payload, NULL)) > 0)
		if (!on_frame(d, &h, payload))
			d->p->lost = true;
	if (rc < 0)
		d->p->lost = true;
}

/* ---- the process ---- */

/* All its output up to now has to be read; what comes later only within the grace. */
static void on_exit_of(struct session *s)
{
	siginfo_t si = {0};

	if (waitid(P_PIDFD, (id_t)s->pidfd, &si, WEXITED | WNOHANG) < 0 || !si.si_pid)
		return;
	fd_close(&s->pidfd);
	fd_close(&s->in_fd);
	s->exited = true;
	s->end_code = si.si_code;
	s->end_status = si.si_status;
	s->deadline_ms = UINT64_MAX;
	s->grace_end_ms = clock_mono_ms() + SESSION_GRACE_MS;
	if (s->terminal) {
		s->must_read[0] = s->out[0].end + TERMINAL_HELD_MAX;
		fd_close(&s->tty_fd);
		return;
	}
	for (int i = 0; i < 2; i++) {
		int unread = 0;

		if (s->out_fd[i] >= 0 && ioctl(s->out_fd[i], FIONREAD, &unread) < 0)
			unread = 0;
		s->must_read[i] = s->out[i].end + (unsigned int)unread;
	}
}

static void feed_stdin(struct session *s)
{
	ssize_t n = ring_write_to(&s->in, s->in.start, s->in_fd);

	if (n > 0)
		ring_trim(&s->in, s->in.start + (uint64_t)n);
	if (n < 0 && n != -EAGAIN && n != -EINTR) {
		/* It has closed its stdin: take and drop the rest. */
		ring_trim(&s->in, s->in.end);
		fd_close(&s->in_fd);
		s->reset = s->tunnel;
	}
}

/* Each direction ends by itself: what the peer has said last is read although it takes no more. */
static void check_tunnel(struct session *s, uint64_t now_ms)
{
	if (s->finished)
		return;
	if (now_ms >= s->deadline_ms)
		session_reset_tunnel(s);
	if (s->in_fd >= 0 && s->in.start == s->in.end && s->in_eof == s->in.end) {
		shutdown(s->in_fd, SHUT_WR);
		fd_close(&s->in_fd);
	}
	if (s->in_fd >= 0 || s->out_fd[0] >= 0)
		return;
	ring_trim(&s->in, s->in.end);
	s->exited = s->finished = true;
	s->end_code = CLD_EXITED;
	s->end_status = s->reset;
}

static void check_times(struct session *s, uint64_t now_ms)
{
	if (s->tunnel) {
		check_tunnel(s, now_ms);
		return;
	}
	if (now_ms >= s->deadline_ms) {
		s->timed_out = true;
		s->deadline_ms = UINT64_MAX;
		kill(-s->pid, SIGKILL);
	}
	if (s->in_fd >= 0 && s->in.start == s->in.end && s->in_eof == s->in.end)
		fd_close(&s->in_fd);
	if (!s->exited || s->finished)
		return;
	if (s->terminal)
		session_drain_terminal(s);
	else if (now_ms >= s->grace_end_ms)
		for (int i = 0; i < 2; i++)
			if (s->out_fd[i] >= 0 && s->out[i].end >= s->must_read[i]) {
				s->held_open = true;
				fd_close(&s->out_fd[i]);
			}
	s->finished = s->out_fd[0] < 0 && s->out_fd[1] < 0;
}

/* An ended session whose output nobody has come for, and whose rings are full. */
static bool is_abandoned(const struct drive *d)
{
	return d->p->lost && d->s->exited &&
	       clock_mono_ms() >= d->s->grace_end_ms + SESSIONS_ENDED_MS;
}

/* ---- waiting ---- */

static bool wants_room(const struct session *s, int i)
{
	return s->out_fd[i] >= 0 && ring_room(&s->out[i]);
}

static void fill_poll(const struct drive *d, struct pollfd *pfd)
{
	const struct session *s = d->s;

	pfd[SLOT_WAKE] = (struct pollfd){.fd = d->p->wake_fd, .events = POLLIN};
	pfd[SLOT_CONN] = (struct pollfd){
	    .fd = d->p->lost ? -1 : d->p->fd,
	    .events = (short)(POLLIN | (d->p->out.len && !d->hold_until_ns ? POLLOUT : 0))};
	pfd[SLOT_PID] = (struct pollfd){.fd = s->pidfd, .events = POLLIN};
	pfd[SLOT_OUT] =
	    (struct pollfd){.fd = wants_room(s, 0) ? s->out_fd[0] : -1, .events = POLLIN};
	pfd[SLOT_ERR] =
	    (struct pollfd){.fd = wants_room(s, 1) ? s->out_fd[1] : -1, .events = POLLIN};
	pfd[SLOT_IN] =
	    (struct pollfd){.fd = s->in.start != s->in.end ? s->in_fd : -1, .events = POLLOUT};
}

/* How long nothing will happen unless a descriptor says so; false: forever. */
static bool next_time(const struct drive *d, struct timespec *ts)
{
	const struct session *s = d->s;
	uint64_t now = clock_mono_ns(), at = UINT64_MAX;

	if (s->deadline_ms != UINT64_MAX)
		at = s->deadline_ms * 1000000ULL;
	/* Output that the client has no room for does not time out. */
	if (s->exited &&
	    ((s->out_fd[0] >= 0 && s->out[0].end >= s->must_read[0]) ||
	     (s->out_fd[1] >= 0 && s->out[1].end >= s->must_read[1])) &&
	    s->grace_end_ms * 1000000ULL < at)
		at = s->grace_end_ms * 1000000ULL;
	if (d->p->lost && s->exited && (s->grace_end_ms + SESSIONS_ENDED_MS) * 1000000ULL < at)
		at = (s->grace_end_ms + SESSIONS_ENDED_MS) * 1000000ULL;
	if (d->hold_until_ns && !d->p->lost && d->hold_until_ns < at)
		at = d->hold_until_ns;
	if (at == UINT64_MAX)
		return false;
	at = at > now ? at - now : 0;
	ts->tv_sec = (time_t)(at / 1000000000ULL);
	ts->tv_nsec = (long)(at % 1000000000ULL);
	return true;
}

static void handle(struct drive *d, struct pollfd *pfd)
{
	struct session *s = d->s;

	if (pfd[SLOT_CONN].revents & ~POLLOUT && !peer_receive(d->p))
		take_frames(d);
	for (unsigned int i = 0; i < 2; i++) {
		if (pfd[SLOT_OUT + i].revents & POLLIN || (pfd[SLOT_OUT + i].revents && s->tunnel))
			session_read(s, i);
		else if (pfd[SLOT_OUT + i].revents)
			fd_close(&s->out_fd[i]);
	}
	if (pfd[SLOT_PID].revents)
		on_exit_of(s);
	if (pfd[SLOT_IN].revents && s->in_fd >= 0)
		feed_stdin(s);
}

/*
 * The counter is emptied before the look, not after it: it may be left from an
 * earlier session of this connection, and emptied after the look it could take
 * along the wake-up of somebody who has come in between.
 */
static bool is_taken(struct drive *d)
{
	uint64_t count;

	return read(d->p->wake_fd, &count, sizeof(count)) > 0 && sessions_wanted(d->t, d->s);
}

enum drive_end session_drive(struct sessions *t, struct session *s, struct peer *p, uint64_t id,
			     const uint64_t sent[2])
{
	struct drive d = {.t = t, .s = s, .p = p, .id = id, .sent = {sent[0], sent[1]}};
	bool had_conn = !p->lost;

	d.hold_until_ns = had_conn && !s->exited && !s->tunnel ? clock_mono_ns() + HOLD_NS : 0;
	if (s->tunnel)
		s->deadline_ms = had_conn ? UINT64_MAX : clock_mono_ms() + t->orphan_ms;
	/* Whoever attaches is told at once how much stdin was taken. */
	d.stdin_acked = s->in.end ? UINT64_MAX : 0;
	take_frames(&d);
	for (;;) {
		struct pollfd pfd[SLOTS];
		struct timespec ts;

		check_times(s, clock_mono_ms());
		if (!p->lost && talk(&d))
			return DRIVE_FINISHED;
		if (had_conn && p->lost)
			return DRIVE_LOST;
		if (p->lost && is_abandoned(&d))
			s->finished = true;
		if (p->lost && s->finished)
			return DRIVE_FINISHED;
		fill_poll(&d, pfd);
		if (ppoll(pfd, SLOTS, next_time(&d, &ts) ? &ts : NULL, NULL) < 0)
			continue;
		if (pfd[SLOT_WAKE].revents && is_taken(&d))
			return DRIVE_TAKEN;
		handle(&d, pfd);
	}
}
