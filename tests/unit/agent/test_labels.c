/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions with labels: listed, and kept for a client that knows nothing of them. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fixture.h"
#include "guest-kernel/agent/ring.h"
#include "guest-kernel/agent/session.h"

TestSuite(labels, .init = agent_start, .fini = agent_stop);

/* Read to the end. Return: bytes of stdout, from @from on; all as the pattern says. */
static uint64_t read_all(struct agent_conn *c, uint64_t from, struct agent_exit *end)
{
	static uint8_t expected[65536];
	uint64_t at = from;
	struct agent_event ev;

	for (;;) {
		ok(agent_exec_next(c, 20000, &ev, &fixture_err));
		if (ev.type == AGENT_EXIT)
			break;
		if (ev.type != AGENT_STDOUT)
			continue;
		cr_assert_eq(ev.offset, at);
		pattern(at, expected, ev.len);
		cr_assert_arr_eq(ev.data, expected, ev.len);
		at += ev.len;
	}
	*end = ev.exit;
	return at - from;
}

static void make_data(size_t len)
{
	FILE *f = fopen(in_scratch("data"), "w");
	static uint8_t buf[65536];

	for (size_t at = 0; at < len; at += sizeof(buf)) {
		size_t n = len - at < sizeof(buf) ? len - at : sizeof(buf);

		pattern(at, buf, n);
		cr_assert_eq(fwrite(buf, 1, n, f), n);
	}
	fclose(f);
}

Test(labels, the_last_mebibyte_is_kept_though_it_was_acknowledged)
{
	enum { LEN = 3000000 };
	const char *argv[] = {"cat", "../data", NULL};
	struct agent_exec_spec spec = {
	    .argv = argv, .session = new_session(), .label = "name", .label_len = 4};
	struct agent_conn *c = dial(), *other = dial();
	struct agent_event ev;
	struct agent_exit end;

	make_data(LEN);
	ok(agent_exec_start(c, &spec, &fixture_err));
	cr_assert_eq(read_all(c, 0, &end), LEN);
	/* The connection that carried the end is not used any more. */
	ok(agent_exec_attach(other, spec.session, AGENT_OLDEST, AGENT_OLDEST, false, &fixture_err));
	ok(agent_exec_next(other, 20000, &ev, &fixture_err));
	cr_assert_eq(ev.type, AGENT_STARTED);
	cr_assert_leq(ev.start[0], (uint64_t)(LEN - (1 << 20)));
	cr_assert_geq(ev.start[0] + (1 << 20) + PROTO_WINDOW, (uint64_t)LEN);
	cr_assert_eq(ev.end[0], LEN);
	cr_assert_eq(read_all(other, ev.start[0], &end), LEN - ev.start[0]);
	cr_assert_eq(end.stdout_len, LEN);
	agent_close(other);
	agent_close(c);
}

Test(labels, without_one_nothing_is_kept)
{
	const char *argv[] = {"sh", "-c", "echo x; read y", NULL};
	struct agent_exec_spec spec = {
	    .argv = argv, .session = new_session(), .flags = PROTO_EXEC_STDIN, .manual_ack = true};
	struct agent_conn *c = dial(), *other = dial();
	struct agent_session s;
	struct agent_event ev;

	ok(agent_exec_start(c, &spec, &fixture_err));
	do
		ok(agent_exec_next(c, 20000, &ev, &fixture_err));
	while (ev.type != AGENT_STDOUT);
	ok(agent_sessions_open(other, &fixture_err));
	cr_assert_eq(agent_sessions_next(other, &s, &fixture_err), 0);
	ok(agent_exec_ack(c, 2, 0, &fixture_err));
	ok(agent_exec_signal(c, 9, &fixture_err));
	/* The end comes after both were taken. */
	do
		ok(agent_exec_next(c, 20000, &ev, &fixture_err));
	while (ev.type != AGENT_EXIT);
	agent_close(c);
	ok(agent_exec_attach(other, spec.session, AGENT_OLDEST, AGENT_OLDEST, false, &fixture_err));
	ok(agent_exec_next(other, 20000, &ev, &fixture_err));
	cr_assert_eq(ev.start[0], 2);
	agent_close(other);
}

Test(labels, sessions_are_listed_with_them_by_id)
{
	enum { N = 30 };
	const char *argv[] = {"cat", NULL};
	struct agent_conn *c[N], *list = dial();
	uint64_t last = 0;
	struct agent_session s;
	char label[PROTO_LABEL_MAX + 1] = "";
	int n = 0, rc;

	memset(label, 'x', sizeof(label));
	for (int i = 0; i < N; i++) {
		struct agent_exec_spec spec = {.argv = argv,
					       .session = new_session(),
					       .flags = PROTO_EXEC_STDIN,
					       .label = label,
					       .label_len = PROTO_LABEL_MAX};
		struct agent_event ev;

		c[i] = dial();
		ok(agent_exec_start(c[i], &spec, &fixture_err));
		ok(agent_exec_next(c[i], 20000, &ev, &fixture_err));
	}
	ok(agent_sessions_open(list, &fixture_err));
	while ((rc = agent_sessions_next(list, &s, &fixture_err)) > 0) {
		cr_assert_gt(s.id, last);
		cr_assert(s.running);
		cr_assert_eq(s.label_len, PROTO_LABEL_MAX);
		last = s.id;
		n++;
	}
	ok(rc);
	cr_assert_eq(n, N);
	cr_assert(agent_conn_idle(list));
	for (int i = 0; i < N; i++)
		agent_close(c[i]);
	{
		struct agent_exec_spec spec = {.argv = argv,
					       .session = new_session(),
					       .label = label,
					       .label_len = PROTO_LABEL_MAX + 1};
		struct agent_event ev;

		ok(agent_exec_start(list, &spec, &fixture_err));
		cr_assert_eq(agent_exec_next(list, 20000, &ev, &fixture_err), -EINVAL);
	}
	agent_close(list);
}

/* Rings of both kinds against a model: all that is promised to be there is, and is right. */
Test(ring, holds_what_it_promises)
{
	for (size_t keep = 0; keep <= SESSION_KEEP; keep += SESSION_KEEP) {
		struct ring r = {.keep = keep};
		static uint8_t in[100000], out[100000], expected[100000];
		unsigned int seed = 1;

		for (int i = 0; i < 3000; i++) {
			size_t n = ring_room(&r), back;

			seed = seed * 1103515245 + 12345;
			n = n < (seed >> 8) % sizeof(in) ? n : (seed >> 8) % sizeof(in);
			pattern(r.end, in, n);
			cr_assert_eq(ring_put(&r, in, n), 0);
			cr_assert_leq(r.end - r.acked, (uint64_t)PROTO_WINDOW);
			cr_assert_leq(r.start, r.acked > keep ? r.acked - keep : 0);
			cr_assert_leq(r.end - r.start, (uint64_t)(keep + PROTO_WINDOW));
			back = (size_t)(r.end - r.start);
			back = back < sizeof(out) ? back : (seed >> 4) % sizeof(out);
			ring_copy(&r, r.end - back, out, back);
			pattern(r.end - back, expected, back);
			cr_assert_arr_eq(out, expected, back);
			if (i % 3)
				ring_trim(&r, r.acked + (r.end - r.acked) * (seed % 5) / 4);
		}
		ring_fini(&r);
	}
}
