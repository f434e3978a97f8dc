/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sends a frame, "hello", on the network device (device 3, behind entropy, balloon and mem). Then it returns each
 * frame that it gets with 1 added to the first byte behind the Ethernet header, until one begins with 'q'.
 */
#include "guest.inc"
#include "virtio.inc"
#define NET    (VIRTIO_BASE + 0x3000)
#define RX     0x2000000 /* rings: descriptors, available at 0x100, used at 0x200 */
#define TX     0x2001000
#define RX_BUF 0x2010000
#define TX_BUF 0x2011000
#define HEADER 12
#define FIRST  (HEADER + 14)

.macro QUEUE n, mem
	movl $\n, R_QSEL(%rbx)
	movl $8, R_QNUM(%rbx)
	movl $\mem, R_DESC(%rbx)
	movl $0, R_DESC + 4(%rbx)
	movl $(\mem + 0x100), R_AVAIL(%rbx)
	movl $0, R_AVAIL + 4(%rbx)
	movl $(\mem + 0x200), R_USED(%rbx)
	movl $0, R_USED + 4(%rbx)
	movl $1, R_QREADY(%rbx)
.endm
	.text
	.global start
start:	mov $NET, %ebx
	cmpl $1, R_DEVICE(%rbx)
	jne bad
	cmpl $0x00636f02, 0x100(%rbx)	/* the MAC address */
	jne bad
	movl $3, R_STATUS(%rbx)
	movl $1, R_DRV_SELECT(%rbx)
	movl $1, R_DRV_FEATURES(%rbx)
	movl $11, R_STATUS(%rbx)
	QUEUE 0, RX
	QUEUE 1, TX
	movl $15, R_STATUS(%rbx)

	mov $RX, %edi		/* one buffer for frames, 2 KiB */
	movq $RX_BUF, (%rdi)
	movl $2048, 8(%rdi)
	movw $2, 12(%rdi)
	mov $TX, %edi
	movq $TX_BUF, (%rdi)
	movl $(FIRST + 5), 8(%rdi)
	movl $0x6c6c6568, TX_BUF + FIRST
	movb $0x6f, TX_BUF + FIRST + 4
	xor %r12d, %r12d	/* frames sent */
	xor %r13d, %r13d	/* buffers given */
send:	inc %r12d
	mov %r12w, TX + 0x102
	movl $1, R_NOTIFY(%rbx)
1:	pause
	cmpw %r12w, TX + 0x202
	jne 1b
	inc %r13d
	mov %r13w, RX + 0x102
	movl $0, R_NOTIFY(%rbx)
2:	pause
	cmpw %r13w, RX + 0x202
	jne 2b
	mov $SERIAL, %dx
	mov RX_BUF + FIRST, %al
	out %al, %dx
	cmp $'q', %al
	je done
	/* Back, as long as it is. */
	mov %r13d, %eax
	dec %eax
	and $7, %eax
	mov RX + 0x208(, %rax, 8), %ecx
	mov %ecx, TX + 8
	mov $RX_BUF, %esi
	mov $TX_BUF, %edi
	rep movsb
	movq $0, TX_BUF		/* the header */
	movl $0, TX_BUF + 8
	incb TX_BUF + FIRST
	jmp send
done:	SHUTDOWN
bad:	PRINT "bad\n"
	SHUTDOWN
	GUEST_ROUTINES
