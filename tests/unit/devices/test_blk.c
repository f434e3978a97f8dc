/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "fake_disk.h"
#include "rig.h"

#define FEATURES (1ULL << 32 | 1ULL << 29 | 1ULL << 9) /* VERSION_1, EVENT_IDX, FLUSH */
#define HEADER	 (RIG_DATA)
#define STATUS	 (RIG_DATA + 0x800)
#define DATA	 (RIG_DATA + 0x1000)

enum { IN = 0, OUT = 1, FLUSH = 4, GET_ID = 8, DISCARD = 11, ZEROES = 13 };

static struct fake_disk disk;
static struct rig r;

static void setup_with(bool read_only, uint64_t features)
{
	struct device_config c = {.kind = DEVICE_BLK};

	/* Instead of what the suite has set up. */
	if (r.ds)
		rig_fini(&r);
	c.blk.disk = &disk.disk;
	c.blk.read_only = read_only;
	c.blk.serial = "rootdisk";
	fake_disk_init(&disk);
	for (size_t i = 0; i < sizeof(disk.bytes); i++)
		disk.bytes[i] = (uint8_t)(i / 512 + i);
	rig_init(&r, &c);
	cr_assert_eq(rig_start(&r, features, 16), 15);
}

static void setup(void)
{
	setup_with(false, FEATURES);
}

static void teardown(void)
{
	rig_fini(&r);
}

TestSuite(blk, .init = setup, .fini = teardown);

static void header(uint64_t at, uint32_t type, uint64_t sector)
{
	uint32_t zero = 0;

	memcpy(rig_ptr(&r, at), &type, 4);
	memcpy(rig_ptr(&r, at + 4), &zero, 4);
	memcpy(rig_ptr(&r, at + 8), &sector, 8);
}

/* One request to its end. Returns the status byte. */
static uint8_t request(uint32_t type, uint64_t sector, uint32_t len, bool in, uint32_t *used)
{
	struct rig_buf b[3] = {{HEADER, 16, false}, {DATA, len, in}, {STATUS, 1, true}};
	uint32_t n;

	header(HEADER, type, sector);
	*rig_ptr(&r, STATUS) = 0xee;
	if (!len)
		b[1] = b[2];
	rig_send(&r, 0, b, len ? 3 : 2);
	n = rig_wait(&r, 0);
	if (used)
		*used = n;
	return *rig_ptr(&r, STATUS);
}

Test(blk, config_space_tells_size_and_limits)
{
	cr_expect_eq(rig_get(&r, 0x100), FAKE_DISK_BYTES / 512);
	cr_expect_eq(rig_get(&r, 0x10c), 126, "seg_max");
	cr_expect_eq(rig_get(&r, 0x114), 512, "blk_size");
	cr_expect_eq(rig_get(&r, 0x118) & 0xff, 3, "4096-byte physical blocks");
}

Test(blk, reads_and_writes_move_data)
{
	uint32_t used;

	cr_expect_eq(request(IN, 3, 1024, true, &used), 0);
	cr_expect_eq(used, 1025);
	cr_expect_arr_eq(rig_ptr(&r, DATA), disk.bytes + 3 * 512, 1024);
	memset(rig_ptr(&r, DATA), 0x77, 1024);
	cr_expect_eq(request(OUT, 8, 1024, false, &used), 0);
	cr_expect_eq(used, 1);
	cr_expect_eq(disk.bytes[8 * 512], 0x77);
	cr_expect_eq(disk.bytes[10 * 512 - 1], 0x77);
	cr_expect_neq(disk.bytes[10 * 512], 0x77);
	cr_expect_eq(disk.flushes, 0);
	cr_expect_eq(request(FLUSH, 0, 0, true, NULL), 0);
	cr_expect_eq(disk.flushes, 1);
}

Test(blk, a_header_in_pieces_and_a_status_behind_the_data_are_fine)
{
	/* 2.7.4: a device must not assume how a request is cut into descriptors. */
	struct rig_buf b[] = {{HEADER, 5, false}, {HEADER + 5, 11, false}, {DATA, 513, true}};

	header(HEADER, IN, 1);
	rig_send(&r, 0, b, 3);
	cr_expect_eq(rig_wait(&r, 0), 513);
	cr_expect_eq(*rig_ptr(&r, DATA + 512), 0);
	cr_expect_arr_eq(rig_ptr(&r, DATA), disk.bytes + 512, 512);
}

