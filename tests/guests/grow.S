/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver of virtio-mem (device 2): plugs and unplugs what is requested, from the start of the region
 * on, and keeps a mark in each block that is plugged. Ends with "lost" as soon as one is not there.
 */
#include "guest.inc"
#include "virtio.inc"
#define DEVICE	  (VIRTIO_BASE + 0x2000)
#define REQUESTED 0x130		   /* requested_size */
#define REGION	  0x100000000	   /* of a machine that boots with less than 3 GiB */
#define BLOCK	  0x200000
#define DIRECTORY 0x40000
#define RING0	  0x2000000
#define REQUEST	  0x2010000 /* type, address, number of blocks */
#define RESPONSE  0x2010040
#define DESC_NEXT  1
#define DESC_WRITE 2
	.text
	.global start
start:	VIRTIO_START DEVICE, RING0
	mov $RING0, %ebp
	movq $REQUEST, (%rbp)
	movl $24, 8(%rbp)
	movw $DESC_NEXT, 12(%rbp)
	movw $1, 14(%rbp)
	movq $RESPONSE, 16(%rbp)
	movl $10, 24(%rbp)
	movw $DESC_WRITE, 28(%rbp)
	/* The first GiB of the region, in pages of a block. */
	movabs $REGION, %r14
	mov %r14, %rax
	or $0x83, %rax
	mov $DIRECTORY, %edi
	mov $512, %ecx
1:	mov %rax, (%rdi)
	add $BLOCK, %rax
	add $8, %edi
	dec %ecx
	jnz 1b
	movq $(DIRECTORY + 3), PAGE_TABLES + 0x1000 + 4 * 8
	mov %cr3, %rax
	mov %rax, %cr3
	xor %r12d, %r12d /* what is plugged */
	xor %r13d, %r13d
	PRINT "growing\n"
	mov $DEVICE, %ebx
again:	out %al, $0x80
	mov REQUESTED(%rbx), %r15
	cmp %r12, %r15
	je again
	call verify
	mov %r15, %rcx
	sub %r12, %rcx
	jb shrink
	movq $0, REQUEST
	lea (%r14, %r12), %rdi
	call request
	mov %r12, %rdi
	mov %r15, %r12
2:	lea (%r14, %rdi), %rax
	mov %rax, (%rax)
	add $BLOCK, %rdi
	cmp %r12, %rdi
	jb 2b
	PRINT "plugged\n"
	jmp again
shrink:	neg %rcx
	movq $1, REQUEST
	lea (%r14, %r15), %rdi
	call request
	mov %r15, %r12
	PRINT "unplugged\n"
	jmp again

/* Each block has its mark. */
verify:	xor %edi, %edi
3:	cmp %r12, %rdi
	jae 4f
	lea (%r14, %rdi), %rax
	cmp %rax, (%rax)
	jne lost
	add $BLOCK, %rdi
	jmp 3b
4:	ret
lost:	PRINT "lost\n"
	SHUTDOWN

/* Of the type in REQUEST, for RCX bytes from RDI on. R13 counts requests. */
request:
	mov %rdi, REQUEST + 8
	shr $21, %rcx
	mov %rcx, REQUEST + 16
	mov %r13d, %eax
	and $7, %eax
	movw $0, 0x104(%rbp, %rax, 2)
	inc %r13w
	movw %r13w, 0x102(%rbp)
	movl $0, R_NOTIFY(%rbx)
5:	cmpw %r13w, 0x202(%rbp)
	jne 5b
	cmpw $0, RESPONSE
	jne bad
	ret
bad:	PRINT "refused\n"
	SHUTDOWN
	GUEST_ROUTINES
