/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Large windows for libslirp; see window.h.
 *
 * Theory of operation
 * -------------------
 * Sequence numbers are the same on both sides. Of the data to the guest, `una` is what the guest
 * has acknowledged, `nxt` is where libslirp will go on, and all between them is kept, as the frames
 * that it came in. libslirp is told that `nxt` has arrived, and of a window that ends where that of
 * the guest does, or where we keep no more. So libslirp never has anything to send again but its
 * FIN, which only the guest acknowledges.
 *
 * Its SYN is kept and acknowledged like data, with the window that the guest's SYN has. So what a
 * server says first goes to the guest behind the answer to its SYN, with one message and one
 * interrupt, and is in order there. Until the guest has acknowledged it, it gets the same answer
 * when it says its SYN again, of which libslirp would make nothing.
 *
 * A segment of the guest goes on with our acknowledgement and window in place of its own. One that
 * has nothing else to say goes no further, unless libslirp is to hear of more room; those that want
 * an answer (keep-alives, probes) show by their sequence number.
 *
 * A connection that both have ended stays with libslirp for ten seconds more, with its descriptor,
 * for segments that come late. Here none do. So libslirp gets a reset of it, when all that the
 * guest has sent is written: else a few hundred connections in these seconds were all that a guest
 * can have, and each of them made every turn slower.
 *
 * Lost is what three duplicate acknowledgements, or a silence (WINDOW_RESEND_MS; of slow guests it
 * is more, RFC 6298), say is missing (RFC 5681). Then, the frame at `una` is sent again, and the
 * next one with each acknowledgement that shows that it is missing, too, up to where libslirp was
 * when this began. Duplicates from before that do not begin it again (RFC 6582).
 */
#include "server/net/window.h"

#include <stdlib.h>
#include <string.h>

#define BUCKETS	      1024
#define SMALL_MAX     65535 /* without scaling */
#define MUCH	      32767 /* room that libslirp wants to hear of: half of its window */
#define RESEND_MAX_MS 16000

struct kept {
	struct kept *next;
	uint64_t sent_ms; /* the first time */
	uint32_t end;
	size_t len;
	uint8_t frame[];
};

struct flow {
	struct flow *next;	 /* of its bucket */
	struct flow *next_dirty; /* of those that window_settle() looks at */
	struct flow *next_over;	 /* of those that window_end() looks at */
	struct net_addr guest, peer;
	uint16_t guest_port, peer_port;
	uint8_t shift;
	int fd;		   /* libslirp's, only to ask for it; -1: unknown */
	uint64_t begun_ms; /* when the guest sent its SYN */
	bool spoken;	   /* one of them has said something */
	bool dirty, over;
	bool open;	     /* the guest was offered scaling */
	bool opening;	     /* and has not acknowledged this yet: it is the first that is kept */
	bool fin, fin_acked; /* libslirp's */
	bool guest_fin;
	uint32_t guest_end; /* behind it */
	uint32_t una, nxt;
	uint32_t window;	    /* the guest's, in bytes from una on */
	uint32_t told, told_edge;   /* to libslirp: acknowledgement, and the end of the window */
	uint32_t rcv;		    /* libslirp's acknowledgement */
	struct kept *first, **last; /* owned */
	unsigned int duplicates;
	bool recovering, by_silence;
	uint32_t recover; /* up to where, also of the last time */
	uint32_t resent_end;
	bool got_only;		  /* after a silence just what was sent again */
	bool lost_all;		  /* and was silent again */
	uint32_t rtt_ms, wait_ms; /* smoothed; until something is sent again */
	uint64_t due_ms;
};

struct window {
	void (*to_guest)(void *arg, struct frame *f);
	void (*to_stack)(void *arg, uint8_t *data, size_t len);
	void *arg;
	struct flow *buckets[BUCKETS]; /* owned */
	struct flow *dirty, *over;     /* borrowed */
	unsigned int n;
	size_t kept_bytes;
	bool greets[BUCKETS]; /* servers, by hash: did it speak first, last time? */
	uint64_t due_ms;      /* no flow is due before; UINT64_MAX: none ever */
};

