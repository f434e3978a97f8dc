/* SPDX-License-Identifier: Apache-2.0 */
/* Reports a panic, then powers off. */
#include "guest.inc"
	.text
	.global start
start:	mov $PVPANIC, %ebx
	movb $1, (%rbx)
	SHUTDOWN
	GUEST_ROUTINES
