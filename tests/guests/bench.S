/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest of build/dormouse-bench. Its command line is two numbers, "FILL DIRTY", in MiB.
 *
 * First it writes a word to each page of FILL MiB, so that an image of it is not all holes. Then,
 * with DIRTY 0, it waits for another VM generation id, tells it by an exit, and halts for good: what a
 * fork does at least. Else it enters user mode (CPL 3), which runs on the processor even where
 * kernel mode is interpreted, and writes to each page of the first DIRTY MiB, again and again, with an
 * exit after each round.
 */
#include "guest.inc"
#define CMDLINE	   0x20000
#define AREA	   0x2000000
#define VMGENID	   0xd0011000
#define PORT	   0x80
#define PTE_USER   4
#define SYSENTER_CS 0x174

	.text
	.global start
start:	mov $CMDLINE, %rsi
	call number
	mov %rax, %r12
	call number
	mov %rax, %r13

	mov $AREA, %rdi
	mov %r12, %rcx
	shl $8, %rcx
	jz filled
1:	mov %rdi, (%rdi)
	add $4096, %rdi
	dec %rcx
	jnz 1b
filled:	test %r13, %r13
	jnz enter

	mov $VMGENID, %ebx
	mov (%rbx), %rax
	mov 8(%rbx), %rdx
	out %al, $PORT
2:	cmp (%rbx), %rax
	jne 3f
	cmp 8(%rbx), %rdx
	je 2b
3:	out %al, $PORT
4:	hlt
	jmp 4b

	/* PML4, the table of directories, and the directory of the first GiB: open to user mode. */
enter:	orq $PTE_USER, PAGE_TABLES
	orq $PTE_USER, PAGE_TABLES + 0x1000
	mov $PAGE_TABLES + 0x2000, %edi
	mov $512, %ecx
5:	orq $PTE_USER, (%rdi)
	add $8, %rdi
	dec %ecx
	jnz 5b
	mov %cr3, %rax
	mov %rax, %cr3
	/* User mode may use ports: an exit must be possible. */
	pushfq
	orq $0x3000, (%rsp)
	popfq
	mov $SYSENTER_CS, %ecx
	mov $8, %eax /* SYSEXIT adds 32 for 64-bit code, 40 for the stack */
	xor %edx, %edx
	wrmsr
	lea user(%rip), %rdx
	mov %rsp, %rcx
	sysexitq

user:	inc %r14
	mov $AREA, %edi
	mov %r13, %rcx
	shl $8, %rcx
6:	mov %r14, (%rdi)
	add $4096, %rdi
	dec %rcx
	jnz 6b
	out %al, $PORT
	jmp user

	/* The decimal number at RSI, to RAX; RSI goes behind the character after it. */
number:	xor %eax, %eax
7:	movzbl (%rsi), %ecx
	inc %rsi
	sub $'0', %ecx
	cmp $9, %ecx
	ja 8f
	imul $10, %rax, %rax
	add %rcx, %rax
	jmp 7b
8:	ret