/* a - b, of sequence numbers. */
static int32_t distance(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b);
}

/* --- flows ------------------------------------------------------------------------------------ */

static uint32_t hash(const struct net_addr *peer, uint16_t peer_port, uint16_t guest_port)
{
	uint32_t h = guest_port * 31u + peer_port;

	for (size_t i = 0; i < sizeof(peer->b); i++)
		h = h * 31 + peer->b[i];
	return (h ^ h >> 10) % BUCKETS;
}

static struct flow **bucket_of(struct window *w, const struct net_addr *peer, uint16_t peer_port,
			       uint16_t guest_port)
{
	return &w->buckets[hash(peer, peer_port, guest_port)];
}

/* Return: where it hangs; NULL: there is none */
static struct flow **find(struct window *w, const struct net_addr *peer, uint16_t peer_port,
			  const struct net_addr *guest, uint16_t guest_port)
{
	struct flow **at = bucket_of(w, peer, peer_port, guest_port);

	for (; *at; at = &(*at)->next)
		if ((*at)->guest_port == guest_port && (*at)->peer_port == peer_port &&
		    net_addr_equal(&(*at)->peer, peer) && net_addr_equal(&(*at)->guest, guest))
			return at;
	return NULL;
}

static void drop_first(struct window *w, struct flow *fl)
{
	struct kept *k = fl->first;

	fl->first = k->next;
	if (!fl->first)
		fl->last = &fl->first;
	w->kept_bytes -= k->len;
	if (!w->kept_bytes)
		w->due_ms = UINT64_MAX;
	free(k);
}

static void set_dirty(struct window *w, struct flow *fl)
{
	if (fl->dirty)
		return;
	fl->dirty = true;
	fl->next_dirty = w->dirty;
	w->dirty = fl;
}

static void forget(struct window *w, struct flow **at)
{
	struct flow *fl = *at, **d = &w->dirty, **o = &w->over;

	*at = fl->next;
	while (fl->dirty && *d != fl)
		d = &(*d)->next_dirty;
	if (fl->dirty)
		*d = fl->next_dirty;
	while (fl->over && *o != fl)
		o = &(*o)->next_over;
	if (fl->over)
		*o = fl->next_over;
	while (fl->first)
		drop_first(w, fl);
	w->n--;
	free(fl);
}

static void set_over(struct window *w, struct flow *fl)
{
	if (fl->over)
		return;
	fl->over = true;
	fl->next_over = w->over;
	w->over = fl;
}

/* Both ends are acknowledged. */
static void check_over(struct window *w, struct flow *fl)
{
	if (fl->fin_acked && fl->guest_fin && fl->rcv == fl->guest_end)
		set_over(w, fl);
}

/* Those that never began: libslirp does not say when it forgets a connection. */
static void sweep(struct window *w)
{
	for (size_t i = 0; i < BUCKETS; i++) {
		struct flow **at = &w->buckets[i];

		while (*at) {
			if (!(*at)->open)
				forget(w, at);
			else
				at = &(*at)->next;
		}
	}
}

/* @fd: of the one before with these ports: libslirp makes no socket for a SYN that comes again. */
static void begin_flow(struct window *w, const struct frame *f, int fd, uint64_t now_ms)
{
	struct flow **at, *fl;
	struct frame_tcp t;
	int shift = frame_window_shift(f);

	if (shift < 0)
		return;
	frame_get_tcp(f, &t);
	if (w->n >= WINDOW_FLOWS)
		sweep(w);
	fl = w->n < WINDOW_FLOWS ? calloc(1, sizeof(*fl)) : NULL;
	if (!fl)
		return;
	fl->guest = f->src;
	fl->guest_port = f->sport;
	fl->peer = f->dst;
	fl->peer_port = f->dport;
	fl->shift = (uint8_t)shift;
	fl->window = t.window; /* that of a SYN is never scaled */
	fl->fd = fd;
	fl->begun_ms = now_ms;
	fl->last = &fl->first;
	at = bucket_of(w, &fl->peer, fl->peer_port, fl->guest_port);
	fl->next = *at;
	*at = fl;
	w->n++;
}

