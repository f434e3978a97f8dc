/* SPDX-License-Identifier: Apache-2.0 */
/* The first descriptor is its own successor. The disk must need a reset then; the entropy device must go on. */
#define BAD_DESCRIPTOR 0x2010000, 16, 1, 0
#include "badchain.inc"
