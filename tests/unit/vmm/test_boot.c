/* SPDX-License-Identifier: Apache-2.0 */
#include <asm/bootparam.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vmm/boot.h"
#include "vmm/layout_x86.h"

#define MIB (1ull << 20)

Test(memory_map, small_memory_has_two_ranges)
{
	struct boot_range r[BOOT_MAX_RANGES];

	cr_assert_eq(boot_memory_map(64 * MIB, r), 2);
	cr_assert_eq(r[0].gpa, 0);
	cr_assert_eq(r[0].len_bytes, LAYOUT_LOW_END);
	cr_assert_eq(r[1].gpa, 1 * MIB);
	cr_assert_eq(r[1].gpa + r[1].len_bytes, 64 * MIB);
}

Test(memory_map, memory_up_to_the_hole_is_not_split)
{
	struct boot_range r[BOOT_MAX_RANGES];

	cr_assert_eq(boot_memory_map(3072 * MIB, r), 2);
	cr_assert_eq(r[1].gpa + r[1].len_bytes, LAYOUT_HOLE_START);
	cr_assert_eq(boot_low_bytes(3072 * MIB), 3072 * MIB);
}

Test(memory_map, what_does_not_fit_below_the_hole_goes_above_4_gib)
{
	static const uint64_t sizes_mib[] = {3074, 4096, 8192, 65536};

	for (size_t i = 0; i < sizeof(sizes_mib) / sizeof(sizes_mib[0]); i++) {
		struct boot_range r[BOOT_MAX_RANGES];

		cr_assert_eq(boot_memory_map(sizes_mib[i] * MIB, r), 3);
		cr_assert_eq(r[1].gpa + r[1].len_bytes, LAYOUT_HOLE_START);
		cr_assert_eq(r[2].gpa, 1ull << 32);
		cr_assert_eq(r[2].len_bytes, (sizes_mib[i] - 3072) * MIB);
		cr_assert_eq(boot_low_bytes(sizes_mib[i] * MIB), LAYOUT_HOLE_START);
	}
}

Test(memory_map, no_range_covers_a_device)
{
	struct boot_range r[BOOT_MAX_RANGES];
	unsigned int n = boot_memory_map(8192 * MIB, r);

	for (unsigned int i = 0; i < n; i++) {
		cr_assert(r[i].gpa + r[i].len_bytes <= LAYOUT_VIRTIO || r[i].gpa > LAYOUT_LAPIC);
		cr_assert_eq(r[i].type, 1);
	}
}

static uint8_t ram[2 * MIB];

static struct guest_mem memory(uint64_t len_bytes)
{
	struct guest_mem m = {0};

	cr_assert_eq(guest_mem_add(&m, 0, ram, len_bytes), 0);
	return m;
}

Test(boot, the_zero_page_leads_to_command_line_and_device_tree)
{
	struct guest_mem m = memory(2 * MIB);
	struct boot_setup s = {.mem = &m,
			       .memory_bytes = 8192 * MIB,
			       .cmdline = "quiet",
			       .dtb = "tree",
			       .dtb_bytes = 5};
	uint8_t tree[sizeof(struct setup_data) + 5];
	struct setup_data sd;
	struct boot_params bp;
	char cmdline[16];

	cr_assert_eq(boot_write(&s, NULL), 0);
	cr_assert_eq(guest_mem_read(&m, LAYOUT_BOOT_PARAMS, &bp, sizeof(bp)), 0);
	cr_assert_eq(bp.hdr.boot_flag, 0xaa55);
	cr_assert_eq(bp.e820_entries, 3);
	cr_assert_eq(bp.e820_table[2].addr, 1ull << 32);
	cr_assert_eq(guest_mem_read(&m, bp.hdr.cmd_line_ptr, cmdline, 16), 0);
	cr_assert_str_eq(cmdline, "quiet");
	cr_assert_eq(guest_mem_read(&m, bp.hdr.setup_data, tree, sizeof(tree)), 0);
	memcpy(&sd, tree, sizeof(sd));
	cr_assert_eq(sd.type, SETUP_DTB);
	cr_assert_eq(sd.len, 5);
	cr_assert_eq(sd.next, 0);
	cr_assert_arr_eq(tree + sizeof(sd), "tree", 5);
}

/* Walk the tables as the CPU would. */
static uint64_t translate(const struct guest_mem *m, uint64_t va)
{
	uint64_t table = LAYOUT_PAGE_TABLES, entry = 0;

	for (int shift = 39; shift >= 21; shift -= 9) {
		cr_assert_eq(guest_mem_read(m, table + 8 * (va >> shift & 511), &entry, 8), 0);
		if (!(entry & 1))
			return UINT64_MAX;
		table = entry & ~0xfffull;
	}
	cr_assert(entry & 0x80, "a large page");
	return (entry & ~0x1fffffull) + (va & 0x1fffff);
}

Test(boot, the_first_4_gib_are_mapped_to_themselves_and_no_more)
{
	struct guest_mem m = memory(2 * MIB);
	struct boot_setup s = {.mem = &m, .memory_bytes = 64 * MIB, .cmdline = "", .dtb = ""};

	cr_assert_eq(boot_write(&s, NULL), 0);
	for (uint64_t va = 0; va < 4096 * MIB; va += 37 * MIB + 4099)
		cr_assert_eq(translate(&m, va), va);
	cr_assert_eq(translate(&m, 4096 * MIB), UINT64_MAX);
}

Test(boot, a_command_line_that_is_too_long_is_refused)
{
	struct guest_mem m = memory(2 * MIB);
	char text[LAYOUT_CMDLINE_BYTES + 1] = "";
	struct boot_setup s = {.mem = &m, .memory_bytes = 64 * MIB, .cmdline = text, .dtb = ""};

	memset(text, 'a', LAYOUT_CMDLINE_BYTES - 1);
	cr_assert_eq(boot_write(&s, NULL), 0);
	text[LAYOUT_CMDLINE_BYTES - 1] = 'a';
	cr_assert_eq(boot_write(&s, NULL), -EINVAL);
}

Test(boot, too_little_memory_for_the_structures_is_an_error)
{
	struct guest_mem m = memory(LAYOUT_CMDLINE);
	struct boot_setup s = {.mem = &m, .memory_bytes = 64 * MIB, .cmdline = "", .dtb = ""};

	cr_assert_eq(boot_write(&s, NULL), -EFAULT);
}

Test(boot, a_kernel_that_shrinks_after_its_headers_were_read_is_an_error)
{
	struct elf_image img = {
	    .n = 1, .segments = {{.file_bytes = 100, .mem_bytes = 100, .gpa = 0x100000}}};
	struct guest_mem m = memory(2 * MIB);
	FILE *f = tmpfile();

	cr_assert_eq(fwrite("kernel", 1, 6, f), 6);
	cr_assert_eq(fflush(f), 0);
	cr_assert_eq(boot_load_kernel(&m, fileno(f), &img, NULL), -ENOEXEC);
	img.segments[0].file_bytes = 6;
	cr_assert_eq(boot_load_kernel(&m, fileno(f), &img, NULL), 0);
	cr_assert_arr_eq(m.regions[0].hva + 0x100000, "kernel", 6);
	fclose(f);
}
