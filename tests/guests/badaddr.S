/* SPDX-License-Identifier: Apache-2.0 */
/* The first descriptor points far outside of memory. The disk must need a reset then; the entropy device must go on. */
#define BAD_DESCRIPTOR 0x7fffffff0000, 16, 0, 0
#include "badchain.inc"
