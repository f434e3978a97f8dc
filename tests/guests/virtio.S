/* SPDX-License-Identifier: Apache-2.0 */
/* Every device of the bus answers with magic, version and an id; behind the last one is nothing. */
#include "guest.inc"
#include "virtio.inc"
	.text
	.global start
start:	mov $VIRTIO_BASE, %ebx
	xor %r12d, %r12d
1:	cmpl $MAGIC, R_MAGIC(%rbx)
	jne done
	cmpl $2, R_VERSION(%rbx)
	jne bad
	cmpl $0, R_DEVICE(%rbx)
	je bad
	/* Registers are read-only but for a few: this one must not change. */
	movl $0, R_MAGIC(%rbx)
	cmpl $MAGIC, R_MAGIC(%rbx)
	jne bad
	inc %r12d
	add $0x1000, %ebx
	jmp 1b
done:	mov $SERIAL, %dx
	mov %r12d, %eax
	add $'0', %al
	out %al, %dx
	PRINT " devices\n"
	SHUTDOWN
bad:	PRINT "bad register\n"
	SHUTDOWN
	GUEST_ROUTINES
