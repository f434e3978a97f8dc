/* SPDX-License-Identifier: Apache-2.0 */
/* libslirp, bound to this program; see stack.h. */
#include "server/net/stack.h"

#include <errno.h>
#include <netinet/in.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "server/net/window.h"

/*
 * TCP segments to the guest: libslirp's largest. Its buffers have 128 KiB, and are made anew for
 * each connection, with a copy, if that is no multiple of the segment.
 */
#define SEGMENT 32768

enum use { USE_NONE, USE_TCP, USE_UDP, USE_ECHO, USE_KINDS };

struct stack {
	Slirp *slirp;
	struct filter *filter; /* borrowed */
	struct window *window; /* owned */
	uint64_t now_ms;       /* when this turn began */
	void (*send)(void *arg, const struct frame *f);
	void *arg;
	/* Of each socket that libslirp has: what it is for, and the guest's port. */
	uint8_t use[STACK_FD_LIMIT];
	uint16_t port[STACK_FD_LIMIT];
	uint8_t writes[STACK_FD_LIMIT / 8]; /* those that it has data for, a bit each */
	unsigned int used[USE_KINDS];
	uint8_t udp_ports[2][65536 / 8]; /* by family; of the guest, with a socket */
	struct frame *current;		 /* that libslirp is at */
	struct pollfd *polled;		 /* borrowed, within stack_prepare() */
	size_t polled_n;
	bool slow;
	const struct pollfd *results; /* borrowed, within stack_dispatch() */
};

static const struct {
	enum use use;
	unsigned int max;
} limits[] = {
    [USE_TCP] = {USE_TCP, STACK_TCP_MAX},
    [USE_UDP] = {USE_UDP, STACK_UDP_MAX},
    [USE_ECHO] = {USE_ECHO, STACK_ECHO_MAX},
};

/* --- what libslirp asks for --------------------------------------------------------------------
 */

static enum use use_of(const struct frame *f)
{
	if (!f)
		return USE_NONE;
	return f->proto == PROTO_TCP ? USE_TCP : f->proto == PROTO_UDP ? USE_UDP : USE_ECHO;
}

static void to_guest(void *arg, struct frame *f)
{
	struct stack *s = arg;

	if (filter_to_guest(s->filter, f) == FILTER_PASS)
		s->send(s->arg, f);
}

static ssize_t on_send(const void *buf, size_t len, void *opaque)
{
	struct stack *s = opaque;
	struct frame f;

	/* It is a copy on libslirp's stack, which it does not look at again. */
	frame_parse(&f, (uint8_t *)buf, len);
	window_from_stack(s->window, &f, s->now_ms);
	return (ssize_t)len;
}

static void to_slirp(void *arg, uint8_t *data, size_t len)
{
	struct stack *s = arg;
	struct frame f;

	/* The end of a handshake makes the metadata's socket. */
	frame_parse(&f, data, len);
	s->current = &f;
	slirp_input(s->slirp, data, (int)len);
	s->current = NULL;
}

static void on_guest_error(const char *msg, void *opaque)
{
	(void)opaque;
	log_guest("net: %.200s", msg);
}

static int64_t on_clock(void *opaque)
{
	(void)opaque;
	return (int64_t)clock_mono_ns();
}

/* The only timer is that of router advertisements, which guests are not to get. */
static void *on_timer_new(SlirpTimerCb cb, void *cb_opaque, void *opaque)
{
	(void)cb;
	(void)cb_opaque;
	return opaque;
}

static void on_timer_free(void *timer, void *opaque)
{
	(void)timer;
	(void)opaque;
}

static void on_timer_mod(void *timer, int64_t expire_time, void *opaque)
{
	(void)timer;
	(void)expire_time;
	(void)opaque;
}

static void mark_udp(struct stack *s, sa_family_t family, uint16_t port, bool is)
{
	uint8_t bit = (uint8_t)(1u << (port % 8));
	uint8_t *at = &s->udp_ports[family == AF_INET6][port / 8];

	*at = is ? *at | bit : *at & (uint8_t)~bit;
}

static bool has_udp(const struct stack *s, const struct frame *f)
{
	return s->udp_ports[f->src.family == AF_INET6][f->sport / 8] >> (f->sport % 8) & 1;
}

static sa_family_t family_of(int fd)
{
	struct sockaddr_storage name = {0};
	socklen_t len = sizeof(name);

	return getsockname(fd, (struct sockaddr *)&name, &len) ? AF_UNSPEC : name.ss_family;
}

static void on_register(int fd, void *opaque)
{
	struct stack *s = opaque;
	enum use use = use_of(s->current);

	if (fd < 0 || fd >= STACK_FD_LIMIT || s->use[fd] || !use)
		return;
	/* TCP is so already; a datagram whose checksum is wrong must not make us wait for another.
	 */
	if (use != USE_TCP)
		fd_set_nonblock(fd);
	s->use[fd] = (uint8_t)use;
	s->used[use]++;
	if (use == USE_TCP)
		window_socket(s->window, s->current, fd);
	if (use == USE_UDP) {
		s->port[fd] = s->current->sport;
		mark_udp(s, s->current->src.family, s->port[fd], true);
	}
}

