/* SPDX-License-Identifier: Apache-2.0 */
/* Entropy, balloon, serial console. */
#include <criterion/criterion.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "devices/serial.h"
#include "rig.h"

#define VERSION_1 (1ULL << 32)
#define EVENT_IDX (1ULL << 29)

Test(rng, a_request_is_filled_and_clamped)
{
	struct device_config c = {.kind = DEVICE_RNG};
	struct rig_buf small = {RIG_DATA, 32, true}, large = {RIG_DATA + 4096, 4096, true};
	static const uint8_t zeros[32];
	struct rig r;

	rig_init(&r, &c);
	rig_start(&r, VERSION_1, 8);
	rig_send(&r, 0, &small, 1);
	cr_expect_eq(rig_wait(&r, 0), 32);
	cr_expect(memcmp(rig_ptr(&r, RIG_DATA), zeros, 32), "32 zero bytes are not random");
	rig_send(&r, 0, &large, 1);
	cr_expect_eq(rig_wait(&r, 0), 256);
	cr_expect_eq(*rig_ptr(&r, RIG_DATA + 4096 + 256), 0, "nothing past what it says");
	rig_fini(&r);
}

Test(rng, a_request_that_is_readable_needs_reset)
{
	struct device_config c = {.kind = DEVICE_RNG};
	struct rig_buf b = {RIG_DATA, 32, false};
	struct rig r;

	rig_init(&r, &c);
	rig_start(&r, VERSION_1, 8);
	rig_send(&r, 0, &b, 1);
	cr_expect_not(device_active(r.d));
	rig_fini(&r);
}

#define F_REPORTING (1ULL << 5)

static void balloon_start(struct rig *r)
{
	struct device_config c = {.kind = DEVICE_BALLOON, .balloon.target_pages = 3};

	rig_init(r, &c);
	cr_assert_eq(rig_start(r, VERSION_1 | F_REPORTING, 32), 15);
}

Test(balloon, reported_pages_are_given_back)
{
	struct rig_buf b[] = {{RIG_HIGH + 0x10000, 0x4000, true},
			      {RIG_HIGH + 0x20000, 0x1000, true}};
	struct rig r;

	balloon_start(&r);
	memset(r.high, 1, RIG_HIGH_BYTES);
	rig_send(&r, 2, b, 2);
	cr_expect_eq(rig_wait(&r, 2), 0);
	cr_expect_eq(r.high[0x10000], 0);
	cr_expect_eq(r.high[0x13fff], 0);
	cr_expect_eq(r.high[0x14000], 1);
	cr_expect_eq(r.high[0x20000], 0);
	cr_expect_eq(r.high[0xffff], 1);
	rig_fini(&r);
}

Test(balloon, a_report_of_parts_of_pages_needs_reset_and_drops_nothing)
{
	struct rig_buf b = {RIG_HIGH + 0x10800, 0x1000, true};
	struct rig r;

	balloon_start(&r);
	memset(r.high, 1, RIG_HIGH_BYTES);
	rig_send(&r, 2, &b, 1);
	cr_expect_not(device_active(r.d));
	cr_expect_eq(r.high[0x10800], 1);
	rig_fini(&r);
}

Test(balloon, inflated_pages_are_dropped_and_those_outside_ram_ignored)
{
	uint32_t pfns[] = {0x220, 0x221, 0x222, 0x300, 0xffffffff, 0x150, 0x240};
	struct rig_buf b = {RIG_DATA, sizeof(pfns), false};
	struct rig r;

	balloon_start(&r);
	memset(r.high, 1, RIG_HIGH_BYTES);
	memcpy(rig_ptr(&r, RIG_DATA), pfns, sizeof(pfns));
	rig_send(&r, 0, &b, 1);
	cr_expect_eq(rig_wait(&r, 0), 0);
	cr_expect(device_active(r.d));
	cr_expect_eq(r.high[0x20000], 0);
	cr_expect_eq(r.high[0x22fff], 0);
	cr_expect_eq(r.high[0x23000], 1);
	cr_expect_eq(r.high[0x40000], 0);
	cr_expect_eq(r.high[0x100000], 0);
	rig_fini(&r);
}

