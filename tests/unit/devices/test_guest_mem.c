/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "devices/guest_mem.h"

/* RAM: [0x1000, 0x3000) and [0x3000, 0x4000) touch; [0x8000, 0x9000) alone; the top page. */
#define TOP (UINT64_MAX - 0xfff)

static uint8_t ram[5 * 4096] __attribute__((aligned(4096)));

static void fill(struct guest_mem *m)
{
	*m = (struct guest_mem){0};
	cr_assert_eq(guest_mem_add(m, 0x1000, ram, 0x2000), 0);
	cr_assert_eq(guest_mem_add(m, 0x3000, ram + 0x2000, 0x1000), 0);
	cr_assert_eq(guest_mem_add(m, 0x8000, ram + 0x3000, 0x1000), 0);
}

Test(guest_mem, the_boundary_table)
{
	static const struct {
		uint64_t gpa, len;
		int rc;
	} t[] = {
	    {0, 1, -EFAULT},
	    {0xfff, 1, -EFAULT},
	    {0xfff, 2, -EFAULT},
	    {0x1000, 1, 0},
	    {0x1000, 0x2000, 0},
	    {0x1000, 0x3000, 0},
	    {0x1000, 0x3001, -EFAULT},
	    {0x2fff, 2, 0},
	    {0x3fff, 1, 0},
	    {0x3fff, 2, -EFAULT},
	    {0x4000, 1, -EFAULT},
	    {0x7fff, 2, -EFAULT},
	    {0x8000, 0x1000, 0},
	    {0x8000, 0x1001, -EFAULT},
	    {0x8fff, 1, 0},
	    {0x9000, 1, -EFAULT},
	    {0x1000, 0x7000, -EFAULT},
	    {UINT64_MAX, 1, -EFAULT},
	    {UINT64_MAX, 2, -EFAULT},
	    {0x3fff, UINT64_MAX, -EFAULT},
	    {UINT64_MAX - 1, 0x2000, -EFAULT},
	    {0x5000, 0, 0},
	    {UINT64_MAX, 0, 0},
	};
	static uint8_t buf[0x8000];
	struct iovec iov[4];
	struct guest_mem m;

	fill(&m);
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		int n = guest_mem_iov(&m, t[i].gpa, t[i].len, iov, 4);
		uint64_t sum = 0;

		cr_expect_eq(n < 0 ? n : 0, t[i].rc, "row %zu: iov gives %d", i, n);
		for (int k = 0; k < n; k++)
			sum += iov[k].iov_len;
		cr_expect(n < 0 || sum == t[i].len, "row %zu: iov of %zu bytes", i, (size_t)sum);
		if (t[i].len > sizeof(buf))
			continue;
		cr_expect_eq(guest_mem_read(&m, t[i].gpa, buf, t[i].len), t[i].rc, "row %zu", i);
		cr_expect_eq(guest_mem_write(&m, t[i].gpa, buf, t[i].len), t[i].rc, "row %zu", i);
	}
}

Test(guest_mem, a_range_over_two_regions_that_touch_is_one_range)
{
	uint8_t out[4] = {1, 2, 3, 4}, in[4] = {0};
	struct iovec iov[2];
	struct guest_mem m;

	fill(&m);
	cr_assert_eq(guest_mem_write(&m, 0x2ffe, out, 4), 0);
	cr_assert_eq(guest_mem_read(&m, 0x2ffe, in, 4), 0);
	cr_expect_arr_eq(in, out, 4);
	cr_expect_eq(guest_mem_iov(&m, 0x2ffe, 4, iov, 2), 2);
	cr_expect_eq(guest_mem_iov(&m, 0x2ffe, 4, iov, 1), -E2BIG);
}

Test(guest_mem, a_write_that_reaches_into_a_hole_writes_nothing)
{
	uint8_t zeros[2] = {0};
	struct guest_mem m;

	fill(&m);
	ram[0x2fff] = 7;
	cr_assert_eq(guest_mem_write(&m, 0x3fff, zeros, 2), -EFAULT);
	cr_expect_eq(ram[0x2fff], 7);
}

Test(guest_mem, regions_that_are_empty_wrap_or_overlap_are_refused)
{
	struct guest_mem m;

	fill(&m);
	cr_expect_eq(guest_mem_add(&m, 0x100000, ram, 0), -EINVAL);
	cr_expect_eq(guest_mem_add(&m, TOP, ram, 0x1000), -EINVAL);
	cr_expect_eq(guest_mem_add(&m, 0x2000, ram, 0x1000), -EEXIST);
	cr_expect_eq(guest_mem_add(&m, 0, ram, 0x1001), -EEXIST);
	cr_expect_eq(guest_mem_add(&m, 0, ram, 0x1000), 0);
	cr_expect_eq(guest_mem_total(&m), 0x5000);
	while (m.n < GUEST_MEM_MAX_REGIONS)
		cr_assert_eq(guest_mem_add(&m, 0x100000 + m.n * 0x1000, ram, 0x1000), 0);
	cr_expect_eq(guest_mem_add(&m, 0x200000, ram, 0x1000), -ENOSPC);
}

