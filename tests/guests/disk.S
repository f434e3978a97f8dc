/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counts, and writes each number into the next of a ring of sectors of the disk (device 0), after it
 * has looked whether the sector still has the number of a round before: a disk and a memory of
 * different instants show ("torn"). A FLUSH after every 16. What fails is tried again, but
 * for FLUSHes.
 */
#include "guest.inc"
#include "virtio.inc"
#define COUNT	0x50000
#define RING0	0x2000000
#define REQUEST 0x2010000 /* type, 0, sector; its status at 16 */
#define DATA	0x2011000
#define SECTORS 64
#define READ	0
#define WRITE	1
#define FLUSH	4
#define DESC_NEXT  1
#define DESC_WRITE 2
	.text
	.global start
start:	VIRTIO_START VIRTIO_BASE, RING0
	PRINT "counting\n"
	mov $VIRTIO_BASE, %ebx
	mov $RING0, %ebp
	movq $REQUEST, (%rbp)
	movl $16, 8(%rbp)
	movw $DESC_NEXT, 12(%rbp)
	movq $DATA, 16(%rbp)
	movl $512, 24(%rbp)
	movw $2, 30(%rbp)
	movq $(REQUEST + 16), 32(%rbp)
	movl $1, 40(%rbp)
	movw $DESC_WRITE, 44(%rbp)
	xor %r12d, %r12d
	xor %r13d, %r13d
1:	inc %r12
	mov $READ, %esi
	call retry
	mov %r12, %rax
	sub $SECTORS, %rax
	ja 2f
	xor %eax, %eax
2:	cmp %rax, DATA
	jne torn
	mov %r12, DATA
	mov $WRITE, %esi
	call retry
	test $15, %r12d
	jnz 3f
	mov $FLUSH, %esi
	call request
3:	mov %r12, COUNT
	out %al, $0x80
	jmp 1b
torn:	PRINT "torn\n"
	SHUTDOWN

retry:	call request
	cmpb $0, REQUEST + 16
	je 4f
	out %al, $0x81
	jmp retry
4:	ret

/* Type in ESI, sector of the number in R12. R13 counts requests. */
request:
	mov %esi, REQUEST
	mov %r12, %rax
	and $(SECTORS - 1), %eax
	mov %rax, REQUEST + 8
	movw $DESC_NEXT, 28(%rbp)
	movw $1, 14(%rbp)
	cmp $READ, %esi
	jne 5f
	movw $(DESC_NEXT + DESC_WRITE), 28(%rbp)
5:	cmp $FLUSH, %esi
	jne 6f
	movw $2, 14(%rbp)
6:	mov %r13d, %eax
	and $7, %eax
	movw $0, 0x104(%rbp, %rax, 2)
	inc %r13w
	movw %r13w, 0x102(%rbp)
	movl $0, R_NOTIFY(%rbx)
7:	cmpw %r13w, 0x202(%rbp)
	jne 7b
	ret
	GUEST_ROUTINES
