/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lib/loop.h"

struct counter {
	struct loop_source source;
	struct loop *loop;
	struct counter *victim;
	int calls;
};

static void count_and_remove_victim(struct loop_source *s, uint32_t events)
{
	struct counter *c = container_of(s, struct counter, source);

	(void)events;
	c->calls++;
	if (c->victim)
		loop_remove(c->loop, &c->victim->source);
	loop_stop(c->loop);
}

Test(loop, a_removed_source_is_not_called_even_if_its_event_was_fetched)
{
	struct loop l;
	struct counter a = {.loop = &l}, b = {.loop = &l};
	int fa = eventfd(1, 0), fb = eventfd(1, 0);

	a.victim = &b;
	b.victim = &a;
	cr_assert_eq(loop_init(&l, NULL), 0);
	cr_assert_eq(loop_add(&l, &a.source, fa, EPOLLIN, count_and_remove_victim), 0);
	cr_assert_eq(loop_add(&l, &b.source, fb, EPOLLIN, count_and_remove_victim), 0);
	cr_assert_eq(loop_run(&l), 0);
	cr_assert_eq(a.calls + b.calls, 1, "both were ready, the first removed the other");
	loop_fini(&l);
	close(fa);
	close(fb);
}

Test(loop, stop_before_run_returns_at_once)
{
	struct loop l;

	cr_assert_eq(loop_init(&l, NULL), 0);
	loop_stop(&l);
	cr_assert_eq(loop_run(&l), 0);
	loop_fini(&l);
}

static void count(struct loop_source *s, uint32_t events)
{
	struct counter *c = container_of(s, struct counter, source);

	(void)events;
	c->calls++;
	loop_stop(c->loop);
}

static void run_once(struct loop *l)
{
	l->stopped = false;
	cr_assert_eq(loop_run(l), 0);
}

Test(loop, an_edge_comes_once_for_each_write_and_nothing_need_be_read)
{
	struct loop l;
	struct counter edge = {.loop = &l}, step = {.loop = &l};
	int fe = eventfd(0, 0), fs = eventfd(1, 0);
	uint64_t one = 1;

	cr_assert_eq(loop_init(&l, NULL), 0);
	cr_assert_eq(loop_add(&l, &edge.source, fe, EPOLLIN | EPOLLET, count), 0);
	cr_assert_eq(loop_add(&l, &step.source, fs, EPOLLIN, count), 0);
	for (int i = 1; i < 4; i++) {
		cr_assert_eq(write(fe, &one, sizeof(one)), sizeof(one));
		run_once(&l);
		cr_expect_eq(edge.calls, i);
		run_once(&l);
		cr_expect_eq(edge.calls, i, "it is still readable");
	}
	loop_fini(&l);
	close(fe);
	close(fs);
}
