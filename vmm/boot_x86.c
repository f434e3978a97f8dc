/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an x86-64 guest finds in memory when it starts; see boot.h.
 *
 * The 64-bit boot protocol (Documentation/arch/x86/boot.rst, "64-bit BOOT
 * PROTOCOL"): long mode, paging on with an identity map, RSI = boot_params, flat segments
 * 0x10 and 0x18. No firmware runs: boot_params is all that the kernel is told,
 * and its setup_data leads to the device tree, which tells the rest.
 */
#include <asm/bootparam.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "vmm/boot.h"
#include "vmm/layout_x86.h"

#define E820_TYPE_RAM 1u
#define PTE_P	      1ull
#define PTE_RW	      2ull
#define PTE_PS	      0x80ull
#define PAGE	      4096u
#define LARGE_PAGE    (2ull << 20)

_Static_assert(sizeof(struct boot_params) == PAGE, "the zero page is a page");
_Static_assert(LAYOUT_BOOT_PARAMS + PAGE <= LAYOUT_PAGE_TABLES, "boot structures overlap");
_Static_assert(LAYOUT_PAGE_TABLES + 6 * PAGE <= LAYOUT_CMDLINE, "boot structures overlap");
_Static_assert(LAYOUT_CMDLINE + LAYOUT_CMDLINE_BYTES <= LAYOUT_DTB, "boot structures overlap");
_Static_assert(LAYOUT_DTB + LAYOUT_DTB_BYTES <= LAYOUT_LOW_END, "boot structures overlap");

uint64_t boot_low_bytes(uint64_t memory_bytes)
{
	return memory_bytes < LAYOUT_HOLE_START ? memory_bytes : LAYOUT_HOLE_START;
}

unsigned int boot_memory_map(uint64_t memory_bytes, struct boot_range out[BOOT_MAX_RANGES])
{
	uint64_t low = boot_low_bytes(memory_bytes);
	unsigned int n = 0;

	out[n++] = (struct boot_range){0, LAYOUT_LOW_END, E820_TYPE_RAM};
	out[n++] = (struct boot_range){LAYOUT_HIGH_START, low - LAYOUT_HIGH_START, E820_TYPE_RAM};
	if (memory_bytes > low)
		out[n++] = (struct boot_range){LAYOUT_HOLE_END, memory_bytes - low, E820_TYPE_RAM};
	return n;
}

static int write_zero_page(const struct boot_setup *s)
{
	struct boot_range map[BOOT_MAX_RANGES];
	struct boot_params bp = {0};
	unsigned int n = boot_memory_map(s->memory_bytes, map);

	bp.hdr.boot_flag = 0xaa55;
	bp.hdr.header = 0x53726448; /* "HdrS" */
	bp.hdr.version = 0x020f;
	bp.hdr.type_of_loader = 0xff;
	bp.hdr.cmd_line_ptr = LAYOUT_CMDLINE;
	bp.hdr.cmdline_size = LAYOUT_CMDLINE_BYTES;
	bp.hdr.setup_data = LAYOUT_DTB;
	bp.e820_entries = (uint8_t)n;
	for (unsigned int i = 0; i < n; i++) {
		bp.e820_table[i].addr = map[i].gpa;
		bp.e820_table[i].size = map[i].len_bytes;
		bp.e820_table[i].type = map[i].type;
	}
	return guest_mem_write(s->mem, LAYOUT_BOOT_PARAMS, &bp, sizeof(bp));
}

static int write_dtb(const struct boot_setup *s)
{
	struct setup_data head = {.type = SETUP_DTB, .len = (uint32_t)s->dtb_bytes};
	int rc = guest_mem_write(s->mem, LAYOUT_DTB, &head, sizeof(head));

	return rc ? rc : guest_mem_write(s->mem, LAYOUT_DTB + sizeof(head), s->dtb, s->dtb_bytes);
}

/* Identity map of the first 4 GiB in 2 MiB pages: PML4, PDPT, four directories. */
static int write_page_tables(const struct guest_mem *mem)
{
	uint64_t table[512] = {LAYOUT_PAGE_TABLES + PAGE + (PTE_P | PTE_RW)};
	int rc = guest_mem_write(mem, LAYOUT_PAGE_TABLES, table, sizeof(table));

	for (uint64_t i = 0; i < 4; i++)
		table[i] = LAYOUT_PAGE_TABLES + (2 + i) * PAGE + (PTE_P | PTE_RW);
	if (!rc)
		rc = guest_mem_write(mem, LAYOUT_PAGE_TABLES + PAGE, table, sizeof(table));
	for (uint64_t d = 0; d < 4 && !rc; d++) {
		for (uint64_t i = 0; i < 512; i++)
			table[i] = (d * 512 + i) * LARGE_PAGE | PTE_P | PTE_RW | PTE_PS;
		rc =
		    guest_mem_write(mem, LAYOUT_PAGE_TABLES + (2 + d) * PAGE, table, sizeof(table));
	}
	return rc;
}

int boot_write(const struct boot_setup *s, struct err *e)
{
	/* Null, unused, 64-bit code, data: selectors 0x10 and 0x18. */
	static const uint64_t gdt[4] = {0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff};
	size_t cmdline_bytes = strlen(s->cmdline) + 1;
	int rc;

	if (cmdline_bytes > LAYOUT_CMDLINE_BYTES)
		return err_set(e, -EINVAL, "command line: longer than %u bytes",
			       LAYOUT_CMDLINE_BYTES - 1);
	if (s->dtb_bytes > LAYOUT_DTB_BYTES - sizeof(struct setup_data))
		return err_set(e, -EINVAL, "device tree: %zu bytes do not fit", s->dtb_bytes);
	rc = write_zero_page(s);
	if (!rc)
		rc = guest_mem_write(s->mem, LAYOUT_CMDLINE, s->cmdline, cmdline_bytes);
	if (!rc)
		rc = write_dtb(s);
	if (!rc)
		rc = write_page_tables(s->mem);
	if (!rc)
		rc = guest_mem_write(s->mem, LAYOUT_GDT, gdt, sizeof(gdt));
	return rc ? err_sys(e, rc, "writing the boot structures") : 0;
}

static int load_segment(const struct guest_mem *mem, int fd, const struct elf_segment *s)
{
	uint64_t done = 0;

	while (done < s->file_bytes) {
		struct iovec iov;
		ssize_t n;
		int rc = guest_mem_iov(mem, s->gpa + done, s->file_bytes - done, &iov, 1);

		if (rc < 0)
			return rc;
		n = pread(fd, iov.iov_base, iov.iov_len, (off_t)(s->file_offset + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ENOEXEC; /* it was longer when its headers were checked */
		done += (uint64_t)n;
	}
	return 0;
}

int boot_load_kernel(const struct guest_mem *mem, int fd, const struct elf_image *img,
		     struct err *e)
{
	for (unsigned int i = 0; i < img->n; i++) {
		int rc = load_segment(mem, fd, &img->segments[i]);

		if (rc)
			return err_sys(e, rc, "loading the kernel");
	}
	return 0;
}
