/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "rig.h"

#define VERSION_1   (1ULL << 32)
#define NEEDS_RESET 64u

static struct rig r;

static void setup(void)
{
	struct device_config c = {.kind = DEVICE_RNG};

	rig_init(&r, &c);
}

static void teardown(void)
{
	rig_fini(&r);
}

TestSuite(virtio_mmio, .init = setup, .fini = teardown);

Test(virtio_mmio, the_registers_identify_the_device)
{
	cr_expect_eq(rig_get(&r, 0x000), 0x74726976);
	cr_expect_eq(rig_get(&r, 0x004), 2);
	cr_expect_eq(rig_get(&r, 0x008), 4);
	cr_expect_eq(rig_get(&r, 0x034), 8, "queue 0 is selected at power-on");
	rig_set(&r, 0x30, 1);
	cr_expect_eq(rig_get(&r, 0x034), 0, "there is no queue 1");
	rig_set(&r, 0x14, 1);
	cr_expect_eq(rig_get(&r, 0x010), 1, "VERSION_1");
	rig_set(&r, 0x14, 7);
	cr_expect_eq(rig_get(&r, 0x010), 0);
}

Test(virtio_mmio, a_driver_that_does_all_in_order_gets_to_driver_ok)
{
	cr_expect_eq(rig_start(&r, VERSION_1, 8), 15);
	cr_expect(device_active(r.d));
}

Test(virtio_mmio, features_ok_is_refused_without_version_1_or_with_unknown_features)
{
	cr_expect_eq(rig_start(&r, 0, 8), 3);
	cr_expect_not(device_active(r.d));
	cr_expect_eq(rig_start(&r, VERSION_1 | 1, 8), 3);
	cr_expect_eq(rig_start(&r, VERSION_1 | 1ULL << 63, 8), 3);
	cr_expect_eq(rig_start(&r, VERSION_1 | 1ULL << 29, 8), 15);
}

Test(virtio_mmio, a_bad_queue_is_noticed_at_driver_ok_and_the_device_needs_reset)
{
	rig_set(&r, 0x70, 3);
	rig_set(&r, 0x24, 1);
	rig_set(&r, 0x20, 1);
	rig_set(&r, 0x70, 11);
	rig_set_queue(&r, 0, 3);
	rig_irqs(&r);
	rig_set(&r, 0x70, 15);
	cr_expect_eq(rig_get(&r, 0x70), 15 | NEEDS_RESET);
	cr_expect_eq(rig_get(&r, 0x60), 2, "a configuration interrupt");
	cr_expect_eq(rig_irqs(&r), 1);
	cr_expect_eq(device_stats(r.d)->broken, 1);
	/* A reset heals. */
	cr_expect_eq(rig_start(&r, VERSION_1, 8), 15);
	cr_expect_eq(rig_get(&r, 0x60), 0);
}

Test(virtio_mmio, the_geometry_is_latched_at_driver_ok)
{
	struct rig_buf b = {RIG_DATA, 16, true};

	rig_start(&r, VERSION_1, 8);
	rig_set(&r, 0x30, 0);
	rig_set(&r, 0x44, 0);
	rig_set(&r, 0x38, 4);
	rig_set(&r, 0x80, 0xdead0000);
	rig_set(&r, 0xa4, 0xffffffff);
	rig_send(&r, 0, &b, 1);
	cr_expect_eq(rig_wait(&r, 0), 16, "works where it was");
}

Test(virtio_mmio, accesses_of_any_size_and_place_are_harmless)
{
	uint8_t data[64];

	rig_start(&r, VERSION_1, 8);
	for (uint64_t at = 0; at < 0x1100; at++) {
		for (unsigned int len = 0; len <= 16; len++) {
			/* Not a reset by chance: status stays what it is. */
			memset(data, 0xa5, sizeof(data));
			device_mmio_read(r.d, at, data, len);
			cr_assert_eq(data[len], 0xa5, "wrote past %u bytes", len);
			if (len != 4)
				device_mmio_write(r.d, at, data, len);
		}
	}
	device_mmio_write(r.d, UINT64_MAX - 1, data, 4);
	device_mmio_read(r.d, UINT64_MAX - 1, data, 4);
	cr_expect_eq(data[0], 0);
	cr_expect_eq(rig_get(&r, 0x70), 15);
}

