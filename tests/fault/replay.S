/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes to the disk (device 0) what an ext4 wrote, in its order and one request after the other
 * (tests/fault/record): at once up to the last LATER requests, then some milliseconds apart. So the disk has, at each instant, a state that the file
 * system was in. Before each request it looks whether the last one is on the disk: a
 * disk and a memory of different instants show ("torn"). After each write it prints a dot. At the end it writes the last one again and
 * again. What fails is tried again, but for FLUSHes.
 */
#include "tests/guests/guest.inc"
#include "tests/guests/virtio.inc"
#define RING0	0x2000000
#define REQUEST 0x2010000 /* type, 0, sector; its status at 16 */
#define CHECK	0x2011000
#define LATER	700
#define READ	0
#define WRITE	1
#define FLUSH	4
#define DESC_NEXT  1
#define DESC_WRITE 2
/* A record of the trace. */
#define SECTOR 0
#define BYTES  8
#define TYPE   16
#define DATA   24 /* from the start of the trace */
#define RECORD 32
	.text
	.global start
start:	VIRTIO_START VIRTIO_BASE, RING0
	mov $VIRTIO_BASE, %ebx
	mov $RING0, %ebp
	movq $REQUEST, (%rbp)
	movl $16, 8(%rbp)
	movw $DESC_NEXT, 12(%rbp)
	movw $2, 30(%rbp)
	movq $(REQUEST + 16), 32(%rbp)
	movl $1, 40(%rbp)
	movw $DESC_WRITE, 44(%rbp)
	xor %r13d, %r13d
	xor %r15d, %r15d /* the last record that was a WRITE */
	lea trace(%rip), %r8
	mov (%r8), %r12 /* records that are left */
	lea RECORD(%r8), %r14
1:	test %r15, %r15
	jz 3f
	mov $READ, %esi
	mov SECTOR(%r15), %rcx
	mov $CHECK, %edx
	mov $512, %r9d
	call retry
	mov DATA(%r15), %rsi
	add %r8, %rsi
	mov $CHECK, %edi
	mov $64, %ecx
2:	mov (%rsi), %rax
	cmp %rax, (%rdi)
	jne torn
	add $8, %rsi
	add $8, %rdi
	dec %ecx
	jnz 2b
3:	mov TYPE(%r14), %esi
	mov SECTOR(%r14), %rcx
	mov DATA(%r14), %rdx
	add %r8, %rdx
	mov BYTES(%r14), %r9
	cmp $FLUSH, %esi
	je 4f
	call retry
	mov %r14, %r15
	mov $SERIAL, %dx
	mov $'.', %al
	out %al, %dx
	jmp 5f
4:	call request
5:	cmp $LATER, %r12
	ja 12f
	jne 13f
	PRINT "halfway\n"
13:	rdtsc
	shl $32, %rdx
	lea 0x400000(%rax, %rdx), %rcx
6:	rdtsc
	shl $32, %rdx
	add %rdx, %rax
	cmp %rcx, %rax
	jb 6b
12:	test %r12, %r12
	jz 3b
	dec %r12
	jz 7f
	add $RECORD, %r14
	jmp 1b
7:	PRINT "replayed\n"
	mov %r15, %r14
	jmp 3b
torn:	PRINT "torn\n"
	SHUTDOWN

retry:	call request
	cmpb $0, REQUEST + 16
	je 8f
	out %al, $0x81
	jmp retry
8:	ret

/* Type in ESI, sector in RCX, R9 bytes at RDX. R13 counts requests. */
request:
	mov %esi, REQUEST
	mov %rcx, REQUEST + 8
	mov %rdx, 16(%rbp)
	mov %r9d, 24(%rbp)
	movw $DESC_NEXT, 28(%rbp)
	movw $1, 14(%rbp)
	cmp $READ, %esi
	jne 9f
	movw $(DESC_NEXT + DESC_WRITE), 28(%rbp)
9:	cmp $FLUSH, %esi
	jne 10f
	movw $2, 14(%rbp)
10:	mov %r13d, %eax
	and $7, %eax
	movw $0, 0x104(%rbp, %rax, 2)
	inc %r13w
	movw %r13w, 0x102(%rbp)
	movl $0, R_NOTIFY(%rbx)
11:	cmpw %r13w, 0x202(%rbp)
	jne 11b
	ret
	GUEST_ROUTINES
	.data
	.balign 4096
trace:	.incbin "build/test/ext4.trace"