/* --- who speaks first ---------------------------------------------------------------------------
 */

static bool *greets(struct window *w, const struct flow *fl)
{
	return &w->greets[hash(&fl->peer, fl->peer_port, 0)];
}

static void note_spoken(struct window *w, struct flow *fl, bool by_server)
{
	if (fl->spoken)
		return;
	fl->spoken = true;
	*greets(w, fl) = by_server;
}

/* --- what the guest has lost --------------------------------------------------------------------
 */

static void set_due(struct window *w, struct flow *fl, uint64_t now_ms)
{
	fl->due_ms = now_ms + fl->wait_ms;
	if (fl->due_ms < w->due_ms)
		w->due_ms = fl->due_ms;
}

/* RFC 6298, with twice the time in place of its deviation. What was sent again counts from the
 * first time on: if that was not needed, this is the truth, and else we are only slower. */
static void take_time(struct flow *fl, const struct kept *k, uint64_t now_ms)
{
	uint64_t took = now_ms - k->sent_ms, wait;

	took = took < RESEND_MAX_MS ? took : RESEND_MAX_MS;
	fl->rtt_ms = fl->rtt_ms ? (uint32_t)((fl->rtt_ms * 7ull + took) / 8) : (uint32_t)took;
	wait = 2ull * fl->rtt_ms;
	wait = wait < RESEND_MAX_MS ? wait : RESEND_MAX_MS;
	fl->wait_ms = wait > WINDOW_RESEND_MS ? (uint32_t)wait : WINDOW_RESEND_MS;
}

/* The frame at `una`, from a copy: the filter may change it on its way. */
static void resend(struct window *w, struct flow *fl, uint64_t now_ms)
{
	static uint8_t copy[FRAME_MAX];
	struct frame_tcp t;
	struct frame f;

	fl->resent_end = fl->first->end;
	memcpy(copy, fl->first->frame, fl->first->len);
	frame_parse(&f, copy, fl->first->len);
	frame_get_tcp(&f, &t);
	frame_set_ack(&f, fl->rcv, t.window);
	set_due(w, fl, now_ms);
	w->to_guest(w->arg, &f);
}

static void recover(struct window *w, struct flow *fl, bool by_silence, uint64_t now_ms)
{
	fl->recovering = true;
	fl->by_silence = by_silence;
	fl->recover = fl->nxt;
	resend(w, fl, now_ms);
}

static void answer_silence(struct window *w, struct flow *fl, uint64_t now_ms)
{
	fl->wait_ms *= 2;
	if (fl->wait_ms > RESEND_MAX_MS)
		fl->wait_ms = RESEND_MAX_MS;
	fl->lost_all = fl->got_only;
	fl->got_only = false;
	recover(w, fl, true, now_ms);
	if (fl->opening && now_ms - fl->first->sent_ms >= WINDOW_OPENING_MS)
		set_over(w, fl);
}

static void resend_due(struct window *w, uint64_t now_ms)
{
	if (now_ms < w->due_ms)
		return;
	w->due_ms = UINT64_MAX;
	for (size_t i = 0; i < BUCKETS; i++) {
		for (struct flow *fl = w->buckets[i]; fl; fl = fl->next) {
			if (!fl->first)
				continue;
			if (now_ms >= fl->due_ms)
				answer_silence(w, fl, now_ms);
			else if (fl->due_ms < w->due_ms)
				w->due_ms = fl->due_ms;
		}
	}
}

/* --- from the guest ------------------------------------------------------------------------------
 */