static void on_unregister(int fd, void *opaque)
{
	struct stack *s = opaque;

	if (fd < 0 || fd >= STACK_FD_LIMIT || !s->use[fd])
		return;
	if (s->use[fd] == USE_UDP)
		mark_udp(s, family_of(fd), s->port[fd], false);
	s->used[s->use[fd]]--;
	s->use[fd] = USE_NONE;
}

static void on_notify(void *opaque)
{
	(void)opaque; /* there is one thread, which is awake */
}

static const SlirpCb callbacks = {
    .send_packet = on_send,
    .guest_error = on_guest_error,
    .clock_get_ns = on_clock,
    .timer_new = on_timer_new,
    .timer_free = on_timer_free,
    .timer_mod = on_timer_mod,
    .register_poll_fd = on_register,
    .unregister_poll_fd = on_unregister,
    .notify = on_notify,
};

/* --- life ---------------------------------------------------------------------------------- */

/* So that it need not ask for the guest's address: a guest that was restored does not introduce
 * itself. */
static void introduce(struct stack *s)
{
	uint8_t hello[128];

	slirp_input(s->slirp, hello, (int)frame_make_arp_hello(hello));
	slirp_input(s->slirp, hello, (int)frame_make_ndp_hello(hello));
}

int stack_create(struct stack **out, struct filter *f, const char *metadata,
		 void (*send)(void *arg, const struct frame *f), void *arg, struct err *e)
{
	static const uint8_t network[4] = {10, 0, 2, 0}, mask[4] = {255, 255, 255, 0};
	SlirpConfig c = {.version = 4,
			 .in_enabled = true,
			 .vprefix_len = 64,
			 .in6_enabled = true,
			 .if_mtu = SEGMENT + 40,
			 .if_mru = FRAME_MTU,
			 .disable_host_loopback = true,
			 .disable_dns = true,
			 .disable_dhcp = true};
	struct stack *s = calloc(1, sizeof(*s));
	struct in_addr inside;

	if (!s)
		return err_set(e, -ENOMEM, "out of memory");
	memcpy(&c.vnetwork, network, 4);
	memcpy(&c.vnetmask, mask, 4);
	memcpy(&c.vhost, net_gateway4.b, 4);
	memcpy(&c.vnameserver, net_dns4.b, 4);
	memcpy(&c.vdhcp_start, net_guest4.b, 4);
	memcpy(&c.vprefix_addr6, net_gateway6.b, 8);
	memcpy(&c.vhost6, net_gateway6.b, 16);
	memcpy(&c.vnameserver6, net_gateway6.b, 16);
	memcpy(&inside, net_metadata_inside.b, 4);
	s->filter = f;
	s->send = send;
	s->arg = arg;
	s->window = window_create(to_guest, to_slirp, s);
	if (!s->window) {
		free(s);
		return err_set(e, -ENOMEM, "out of memory");
	}
	s->slirp = slirp_new(&c, &callbacks, s);
	if (!s->slirp) {
		window_destroy(s->window);
		free(s);
		return err_set(e, -EINVAL, "libslirp %s refuses its configuration",
			       slirp_version_string());
	}
	f->metadata = metadata && !slirp_add_unix(s->slirp, metadata, &inside, METADATA_PORT);
	introduce(s);
	*out = s;
	return 0;
}

void stack_destroy(struct stack *s)
{
	if (!s)
		return;
	slirp_cleanup(s->slirp);
	window_destroy(s->window);
	free(s);
}

/* --- frames ---------------------------------------------------------------------------------- */

/* Would it need a socket when there are too many of its kind? */
static bool over_limit(const struct stack *s, const struct frame *f)
{
	enum use use = use_of(f);

	if (s->used[use] < limits[use].max)
		return false;
	if (use == USE_TCP)
		return (f->tcp_flags & (TCP_F_SYN | TCP_F_ACK)) == TCP_F_SYN;
	if (use == USE_UDP)
		return !has_udp(s, f);
	return f->icmp_type == ICMP4_ECHO;
}

/* What was made here; of @len 0: nothing. */
static void send_own(struct stack *s, uint8_t *data, size_t len)
{
	struct frame f;

	frame_parse(&f, data, len);
	if (len)
		s->send(s->arg, &f);
}

static void answer(struct stack *s, const struct frame *f)
{
	uint8_t out[FRAME_ANSWER_MAX];

	send_own(s, out, frame_refuse(f, out));
}

