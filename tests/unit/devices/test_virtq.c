/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "rig.h"

#define F_NEXT	   1
#define F_WRITE	   2
#define F_INDIRECT 4
#define SIZE	   8

/* A queue without a device. */
static struct rig r;
static struct virtq q;

static void setup(uint16_t size, bool event_idx, bool indirect)
{
	struct virtq_geometry g = {size, 0x10000, 0x11000, 0x12000};

	rig_init(&r, NULL);
	r.q[0] = (struct rig_queue){size, 0, 0, 0, g.desc, g.avail, g.used};
	cr_assert_eq(virtq_start(&q, &r.mem, &g, VIRTQ_MAX_SIZE, event_idx, indirect), 0);
}

static void set16(uint64_t gpa, uint16_t v)
{
	memcpy(rig_ptr(&r, gpa), &v, 2);
}

static uint16_t get16(uint64_t gpa)
{
	uint16_t v;

	memcpy(&v, rig_ptr(&r, gpa), 2);
	return v;
}

Test(virtq, the_geometry_table)
{
	static const struct {
		struct virtq_geometry g;
		int rc;
	} t[] = {
	    {{8, 0x10000, 0x11000, 0x12000}, 0},
	    {{1, 0x10000, 0x11000, 0x12000}, 0},
	    {{64, 0x10000, 0x11000, 0x12000}, 0},
	    {{0, 0x10000, 0x11000, 0x12000}, -EINVAL},
	    {{3, 0x10000, 0x11000, 0x12000}, -EINVAL},
	    {{128, 0x10000, 0x11000, 0x12000}, -EINVAL}, /* more than offered */
	    {{0x10000, 0x10000, 0x11000, 0x12000}, -EINVAL},
	    {{0x80000000, 0x10000, 0x11000, 0x12000}, -EINVAL},
	    {{8, 0x10008, 0x11000, 0x12000}, -EINVAL}, /* alignment */
	    {{8, 0x10000, 0x11001, 0x12000}, -EINVAL},
	    {{8, 0x10000, 0x11000, 0x12002}, -EINVAL},
	    {{8, RIG_LOW_BYTES - 128, 0x11000, 0x12000}, 0}, /* the end of RAM */
	    {{8, RIG_LOW_BYTES - 112, 0x11000, 0x12000}, -EINVAL},
	    {{8, 0x10000, RIG_LOW_BYTES - 22, 0x12000}, 0},
	    {{8, 0x10000, RIG_LOW_BYTES - 20, 0x12000}, -EINVAL},
	    {{8, 0x10000, 0x11000, RIG_LOW_BYTES - 72}, 0},
	    {{8, 0x10000, 0x11000, RIG_LOW_BYTES - 68}, -EINVAL},
	    {{8, UINT64_MAX - 15, 0x11000, 0x12000}, -EINVAL},
	    {{8, RIG_LOW_BYTES, 0x11000, 0x12000}, -EINVAL}, /* the hole */
	};

	rig_init(&r, NULL);
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		cr_expect_eq(virtq_start(&q, &r.mem, &t[i].g, 64, true, true), t[i].rc, "row %zu",
			     i);
	rig_fini(&r);
}

Test(virtq, a_chain_is_copied_in_order_and_returned)
{
	struct rig_buf bufs[] = {{RIG_DATA, 16, false},
				 {RIG_DATA + 100, 50, false},
				 {RIG_DATA + 200, 30, true},
				 {RIG_DATA + 300, 1, true}};
	struct virtq_chain c;
	struct iovec iov[4];
	uint32_t id, len;
	uint8_t text[20];

	setup(SIZE, false, false);
	cr_expect_eq(virtq_pop(&q, &c), VIRTQ_EMPTY);
	memcpy(rig_ptr(&r, RIG_DATA + 14), "ab", 2);
	memcpy(rig_ptr(&r, RIG_DATA + 100), "cdef", 4);
	rig_add(&r, 0, bufs, 4);
	cr_assert_eq(virtq_pop(&q, &c), VIRTQ_OK);
	cr_expect_eq(c.n_out, 2);
	cr_expect_eq(c.n_in, 2);
	cr_expect_eq(c.out_bytes, 66);
	cr_expect_eq(c.in_bytes, 31);
	/* Across the boundary of two buffers. */
	cr_expect_eq(virtq_chain_read(&q, &c, 14, text, 4), 0);
	cr_expect_arr_eq(text, "abcd", 4);
	cr_expect_eq(virtq_chain_read(&q, &c, 60, text, 6), 0);
	cr_expect_eq(virtq_chain_read(&q, &c, 60, text, 7), -EFAULT);
	cr_expect_eq(virtq_chain_write(&q, &c, 29, "xy", 2), 0);
	cr_expect_eq(*rig_ptr(&r, RIG_DATA + 229), 'x');
	cr_expect_eq(*rig_ptr(&r, RIG_DATA + 300), 'y');
	cr_expect_eq(virtq_chain_write(&q, &c, 30, "xy", 2), -EFAULT);
	cr_expect_eq(virtq_chain_iov(&q, &c, true, 1, 30, iov, 4), 2);
	cr_expect_eq(virtq_chain_iov(&q, &c, true, 1, 31, iov, 4), -EFAULT);
	cr_expect_eq(virtq_chain_iov(&q, &c, true, 1, 30, iov, 1), -E2BIG);
	cr_expect_eq(virtq_push(&q, c.head, 31), VIRTQ_OK);
	cr_assert(rig_used(&r, 0, &id, &len));
	cr_expect_eq(id, 0);
	cr_expect_eq(len, 31);
	cr_expect_eq(q.in_flight, 0);
	rig_fini(&r);
}

