/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the metadata service of a sandbox answers (api.md 16). dormouse-net has read the request; it
 * is asked here for one of few things, and is not trusted beyond that.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "server/manager/net.h"
#include "server/manager/scale.h"

#define PIDS_FILE "/sys/fs/cgroup/sandbox/pids.current"
#define WAITING	  8 /* questions of one sandbox at a time */

struct question {
	struct sandbox *s; /* a reference */
	json_int_t id, memory_mib;
	char what[16];
};

static json_t *status_body(struct sandbox *s, const struct sandbox_row *row)
{
	return json_pack("{ss, sI}", "sandboxId", s->id, "uptime",
			 (json_int_t)((clock_wall_ms() - row->created_ms) / 1000));
}

static json_t *metadata_body(struct sandbox *s, const struct sandbox_row *row)
{
	return json_pack("{ss, ss}", "region", s->m->config->region, "template", row->template);
}

/* Of the guest's cgroup of commands; null if its agent does not say. */
static json_t *count_pids(struct sandbox *s)
{
	struct agent_conn *conn;
	struct agent_stat st;
	char text[32], rest[32], *end;
	long long n = -1;
	ssize_t len;
	struct err e;

	if (sandbox_agent_get(s, &conn, &e))
		return json_null();
	if (!agent_read_open(conn, PIDS_FILE, &st, &e)) {
		len = agent_read(conn, text, sizeof(text) - 1, &e);
		if (len > 0) {
			text[len] = '\0';
			n = strtoll(text, &end, 10);
			n = end == text ? -1 : n;
			/* Its end, so that the connection can be used again. */
			while (len > 0)
				len = agent_read(conn, rest, sizeof(rest), &e);
		}
	}
	sandbox_agent_put(s, conn);
	return n < 0 ? json_null() : json_integer(n);
}

static json_t *limits_body(struct sandbox *s, const struct sandbox_row *row)
{
	int64_t cpu = row->scaling.cpu_percent ? row->scaling.cpu_percent : 100 * row->cpus;
	struct memory_use u = {0};
	json_t *stats, *body;
	int64_t used_kib;
	struct err e;

	net_call(s, json_pack("{ss}", "op", "stats"), &stats, &e);
	sandbox_memory_use(s->m, s->id, &u, &e);
	used_kib = u.guest_total_kib ? u.guest_total_kib - u.guest_available_kib : u.resident_kib;
	/* As the guest sees it: what it got is its input. */
	body = json_pack("{sI, sI, sI, so, sI, sI}", "cpuPercent", (json_int_t)cpu, "memUsage",
			 (json_int_t)used_kib << 10, "memLimit",
			 (json_int_t)sandbox_row_memory(row) << 20, "pids", count_pids(s),
			 "netInput", json_integer_value(json_object_get(stats, "bytesIn")),
			 "netOutput", json_integer_value(json_object_get(stats, "bytesOut")));
	json_decref(stats);
	return body;
}

static json_t *scale_body(struct question *q, int *status)
{
	struct scale_request r = {.memory_mib = q->memory_mib};
	struct scale_result done;
	struct err e;
	int rc = scale_check(q->s->m, &r, &e);

	if (!rc)
		rc = sandbox_scale(q->s->m, q->s->id, &r, &done, &e);
	if (!rc)
		return json_pack("{sb, sI, sI}", "ok", 1, "memoryMB", (json_int_t)done.memory_mib,
				 "cpuPercent", (json_int_t)done.cpu_percent);
	*status = rc == -EINVAL ? 400 : rc == SCALE_LOCKED ? 403 : rc == SCALE_FLOOR ? 409 : 503;
	return json_pack("{ss}", "error", e.msg);
}

static json_t *body_of(struct question *q, int *status)
{
	struct sandbox_row row;
	json_t *body = NULL;

	*status = 200;
	if (!strcmp(q->what, "scale"))
		return scale_body(q, status);
	if (sandbox_copy_row(q->s, &row))
		return NULL;
	if (!strcmp(q->what, "status"))
		body = status_body(q->s, &row);
	else if (!strcmp(q->what, "metadata"))
		body = metadata_body(q->s, &row);
	else if (!strcmp(q->what, "limits"))
		body = limits_body(q->s, &row);
	sandbox_row_fini(&row);
	return body;
}

static void answer(void *arg)
{
	struct question *q = arg;
	struct err e;
	int status;
	json_t *body = body_of(q, &status);

	if (!body) {
		status = 500;
		body = json_object();
	}
	if (net_call(q->s,
		     json_pack("{ss, sI, si, so}", "op", "metadata", "request", q->id, "status",
			       status, "body", body),
		     NULL, &e))
		log_debug("sandbox %s: metadata: %s", q->s->id, e.msg);
	__atomic_sub_fetch(&q->s->net.questions, 1, __ATOMIC_RELAXED);
	sandbox_put(q->s);
	free(q);
}

void net_answer(struct sandbox *s, json_t *event)
{
	const char *what = json_string_value(json_object_get(event, "what"));
	struct question *q;

	/* A flood of them is not made threads of: the rest is not answered, and times out. */
	if (!what || __atomic_add_fetch(&s->net.questions, 1, __ATOMIC_RELAXED) > WAITING) {
		if (what)
			__atomic_sub_fetch(&s->net.questions, 1, __ATOMIC_RELAXED);
		return;
	}
	q = calloc(1, sizeof(*q));
	if (q) {
		q->s = s;
		q->id = json_integer_value(json_object_get(event, "request"));
		q->memory_mib = json_integer_value(json_object_get(event, "memoryMB"));
		snprintf(q->what, sizeof(q->what), "%.15s", what);
		__atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
	}
	if (!q || jobs_run(&s->m->jobs, answer, q)) {
		__atomic_sub_fetch(&s->net.questions, 1, __ATOMIC_RELAXED);
		if (q)
			sandbox_put(s);
		free(q);
	}
}
