/* SPDX-License-Identifier: Apache-2.0 */
/* The successor of the first descriptor lies behind the table. The disk must need a reset then; the entropy device must go on. */
#define BAD_DESCRIPTOR 0x2010000, 16, 1, 8
#include "badchain.inc"