Test(virtq, neighbouring_buffers_become_one_vector_entry)
{
	struct rig_buf bufs[] = {{RIG_DATA, 4096, true}, {RIG_DATA + 4096, 4096, true}};
	struct virtq_chain c;
	struct iovec iov[2];

	setup(SIZE, false, false);
	rig_add(&r, 0, bufs, 2);
	cr_assert_eq(virtq_pop(&q, &c), VIRTQ_OK);
	cr_assert_eq(virtq_chain_iov(&q, &c, true, 0, 8192, iov, 2), 1);
	cr_expect_eq(iov[0].iov_len, 8192);
	rig_fini(&r);
}

/* One descriptor table each; what popping head 0 must give. */
Test(virtq, the_table_of_malformed_chains)
{
	static const struct {
		const char *what;
		struct {
			uint64_t gpa;
			uint32_t len;
			uint16_t flags, next;
		} d[3];
		uint16_t head;
		enum virtq_status s;
	} t[] = {
	    {"one buffer", {{RIG_DATA, 8, 0, 0}}, 0, VIRTQ_OK},
	    {"an empty buffer", {{RIG_DATA, 0, 0, 0}}, 0, VIRTQ_OK},
	    {"the last byte of RAM", {{RIG_LOW_BYTES - 1, 1, 0, 0}}, 0, VIRTQ_OK},
	    {"a byte more", {{RIG_LOW_BYTES - 1, 2, 0, 0}}, 0, VIRTQ_BROKEN},
	    {"the hole", {{RIG_LOW_BYTES, 1, 0, 0}}, 0, VIRTQ_BROKEN},
	    {"over the hole", {{0, RIG_HIGH + 1, 0, 0}}, 0, VIRTQ_BROKEN},
	    {"a wrap", {{UINT64_MAX, 2, 0, 0}}, 0, VIRTQ_BROKEN},
	    {"head out of range", {{RIG_DATA, 8, 0, 0}}, SIZE, VIRTQ_BROKEN},
	    {"head far out of range", {{RIG_DATA, 8, 0, 0}}, 0xffff, VIRTQ_BROKEN},
	    {"next out of range", {{RIG_DATA, 8, F_NEXT, SIZE}}, 0, VIRTQ_BROKEN},
	    {"a loop of one", {{RIG_DATA, 8, F_NEXT, 0}}, 0, VIRTQ_BROKEN},
	    {"a loop of two",
	     {{RIG_DATA, 8, F_NEXT, 1}, {RIG_DATA, 8, F_NEXT, 0}},
	     0,
	     VIRTQ_BROKEN},
	    {"readable after writable",
	     {{RIG_DATA, 8, F_NEXT | F_WRITE, 1}, {RIG_DATA, 8, 0, 0}},
	     0,
	     VIRTQ_BROKEN},
	    {"indirect that was not negotiated", {{RIG_DATA, 16, F_INDIRECT, 0}}, 0, VIRTQ_BROKEN},
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct virtq_chain c;

		setup(SIZE, false, false);
		for (uint16_t k = 0; k < 3; k++)
			rig_desc(&r, 0, k, t[i].d[k].gpa, t[i].d[k].len, t[i].d[k].flags,
				 t[i].d[k].next);
		rig_avail(&r, 0, t[i].head);
		cr_expect_eq(virtq_pop(&q, &c), t[i].s, "%s", t[i].what);
		/* A broken queue gives nothing more. */
		if (t[i].s == VIRTQ_BROKEN) {
			cr_expect_eq(virtq_pop(&q, &c), VIRTQ_BROKEN, "%s", t[i].what);
			cr_expect_eq(virtq_push(&q, 0, 0), VIRTQ_BROKEN, "%s", t[i].what);
		}
		rig_fini(&r);
	}
}

