/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop of dormouse-net; see wire.h.
 *
 * Theory of operation
 * -------------------
 * One thread, one ppoll() a turn, over the guest's socket, the listening socket, netlink, the
 * controller, connections to the metadata service, and libslirp's sockets, which it names anew each
 * turn. Changes of the policy and of the host's addresses are taken before frames. When the guest
 * does not take what it was sent, nothing more is read for it from the network.
 */
#include "server/net/wire.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "server/net/control.h"
#include "server/net/jail.h"
#include "server/net/metadata.h"
#include "server/net/port.h"
#include "server/net/stack.h"

enum { P_FRAMES, P_LISTEN, P_HOST, P_CONTROL, P_FIXED };

struct wire {
	struct port *port;
	struct filter filter;
	struct host_addrs host;
	struct stack *stack;
	struct metadata *metadata;
	struct control control;
	int listen_fd;
	bool policy_changed;
	int push_us; /* what port_push() said */
	struct pollfd polled[P_FIXED + METADATA_CONNS + STACK_FDS_MAX];
};

/* --- the controller ------------------------------------------------------------------------------
 */

static int op_policy(struct wire *w, json_t *request, struct err *e)
{
	int rc = policy_parse(request, &w->filter.policy, e);

	if (!rc)
		w->policy_changed = true;
	return rc;
}

static int op_metadata(struct wire *w, json_t *request, struct err *e)
{
	json_int_t id = json_integer_value(json_object_get(request, "request"));
	json_int_t status = json_integer_value(json_object_get(request, "status"));
	json_t *body = json_object_get(request, "body");

	if (id <= 0 || id > UINT32_MAX || status < 200 || status > 599 || !json_is_object(body))
		return err_set(e, -EINVAL, "metadata: request, status or body is missing");
	metadata_answer(w->metadata, (uint32_t)id, (int)status, body);
	return 0;
}

static int op_stats(struct wire *w, json_t *answer)
{
	const struct filter_stats *s = &w->filter.stats;
	struct stack_counts n = stack_counts(w->stack);
	uint64_t bad, lost;

	port_counts(w->port, &bad, &lost);
	bad += s->malformed;
	return json_object_update_new(
	    answer,
	    json_pack("{sisI sI sI sI sI sI sI sI sI sI si si si sb}", "pid", (int)getpid(),
		      "framesOut", (json_int_t)s->frames[0], "framesIn", (json_int_t)s->frames[1],
		      "bytesOut", (json_int_t)s->bytes[0], "bytesIn", (json_int_t)s->bytes[1],
		      "malformed", (json_int_t)bad, "spoofed", (json_int_t)s->spoofed, "refused",
		      (json_int_t)s->refused, "limited", (json_int_t)s->limited, "unasked",
		      (json_int_t)s->unasked, "lost", (json_int_t)lost, "tcp", (int)n.tcp, "udp",
		      (int)n.udp, "echo", (int)n.echo, "internet", (int)w->filter.policy.internet));
}

static int on_control(void *arg, const char *op, json_t *request, json_t *answer, struct err *e)
{
	struct wire *w = arg;

	if (!strcmp(op, "policy"))
		return op_policy(w, request, e);
	if (!strcmp(op, "metadata"))
		return op_metadata(w, request, e);
	if (!strcmp(op, "stats"))
		return op_stats(w, answer) ? err_set(e, -ENOMEM, "out of memory") : 0;
	return err_set(e, -EOPNOTSUPP, "unknown operation \"%.40s\"", op);
}

static bool on_question(void *arg, uint32_t id, const struct metadata_question *q)
{
	struct wire *w = arg;

	return control_send(&w->control, json_pack("{ss sI ss sI}", "event", "metadata", "request",
						   (json_int_t)id, "what", q->what, "memoryMB",
						   (json_int_t)q->memory_mb));
}

/* Connections of our own are libslirp's, to the metadata; others are controllers, of our user. */
static void take_connection(struct wire *w)
{
	int fd = accept4(w->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred who;
	socklen_t len = sizeof(who);

	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len))
		close(fd);
	else if (who.pid == getpid())
		metadata_accept(w->metadata, fd);
	else
		control_accept(&w->control, fd);
}

/* --- the loop
 * ------------------------------------------------------------------------------------- */

static void to_guest(void *arg, const struct frame *f)
{
	port_send(((struct wire *)arg)->port, f);
}

