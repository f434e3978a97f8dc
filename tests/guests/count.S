/* SPDX-License-Identifier: Apache-2.0 */
/* Exits to user space for ever: whoever counts the exits sees whether it runs. */
#include "guest.inc"
	.text
	.global start
start:	PRINT "counting\n"
1:	out %al, $0x80
	jmp 1b
	GUEST_ROUTINES
