/* SPDX-License-Identifier: Apache-2.0 */
/* What a guest finds in memory when it starts: kernel, boot_params, device tree. */
#ifndef VMM_BOOT_H
#define VMM_BOOT_H

#include <stddef.h>
#include <stdint.h>

#include "devices/guest_mem.h"
#include "lib/err.h"
#include "vmm/elf.h"

/* One usable or reserved range of the guest's memory map. */
struct boot_range {
	uint64_t gpa, len_bytes;
	uint32_t type; /* as in e820: 1 RAM */
};
#define BOOT_MAX_RANGES 4

/**
 * boot_memory_map() - Lay @memory_bytes of RAM around the holes of layout_x86.h
 *
 * Return: number of ranges in @out, in rising order
 */
unsigned int boot_memory_map(uint64_t memory_bytes, struct boot_range out[BOOT_MAX_RANGES]);

/* Bytes of RAM below the device hole: the first memory slot; the rest is the second. */
uint64_t boot_low_bytes(uint64_t memory_bytes);

struct boot_setup {
	const struct guest_mem *mem;
	uint64_t memory_bytes;
	const char *cmdline; /* shorter than LAYOUT_CMDLINE_BYTES */
	const void *dtb;
	size_t dtb_bytes; /* at most LAYOUT_DTB_BYTES - 16 */
};

/**
 * boot_write() - Write zero page, command line, device tree, page tables and GDT
 *
 * Return: 0, -EINVAL if something does not fit, -EFAULT if there is too little RAM
 */
int boot_write(const struct boot_setup *s, struct err *e);

/**
 * boot_load_kernel() - Copy the segments of @img from @fd to where they belong
 *
 * Memory that the file says is zero is left alone: fresh RAM is zero.
 *
 * Return: 0 or -errno
 */
int boot_load_kernel(const struct guest_mem *mem, int fd, const struct elf_image *img,
		     struct err *e);

/* What goes into the device tree. */
struct dt_virtio {
	uint64_t gpa;
	uint32_t irq;
};

struct dt_config {
	unsigned int cpus;
	const struct dt_virtio *virtio;
	unsigned int virtio_n;
};

/**
 * dt_build() - The flattened device tree of the machine
 * @buf:	Room for it
 *
 * Return: its size in bytes, or -ENOSPC
 */
int dt_build(const struct dt_config *c, void *buf, size_t cap);

#endif