Test(virtio_mmio, a_driver_cannot_set_needs_reset_or_clear_a_status_bit)
{
	rig_set(&r, 0x70, 0xff & ~128u);
	cr_expect_eq(rig_get(&r, 0x70), 3, "no FEATURES_OK, so no DRIVER_OK");
	rig_set(&r, 0x70, 1);
	cr_expect_eq(rig_get(&r, 0x70), 3);
	rig_set(&r, 0x70, 128);
	cr_expect_eq(rig_get(&r, 0x70), 128 | 3);
}

Test(virtio_mmio, the_used_bit_stays_and_the_configuration_bit_goes_with_its_acknowledge)
{
	struct rig_buf b = {RIG_DATA, 16, true};

	rig_start(&r, VERSION_1, 8);
	rig_irqs(&r);
	rig_send(&r, 0, &b, 1);
	cr_expect_eq(rig_irqs(&r), 1);
	cr_expect_eq(rig_get(&r, 0x60), 1);
	rig_set(&r, 0x64, 1);
	cr_expect_eq(rig_get(&r, 0x60), 1, "see device.h, Exits");
	device_break(r.d, "test");
	cr_expect_eq(rig_get(&r, 0x60), 3);
	rig_set(&r, 0x64, 3);
	cr_expect_eq(rig_get(&r, 0x60), 1);
}

Test(virtio_mmio, the_register_page_shows_what_a_read_shows)
{
	uint64_t len;
	uint8_t *page = devices_register_pages(r.ds, &len), read[0x1000];

	cr_expect_eq(len, DEVICE_MMIO_BYTES);
	rig_start(&r, VERSION_1, 8);
	device_mmio_read(r.d, 0, read, sizeof(read));
	cr_expect_arr_eq(page, read, sizeof(read));
}

Test(virtio_mmio, notifications_of_a_queue_that_is_not_ready_or_not_there_do_nothing)
{
	rig_set(&r, 0x50, 0);
	rig_notify(&r, 0);
	rig_start(&r, VERSION_1, 8);
	rig_set(&r, 0x50, 1);
	rig_set(&r, 0x50, 0xffffffff);
	rig_set(&r, 0x50, 0);
	cr_expect_eq(rig_irqs(&r), 0);
	cr_expect(device_active(r.d));
}

Test(virtio_mmio, a_reset_of_all_devices_leaves_power_on_state)
{
	struct rig_buf b = {RIG_DATA, 16, true};

	rig_start(&r, VERSION_1, 8);
	rig_send(&r, 0, &b, 1);
	devices_reset(r.ds);
	cr_expect_eq(rig_get(&r, 0x70), 0);
	cr_expect_eq(rig_get(&r, 0x60), 0);
	cr_expect_eq(rig_irqs(&r), 0);
	rig_notify(&r, 0);
	cr_expect_eq(rig_start(&r, VERSION_1, 8), 15);
}

Test(virtio_mmio, unknown_kinds_and_impossible_counts_are_refused)
{
	struct devices_env env = {.mem = &r.mem, .loop = &r.loop};
	struct device_config c[DEVICES_MAX + 1] = {{.kind = DEVICE_KINDS}};
	struct devices *ds;
	struct err e;

	cr_expect_eq(devices_create(&ds, &env, c, 1, &e), -EINVAL);
	cr_expect(strstr(e.msg, "unknown kind"), "%s", e.msg);
	cr_expect_eq(devices_create(&ds, &env, c, 0, &e), -EINVAL);
	cr_expect_eq(devices_create(&ds, &env, c, DEVICES_MAX + 1, &e), -EINVAL);
}