Test(guest_mem, an_index_is_read_only_where_it_is_aligned_and_whole)
{
	struct guest_mem m;
	uint16_t v;

	fill(&m);
	cr_expect_eq(guest_mem_store16(&m, 0x1002, 0x1234), 0);
	cr_expect_eq(guest_mem_load16(&m, 0x1002, &v), 0);
	cr_expect_eq(v, 0x1234);
	cr_expect_eq(guest_mem_load16(&m, 0x1003, &v), -EFAULT);
	cr_expect_eq(guest_mem_load16(&m, 0x3fff, &v), -EFAULT);
	cr_expect_eq(guest_mem_load16(&m, 0x5000, &v), -EFAULT);
}

Test(guest_mem, discarded_pages_read_as_zero_and_parts_of_pages_are_refused)
{
	uint8_t *p = mmap(NULL, 0x4000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct guest_mem m = {0};

	cr_assert_eq(guest_mem_add(&m, 0, p, 0x4000), 0);
	memset(p, 5, 0x4000);
	cr_expect_eq(guest_mem_discard(&m, 0x1000, 0x800), -EINVAL);
	cr_expect_eq(guest_mem_discard(&m, 0x1800, 0x1000), -EINVAL);
	cr_expect_eq(guest_mem_discard(&m, 0x3000, 0x2000), -EFAULT);
	cr_expect_eq(p[0x1000], 5);
	cr_expect_eq(guest_mem_discard(&m, 0x1000, 0x1000), 0);
	cr_expect_eq(p[0x1000], 0);
	cr_expect_eq(p[0xfff], 5);
	cr_expect_eq(p[0x2000], 5);
	munmap(p, 0x4000);
}

/* The last page of the first region cannot be loaded. */
static int load(void *opaque, const void *at, uint64_t len_bytes)
{
	const uint8_t *from = at;

	++*(int *)opaque;
	return from + len_bytes > ram + 0x1000 && from < ram + 0x2000 ? -EIO : 0;
}

Test(guest_mem, every_access_is_loaded_first)
{
	uint8_t buf[0x2000] = {7};
	struct guest_mem m;
	int calls = 0;
	uint16_t v;

	fill(&m);
	guest_mem_set_loader(&m, load, &calls);
	cr_assert_eq(guest_mem_read(&m, 0x1000, buf, 0x1000), 0);
	cr_assert_eq(guest_mem_write(&m, 0x3000, buf, 0x1000), 0);
	cr_assert_eq(guest_mem_load16(&m, 0x8000, &v), 0);
	cr_assert_eq(guest_mem_store16(&m, 0x8000, v), 0);
	cr_assert_eq(calls, 4);
	cr_assert_eq(guest_mem_read(&m, 0x1fff, buf, 2), -EFAULT);
	cr_assert_eq(guest_mem_write(&m, 0x2fff, buf, 2), -EFAULT);
	cr_assert_eq(guest_mem_load16(&m, 0x2000, &v), -EFAULT);
	cr_assert_eq(guest_mem_store16(&m, 0x2000, 1), -EFAULT);
	guest_mem_set_loader(&m, NULL, NULL);
	cr_assert_eq(guest_mem_read(&m, 0x1fff, buf, 2), 0);
	cr_assert_eq(calls, 8);
}

Test(guest_mem, a_region_grows_and_shrinks)
{
	static _Alignas(4096) uint8_t pages[4 * 4096];
	struct guest_mem m = {0};
	uint8_t b;

	cr_assert_eq(guest_mem_add(&m, 0, pages, 4096), 0);
	cr_expect_eq(guest_mem_set(&m, 0x10000, pages + 4096, 0), 0, "there is none, as wanted");
	cr_expect_eq(guest_mem_set(&m, 0x10000, pages + 4096, 4096), 0);
	cr_expect_eq(guest_mem_read(&m, 0x11000, &b, 1), -EFAULT);
	cr_expect_eq(guest_mem_set(&m, 0x10000, pages + 4096, 3 * 4096), 0);
	cr_expect_eq(guest_mem_read(&m, 0x12fff, &b, 1), 0);
	cr_expect_eq(guest_mem_set(&m, 0, pages, 0x10001), -EEXIST);
	cr_expect_eq(guest_mem_set(&m, 0x10000, pages, ~0ull), -EINVAL);
	cr_expect_eq(guest_mem_total(&m), 4 * 4096);
	cr_expect_eq(guest_mem_set(&m, 0x10000, pages + 4096, 0), 0);
	cr_expect_eq(guest_mem_read(&m, 0x10000, &b, 1), -EFAULT);
	cr_expect_eq(m.n, 1);
}

Test(guest_mem, drops_are_noted)
{
	static _Alignas(4096) uint8_t pages[16 * 4096];
	struct guest_mem m = {0};
	uint8_t map[2] = {0};

	cr_assert_eq(guest_mem_add(&m, 0x100000, pages, sizeof(pages)), 0);
	guest_mem_note_drops(&m, map, pages);
	cr_expect_eq(guest_mem_discard(&m, 0x101000, 0x2000), 0);
	cr_expect_eq(guest_mem_discard(&m, 0x107000, 0x2000), 0);
	cr_expect_eq(guest_mem_discard(&m, 0x10a800, 0x1000), -EINVAL);
	cr_expect_eq(map[0], 0x86);
	cr_expect_eq(map[1], 0x01);
}
