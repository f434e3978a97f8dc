/* SPDX-License-Identifier: Apache-2.0 */
/* The state of devices that change the guest's memory, and of machines without them. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "state_rig.h"

TestSuite(state_mem, .fini = state_teardown, .timeout = 60);

/* --- mem ---------------------------------------------------------------------------- */

#define MEM_GPA 0x100000000ull
#define MEM                                                                                        \
	{                                                                                          \
		.kind = DEVICE_MEM, .mem = {.gpa = MEM_GPA, .region_bytes = 64ull << 20 }          \
	}

/* @usable: what of the region is memory, as the memory image says. */
static void restore_mem(const struct state_io *saved, uint64_t usable, int code)
{
	struct device_config c = MEM;
	struct err e = {0};

	state_fini_rig(&to);
	rig_init(&to, &c);
	state_move_guest();
	device_mem_set_usable(to.d, usable);
	cr_expect_eq(state_restore(&to, saved, &e), code, "%s", e.msg);
}

static void mem_request(struct rig *g, uint16_t type, uint64_t addr, uint16_t blocks)
{
	struct rig_buf b[] = {{RIG_DATA, 24, false}, {RIG_DATA + 64, 10, true}};
	uint64_t req[3] = {type, addr, blocks};

	memcpy(rig_ptr(g, RIG_DATA), req, sizeof(req));
	rig_send(g, 0, b, 2);
	cr_assert_eq(rig_wait(g, 0), 10);
	cr_assert_eq(*rig_ptr(g, RIG_DATA + 64), 0);
}

Test(state_mem, mem_keeps_what_is_plugged)
{
	struct device_config c = MEM;
	struct device_mem_info info;
	struct state_io a, b;
	struct err e;

	rig_init(&from, &c);
	device_mem_set_usable(from.d, 22ull << 20);
	device_mem_request(from.d, 20ull << 20);
	rig_start(&from, VERSION_1 | EVENT_IDX, 8);
	mem_request(&from, 0, MEM_GPA + (4ull << 20), 3);
	mem_request(&from, 0, MEM_GPA + (20ull << 20), 1);
	cr_assert_eq(state_save(&from, &a, &e), 0, "%s", e.msg);
	restore_mem(&a, 22ull << 20, 0);
	device_mem_get(to.d, &info);
	cr_expect_eq(info.plugged_bytes, 8ull << 20);
	cr_expect_eq(info.requested_bytes, 20ull << 20);
	cr_assert_eq(state_save(&to, &b, &e), 0, "%s", e.msg);
	cr_assert_eq(a.len, b.len);
	cr_assert_arr_eq(a.data, b.data, a.len);
	state_fini(&b);
	devices_post_restore(to.ds);
	mem_request(&to, 1, MEM_GPA + (4ull << 20), 3);
	/* RAM of another size. */
	restore_mem(&a, 24ull << 20, -EINVAL);
	restore_mem(&a, 0, -EINVAL);
	device_mem_get(to.d, &info);
	cr_expect_eq(info.plugged_bytes, 0);
	state_fini(&a);
}

