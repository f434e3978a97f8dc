/* SPDX-License-Identifier: Apache-2.0 */
/* Resets the machine each time that it boots. Memory must be fresh each time. */
#include "guest.inc"
	.text
	.global start
start:	mov $0x2000000, %ebx
	cmpl $0, (%rbx)
	jne dirty
	movl $1, (%rbx)
	PRINT "boot\n"
	RESET
dirty:	PRINT "memory is not zero\n"
	SHUTDOWN
	GUEST_ROUTINES
