/* SPDX-License-Identifier: Apache-2.0 */
/* Reading of x86-64 ELF kernel images. The file is hostile: everything is checked. */
#ifndef VMM_ELF_H
#define VMM_ELF_H

#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

#define ELF_MAX_SEGMENTS 16
#define ELF_HEAD_BYTES	 4096 /* the headers must lie within the first page of the file */

struct elf_segment {
	uint64_t file_offset, file_bytes; /* within the file */
	uint64_t gpa, mem_bytes;	  /* mem_bytes >= file_bytes; the rest is zero */
};

struct elf_image {
	uint64_t entry_gpa; /* lies within the file part of a segment */
	unsigned int n;
	struct elf_segment segments[ELF_MAX_SEGMENTS]; /* do not overlap in memory */
};

/**
 * elf_parse() - Check the headers of an image and list what is to be loaded
 * @head:	The first @head_len bytes of the file: ELF_HEAD_BYTES, or all of a shorter file
 * @file_len:	Size of the whole file
 *
 * Return: 0, or -ENOEXEC with what is wrong
 */
int elf_parse(const void *head, size_t head_len, uint64_t file_len, struct elf_image *out,
	      struct err *e);

/* As elf_parse(), of an open file. */
int elf_read(int fd, struct elf_image *out, struct err *e);

/**
 * elf_check_range() - All of the image lies within [@start, @end) of guest memory
 *
 * Return: 0 or -ENOEXEC, -ENOMEM if only @end is too low
 */
int elf_check_range(const struct elf_image *img, uint64_t start, uint64_t end, struct err *e);

#endif
