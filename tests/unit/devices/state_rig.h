/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of saved state: a device that was used, and one that goes on. */
#ifndef TESTS_UNIT_DEVICES_STATE_RIG_H
#define TESTS_UNIT_DEVICES_STATE_RIG_H

#include "rig.h"

#define VERSION_1 (1ULL << 32)
#define EVENT_IDX (1ULL << 29)

extern struct rig from, to;

/* For .fini of a suite. */
void state_teardown(void);
void state_fini_rig(struct rig *g);
int state_save(struct rig *g, struct state_io *io, struct err *e);
/* Into @g, which is at power-on. */
int state_restore(struct rig *g, const struct state_io *saved, struct err *e);
/* Memory and the driver's own state go over, too. */
void state_move_guest(void);
/* The law, from `from` to a new device `to`; which is left to go on with. */
void state_law(const struct device_config *c);

#endif
