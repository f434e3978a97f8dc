/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes to the first and last 8 bytes of each RAM range of the memory map, reads them
 * back, and looks behind the end of the last one: nothing may be there.
 */
#include "guest.inc"
#define E820_COUNT 0x1e8
#define E820_TABLE 0x2d0
#define DIRECTORY  0x40000 /* page directory for what is above 4 GiB */
	.text
	.global start
start:	mov %rsi, %r12
	movzbl E820_COUNT(%r12), %r13d
	lea E820_TABLE(%r12), %r14
	mov $0x1122334455667788, %r15
next:	mov (%r14), %rdi
	/* The first bytes of all are the interrupt table of real mode: leave page 0 alone. */
	test %rdi, %rdi
	jz last
	call poke
last:	mov (%r14), %rdi
	add 8(%r14), %rdi
	mov %rdi, %rbp
	sub $8, %rdi
	call poke
	add $20, %r14
	dec %r13d
	jnz next
	/* %rbp is the end of RAM: reads give ones, writes go nowhere. */
	mov %rbp, %rdi
	call map
	movq $0, (%rbx)
	cmpq $-1, (%rbx)
	jne bad
	PRINT "memory ok\n"
	SHUTDOWN
bad:	PRINT "memory is wrong\n"
	SHUTDOWN

/* Write to physical address %rdi and read it back. */
poke:	call map
	mov %r15, (%rbx)
	cmp %r15, (%rbx)
	jne bad
	inc %r15
	ret

/* Make physical address %rdi accessible at %rbx: below 4 GiB it is, above through DIRECTORY. */
map:	mov %rdi, %rbx
	mov %rdi, %rax
	shr $30, %rax
	cmp $4, %rax
	jb 1f
	movq $(DIRECTORY + 3), PAGE_TABLES + 0x1000(,%rax,8)
	mov %rdi, %rcx
	shr $21, %rcx
	and $511, %ecx
	mov %rdi, %rdx
	and $-0x200000, %rdx
	or $0x83, %rdx
	mov %rdx, DIRECTORY(,%rcx,8)
	mov %cr3, %rax
	mov %rax, %cr3
1:	ret
	GUEST_ROUTINES