static void take_progress(struct window *w, struct flow *fl, uint32_t ack, uint64_t now_ms)
{
	fl->una = ack;
	fl->opening = false;
	fl->duplicates = 0;
	while (fl->first && distance(fl->first->end, ack) <= 0) {
		if (fl->first->end == ack)
			take_time(fl, fl->first, now_ms);
		drop_first(w, fl);
	}
	fl->got_only = fl->recovering && fl->by_silence && ack == fl->resent_end;
	/* It may have been only slow. */
	if (fl->by_silence && !(fl->got_only && fl->lost_all))
		fl->recovering = false;
	if (fl->first)
		set_due(w, fl, now_ms);
	if (fl->recovering && fl->first && distance(ack, fl->recover) < 0)
		resend(w, fl, now_ms);
	else
		fl->recovering = false;
}

static void take_ack(struct window *w, struct flow *fl, const struct frame_tcp *t, uint64_t now_ms)
{
	uint32_t window = (uint32_t)t->window << fl->shift, ack = t->ack;

	if (fl->fin && ack == fl->nxt + 1) {
		fl->fin_acked = true;
		ack--;
	}
	if (distance(ack, fl->una) < 0 || distance(ack, fl->nxt) > 0)
		return;
	if (ack != fl->una)
		take_progress(w, fl, ack, now_ms);
	else if (!fl->first || t->len || (t->flags & TCP_F_FIN))
		fl->duplicates = 0;
	else if (window == fl->window && ++fl->duplicates == 3 && !fl->recovering &&
		 distance(ack, fl->recover) > 0)
		recover(w, fl, false, now_ms);
	fl->window = window;
}

/* What libslirp is to be told of the flow: its acknowledgement and window. */
static uint16_t offer(const struct window *w, const struct flow *fl, uint32_t *ack)
{
	uint32_t ahead = w->kept_bytes < WINDOW_AHEAD_ALL ? WINDOW_AHEAD : SMALL_MAX;
	uint32_t most = fl->window < ahead ? fl->window : ahead;
	/* The window begins behind the SYN. */
	int32_t room = distance(fl->una + fl->opening + most, fl->nxt);

	*ack = fl->nxt + fl->fin_acked;
	return (uint16_t)(room <= 0 ? 0 : room > SMALL_MAX ? SMALL_MAX : room);
}

static void note_told(struct flow *fl, uint32_t ack, uint16_t window)
{
	fl->told = ack;
	fl->told_edge = ack + window;
}

static bool has_news(const struct flow *fl, uint32_t ack, uint16_t window)
{
	int32_t more = distance(ack + window, fl->told_edge);

	if (ack != fl->told || more >= MUCH)
		return true;
	/* Of small windows every byte counts. */
	return more > 0 && distance(fl->told_edge, ack) < MUCH;
}

/* That which was answered, of a guest that did not get the answer. */
static bool is_syn_again(const struct flow *fl, const struct frame *f)
{
	struct frame_tcp t;

	if (!fl->opening || (f->tcp_flags & (TCP_F_SYN | TCP_F_ACK | TCP_F_RST)) != TCP_F_SYN)
		return false;
	frame_get_tcp(f, &t);
	return t.seq + 1 == fl->rcv;
}