void stack_input(struct stack *s, uint8_t *data, size_t len)
{
	uint8_t out[64];
	struct frame f;

	frame_parse(&f, data, len);
	switch (filter_from_guest(s->filter, &f)) {
	case FILTER_DROP:
		return;
	case FILTER_ANSWER:
		return answer(s, &f);
	case FILTER_ARP:
		return send_own(s, out, frame_answer_arp(&f, out));
	case FILTER_PASS:
		break;
	}
	if (over_limit(s, &f)) {
		s->filter->stats.limited++;
		return answer(s, &f);
	}
	s->now_ms = clock_mono_ms();
	if (!window_from_guest(s->window, &f, s->now_ms))
		return;
	s->current = &f;
	slirp_input(s->slirp, f.data, (int)f.len);
	s->current = NULL;
	window_settle(s->window, s->now_ms);
}

/* --- sockets ---------------------------------------------------------------------------------- */

static int on_add_poll(int fd, int events, void *opaque)
{
	struct stack *s = opaque;
	struct pollfd *p = &s->polled[s->polled_n];
	short wanted = 0;

	if (s->polled_n == STACK_FDS_MAX)
		return -1;
	if ((events & SLIRP_POLL_IN) && !s->slow)
		wanted |= POLLIN;
	if ((events & SLIRP_POLL_PRI) && !s->slow)
		wanted |= POLLPRI;
	if (events & SLIRP_POLL_OUT)
		wanted |= POLLOUT;
	/* poll() would tell of the end of a connection that nobody reads from, over and over. */
	*p = (struct pollfd){.fd = wanted ? fd : -1, .events = wanted};
	if ((wanted & POLLOUT) && fd < STACK_FD_LIMIT)
		s->writes[fd / 8] |= (uint8_t)(1u << (fd % 8));
	return (int)s->polled_n++;
}

static bool is_writing(void *arg, int fd)
{
	return ((struct stack *)arg)->writes[fd / 8] >> (fd % 8) & 1;
}

size_t stack_prepare(struct stack *s, struct pollfd *p, bool slow, int *timeout_ms)
{
	uint32_t timeout = UINT32_MAX;

	s->polled = p;
	s->polled_n = 0;
	s->slow = slow;
	memset(s->writes, 0, sizeof(s->writes));
	slirp_pollfds_fill(s->slirp, &timeout, on_add_poll, s);
	s->polled = NULL;
	window_end(s->window, is_writing);
	/* A second is what it asks for if it needs nothing. */
	if (timeout < 1000)
		clock_sooner(timeout_ms, (int)timeout);
	clock_sooner(timeout_ms, window_due(s->window, clock_mono_ms()));
	return s->polled_n;
}

static int on_get_revents(int idx, void *opaque)
{
	const struct stack *s = opaque;
	short got;
	int events = 0;

	if (idx < 0 || (size_t)idx >= s->polled_n)
		return 0;
	got = s->results[idx].revents;
	if (got & POLLIN)
		events |= SLIRP_POLL_IN;
	if (got & POLLPRI)
		events |= SLIRP_POLL_PRI;
	if (got & POLLOUT)
		events |= SLIRP_POLL_OUT;
	if (got & (POLLERR | POLLNVAL))
		events |= SLIRP_POLL_ERR;
	if (got & POLLHUP)
		events |= SLIRP_POLL_HUP;
	return events;
}

void stack_dispatch(struct stack *s, const struct pollfd *p)
{
	s->now_ms = clock_mono_ms();
	s->results = p;
	slirp_pollfds_poll(s->slirp, 0, on_get_revents, s);
	s->results = NULL;
	window_settle(s->window, s->now_ms);
}

/* --- policy ---------------------------------------------------------------------------------- */

static bool peer_of(int fd, struct net_addr *a)
{
	union {
		struct sockaddr any;
		struct sockaddr_in four;
		struct sockaddr_in6 six;
		struct sockaddr_storage room;
	} name = {0};
	socklen_t len = sizeof(name);

	if (getpeername(fd, &name.any, &len))
		return false;
	if (name.any.sa_family == AF_INET)
		*a = net_addr4(&name.four.sin_addr);
	else if (name.any.sa_family == AF_INET6)
		*a = net_addr6(&name.six.sin6_addr);
	return name.any.sa_family == AF_INET || name.any.sa_family == AF_INET6;
}

void stack_enforce(struct stack *s)
{
	struct sockaddr none = {.sa_family = AF_UNSPEC};
	const struct policy *policy = &s->filter->policy;
	struct net_addr peer;

	for (int fd = 0; fd < STACK_FD_LIMIT; fd++) {
		if (s->use[fd] != USE_TCP || family_of(fd) == AF_UNIX)
			continue;
		/* One that is not connected yet has no peer: what comes of it does not get through.
		 */
		if (!peer_of(fd, &peer) || policy_allows(policy, s->filter->host, &peer) ||
		    (policy->internet && policy->has_dns && net_addr_equal(&peer, &policy->dns)))
			continue;
		/* Resets the other side; libslirp then finds a broken connection, and resets the
		 * guest's. */
		if (connect(fd, &none, sizeof(none)))
			log_warn("a connection that is not allowed any more: %s", strerror(errno));
	}
}

struct stack_counts stack_counts(const struct stack *s)
{
	return (struct stack_counts){s->used[USE_TCP], s->used[USE_UDP], s->used[USE_ECHO]};
}
