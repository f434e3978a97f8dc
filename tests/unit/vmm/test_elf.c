/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <elf.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "vmm/elf.h"

#define FILE_BYTES 8192

struct file {
	uint8_t bytes[FILE_BYTES];
	Elf64_Ehdr *h;
	Elf64_Phdr *p;
};

/* A kernel of two segments, code at 16 MiB and data behind it. */
static void make(struct file *f)
{
	memset(f, 0, sizeof(*f));
	f->h = (Elf64_Ehdr *)f->bytes;
	f->p = (Elf64_Phdr *)(f->bytes + sizeof(Elf64_Ehdr));
	memcpy(f->h->e_ident, ELFMAG, SELFMAG);
	f->h->e_ident[EI_CLASS] = ELFCLASS64;
	f->h->e_ident[EI_DATA] = ELFDATA2LSB;
	f->h->e_type = ET_EXEC;
	f->h->e_machine = EM_X86_64;
	f->h->e_phentsize = sizeof(Elf64_Phdr);
	f->h->e_phoff = sizeof(Elf64_Ehdr);
	f->h->e_phnum = 2;
	f->h->e_entry = 0x1000100;
	f->p[0] = (Elf64_Phdr){.p_type = PT_LOAD,
			       .p_offset = 4096,
			       .p_paddr = 0x1000000,
			       .p_filesz = 2048,
			       .p_memsz = 4096};
	f->p[1] = (Elf64_Phdr){.p_type = PT_LOAD,
			       .p_offset = 6144,
			       .p_paddr = 0x1001000,
			       .p_filesz = 2048,
			       .p_memsz = 65536};
}

static int parse(const struct file *f, struct elf_image *img)
{
	struct err e;

	return elf_parse(f->bytes, ELF_HEAD_BYTES, FILE_BYTES, img, &e);
}

Test(elf, segments_and_entry_are_found)
{
	struct elf_image img;
	struct file f;

	make(&f);
	cr_assert_eq(parse(&f, &img), 0);
	cr_assert_eq(img.n, 2);
	cr_assert_eq(img.entry_gpa, 0x1000100);
	cr_assert_eq(img.segments[1].gpa, 0x1001000);
	cr_assert_eq(img.segments[1].file_offset, 6144);
	cr_assert_eq(img.segments[1].file_bytes, 2048);
	cr_assert_eq(img.segments[1].mem_bytes, 65536);
}

/* Each damages one thing of a good file; none may be taken. */
static void no_magic(struct file *f)
{
	f->bytes[1] = 'X';
}
static void is_32_bit(struct file *f)
{
	f->h->e_ident[EI_CLASS] = ELFCLASS32;
}
static void is_big_endian(struct file *f)
{
	f->h->e_ident[EI_DATA] = ELFDATA2MSB;
}
static void is_arm(struct file *f)
{
	f->h->e_machine = EM_AARCH64;
}
static void is_object(struct file *f)
{
	f->h->e_type = ET_REL;
}
static void odd_header_size(struct file *f)
{
	f->h->e_phentsize = 8;
}
static void no_headers(struct file *f)
{
	f->h->e_phnum = 0;
}
static void too_many_headers(struct file *f)
{
	f->h->e_phnum = 0xffff;
}
static void headers_far_out(struct file *f)
{
	f->h->e_phoff = UINT64_MAX - 8;
}
static void headers_cross_the_page(struct file *f)
{
	f->h->e_phoff = ELF_HEAD_BYTES - 2 * sizeof(Elf64_Phdr) + 1;
}
static void segment_beyond_file(struct file *f)
{
	f->p[1].p_filesz = 2049;
}
static void segment_offset_wraps(struct file *f)
{
	f->p[1].p_offset = UINT64_MAX - 100;
}
static void file_larger_than_memory(struct file *f)
{
	f->p[0].p_memsz = 2047;
}
static void memory_wraps(struct file *f)
{
	f->p[1].p_paddr = UINT64_MAX - 4096;
}
static void segments_overlap(struct file *f)
{
	f->p[0].p_memsz = 4097;
}
static void entry_outside(struct file *f)
{
	f->h->e_entry = 0x2000000;
}
static void entry_in_zeroes(struct file *f)
{
	f->h->e_entry = 0x1000000 + 2048;
}

Test(elf, every_kind_of_damage_is_refused)
{
	static void (*const damages[])(struct file *) = {
	    no_magic,
	    is_32_bit,
	    is_big_endian,
	    is_arm,
	    is_object,
	    odd_header_size,
	    no_headers,
	    too_many_headers,
	    headers_far_out,
	    headers_cross_the_page,
	    segment_beyond_file,
	    segment_offset_wraps,
	    file_larger_than_memory,
	    memory_wraps,
	    segments_overlap,
	    entry_outside,
	    entry_in_zeroes,
	};

	for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
		struct elf_image img;
		struct file f;

		make(&f);
		damages[i](&f);
		cr_assert_eq(parse(&f, &img), -ENOEXEC, "damage %zu was taken", i);
	}
}

Test(elf, a_file_cut_short_anywhere_in_its_headers_is_refused)
{
	struct elf_image img;
	struct file f;

	make(&f);
	for (size_t len = 0; len < sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Phdr); len++)
		cr_assert_eq(elf_parse(f.bytes, len, len, &img, NULL), -ENOEXEC, "%zu bytes", len);
}

Test(elf, more_segments_than_there_is_room_for_are_refused)
{
	struct elf_image img;
	struct file f;

	make(&f);
	f.h->e_phnum = ELF_MAX_SEGMENTS + 1;
	for (int i = 0; i <= ELF_MAX_SEGMENTS; i++)
		f.p[i] = (Elf64_Phdr){.p_type = PT_LOAD,
				      .p_offset = 4096,
				      .p_paddr = 0x1000000 + 0x1000ul * (unsigned)i,
				      .p_filesz = 512,
				      .p_memsz = 4096};
	cr_assert_eq(parse(&f, &img), -ENOEXEC);
	f.h->e_phnum = ELF_MAX_SEGMENTS;
	cr_assert_eq(parse(&f, &img), 0);
}

Test(elf, an_image_must_fit_between_the_limits)
{
	struct elf_image img;
	struct file f;

	make(&f);
	cr_assert_eq(parse(&f, &img), 0);
	cr_assert_eq(elf_check_range(&img, 0x1000000, 0x1011000, NULL), 0);
	cr_assert_eq(elf_check_range(&img, 0x1000001, 0x1011000, NULL), -ENOEXEC);
	cr_assert_eq(elf_check_range(&img, 0x1000000, 0x1010fff, NULL), -ENOMEM);
}

Test(elf, what_is_not_a_regular_file_is_refused)
{
	struct elf_image img;
	int fds[2];

	cr_assert_eq(pipe(fds), 0);
	cr_assert_eq(elf_read(fds[0], &img, NULL), -ENOEXEC);
}
