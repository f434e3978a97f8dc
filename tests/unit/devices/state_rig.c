/* SPDX-License-Identifier: Apache-2.0 */
/* See state_rig.h. */
#include "state_rig.h"

#include <criterion/criterion.h>
#include <string.h>

struct rig from, to;

void state_fini_rig(struct rig *g)
{
	if (g->ds)
		rig_fini(g);
	g->ds = NULL;
}

void state_teardown(void)
{
	state_fini_rig(&from);
	state_fini_rig(&to);
}

int state_save(struct rig *g, struct state_io *io, struct err *e)
{
	devices_quiesce(g->ds);
	state_save_init(io);
	devices_state(g->ds, io);
	return state_finish(io, e);
}

int state_restore(struct rig *g, const struct state_io *saved, struct err *e)
{
	struct state_io io;
	int rc = state_restore_init(&io, saved->data, saved->len, e);

	cr_assert_eq(rc, 0, "%s", e->msg);
	devices_state(g->ds, &io);
	return state_finish(&io, e);
}

void state_move_guest(void)
{
	memcpy(to.low, from.low, RIG_LOW_BYTES);
	memcpy(to.high, from.high, RIG_HIGH_BYTES);
	memcpy(to.q, from.q, sizeof(to.q));
}

void state_law(const struct device_config *c)
{
	struct state_io a, b;
	struct err e;

	cr_assert_eq(state_save(&from, &a, &e), 0, "%s", e.msg);
	rig_init(&to, c);
	state_move_guest();
	cr_assert_eq(state_restore(&to, &a, &e), 0, "%s", e.msg);
	cr_assert_eq(state_save(&to, &b, &e), 0, "%s", e.msg);
	cr_assert_eq(a.len, b.len);
	cr_assert_arr_eq(a.data, b.data, a.len);
	/* Everything that the driver can read, too. */
	for (uint32_t reg = 0; reg < 0x140; reg += 4)
		cr_assert_eq(rig_get(&from, reg), rig_get(&to, reg), "register %#x", reg);
	state_fini(&a);
	state_fini(&b);
	devices_post_restore(to.ds);
}
