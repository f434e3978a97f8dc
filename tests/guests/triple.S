/* SPDX-License-Identifier: Apache-2.0 */
/* A fault without a handler, in which the handler's fault has none either. */
#include "guest.inc"
	.text
	.global start
start:	PRINT "falling\n"
	ud2
	GUEST_ROUTINES