Test(balloon, target_and_actual_go_through_config_space)
{
	uint32_t v = 77;
	struct rig r;

	balloon_start(&r);
	cr_expect_eq(rig_get(&r, 0x100), 3);
	device_mmio_write(r.d, 0x104, &v, 4);
	cr_expect_eq(device_balloon_actual(r.d), 77);
	v = 1;
	device_mmio_write(r.d, 0x100, &v, 4);
	cr_expect_eq(rig_get(&r, 0x100), 3, "the target is the host's to set");
	rig_irqs(&r);
	v = rig_get(&r, 0xfc);
	device_balloon_set_target(r.d, 512);
	cr_expect_eq(rig_get(&r, 0x100), 512);
	cr_expect_neq(rig_get(&r, 0xfc), v, "a new generation");
	cr_expect_eq(rig_get(&r, 0x60) & 2, 2);
	cr_expect_eq(rig_irqs(&r), 1);
	rig_set(&r, 0x70, 0);
	cr_expect_eq(device_balloon_actual(r.d), 0, "after a reset the guest has all of it");
	rig_fini(&r);
}

struct sunk {
	char text[64];
	size_t len;
};

static void sink(void *opaque, const uint8_t *data, size_t len)
{
	struct sunk *s = opaque;

	memcpy(s->text + s->len, data, len);
	s->len += len;
}

Test(serial, text_goes_to_the_sink_and_the_transmitter_is_always_ready)
{
	struct sunk s = {.len = 0};
	struct serial u = {.sink = sink, .opaque = &s, .irq_fd = -1};

	serial_reset(&u);
	for (const char *p = "hello"; *p; p++) {
		cr_expect_eq(serial_read(&u, 5) & 0x60, 0x60);
		serial_write(&u, 0, (uint8_t)*p);
	}
	serial_write_bytes(&u, (const uint8_t *)" world", 6);
	cr_expect_eq(s.len, 11);
	cr_expect_arr_eq(s.text, "hello world", 11);
	/* The divisor latch is no text. */
	serial_write(&u, 3, 0x83);
	serial_write(&u, 0, 'x');
	serial_write_bytes(&u, (const uint8_t *)"y", 1);
	cr_expect_eq(serial_read(&u, 0), 'y');
	serial_write(&u, 3, 0x03);
	cr_expect_eq(s.len, 11);
}

Test(serial, the_transmitter_interrupt_comes_when_enabled_and_goes_when_seen)
{
	struct serial u = {.irq_fd = eventfd(0, EFD_NONBLOCK)};
	uint64_t n;

	serial_reset(&u);
	serial_write(&u, 0, 'a');
	cr_expect_lt(read(u.irq_fd, &n, 8), 0, "nobody asked for it");
	serial_write(&u, 1, 2);
	cr_expect_eq(read(u.irq_fd, &n, 8), 8);
	cr_expect_eq(serial_read(&u, 2) & 0x0f, 2);
	cr_expect_eq(serial_read(&u, 2) & 0x0f, 1);
	serial_write(&u, 0, 'b');
	cr_expect_eq(read(u.irq_fd, &n, 8), 8);
	close(u.irq_fd);
}

Test(serial, linux_detects_a_16550a)
{
	struct serial u = {.irq_fd = -1};

	serial_reset(&u);
	serial_write(&u, 1, 0);
	cr_expect_eq(serial_read(&u, 1), 0);
	serial_write(&u, 1, 0x0f);
	cr_expect_eq(serial_read(&u, 1), 0x0f);
	serial_write(&u, 4, 0x1a);
	cr_expect_eq(serial_read(&u, 6) & 0xf0, 0x90, "loop mode");
	serial_write(&u, 2, 1);
	cr_expect_eq(serial_read(&u, 2) >> 6, 3, "it has a FIFO");
	serial_write(&u, 7, 0x5a);
	cr_expect_eq(serial_read(&u, 7), 0x5a);
	for (unsigned int p = 0; p < 300; p++) {
		serial_write(&u, p, 0xff);
		serial_read(&u, p);
	}
}