Test(blk, the_table_of_requests_that_cannot_be)
{
	const uint64_t end = FAKE_DISK_BYTES / 512;
	static const uint8_t ok = 0, ioerr = 1, unsupp = 2;
	const struct {
		uint32_t type;
		uint64_t sector;
		uint32_t len;
		bool in;
		uint8_t status;
	} t[] = {
	    {IN, end - 1, 512, true, ok},
	    {IN, end, 512, true, ioerr},
	    {IN, end - 1, 1024, true, ioerr},
	    {IN, end + 1, 512, true, ioerr},
	    {IN, UINT64_MAX, 512, true, ioerr},
	    {IN, UINT64_MAX / 512 + 1, 512, true, ioerr},
	    {IN, 0, 511, true, ioerr},
	    {OUT, end, 512, false, ioerr},
	    {OUT, 0, 513, false, ioerr},
	    {OUT, end - 1, 512, false, ok},
	    {99, 0, 512, true, unsupp},
	    {0xffffffff, 0, 512, false, unsupp},
	    {DISCARD, 0, 15, false, ioerr},
	    {DISCARD, 0, 32, false, ioerr},
	    {IN, 0, 0, true, ok},
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		cr_expect_eq(request(t[i].type, t[i].sector, t[i].len, t[i].in, NULL), t[i].status,
			     "row %zu", i);
	cr_expect(device_active(r.d));
}

static uint8_t range_request(uint32_t type, uint64_t sector, uint32_t n, uint32_t flags)
{
	memcpy(rig_ptr(&r, DATA), &sector, 8);
	memcpy(rig_ptr(&r, DATA + 8), &n, 4);
	memcpy(rig_ptr(&r, DATA + 12), &flags, 4);
	return request(type, 0, 16, false, NULL);
}

Test(blk, discard_and_write_zeroes_check_their_range_and_flags)
{
	const uint64_t end = FAKE_DISK_BYTES / 512;

	cr_expect_eq(range_request(DISCARD, 8, 8, 0), 0);
	cr_expect_eq(disk.bytes[8 * 512 + 3], 0);
	cr_expect_eq(range_request(ZEROES, 24, 1, 1), 0);
	cr_expect_eq(disk.bytes[24 * 512 + 3], 0);
	cr_expect_neq(disk.bytes[25 * 512 + 3], 0);
	cr_expect_eq(range_request(DISCARD, 0, 8, 1), 2, "unmap has no meaning for discard");
	cr_expect_eq(range_request(ZEROES, 0, 8, 2), 2);
	cr_expect_eq(range_request(DISCARD, end, 1, 0), 1);
	cr_expect_eq(range_request(DISCARD, end - 1, 2, 0), 1);
	cr_expect_eq(range_request(ZEROES, UINT64_MAX, 2, 0), 1);
	cr_expect_eq(range_request(ZEROES, 0, 0xffffffff, 0), 1);
	cr_expect_eq(range_request(ZEROES, 5, 0, 0), 0);
}

Test(blk, the_id_is_given_and_cut_to_the_buffer)
{
	cr_expect_eq(request(GET_ID, 0, 20, true, NULL), 0);
	cr_expect_str_eq((char *)rig_ptr(&r, DATA), "rootdisk");
	memset(rig_ptr(&r, DATA), 'z', 20);
	cr_expect_eq(request(GET_ID, 0, 4, true, NULL), 0);
	cr_expect_arr_eq(rig_ptr(&r, DATA), "rootz", 5);
}

Test(blk, a_request_without_header_or_status_needs_reset)
{
	struct rig_buf no_status[] = {{HEADER, 16, false}, {DATA, 512, false}};
	struct rig_buf short_header[] = {{HEADER, 15, false}, {STATUS, 1, true}};

	header(HEADER, OUT, 0);
	rig_send(&r, 0, no_status, 2);
	cr_expect_not(device_active(r.d));
	cr_expect_eq(rig_start(&r, FEATURES, 16), 15);
	rig_send(&r, 0, short_header, 2);
	cr_expect_not(device_active(r.d));
	cr_expect_eq(device_stats(r.d)->broken, 2);
}

Test(blk, host_errors_are_told_to_the_guest_and_counted)
{
	disk.fail = -ENOSPC;
	cr_expect_eq(request(OUT, 0, 512, false, NULL), 1);
	disk.fail = -EOPNOTSUPP;
	cr_expect_eq(range_request(DISCARD, 0, 8, 0), 2);
	cr_expect_eq(device_stats(r.d)->errors, 2);
	disk.fail = 0;
	cr_expect_eq(request(OUT, 0, 512, false, NULL), 0);
}

Test(blk, many_requests_are_in_flight_and_end_in_any_order)
{
	uint32_t id, len, seen = 0;

	disk.hold = true;
	for (uint32_t i = 0; i < 5; i++) {
		struct rig_buf b[] = {{HEADER + i * 16, 16, false},
				      {DATA + i * 512, 512, true},
				      {STATUS + i, 1, true}};

		header(HEADER + i * 16, IN, i * 3);
		rig_add(&r, 0, b, 3);
	}
	rig_notify(&r, 0);
	cr_assert_eq(disk.held, 5);
	cr_expect_eq(disk.kicks, 1, "one system call for the batch");
	rig_irqs(&r);
	fake_disk_release(&disk);
	cr_expect_eq(rig_irqs(&r), 1, "one interrupt for the batch");
	while (rig_used(&r, 0, &id, &len)) {
		seen++;
		cr_expect_eq(len, 513);
	}
	cr_expect_eq(seen, 5);
	for (uint32_t i = 0; i < 5; i++)
		cr_expect_arr_eq(rig_ptr(&r, DATA + i * 512), disk.bytes + i * 3 * 512, 512);
}

Test(blk, a_reset_waits_for_what_is_in_flight)
{
	struct rig_buf b[] = {{HEADER, 16, false}, {DATA, 512, true}, {STATUS, 1, true}};

	disk.hold = true;
	header(HEADER, IN, 0);
	rig_send(&r, 0, b, 3);
	cr_assert_eq(disk.held, 1);
	rig_set(&r, 0x70, 0);
	cr_expect_eq(disk.held, 0);
	/* And nothing of it arrives in the next life. */
	cr_expect_eq(rig_start(&r, FEATURES, 16), 15);
	rig_step(&r);
	cr_expect_eq(rig_irqs(&r) > 1, 0);
}

Test(blk, quiesce_ends_what_is_in_flight_and_leaves_the_rest_in_the_ring)
{
	struct rig_buf b[] = {{HEADER, 16, false}, {DATA, 512, true}, {STATUS, 1, true}};
	uint32_t id, len;

	disk.hold = true;
	header(HEADER, IN, 0);
	rig_send(&r, 0, b, 3);
	rig_add(&r, 0, b, 3);
	devices_quiesce(r.ds);
	cr_expect_eq(disk.held, 0);
	cr_expect(rig_used(&r, 0, &id, &len));
	cr_expect_not(rig_used(&r, 0, &id, &len));
}

Test(blk, without_flush_a_write_is_durable_before_it_ends)
{
	setup_with(false, 1ULL << 32);
	cr_expect_eq(request(OUT, 0, 512, false, NULL), 0);
	cr_expect_eq(disk.flushes, 1);
	cr_expect_eq(request(IN, 0, 512, true, NULL), 0);
	cr_expect_eq(disk.flushes, 1);
}

Test(blk, a_read_only_disk_says_so_and_refuses_writes)
{
	setup_with(true, FEATURES);
	rig_set(&r, 0x14, 0);
	cr_expect(rig_get(&r, 0x10) & 1u << 5);
	cr_expect_not(rig_get(&r, 0x10) & 1u << 13, "no discard");
	cr_expect_eq(request(OUT, 0, 512, false, NULL), 1);
	cr_expect_eq(range_request(DISCARD, 0, 8, 0), 1);
	cr_expect_eq(request(IN, 0, 512, true, NULL), 0);
}

/* As a machine that is restored into what was made ahead. */
Test(blk, a_device_gets_its_disk_later_and_another_one_after_that)
{
	struct device_config c = {.kind = DEVICE_BLK};
	static struct fake_disk other;

	rig_fini(&r);
	rig_init(&r, &c);
	cr_expect_eq(rig_get(&r, 0x100), 0, "no sectors without a disk");
	fake_disk_init(&disk);
	device_set_disk(r.d, &disk.disk, true);
	cr_expect_eq(rig_get(&r, 0x100), FAKE_DISK_BYTES / 512);
	cr_expect(rig_get(&r, 0x10) & 1u << 5, "read-only");
	device_set_disk(r.d, &disk.disk, false);
	cr_expect_not(rig_get(&r, 0x10) & 1u << 5);
	cr_assert_eq(rig_start(&r, FEATURES, 16), 15);
	cr_expect_eq(request(IN, 0, 512, true, NULL), 0);
	fake_disk_init(&other);
	memset(other.bytes, 0x5a, sizeof(other.bytes));
	device_set_disk(r.d, &other.disk, false);
	cr_expect_eq(rig_get(&r, 0x70), 0, "at power-on");
	cr_expect_null(disk.disk.batch);
}