/* A bit behind the last block, and a request that is no multiple of a block. */
Test(state_mem, a_state_of_mem_that_cannot_be_is_refused)
{
	struct device_config c = MEM;
	struct state_io io;
	struct err e;

	rig_init(&from, &c);
	rig_init(&to, &c);
	device_mem_set_usable(to.d, 6ull << 20);
	for (int i = 0; i < 4; i++) {
		uint64_t requested = i == 1 ? 3ull << 20 : i == 2 ? 8ull << 20 : 4ull << 20;
		uint8_t map = i == 3 ? 8 : 7;
		struct state_io out;

		state_save_init(&out);
		state_begin(&out, STATE_TAG('D', 'E', 'V', 'S'), 0, 1, STATE_MANDATORY);
		state_expect(&out, 1, "devices");
		state_end(&out);
		state_begin(&out, STATE_TAG('V', 'I', 'R', 'T'), 0, 1, STATE_MANDATORY);
		virtio_mmio_state(from.d, &out);
		state_end(&out);
		state_begin(&out, STATE_TAG('V', 'D', 'E', 'V'), 0, 1, STATE_MANDATORY);
		state_expect(&out, MEM_GPA, "address");
		state_expect(&out, 64ull << 20, "region");
		state_expect(&out, 6ull << 20, "usable");
		state_u64(&out, &requested);
		state_u8(&out, &map);
		state_end(&out);
		cr_assert_eq(state_finish(&out, &e), 0, "%s", e.msg);
		io = out;
		cr_expect_eq(state_restore(&to, &io, &e), i ? -EINVAL : 0, "%d: %s", i, e.msg);
		state_fini(&out);
	}
}

/* A machine that was saved before there was the newest device has it at power-on. */
Test(state_mem, newer_devices_are_at_power_on_in_an_older_machine)
{
	struct device_config rng = {.kind = DEVICE_RNG};
	const struct device_config both[] = {{.kind = DEVICE_RNG}, MEM};
	struct devices_env env = {0};
	struct state_io io, again;
	struct rig_buf b = {RIG_DATA, 32, true};
	struct devices *alone;
	struct err e;

	rig_init(&from, &rng);
	rig_start(&from, VERSION_1, 8);
	rig_send(&from, 0, &b, 1);
	cr_assert_eq(rig_wait(&from, 0), 32);
	cr_assert_eq(state_save(&from, &io, &e), 0);
	rig_init(&to, NULL);
	env = (struct devices_env){.mem = &to.mem, .loop = &to.loop};
	cr_assert_eq(devices_create(&to.ds, &env, both, 2, &e), 0, "%s", e.msg);
	to.d = devices_get(to.ds, 0);
	state_move_guest();
	cr_expect_eq(state_restore(&to, &io, &e), 0, "%s", e.msg);
	cr_expect(device_active(to.d));
	cr_expect_not(device_active(devices_get(to.ds, 1)));
	state_fini(&io);
	/* Not the other way round: a device that the guest uses cannot go. */
	cr_assert_eq(state_save(&to, &io, &e), 0, "%s", e.msg);
	alone = from.ds;
	state_restore_init(&again, io.data, io.len, &e);
	cr_expect_eq(devices_state(alone, &again), -EINVAL);
	state_fini(&again);
	/* And no older device may be missing. */
	state_fini(&io);
	cr_assert_eq(state_save(&from, &io, &e), 0);
	devices_destroy(to.ds);
	cr_assert_eq(
	    devices_create(&to.ds, &env,
			   (struct device_config[]){{.kind = DEVICE_RNG}, {.kind = DEVICE_RNG}}, 2,
			   &e),
	    0);
	cr_expect_eq(state_restore(&to, &io, &e), -EINVAL);
	cr_expect_str_eq(e.msg, "section DEVS 0: devices: 1 in the saved state, 2 here");
	state_fini(&io);
}

/* Drivers that were saved with it go on with it; new ones are not offered it. */
Test(state_mem, a_balloon_of_an_older_version_goes_on)
{
	struct device_config c = {.kind = DEVICE_BALLOON};
	struct state_io io;
	struct err e;

	rig_init(&from, &c);
	from.d->features |= 1u << 2;
	cr_assert_eq(rig_start(&from, VERSION_1 | 1u << 2, 8), 15);
	cr_assert_eq(state_save(&from, &io, &e), 0, "%s", e.msg);
	rig_init(&to, &c);
	state_move_guest();
	cr_expect_eq(state_restore(&to, &io, &e), 0, "%s", e.msg);
	cr_expect(device_active(to.d));
	cr_expect_not(rig_start(&to, VERSION_1 | 1u << 2, 8) & 8);
	state_fini(&io);
}
