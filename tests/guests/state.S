/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counts in RBX and in memory, an exit at each step, with something in each kind of register:
 * whoever saves and restores it sees whether it goes on where it was.
 */
#include "guest.inc"
#define COUNT 0x50000

	.text
	.global start
start:	fninit
	mov $0x40, %al
	mov $0x3f8 + 7, %dx
	out %al, %dx
	mov $0x123456789, %r15
	mov %r15, %dr0
	mov $0x175, %ecx /* IA32_SYSENTER_ESP */
	mov $0x5555, %eax
	xor %edx, %edx
	wrmsr
	xor %ebx, %ebx
1:	inc %rbx
	mov %rbx, COUNT
	out %al, $0x80
	jmp 1b
