/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counts, and writes each number into the next of a ring of pages, after it has looked whether the
 * page still has the number of a round before: memory and registers of different instants show at
 * once ("torn"). Says when it sees that it has become another generation.
 */
#include "guest.inc"
#define COUNT	   0x50000
#define RING	   0x200000
#define PAGES	   256
#define GENERATION 0xd0011000

	.text
	.global start
start:	PRINT "counting\n"
	xor %ebx, %ebx
	mov $GENERATION, %r12d
	mov (%r12), %r13
1:	inc %rbx
	mov %ebx, %edi
	and $(PAGES - 1), %edi
	shl $12, %edi
	mov %rbx, %rax
	sub $PAGES, %rax
	ja 2f
	xor %eax, %eax
2:	cmp %rax, RING(%rdi)
	jne torn
	mov %rbx, RING(%rdi)
	mov %rbx, COUNT
	cmp %r13, (%r12)
	jne another
	out %al, $0x80
	jmp 1b
another:
	mov (%r12), %r13
	PRINT "another generation\n"
	jmp 1b
torn:	PRINT "torn\n"
	SHUTDOWN
	GUEST_ROUTINES