static void indirect_desc(uint64_t table, unsigned int i, uint64_t gpa, uint32_t len,
			  uint16_t flags, uint16_t next)
{
	uint8_t *d = rig_ptr(&r, table + 16 * i);

	memcpy(d, &gpa, 8);
	memcpy(d + 8, &len, 4);
	memcpy(d + 12, &flags, 2);
	memcpy(d + 14, &next, 2);
}

Test(virtq, an_indirect_table_is_walked_and_its_own_limits_hold)
{
	static const struct {
		const char *what;
		uint64_t gpa;
		uint32_t len;
		uint16_t flags, inner_flags, inner_next;
		enum virtq_status s;
	} t[] = {
	    {"two descriptors", RIG_DATA, 32, F_INDIRECT, F_NEXT, 1, VIRTQ_OK},
	    {"next past its end", RIG_DATA, 32, F_INDIRECT, F_NEXT, 2, VIRTQ_BROKEN},
	    {"a loop", RIG_DATA, 32, F_INDIRECT, F_NEXT, 0, VIRTQ_BROKEN},
	    {"nested", RIG_DATA, 32, F_INDIRECT, F_INDIRECT, 0, VIRTQ_BROKEN},
	    {"with next", RIG_DATA, 32, F_INDIRECT | F_NEXT, F_NEXT, 1, VIRTQ_BROKEN},
	    {"empty", RIG_DATA, 0, F_INDIRECT, F_NEXT, 1, VIRTQ_BROKEN},
	    {"a piece of a descriptor", RIG_DATA, 24, F_INDIRECT, F_NEXT, 1, VIRTQ_BROKEN},
	    {"too long", RIG_DATA, 16 * (VIRTQ_MAX_CHAIN + 1), F_INDIRECT, F_NEXT, 1, VIRTQ_BROKEN},
	    {"outside RAM", RIG_LOW_BYTES - 16, 32, F_INDIRECT, F_NEXT, 1, VIRTQ_BROKEN},
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct virtq_chain c;

		setup(SIZE, false, true);
		indirect_desc(RIG_DATA, 0, RIG_DATA + 0x1000, 8, t[i].inner_flags, t[i].inner_next);
		indirect_desc(RIG_DATA, 1, RIG_DATA + 0x2000, 8, F_WRITE, 0);
		rig_desc(&r, 0, 0, t[i].gpa, t[i].len, t[i].flags, 1);
		rig_avail(&r, 0, 0);
		cr_expect_eq(virtq_pop(&q, &c), t[i].s, "%s", t[i].what);
		rig_fini(&r);
	}
}

Test(virtq, a_chain_longer_than_the_cap_is_malformed_though_the_queue_is_larger)
{
	struct virtq_chain c;

	setup(256, false, false);
	for (uint16_t i = 0; i <= VIRTQ_MAX_CHAIN; i++)
		rig_desc(&r, 0, i, RIG_DATA, 8, i < VIRTQ_MAX_CHAIN - 1 ? F_NEXT : 0,
			 (uint16_t)(i + 1));
	rig_avail(&r, 0, 0);
	cr_expect_eq(virtq_pop(&q, &c), VIRTQ_OK);
	cr_expect_eq(c.n_out, VIRTQ_MAX_CHAIN);
	rig_desc(&r, 0, VIRTQ_MAX_CHAIN - 1, RIG_DATA, 8, F_NEXT, VIRTQ_MAX_CHAIN);
	rig_avail(&r, 0, 0);
	cr_expect_eq(virtq_pop(&q, &c), VIRTQ_BROKEN);
	rig_fini(&r);
}

Test(virtq, an_index_that_jumps_further_than_the_queue_is_long_is_malformed)
{
	struct virtq_chain c;

	setup(SIZE, false, false);
	rig_desc(&r, 0, 0, RIG_DATA, 8, 0, 0);
	set16(0x11002, SIZE + 1);
	cr_expect_eq(virtq_pop(&q, &c), VIRTQ_BROKEN);
	rig_fini(&r);
}

Test(virtq, more_chains_in_flight_than_descriptors_is_malformed)
{
	struct virtq_chain c;

	setup(SIZE, false, false);
	rig_desc(&r, 0, 0, RIG_DATA, 8, 0, 0);
	for (int i = 0; i < SIZE; i++) {
		rig_avail(&r, 0, 0);
		cr_assert_eq(virtq_pop(&q, &c), VIRTQ_OK);
	}
	rig_avail(&r, 0, 0);
	cr_expect_eq(virtq_pop(&q, &c), VIRTQ_BROKEN);
	rig_fini(&r);
}

