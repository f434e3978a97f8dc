/* SPDX-License-Identifier: Apache-2.0 */
/* Says hello on the serial port and powers the machine off. */
#include "guest.inc"
	.text
	.global start
start:	PRINT "hello from ring 0\n"
	SHUTDOWN
	GUEST_ROUTINES