bool window_from_guest(struct window *w, struct frame *f, uint64_t now_ms)
{
	struct flow **at, *fl;
	struct frame_tcp t;
	uint16_t window;
	uint32_t ack;
	int fd = -1;

	if (f->kind != FRAME_WHOLE || f->proto != PROTO_TCP)
		return true;
	at = find(w, &f->dst, f->dport, &f->src, f->sport);
	if (at && is_syn_again(*at, f)) {
		resend(w, *at, now_ms);
		return false;
	}
	if (at && (f->tcp_flags & (TCP_F_SYN | TCP_F_RST))) {
		fd = (*at)->fd;
		forget(w, at);
	}
	if ((f->tcp_flags & (TCP_F_SYN | TCP_F_ACK | TCP_F_RST)) == TCP_F_SYN)
		begin_flow(w, f, fd, now_ms);
	if (!at || (f->tcp_flags & (TCP_F_SYN | TCP_F_RST)) || !(f->tcp_flags & TCP_F_ACK) ||
	    !(*at)->open)
		return true;
	fl = *at;
	frame_get_tcp(f, &t);
	take_ack(w, fl, &t, now_ms);
	if (t.len)
		note_spoken(w, fl, false);
	if (t.flags & TCP_F_FIN) {
		fl->guest_fin = true;
		fl->guest_end = t.seq + t.len + 1;
	}
	check_over(w, fl);
	window = offer(w, fl, &ack);
	if (!t.len && !(t.flags & TCP_F_FIN) && t.seq == fl->rcv && !has_news(fl, ack, window))
		return false;
	frame_set_ack(f, ack, window);
	note_told(fl, ack, window);
	return true;
}

/* --- from libslirp -------------------------------------------------------------------------------
 */

static bool keep(struct window *w, struct flow *fl, const struct frame *f, uint32_t end,
		 uint64_t now_ms)
{
	struct kept *k = malloc(sizeof(*k) + f->len);

	if (!k)
		return false;
	k->next = NULL;
	k->end = end;
	k->sent_ms = now_ms;
	k->len = f->len;
	memcpy(k->frame, f->data, f->len);
	if (!fl->first)
		set_due(w, fl, now_ms);
	*fl->last = k;
	fl->last = &k->next;
	w->kept_bytes += k->len;
	return true;
}

/* Return: whether it is to go on to the guest. */
static bool take_data(struct window *w, struct flow *fl, const struct frame *f,
		      const struct frame_tcp *t, uint64_t now_ms)
{
	set_dirty(w, fl);
	/* Of before: an acknowledgement of it is due once more. */
	if (t->seq != fl->nxt || fl->fin) {
		fl->told_edge = fl->told = fl->una - 1;
		return false;
	}
	if (!keep(w, fl, f, t->seq + t->len, now_ms))
		return false; /* libslirp will send it again */
	note_spoken(w, fl, true);
	fl->nxt += t->len;
	return true;
}

/* The guest hears that we scale, too, and is believed to from now on. */
static void open_flow(struct window *w, struct flow *fl, struct frame *f, const struct frame_tcp *t,
		      uint64_t now_ms)
{
	uint8_t out[FRAME_ANSWER_MAX];
	size_t len = frame_add_shift(f, out);
	struct frame scaled;

	frame_parse(&scaled, out, len);
	fl->wait_ms = WINDOW_RESEND_MS;
	if (!len || !keep(w, fl, &scaled, t->seq + 1, now_ms)) {
		w->to_guest(w->arg, f);
		return;
	}
	fl->open = fl->opening = true;
	fl->una = fl->recover = t->seq;
	fl->nxt = t->seq + 1;
	fl->rcv = t->ack;
	note_told(fl, fl->una, 0);
	set_dirty(w, fl);
	if (now_ms - fl->begun_ms <= WINDOW_NEAR_MS && *greets(w, fl))
		scaled.hurry = FRAME_OPENS;
	scaled.unheard = true;
	w->to_guest(w->arg, &scaled);
}

/* The answer to the guest's SYN. It does not come again, as libslirp hears at once that it came. */
static bool may_open(const struct flow *fl, const struct frame_tcp *t)
{
	return (t->flags & TCP_F_ACK) && !(t->flags & TCP_F_FIN) && !t->len && !fl->open;
}