Test(virtq, indices_wrap_at_sixteen_bits)
{
	struct virtq_chain c;
	uint32_t id, len;

	setup(SIZE, true, false);
	rig_desc(&r, 0, 3, RIG_DATA, 8, 0, 0);
	for (unsigned int i = 0; i < 0x10000 + 20; i++) {
		rig_avail(&r, 0, 3);
		cr_assert_eq(virtq_pop(&q, &c), VIRTQ_OK);
		cr_assert_eq(virtq_push(&q, c.head, i), VIRTQ_OK);
		cr_assert(rig_used(&r, 0, &id, &len));
		cr_assert_eq(len, i);
	}
	cr_expect_eq(virtq_pop(&q, &c), VIRTQ_EMPTY);
	rig_fini(&r);
}

Test(virtq, what_is_given_back_is_popped_again)
{
	struct rig_buf b = {RIG_DATA, 8, true};
	struct virtq_chain c;

	setup(SIZE, false, false);
	rig_add(&r, 0, &b, 1);
	rig_add(&r, 0, &b, 1);
	cr_assert_eq(virtq_pop(&q, &c), VIRTQ_OK);
	cr_assert_eq(virtq_pop(&q, &c), VIRTQ_OK);
	virtq_unpop(&q, 2);
	cr_assert_eq(virtq_pop(&q, &c), VIRTQ_OK);
	cr_expect_eq(c.head, 0);
	cr_expect_eq(q.in_flight, 1);
	rig_fini(&r);
}

static void use(uint16_t n)
{
	struct virtq_chain c;

	rig_desc(&r, 0, 0, RIG_DATA, 8, 0, 0);
	for (; n; n--) {
		rig_avail(&r, 0, 0);
		cr_assert_eq(virtq_pop(&q, &c), VIRTQ_OK);
		cr_assert_eq(virtq_push(&q, 0, 0), VIRTQ_OK);
	}
}

Test(virtq, with_event_indices_an_interrupt_is_sent_when_the_index_is_passed)
{
	const uint64_t used_event = 0x11000 + 4 + 2 * SIZE;

	setup(SIZE, true, false);
	cr_expect_not(virtq_needs_interrupt(&q), "nothing was pushed");
	set16(used_event, 0);
	use(1);
	cr_expect(virtq_needs_interrupt(&q), "index 0 was asked for and passed");
	use(1);
	cr_expect_not(virtq_needs_interrupt(&q), "the driver has not asked again");
	set16(used_event, 4);
	use(2);
	cr_expect_not(virtq_needs_interrupt(&q), "index 4 is not reached");
	use(3);
	cr_expect(virtq_needs_interrupt(&q), "index 4 was passed in the middle of a batch");
	rig_fini(&r);
}

Test(virtq, without_event_indices_the_flags_decide)
{
	setup(SIZE, false, false);
	use(1);
	cr_expect(virtq_needs_interrupt(&q));
	set16(0x11000, 1);
	use(1);
	cr_expect_not(virtq_needs_interrupt(&q));
	virtq_disable_notify(&q);
	cr_expect_eq(get16(0x12000), 1);
	cr_expect_not(virtq_enable_notify(&q));
	cr_expect_eq(get16(0x12000), 0);
	rig_fini(&r);
}

Test(virtq, a_notification_can_be_of_the_buffer_after_the_next_one)
{
	struct rig_buf b = {RIG_DATA, 8, true};
	struct virtq_chain c;

	setup(SIZE, false, false);
	cr_expect_not(virtq_defer_notify(&q), "not without event indices");
	rig_fini(&r);
	setup(SIZE, true, false);
	rig_add(&r, 0, &b, 1);
	cr_assert_eq(virtq_pop(&q, &c), VIRTQ_OK);
	cr_expect_not(virtq_enable_notify(&q));
	cr_expect_eq(get16(0x12000 + 4 + 8 * SIZE), 1);
	cr_expect(virtq_defer_notify(&q));
	cr_expect_eq(get16(0x12000 + 4 + 8 * SIZE), 2);
	rig_fini(&r);
}

Test(virtq, enabling_notifications_tells_of_a_chain_that_came_in_between)
{
	struct rig_buf b = {RIG_DATA, 8, true};

	setup(SIZE, true, false);
	cr_expect_not(virtq_enable_notify(&q));
	cr_expect_eq(get16(0x12000 + 4 + 8 * SIZE), 0, "notify for index 0");
	rig_add(&r, 0, &b, 1);
	cr_expect(virtq_enable_notify(&q));
	rig_fini(&r);
}
