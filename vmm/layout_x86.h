/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's physical address space.
 *
 *   0x00000000  low RAM: boot structures, then free for the kernel
 *   0x000a0000  hole, as on every PC
 *   0x00100000  RAM up to 3 GiB; the kernel is loaded where its ELF file says
 *   0xc0000000  hole: devices at 0xd0000000, local APIC at 0xfee00000
 *   0x100000000 the RAM that did not fit below 3 GiB
 *   behind it, from a multiple of 1 GiB on: memory that the guest is given later (virtio-mem)
 */
#ifndef VMM_LAYOUT_X86_H
#define VMM_LAYOUT_X86_H

#define LAYOUT_GDT	     0x6000u
#define LAYOUT_BOOT_PARAMS   0x7000u
#define LAYOUT_STACK_TOP     0x9000u /* for guests that want one; Linux has its own */
#define LAYOUT_PAGE_TABLES   0x9000u /* PML4, PDPT, four page directories */
#define LAYOUT_CMDLINE	     0x20000u
#define LAYOUT_CMDLINE_BYTES 2048u
#define LAYOUT_DTB	     0x30000u /* a struct setup_data, then the device tree */
#define LAYOUT_DTB_BYTES     0x10000u
#define LAYOUT_LOW_END	     0x9fc00u
#define LAYOUT_HIGH_START    0x100000u
#define LAYOUT_HOLE_START    0xc0000000ull
#define LAYOUT_HOLE_END	     0x100000000ull
#define LAYOUT_MORE_ALIGN    0x40000000ull

#define LAYOUT_VIRTIO	      0xd0000000u /* one page per device, DEVICES_MAX of them */
#define LAYOUT_PLATFORM	      0xd0010000u /* pages that the guest can read without an exit: */
#define LAYOUT_IOAPIC	      LAYOUT_PLATFORM
#define LAYOUT_VMGENID	      (LAYOUT_PLATFORM + 0x1000u)
#define LAYOUT_PLATFORM_BYTES 0x2000u
#define LAYOUT_REGISTERS      0xd0020000u /* pages whose every access exits: */
#define LAYOUT_PVPANIC	      LAYOUT_REGISTERS
#define LAYOUT_SYSCON	      (LAYOUT_REGISTERS + 0x1000u)
/* Writing this to the first register there powers the machine off. */
#define LAYOUT_SYSCON_POWEROFF 0x5555u

#define LAYOUT_LAPIC 0xfee00000u
#define LAYOUT_TSS   0xfffbd000u /* Intel without unrestricted guests needs it */

/*
 * Interrupt pins of the IOAPIC; as many as there are devices, because a kernel programs
 * each pin at boot, in ~10 exits.
 */
#define LAYOUT_IRQ_VMGENID  0u
#define LAYOUT_IRQ_VIRTIO   1u /* first device; one pin each */
#define LAYOUT_IRQ_PINS_MAX (LAYOUT_IRQ_VIRTIO + 10u)

#define LAYOUT_SERIAL_PORT 0x3f8u

#endif