void window_from_stack(struct window *w, struct frame *f, uint64_t now_ms)
{
	struct flow **at = NULL, *fl;
	struct frame_tcp t;

	if (f->kind == FRAME_WHOLE && f->proto == PROTO_TCP)
		at = find(w, &f->src, f->sport, &f->dst, f->dport);
	if (!at) {
		w->to_guest(w->arg, f);
		return;
	}
	fl = *at;
	frame_get_tcp(f, &t);
	if ((t.flags & TCP_F_RST) || ((t.flags & TCP_F_SYN) && !may_open(fl, &t))) {
		forget(w, at);
	} else if (t.flags & TCP_F_SYN) {
		open_flow(w, fl, f, &t, now_ms);
		return;
	} else if (fl->open) {
		fl->rcv = t.ack;
		check_over(w, fl);
		/* Often it is the last of an answer, and the end follows. */
		if (t.len && !(t.flags & TCP_F_FIN))
			f->hurry = FRAME_MORE;
		else if (fl->over)
			f->hurry = FRAME_LATER; /* the guest has closed it */
		if (t.len && !take_data(w, fl, f, &t, now_ms))
			return;
		fl->fin |= (t.flags & TCP_F_FIN) && t.seq + t.len == fl->nxt;
	}
	w->to_guest(w->arg, f);
}

/* --- acknowledgements ----------------------------------------------------------------------------
 */

static size_t make_segment(const struct flow *fl, const struct frame_tcp *t, uint8_t *out)
{
	return frame_make_tcp(&fl->guest, fl->guest_port, &fl->peer, fl->peer_port, t, out);
}

static void tell(struct window *w, struct flow *fl)
{
	struct frame_tcp t = {.seq = fl->rcv, .flags = TCP_F_ACK};
	uint8_t out[FRAME_ANSWER_MAX];

	t.window = offer(w, fl, &t.ack);
	if (!has_news(fl, t.ack, t.window))
		return;
	note_told(fl, t.ack, t.window);
	/* Last: it may be gone after this. */
	w->to_stack(w->arg, out, make_segment(fl, &t, out));
}

void window_settle(struct window *w, uint64_t now_ms)
{
	resend_due(w, now_ms);
	while (w->dirty) {
		struct flow *fl = w->dirty;

		w->dirty = fl->next_dirty;
		fl->dirty = false;
		tell(w, fl);
	}
}

/* --- the end of connections ----------------------------------------------------------------------
 */

void window_socket(struct window *w, const struct frame *f, int fd)
{
	struct flow **at = find(w, &f->dst, f->dport, &f->src, f->sport);

	if (at)
		(*at)->fd = fd;
}

static void end_flow(struct window *w, struct flow *fl)
{
	struct frame_tcp t = {.seq = fl->rcv, .flags = TCP_F_RST};
	uint8_t out[FRAME_ANSWER_MAX];
	size_t len = make_segment(fl, &t, out);

	forget(w, find(w, &fl->peer, fl->peer_port, &fl->guest, fl->guest_port));
	w->to_stack(w->arg, out, len);
}

void window_end(struct window *w, bool (*busy)(void *arg, int fd))
{
	struct flow *next;

	for (struct flow *fl = w->over; fl; fl = next) {
		next = fl->next_over;
		if (fl->fd < 0 || !busy(w->arg, fl->fd))
			end_flow(w, fl);
	}
}

int window_due(const struct window *w, uint64_t now_ms)
{
	if (w->due_ms == UINT64_MAX)
		return -1;
	return w->due_ms > now_ms ? (int)(w->due_ms - now_ms) : 0;
}

/* --- life ----------------------------------------------------------------------------------------
 */

struct window *window_create(void (*to_guest)(void *arg, struct frame *f),
			     void (*to_stack)(void *arg, uint8_t *data, size_t len), void *arg)
{
	struct window *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->to_guest = to_guest;
	w->to_stack = to_stack;
	w->arg = arg;
	w->due_ms = UINT64_MAX;
	return w;
}

void window_destroy(struct window *w)
{
	if (!w)
		return;
	for (size_t i = 0; i < BUCKETS; i++)
		while (w->buckets[i])
			forget(w, &w->buckets[i]);
	free(w);
}
