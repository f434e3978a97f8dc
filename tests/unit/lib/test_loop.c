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