static void from_guest(void *arg, uint8_t *data, size_t len)
{
	stack_input(((struct wire *)arg)->stack, data, len);
}

static void refresh_host(struct wire *w)
{
	struct err e;

	if (host_addrs_refresh(&w->host, &e))
		log_warn("%s", e.msg);
	else
		w->policy_changed = true;
}

static void take_news(struct wire *w)
{
	const struct pollfd *p = w->polled;

	if (p[P_HOST].revents)
		refresh_host(w);
	if (p[P_CONTROL].revents && w->control.fd == p[P_CONTROL].fd && !control_read(&w->control))
		metadata_fail(w->metadata);
	if (w->policy_changed)
		stack_enforce(w->stack);
	w->policy_changed = false;
}

/* The sooner of both; NULL: never. */
static const struct timespec *sooner(int ms, int us, struct timespec *t)
{
	if (us < 0 || (ms >= 0 && ms <= us / 1000))
		*t = (struct timespec){ms / 1000, ms % 1000 * 1000000L};
	else
		*t = (struct timespec){us / 1000000, us % 1000000 * 1000L};
	return ms < 0 && us < 0 ? NULL : t;
}

static int turn(struct wire *w, struct err *e)
{
	struct pollfd *p = w->polled;
	int timeout_ms = -1, rc = 0;
	struct timespec t;
	size_t meta, n;

	p[P_FRAMES] = (struct pollfd){port_fd(w->port),
				      (short)(POLLIN | (port_waits(w->port) ? POLLOUT : 0)), 0};
	p[P_LISTEN] = (struct pollfd){w->listen_fd, POLLIN, 0};
	p[P_HOST] = (struct pollfd){w->host.fd, POLLIN, 0};
	p[P_CONTROL] = (struct pollfd){w->control.fd, POLLIN, 0};
	meta = metadata_prepare(w->metadata, p + P_FIXED, &timeout_ms);
	n = stack_prepare(w->stack, p + P_FIXED + meta, port_is_full(w->port), &timeout_ms);
	if (ppoll(p, P_FIXED + meta + n, sooner(timeout_ms, w->push_us, &t), NULL) < 0)
		return errno == EINTR ? 0 : err_sys(e, -errno, "ppoll");
	take_news(w);
	if (p[P_LISTEN].revents)
		take_connection(w);
	metadata_dispatch(w->metadata, p + P_FIXED, meta);
	stack_dispatch(w->stack, p + P_FIXED + meta);
	if (p[P_FRAMES].revents & POLLOUT)
		rc = port_flush(w->port);
	if (!rc && p[P_FRAMES].revents & ~POLLOUT)
		rc = port_receive(w->port, from_guest, w);
	w->push_us = port_push(w->port, clock_mono_ms());
	return rc;
}

static int begin(struct wire *w, const struct wire_config *c, struct err *e)
{
	int rc = port_create(&w->port, c->frames_fd, e);

	w->listen_fd = c->listen_fd;
	w->filter.policy = c->policy;
	w->filter.host = &w->host;
	control_init(&w->control, on_control, w);
	if (!rc)
		rc = host_addrs_open(&w->host, e);
	if (!rc)
		rc = stack_create(&w->stack, &w->filter, c->listen_fd >= 0 ? c->path : NULL,
				  to_guest, w, e);
	if (rc)
		return rc;
	w->metadata = metadata_create(on_question, w);
	if (!w->metadata)
		return err_set(e, -ENOMEM, "out of memory");
	/* Time-outs are usually late by 50 us, which is as long as PORT_OPENS_US. */
	prctl(PR_SET_TIMERSLACK, 1000ul, 0, 0, 0);
	return c->jail ? jail_enter(e) : 0;
}

int wire_run(const struct wire_config *c, struct err *e)
{
	static struct wire w;
	int rc;

	memset(&w, 0, sizeof(w));
	w.host.fd = w.push_us = -1;
	rc = begin(&w, c, e);
	while (!rc)
		rc = turn(&w, e);
	stack_destroy(w.stack);
	metadata_destroy(w.metadata);
	control_fini(&w.control);
	host_addrs_close(&w.host);
	port_destroy(w.port);
	fd_close(&w.listen_fd);
	return rc == -EPIPE || rc == -ECONNRESET ? 0 : rc;
}
